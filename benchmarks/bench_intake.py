"""What the intake costs beside a bare consume loop, and how soon a deletion on a topic is fenced and erased.

    python benchmarks/bench_intake.py --folder . --json intake.json
    python benchmarks/bench_intake.py --bootstrap-servers 127.0.0.1:9092 --data train.txt

A real broker: the one named, Apache Kafka with `--apache` (its jars: `make kafka`), or else one from PyPI.
Throughput: `--events` on a topic of four partitions, read by kafka-python alone and by the intake (parsed,
looked up, durable in the ledger, fenced, offsets committed), in turns; `--repeats` times. With crc32c
installed, which kafka-python then sums records up with, both are read a second time, with it.
Latency: a worker process on models of the data, `--rates` deletions a second for `--seconds` each; from the
event's own time, when it is handed to the producer, to what the ledger says.
Backlog: `--backlog` accounts deleted before a worker process starts; in how many solves it works them off.
"""

import argparse
import contextlib
import functools
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import turns
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from kafka.record import default_records, util
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.state import StatePaths
from recunlearn.eval.broker import local_broker
from recunlearn.streaming.formats import Reader
from recunlearn.streaming.intake import Intake, Taken
from recunlearn.streaming.kafka import KafkaSettings, KafkaSource
from recunlearn.streaming.kafka_connection import KafkaConnection
from rich.console import Console
from rich.table import Table

PARTITIONS = 4
SESSION = 6.0
MODELS: dict[str, dict[str, Any]] = {"ease": {"regularization": 200.0}, "item_knn": {"K": 20}}
PATIENCE = 300.0


@contextlib.contextmanager
def broker_of(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Give the broker's address; one that was started ends with the block."""
    if options.bootstrap_servers:
        yield options.bootstrap_servers
    elif options.apache:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
        from brokers.apache import ApacheKafka  # type: ignore[import-not-found]

        with ApacheKafka(folder / "kafka") as kafka:
            yield kafka.bootstrap_servers
    else:
        with local_broker(folder) as address:
            yield address


def new_topic(servers: str) -> str:
    """Make a topic with a name of its own."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=servers)) as admin:
        admin.create_topics([NewTopic(name, PARTITIONS, -1)], wait_for_metadata=True)
    return name


def event(number: int, user: object, kind: str = "account.deleted", **more: object) -> bytes:
    """Make a simple JSON event of now."""
    at = datetime.now(UTC).isoformat()
    return json.dumps({"id": f"e-{number}", "type": kind, "user_id": user, **more, "time": at}).encode()


def filled_topic(servers: str, events: int) -> str:
    """Send events: nine accounts to a single interaction, every twentieth a repetition."""
    topic, rng = new_topic(servers), np.random.default_rng(0)
    items = rng.integers(0, 4000, events)
    with contextlib.closing(KafkaProducer(bootstrap_servers=servers, linger_ms=20)) as producer:
        for k in range(events):
            number = k - 10 if k % 20 == 19 else k
            user = f"user-{number:07d}"
            single = number % 10 == 3
            value = (
                event(number, user, "interaction.removed", item_id=int(items[number]))
                if single
                else event(number, user)
            )
            producer.send(topic, value, user.encode())
        producer.flush(PATIENCE)
    return topic


class Pace:
    """Counts events, and the seconds from the first lot's arrival to the last one's end; wall and processor.

    What is still done with the first lot, which is not counted, is on the clocks: it errs against the intake.
    """

    def __init__(self) -> None:
        self.events, self._first, self._is_running = 0, 0, False

    def start(self) -> None:
        """Start the clocks, once: the first lot is there."""
        if not self._is_running:
            self._is_running, self._wall, self._cpu = True, time.perf_counter(), time.process_time()

    def note(self, arrived: int) -> None:
        """Count a lot that is done."""
        self._first = self._first or arrived
        self.events += arrived

    def seconds(self) -> tuple[float, float]:
        """Return wall and processor seconds for each event after the first lot."""
        counted = self.events - self._first
        assert counted, "all came as one lot: ask for more --events"
        return (time.perf_counter() - self._wall) / counted, (time.process_time() - self._cpu) / counted


def bare(servers: str, topic: str, events: int) -> tuple[float, float]:
    """Read the topic with kafka-python's defaults, and do nothing with it."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=uuid.uuid4().hex, auto_offset_reset="earliest",
        enable_auto_commit=False, session_timeout_ms=int(SESSION * 1000),
    )  # fmt: skip
    with contextlib.closing(consumer):
        consumer.partitions_for_topic(topic)  # who joins before its client knows the topic gets none of it
        pace = Pace()
        while pace.events < events:
            arrived = sum(len(messages) for messages in consumer.poll(timeout_ms=200).values())
            if arrived:
                pace.start()
            pace.note(arrived)
        return pace.seconds()


def intake(servers: str, topic: str, events: int, folder: Path) -> tuple[float, float]:
    """Take the topic in, as the worker's intake does, into a ledger of its own."""
    paths = StatePaths(Path(tempfile.mkdtemp(dir=folder)))
    settings = KafkaSettings(KafkaConnection(servers), topic, uuid.uuid4().hex, session_timeout=SESSION)
    with (
        Ledger.create(paths, FenceKey.create(paths)) as ledger,
        contextlib.closing(KafkaSource(settings)) as source,
    ):
        source.seek({})
        pace = Pace()

        def note(taken: Taken) -> None:
            assert taken.dead_letters == 0
            pace.note(len(taken.records))

        with Intake(source, topic, ledger, Reader(), note) as running:
            while pace.events < events:
                if running.poll():
                    pace.start()
        found = pace.seconds()
        assert ledger.counts()["fenced"] == events - events // 20
    return found


@contextlib.contextmanager
def checksums(kind: str) -> Iterator[None]:
    """Have kafka-python sum records up in Python, as it does where crc32c is not installed, or with it."""
    sums = {"Python": util.crc32c_py, "C": util.crc32c_c}
    plain = default_records.calc_crc32c
    default_records.calc_crc32c = functools.partial(plain, _crc32c=sums[kind])
    try:
        yield
    finally:
        default_records.calc_crc32c = plain


def throughput(servers: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Read the same topic in turns; events a second, and the ratio of neighbours in time."""
    topic = filled_topic(servers, options.events)
    gc.freeze()  # as `recunlearn run` does
    kinds = ["Python"] if util.crc32c_c is None else ["Python", "C"]
    rows: dict[str, list[list[tuple[float, float]]]] = {kind: [] for kind in kinds}
    for _ in range(options.repeats):
        for kind, pairs in rows.items():
            with checksums(kind):
                read = bare(servers, topic, options.events)
                pairs.append([read, intake(servers, topic, options.events, folder)])
    return {"events": options.events, **{kind: compared(np.array(pairs)) for kind, pairs in rows.items()}}


def compared(seconds: np.ndarray) -> dict[str, Any]:
    """Compare [repeats, (bare, intake), (wall, processor)] seconds an event: medians, and every ratio."""
    ratios = seconds[:, 0] / seconds[:, 1]
    medians = np.median(seconds, axis=0)
    return {
        "bare a second": (1 / medians[0]).tolist(),
        "intake a second": (1 / medians[1]).tolist(),
        "ratio": np.median(ratios, axis=0).tolist(),
        "ratios": ratios.tolist(),
    }


# --- latency -------------------------------------------------------------------------------------------


def worker_command(state: Path, servers: str, topic: str) -> list[str]:
    """Say how to run a worker on a topic."""
    return [
        sys.executable, "-m", "recunlearn.cli", "run", "--state", str(state), "--source", "kafka",
        "--bootstrap-servers", servers, "--topic", topic, "--session-timeout", str(SESSION),
    ]  # fmt: skip


@contextlib.contextmanager
def worker(state: Path, servers: str, topic: str) -> Iterator[None]:
    """Run a worker process on a topic; yields once it reads every partition."""
    process = subprocess.Popen(
        worker_command(state, servers, topic), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stderr is not None
        while "reading partitions" not in (line := process.stderr.readline()):
            assert line, "the worker ended"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield
        assert process.poll() is None, "the worker ended"
    finally:
        process.terminate()
        process.wait()


def until(holds: Callable[[], bool]) -> None:
    """Wait for the worker."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not after {PATIENCE} s"
        time.sleep(0.1)


def latency(
    servers: str, state: Path, users: Sequence[str], rates: Sequence[float], seconds: float
) -> list[dict[str, float]]:
    """Send accounts' deletions at each rate to one worker; quantiles in milliseconds."""
    topic, waiting, rows, sent = new_topic(servers), iter(users), [], 0
    paths = StatePaths(state)
    with (
        Ledger(paths.ledger, FenceKey.load(paths)) as ledger,
        contextlib.closing(KafkaProducer(bootstrap_servers=servers)) as producer,
        worker(state, servers, topic),
    ):

        def erase(count: int, rate: float) -> list[tuple[float, float]]:
            nonlocal sent
            before, handed = sent, {}
            started = time.perf_counter()
            for k in range(count):
                time.sleep(max(0.0, started + k / rate - time.perf_counter()))
                handed[f"e-{sent}"] = time.time()
                producer.send(topic, event(sent, next(waiting)), b"%d" % sent)
                sent += 1
            producer.flush(PATIENCE)
            until(lambda: ledger.counts()["erased"] == sent)
            timings = ledger.timings(before)
            return [(fenced - handed[name], done - handed[name]) for name, _, fenced, done in timings]

        erase(1, 1.0)  # the first derives what only forgetting needs
        for rate in rates:
            waits = 1e3 * np.array(erase(max(20, round(rate * seconds)), rate))
            rows.append({"a second": rate, "deletions": len(waits), **_quantiles(waits)})
    return rows


def _quantiles(waits: np.ndarray) -> dict[str, float]:
    return {
        f"{name} p{round(100 * q)}": float(np.quantile(waits[:, column], q))
        for column, name in enumerate(("fenced", "erased"))
        for q in (0.5, 0.99)
    }


def backlog(servers: str, folder: Path, accounts: int) -> dict[str, float]:
    """Delete accounts of a generated set, all queued at once; solves and seconds."""
    coo = turns.generated(accounts + accounts // 10, 2000, 5 * accounts).tocoo()
    names = [f"user-{row:07d}" for row in coo.row]
    state, topic = folder / "backlog", new_topic(servers)
    columns = {"user_id": names, "item_id": coo.col.astype(np.int64), "value": coo.data}
    fit(state, pl.DataFrame(columns), {"item_knn": {"K": 20}})
    with contextlib.closing(KafkaProducer(bootstrap_servers=servers, linger_ms=20)) as producer:
        for k in range(accounts):
            producer.send(topic, event(k, f"user-{k:07d}"))
        producer.flush(PATIENCE)
    command = [*worker_command(state, servers, topic), "--once", "--json"]
    start = time.perf_counter()
    done = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert done["erased"] == accounts, done
    return {"deletions": accounts, "solves": done["versions"], "seconds": time.perf_counter() - start}


def fitted(options: argparse.Namespace, folder: Path) -> tuple[Path, list[str]]:
    """Fit the models; returns the state and the users in an order of chance."""
    x = turns.read_lines(options.data) if options.data else turns.generated(6040, 3700, 1_000_000)
    coo = x.tocoo()
    names = [f"user-{row:06d}" for row in coo.row]
    frame = pl.DataFrame({"user_id": names, "item_id": coo.col.astype(np.int64), "value": coo.data})
    fit(folder / "state", frame, MODELS)
    users = sorted(set(names))
    return folder / "state", [users[k] for k in np.random.default_rng(0).permutation(len(users))]


def show(title: str, rows: Sequence[dict[str, float]]) -> None:
    """Print a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:,.4g}" for value in row.values()))
    Console(width=140).print(table)


def main() -> None:
    """Measure what is asked for and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", help="brokers, in plain text")
    parser.add_argument(
        "--apache", action="store_true", help="start Apache Kafka, whose jars `make kafka` fetches"
    )
    parser.add_argument("--data", type=Path, help="lines of: user item item ...")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="*", default=(1.0, 10.0, 100.0), help="none: no latency")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--backlog", type=int, default=0, help="0: none")
    parser.add_argument("--folder", type=Path, help="where ledger and state go; default: temporary")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name, broker_of(options, Path(name)) as servers:
        folder = Path(name)
        found: dict[str, Any] = {}
        if options.repeats:
            found["throughput"] = read = throughput(servers, options, folder)
            columns = ("bare a second", "intake a second", "ratio")
            for kind in sorted(read.keys() - {"events"}, reverse=True):
                show(
                    f"Events a second, checksums in {kind}: by the clock, and by processor time",
                    [{column: read[kind][column][k] for column in columns} for k in (0, 1)],
                )
        if options.rates:
            state, users = fitted(options, folder)
            found["latency"] = latency(servers, state, users, options.rates, options.seconds)
            show("Milliseconds from handed to the producer to fenced and to erased", found["latency"])
        if options.backlog:
            found["backlog"] = backlog(servers, folder, options.backlog)
            show("Deletions that waited", [found["backlog"]])
    turns.write(options.json, **found)


if __name__ == "__main__":
    main()
