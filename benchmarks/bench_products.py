"""SpectralMF by products through the commands: three silos and a coordinator as processes, fit and deletions.

docs/explanation/federated.md has the figures:

    python benchmarks/bench_products.py --data train.txt

Each silo runs ``recunlearn silo run``, the coordinator ``recunlearn coordinator run``; a hundred users are
forgotten at their silos, and what is published is held against a fit on all other rows together.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from recunlearn.engine.signing import read_public_key
from recunlearn.models import SpectralMF
from recunlearn.models.summed import Published, model_at_home
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.publication import Manifest, read_current, read_version
from turns import add_data, data_of, write

DELETED = 100
LIMIT = 1800.0
"""Seconds at most that one waits for a version."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--silos", type=int, default=3)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = data_of(arguments)
    draw = np.random.default_rng(arguments.silos)
    home = draw.integers(arguments.silos, size=data.shape[0])
    gone = np.sort(draw.choice(data.shape[0], DELETED, replace=False))
    stay = np.setdiff1d(np.arange(data.shape[0]), gone)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = Federation(Path(folder), data, home, arguments.factors)
        with made.running():
            started = time.perf_counter()
            made.wait_for_version(1)
            seconds = time.perf_counter() - started
            found["fit"] = made.compare(data) | {"seconds": seconds}
            print(f"fit: {found['fit']}", flush=True)
            started = time.perf_counter()
            made.forget(gone, home)
            made.wait_until_answered()
            seconds = time.perf_counter() - started
            found["deletions"] = made.compare(data[stay]) | {"seconds": seconds}
            print(f"{DELETED} users: {found['deletions']}", flush=True)
        found["receipts"], found["left"] = made.receipts(), made.left()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["cpu_all_together"] = usage.ru_utime + usage.ru_stime
        print({name: found[name] for name in ("receipts", "left", "cpu_all_together")})
    write(arguments.json, data=str(arguments.data or arguments.generate), **found)


class Federation:
    """A coordinator and its silos, made and run by their commands."""

    def __init__(self, folder: Path, data: sp.csr_matrix, home: np.ndarray, factors: int) -> None:
        self.folder, self.board = folder, Board(folder / "board")
        self.names = [f"silo-{k}" for k in range(home.max() + 1)]
        (folder / "items").write_text("\n".join(map(str, range(data.shape[1]))) + "\n")
        settings = json.dumps({"factors": factors})
        self.run(
            "coordinator init --state hub --board board --items items --model spectral_mf --batch 1",
            "--products", "--settings", settings,
        )  # fmt: skip
        for k, name in enumerate(self.names):
            rows = sp.coo_matrix(data[home == k])
            users = np.flatnonzero(home == k)[rows.row]
            pl.DataFrame({"user_id": users, "item_id": rows.col}).write_csv(folder / f"{name}.csv")
            self.run(
                f"silo join --state {name} --board board --name {name} --data {name}.csv",
                "--coordinator-key", "hub/keys/receipts.pub",
            )  # fmt: skip
            self.run(f"coordinator admit --state hub --name {name} --key {name}/keys/receipts.pub")

    def run(self, command: str, *more: str) -> str:
        """Run a command to its end; what it printed."""
        line = [str(Path(sys.executable).with_name("recunlearn")), *command.split(), *more]
        return subprocess.run(line, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let everybody run, each in a process with one thread."""
        one = {"OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        lines = ["coordinator run --state hub", *(f"silo run --state {name}" for name in self.names)]
        command = str(Path(sys.executable).with_name("recunlearn"))
        processes = [
            subprocess.Popen([command, *line.split()], cwd=self.folder, env=os.environ | one)
            for line in lines
        ]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
                process.wait()

    def forget(self, gone: np.ndarray, home: np.ndarray) -> None:
        """Ask each silo for its own users, a request each."""
        for k, name in enumerate(self.names):
            (self.folder / "gone").write_text("\n".join(map(str, gone[home[gone] == k])) + "\n")
            self.run(f"silo forget --state {name} --file gone")

    def wait_for_version(self, number: int) -> None:
        """Wait until a version is published."""
        self.wait(lambda: read_current(self.board)[0] >= number)

    def wait_until_answered(self) -> None:
        """Wait until no silo has anything to forget, or to be answered."""

        def all_answered() -> bool:
            at = [json.loads(self.run(f"silo status --state {name} --json")) for name in self.names]
            asked = [path for name in self.names for path in (self.folder / name / "requests").iterdir()]
            return not asked and not any(one["waiting"] or one["unanswered"] for one in at)

        self.wait(all_answered)

    def wait(self, is_so: Any) -> None:
        """Look once a second."""
        end = time.monotonic() + LIMIT
        while not is_so():
            if time.monotonic() > end:
                raise TimeoutError(f"nothing for {LIMIT:g} s: {self.run('coordinator status --state hub')}")
            time.sleep(1.0)

    def published(self) -> tuple[Manifest, Published]:
        """Read what is published, as a silo does."""
        return read_version(self.board, read_public_key((self.folder / "hub/keys/receipts.pub").read_bytes()))

    def compare(self, rows: sp.csr_matrix) -> dict[str, Any]:
        """Hold what is served at home against a far tighter fit on all rows, fresh."""
        manifest, published = self.published()
        settings = {**published.settings, "tolerance": 1e-8, "dtype": "float64"}
        home, truth = model_at_home(published, rows), SpectralMF(**settings).fit(rows)
        scale = np.asarray(published.arrays["item_scale"])
        ours, theirs = (
            (np.asarray(m.user_factors, float) @ np.asarray(m.item_factors, float).T) * scale
            for m in (home, truth)
        )
        return {
            "version": manifest.version,
            "users": manifest.users,
            "lambda": published.settings["regularization"],
            "apart": float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours)),
            **{name: published.record[name] for name in ("certified", "bound", "iterations")},
        }

    def receipts(self) -> dict[str, int]:
        """Count, by silo, the users who are out by receipts."""
        at = {name: json.loads(self.run(f"silo status --state {name} --json")) for name in self.names}
        return {name: sum(one["erased"] for one in status["done"]) for name, status in at.items()}

    def left(self) -> int:
        """Count the files of solves and letters on the board: of products that are over nothing is kept."""
        folders = ("solves", "inbox")
        return sum(path.is_file() for name in folders for path in (self.board.root / name).rglob("*"))


if __name__ == "__main__":
    main()
