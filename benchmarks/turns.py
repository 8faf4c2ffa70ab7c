"""What the benchmarks share: times taken in turns with a peer's, the data, the peer, the machine."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from recunlearn.eval.battery.resources import used_by
from recunlearn.eval.datasets import read_adjacency
from recunlearn.eval.generate import social_interactions
from recunlearn.models.base import canonical_interactions
from threadpoolctl import threadpool_info, threadpool_limits

SETTLING = 0.15
"""Seconds: BLAS's idle threads were seen to spin for 105 ms; they would take a core from whoever is next."""

clock: Callable[[], float] = time.perf_counter


@dataclass
class Figure:
    """Times of ours and of a peer, in seconds, taken in turns."""

    name: str
    peer: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """Return the median of the ratios of neighbours in time."""
        return float(np.median(np.array(self.ours) / np.array(self.theirs)))

    def record(self) -> dict[str, Any]:
        """Return all that was measured, JSON-ready."""
        return {**asdict(self), "ratio": self.ratio()}


def count_cpu_seconds() -> None:
    """Time by what all threads used, not by the wall clock: for a machine that others use too."""
    global clock
    clock = time.process_time


def seconds(call: Callable[[], object]) -> float:
    """Time one call, once the thread pools of the call before have stopped spinning for more work."""
    time.sleep(SETTLING)
    start = clock()
    call()
    return clock() - start


def add_data(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told its data: a file, or the sizes of what is generated."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="lines of: user item item ...")
    source.add_argument("--generate", type=int, nargs=3, metavar=("USERS", "ITEMS", "INTERACTIONS"))


def data_of(arguments: argparse.Namespace) -> sp.csr_matrix:
    """Read or generate what :func:`add_data` was told."""
    return read_lines(arguments.data) if arguments.data else generated(*arguments.generate)


def read_lines(path: Path) -> sp.csr_matrix:
    """Read lines of ``user item item ...``; ids are row and column numbers."""
    frame = read_adjacency(path).frame
    rows, columns = frame["user_id"].to_numpy(), frame["item_id"].to_numpy()
    return canonical_interactions(sp.coo_matrix((frame["value"].to_numpy(), (rows, columns))))


def generated(users: int, items: int, interactions: int) -> sp.csr_matrix:
    """Generate a social-like set."""
    return canonical_interactions(social_interactions(users, items, interactions))


def implicit_fit(user_items: sp.csr_matrix, factors: int) -> AlternatingLeastSquares:
    """Fit implicit's ALS with its defaults, BLAS on one thread as it asks for."""
    model = AlternatingLeastSquares(factors=factors)
    with threadpool_limits(1, "blas"):
        model.fit(user_items.astype(np.float32), show_progress=False)
    return model


def peak_above(call: Callable[[], object]) -> float:
    """Return how far the resident memory of this process rises during a call, in MiB (Linux)."""
    peak = used_by(call).peak_mib
    if peak is None:
        raise OSError("this system does not say how much memory a call takes; measure on Linux")
    return peak


def machine() -> dict[str, Any]:
    """Describe what was measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numba_threads": numba.get_num_threads(),
        "threadpools": [{k: p[k] for k in ("internal_api", "num_threads")} for p in threadpool_info()],
    }


def write(path: Path | None, **measured: Any) -> None:
    """Write what was measured as JSON, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **measured}, indent=1) + "\n")
