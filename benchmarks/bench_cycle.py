"""What the erasure cycle costs beyond the models' own time, how soon one is fenced, what it leaves on disk.

    python benchmarks/bench_cycle.py --data train.txt --json cycle.json

Runs on a state directory of its own, in ``--folder`` (a disk, not memory, or an fsync costs nothing):
cycles of 1, 10, 100 and 1,000 accounts; ``--requests`` deletions that arrive one by one while a worker runs,
and all at once; ``--erasures`` in batches of 100, with the sizes of ledger, receipts and store on the way.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import turns
from recunlearn.engine import durable
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.purge import scan_for_ids
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.state import StatePaths
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker
from rich.console import Console
from rich.table import Table

MODELS: dict[str, dict[str, Any]] = {"ease": {"regularization": 200.0}, "item_knn": {"K": 20}}
LIGHT: dict[str, dict[str, Any]] = {"item_knn": {"K": 20}}
SIZES = (1, 10, 100, 1000)
BATCH = 100


def frame_of(x: sp.csr_matrix) -> pl.DataFrame:
    """Make a data file of a matrix; user 7 is ``user-000007``, as platforms number people."""
    coo = x.tocoo()
    users = [f"user-{row:06d}" for row in coo.row]
    return pl.DataFrame({"user_id": users, "item_id": coo.col.astype(np.int64), "value": coo.data})


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count syncs of files, transactions of the ledger, and bytes handed to the system, while it lasts."""
    counts: Counter[str] = Counter()
    sync, reached = os.fsync, durable.reached

    def counting_sync(descriptor: int) -> None:
        counts["file syncs"] += 1
        sync(descriptor)

    def counting_steps(step: str) -> None:
        counts["ledger transactions"] += step.startswith("after: ")
        reached(step)

    before = _written()
    os.fsync, durable.reached = counting_sync, counting_steps
    try:
        yield counts
    finally:
        os.fsync, durable.reached = sync, reached
        counts["bytes"] = _written() - before


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def cycles(folder: Path, frame: pl.DataFrame, repeats: int) -> list[dict[str, Any]]:
    """Erase accounts in batches of each size; medians."""
    state = folder / "cycles"
    fit(state, frame, MODELS)
    users = np.random.default_rng(0).permutation(frame["user_id"].unique().sort().to_list())
    rows, used = [], 0
    with Engine.open(state) as engine:
        erase(engine, users[:1])  # the first derives what only forgetting needs
        used = 1
        for size in SIZES:
            runs = []
            for _ in range(repeats if size < max(SIZES) else 1):
                runs.append(one_cycle(engine, users[used : used + size]))
                used += size
            rows.append({"accounts": size, **{k: float(np.median([r[k] for r in runs])) for k in runs[0]}})
    return rows


def one_cycle(engine: Engine, users: Any) -> dict[str, float]:
    """Erase some accounts; seconds by phase, and what was written."""
    engine.ledger.record([Received(AccountDeletion(f"e-{user}", str(user))) for user in users])
    batch = engine.pending()
    with counted() as counts:
        start = time.perf_counter()
        report = engine.apply(batch)
        total = time.perf_counter() - start
    return {"total": total, **report.seconds, **counts, "version": float(size_of(engine.paths.versions))}


def erase(engine: Engine, users: Any) -> float:
    """Erase some accounts in one cycle; returns the seconds that it took beyond the models'."""
    engine.ledger.record([Received(AccountDeletion(f"e-{user}", str(user))) for user in users])
    start = time.perf_counter()
    report = engine.apply(engine.pending())
    return time.perf_counter() - start - report.seconds["forget"]


def size_of(path: Path) -> int:
    """Add up the sizes of a file, or of the files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def fencing(folder: Path, frame: pl.DataFrame, requests: int, burst: bool) -> dict[str, float]:
    """Send deletions to a worker at work; from an event on disk to its user fenced, in milliseconds."""
    state = folder / ("burst" if burst else "stream")
    fit(state, frame, LIGHT)
    known = frame["user_id"].unique().sort().to_list()
    events = [(f"e-{k}", known[k % len(known)]) for k in range(requests)]
    sent: dict[str, float] = {}

    def send(some: list[tuple[str, str]]) -> None:
        lines = [json.dumps({"id": i, "type": "account.deleted", "user_id": u}).encode() for i, u in some]
        append(state / "journal", lines)
        sent.update(dict.fromkeys((i for i, _ in some), time.time()))

    with Engine.open(state) as engine:
        worker = Worker(engine, lambda: Journal(state / "journal"))

        def produce() -> None:
            try:
                for some in [events] if burst else [[event] for event in events]:
                    send(some)
                while (size := engine_counts(state)) < requests:
                    time.sleep(0.05)
                assert size == requests
            finally:
                worker.stop()

        producer = threading.Thread(target=produce)
        producer.start()
        worker.run()
        producer.join()
        rows = engine.ledger.timings()
    waits = np.array([fenced - sent[request_id] for request_id, _, fenced, _ in rows]) * 1e3
    spent = max(fenced for _, _, fenced, _ in rows) - min(sent.values())
    return {
        "requests": requests, "p50": float(np.quantile(waits, 0.5)), "p99": float(np.quantile(waits, 0.99)),
        "most": float(waits.max()), "a second": requests / spent,
    }  # fmt: skip


def engine_counts(state: Path) -> int:
    """Return how many requests are erased, by a connection of the caller's thread."""
    from recunlearn.engine.fence import FenceKey
    from recunlearn.engine.ledger import Ledger

    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        return ledger.counts()["erased"]


def growth(folder: Path, erasures: int) -> list[dict[str, float]]:
    """Erase in batches of 100; sizes in KiB, and the time of a cycle beyond the models', on the way."""
    state = folder / "growth"
    fit(state, frame_of(turns.generated(erasures + erasures // 4, 2000, 20 * erasures)), LIGHT)
    known = [f"user-{row:06d}" for row in range(erasures + erasures // 4)]
    users = np.random.default_rng(1).permutation(known)[:erasures]
    rows: list[dict[str, float]] = []
    with Engine.open(state) as engine:
        paths = engine.paths
        times: list[float] = []
        for done in range(0, erasures + 1, BATCH):
            if done % (erasures // 5) == 0:
                rows.append(
                    {
                        "erased": done,
                        "ledger": size_of(paths.ledger) / 1024,
                        "receipts": size_of(paths.receipts) / 1024,
                        "store": size_of(paths.interactions) / 1024,
                        "version": size_of(paths.versions) / 1024,
                        "cycle ms": 1e3 * float(np.median(times[-10:])) if times else float("nan"),
                        "search ms": search_ms(paths),
                    }
                )
            if done < erasures:
                times.append(erase(engine, users[done : done + BATCH]))
    start = time.perf_counter()
    Engine.open(state).close()
    rows[-1]["start s"] = time.perf_counter() - start
    return rows


def search_ms(paths: StatePaths) -> float:
    """Search for 100 people who are not there, as each cycle ends with; CPU milliseconds, the least of 5."""
    nobody = [f"nobody-{k:06d}" for k in range(BATCH)]
    least = float("inf")
    for _ in range(5):
        start = time.process_time()
        assert scan_for_ids(paths, nobody).found == []
        least = min(least, time.process_time() - start)
    return 1e3 * least


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{row[key]:,.4g}" if key in row else "" for key in columns))
    Console(width=140).print(table)


def main() -> None:
    """Measure all three and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="lines of: user item item ...")
    source.add_argument("--generate", type=int, nargs=3, default=(6040, 3700, 1_000_000), metavar="N")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--erasures", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the state directories go; default: temporary")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    frame = frame_of(turns.read_lines(options.data) if options.data else turns.generated(*options.generate))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        per_cycle = cycles(folder, frame, options.repeats)
        show("Seconds and bytes of a cycle, by accounts in it", per_cycle)
        fenced = [fencing(folder, frame, options.requests, burst) for burst in (False, True)]
        show("Milliseconds from sent to fenced: one by one, all at once", fenced)
        grown = growth(folder, options.erasures)
        show("KiB on disk", grown)
    turns.write(options.json, cycles=per_cycle, fenced=fenced, growth=grown)


if __name__ == "__main__":
    main()
