"""Sums over partitions: in one piece, one after the other, in processes, on Spark; time, CPU and memory.

docs/explanation/scale.md has the figures:

    python benchmarks/bench_cluster.py --millions 1 --millions 10
    python benchmarks/bench_cluster.py --fit --millions 10

With --fit it is `recunlearn fit` that runs, and then `run` over a hundred deletions: the versions published
must have the same bytes before and after, however they were fitted.

Each way runs in a process of its own. Memory is the sum over the process and all below it (proportional set
size, read ten times a second), and of it what no file backs; CPU what all of them used: that one hardly minds
what else the machine does.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from recunlearn.engine.cluster.map_reduce import Pool, Run, serial
from recunlearn.engine.cluster.partitions import (
    Partitions,
    items_of,
    partition_by_user,
    rows_of,
    sum_partitions,
    sums_of_users,
)
from recunlearn.eval.environment import describe_environment
from recunlearn.eval.generate import social_interactions
from recunlearn.models.summed import statistic_of
from recunlearn.models.sums import Sums, sums_of
from turns import write

SIZES = {1: (20_000, 2_000, 4), 10: (200_000, 5_000, 8), 100: (2_000_000, 5_000, 16)}
"""Millions of interactions -> users, items, partitions."""

LEAVERS = 100
WAYS = ("in one piece", "one after the other", "two processes", "Spark local[2]")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, action="append", choices=list(SIZES))
    parser.add_argument("--way", action="append", choices=WAYS, help="repeats; all by default")
    parser.add_argument("--fit", action="store_true", help="the command, and deletions after it")
    parser.add_argument("--model", action="append", help="of --fit; repeats; ease and item_knn by default")
    parser.add_argument("--partitions", type=int, help="of --fit; as many as a state has by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(measured(arguments.way[0], arguments.inside)))
        return
    results: dict[str, Any] = {}
    for millions in arguments.millions or [1]:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), millions)
            ways = arguments.way or WAYS
            if arguments.fit:
                results[str(millions)] = fitted(ways, Path(folder), arguments)
            else:
                results[str(millions)] = compared(ways, Path(folder), millions)
    write(arguments.json, machine=describe_environment(), **results)


def generate(folder: Path, millions: int) -> None:
    """Write generated interactions, dealt out by user."""
    users, items, partitions = SIZES[millions]
    x = social_interactions(users, items, millions * 1_000_000, seed=1).tocoo()
    people, things = x.row.astype(np.int64), x.col.astype(np.int64)
    frame = pl.DataFrame({"user_id": people, "item_id": things, "value": x.data})
    frame.write_parquet(folder / "all.parquet")
    del x, frame
    start = time.perf_counter()
    partition_by_user(folder / "all.parquet", folder / "p", partitions)
    print(f"{millions} M interactions of {users:,} users and {items:,} items: {partitions} partitions, "
          f"dealt out in {time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip


def compared(ways: Any, folder: Path, millions: int) -> dict[str, Any]:
    """Run each way in its own process; all must give the same sums."""
    found: dict[str, Any] = {}
    for way in ways:
        out, found[way] = watched([sys.executable, __file__, "--inside", str(folder), "--way", way])
        found[way] |= json.loads(out.splitlines()[-1])
        print(f"{millions} M, {way}: {found[way]}", flush=True)
    assert len({record["digest"] for record in found.values()}) == 1
    return found


def watched(command: list[str]) -> tuple[str, dict[str, float]]:
    """Run a command to its end; what it printed, and what it took."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch = Watched(child.pid)
    out, _ = child.communicate()
    wall = time.perf_counter() - start
    watch.end()
    assert child.returncode == 0
    return out, {
        "wall_seconds": wall, "cpu_seconds": sum(watch.cpu.values()),
        "peak_mib": watch.peak["Pss"] / 1024, "peak_anonymous_mib": watch.peak["Pss_Anon"] / 1024,
    }  # fmt: skip


FITS = {
    "in one piece": [],
    "one after the other": ["--run", "serial"],
    "two processes": ["--run", "pool", "--processes", "2"],
    "Spark local[2]": ["--run", "spark", "--master", "local[2]", "--spark-conf", "spark.driver.memory=6g"],
}


def fitted(ways: Any, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit each way by the command, then forget by `run`: the same bytes published, before and after."""
    models = arguments.model or ["ease", "item_knn"]
    options = [word for name in models for word in ("--model", name)]
    gone = folder / "gone"
    gone.write_text("".join(f"{37 * k}\n" for k in range(LEAVERS)))
    found: dict[str, Any] = {}
    for way in ways:
        state, own = folder / f"state of {way}", list(options)
        if FITS[way]:
            own += [
                *FITS[way],
                *(["--partitions", str(arguments.partitions)] if arguments.partitions else []),
            ]
        _, found[way] = watched(
            [*RECUNLEARN, "fit", "--data", str(folder / "all.parquet"), "--state", str(state), *own]
        )
        before = digest(state)
        subprocess.run([*RECUNLEARN, "forget", "--state", str(state), "--file", str(gone)], check=True)
        _, forgetting = watched([*RECUNLEARN, "run", "--state", str(state), "--once"])
        found[way] |= {f"run_{name}": value for name, value in forgetting.items()}
        found[way] |= {"before": before, "after": digest(state)}
        print(f"{way}: {found[way]}", flush=True)
        shutil.rmtree(state / "versions")
    for when in ("before", "after"):
        assert len({record[when] for record in found.values()}) == 1, when
    return found


RECUNLEARN = [sys.executable, "-m", "recunlearn.cli"]


def digest(state: Path) -> str:
    """Digest what is published but SpectralMF's factors, whose last bits depend on how they were fitted."""
    (version,) = (state / "versions").iterdir()
    whole = hashlib.sha256()
    for path in sorted(version.rglob("*.arrow")):
        if path.parent.name != "spectral_mf":
            whole.update(
                f"{path.relative_to(version)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode()
            )
    return whole.hexdigest()


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Sum up everything, then the rows of those who leave, and subtract them."""
    homes = {int(path.name): path for path in (folder / "p").iterdir()}
    partitions = Partitions(homes, len(homes))
    run = run_of(way)
    start = time.perf_counter()
    if run is None:
        frame = pl.read_parquet(folder / "all.parquet")
        items = frame["item_id"].unique().sort()
        statistic = statistic_of("ease", {}, len(items))
        total = sums_of(rows_of(frame, items), statistic)
    else:
        items = items_of(partitions, run)
        statistic = statistic_of("ease", {}, len(items))
        total = sum_partitions(partitions, items, statistic, run)
    fitted = time.perf_counter()
    left = total.subtract(leavers(partitions, items, statistic, run))
    return {
        "sum_seconds": fitted - start,
        "forget_seconds": time.perf_counter() - fitted,
        "sums_mib": total.nbytes / 2**20,
        "digest": hashlib.sha256(left.keys.tobytes() + left.coarse.tobytes()).hexdigest(),
    }


def leavers(partitions: Partitions, items: pl.Series, statistic: Any, run: Run | None) -> Sums:
    """Sum up the rows of a hundred people."""
    users = pl.Series("user_id", np.arange(LEAVERS, dtype=np.int64) * 37)
    return sums_of_users(partitions, users, items, statistic, run)


def run_of(way: str) -> Run | None:
    """Make the way to run."""
    if way == "in one piece":
        return None
    if way == "one after the other":
        return serial
    if way == "two processes":
        return Pool(2)
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    from pyspark.sql import SparkSession
    from recunlearn.engine.cluster.spark import Spark

    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "6g",
        "spark.driver.maxResultSize": "4g",
    }
    session = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return Spark(session)


class Watched:
    """Reads the memory and the CPU of a process and all below it while it runs."""

    def __init__(self, pid: int) -> None:
        self.pid, self.ended = pid, threading.Event()
        self.peak = dict.fromkeys(("Pss", "Pss_Anon"), 0)
        self.cpu: dict[int, float] = {}
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def end(self) -> None:
        """Stop."""
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.1):
            family = list(_family(self.pid))
            self.cpu |= {pid: seconds for pid in family if (seconds := _cpu(pid))}
            now = [_proportional(pid) for pid in family]
            self.peak = {kind: max(peak, sum(one[kind] for one in now)) for kind, peak in self.peak.items()}


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _proportional(pid: int) -> dict[str, int]:
    """Read KiB of memory: all, and what no file backs."""
    sizes = {"Pss": 0, "Pss_Anon": 0}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return sizes
    for line in lines:
        kind, _, rest = line.partition(":")
        if kind in sizes:
            sizes[kind] = int(rest.split()[0])
    return sizes


if __name__ == "__main__":
    main()
