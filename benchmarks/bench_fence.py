"""How long until somebody is fenced while a solve goes on, on a machine that others keep entirely busy.

    python benchmarks/bench_fence.py --data train.txt --folder .

A worker solves under each ``--solve-priority`` in turn, beside one endless loop for each core; ``--asked``
deletions are sent, a tenth of a second apart, and the ledger is asked until each is fenced. Prints Markdown.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import serving_processes as processes
import turns
from bench_cycle import frame_of
from recunlearn.engine.fence import Fence
from recunlearn.engine.state import StatePaths

PRIORITIES = "normal", "low", "idle"
LOOP = [sys.executable, "-c", "while True: pass"]


def fenced_after(state: Path, priority: str, users: list[str]) -> list[float]:
    """Return how long it took until each user but the first two was fenced, in milliseconds."""
    took = []
    with ExitStack() as stack:
        run = [*processes.COMMAND, "run", "--solve-priority", priority, "--state", str(state)]
        stack.enter_context(processes.started(*run))
        fence = stack.enter_context(closing(Fence(state)))
        processes.erase(state, users[0])  # what is compiled or loaded at the first time is not measured
        processes.await_version(StatePaths(state), 1)
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(processes.started(*LOOP))
        processes.erase(state, users[1])
        time.sleep(0.3)
        for user in users[2:]:
            start = time.perf_counter()
            processes.erase(state, user)
            while not fence.is_fenced(user):
                time.sleep(0.001)
            took.append(1e3 * (time.perf_counter() - start))
            time.sleep(0.1)
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="lines of: user item item ...")
    parser.add_argument("--asked", type=int, default=60, help="deletions under each priority")
    parser.add_argument("--folder", type=Path, help="where the states go; default: temporary")
    options = parser.parse_args()
    frame = frame_of(turns.read_lines(options.data))
    users = sorted(set(frame["user_id"].to_list()))[: options.asked + 2]
    print("| solve priority | fenced, p50, ms | p90 | p99 | longest |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        fitted = processes.fit(Path(name), frame, ["item_knn", "spectral_mf"])
        for priority in PRIORITIES:
            state = Path(shutil.copytree(fitted, Path(name) / priority))
            took = fenced_after(state, priority, users)
            quantiles = " | ".join(f"{np.percentile(took, q):.0f}" for q in (50, 90, 99, 100))
            print(f"| {priority} | {quantiles} |", flush=True)


if __name__ == "__main__":
    main()
