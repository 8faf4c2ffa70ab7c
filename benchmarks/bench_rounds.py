"""SpectralMF by rounds of products over the board, silos as processes, beside its sums sent once.

docs/explanation/federated.md has the figures:

    python benchmarks/bench_rounds.py --data train.txt

Each silo is a process; before and after a hundred users are forgotten at their silos.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from recunlearn.engine.signing import SigningKey, public_pem, read_public_key
from recunlearn.models.summed import Published, published_from_sums, statistic_of
from recunlearn.models.sums import merge, sums_of
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.rounds.silo import Member, take_part
from recunlearn.streaming.federated.rounds.solve import Solve
from recunlearn.streaming.federated.rounds.terms import FORMAT, Terms
from recunlearn.streaming.federated.sums_file import write_arrow
from turns import add_data, data_of, write

DELETED = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--silos", type=int, default=3)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--no-sums", action="store_true", help="for more items than n^2 allows")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = data_of(arguments)
    draw = np.random.default_rng(arguments.silos)
    home = draw.integers(arguments.silos, size=data.shape[0])
    stay = np.setdiff1d(np.arange(data.shape[0]), draw.choice(data.shape[0], DELETED, replace=False))
    print(f"{data.shape[0]:,} x {data.shape[1]:,}, {data.nnz:,} interactions, {arguments.silos} silos")
    settings: dict[str, Any] = {"factors": arguments.factors}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        board = Federation(Path(folder), arguments.silos, statistic_of("spectral_mf", {}, data.shape[1]))
        for what, rows in (("fit", np.arange(data.shape[0])), (f"{DELETED} users", stay)):
            parts = [data[rows[home[rows] == k]] for k in range(arguments.silos)]
            published, found[what] = board.solve(parts, settings)
            settings["regularization"] = published.settings["regularization"]
            if not arguments.no_sums:
                found[what] |= by_sums(parts, settings, published)
            print(f"{what}: {found[what]}", flush=True)
    write(arguments.json, data=str(arguments.data or arguments.generate), **found)


class Federation:
    """A board, a coordinator's key and those of the silos."""

    def __init__(self, folder: Path, silos: int, statistic: Any) -> None:
        self.folder, self.statistic, self.number = folder, statistic, 0
        self.key = SigningKey.generate(folder / "hub.pem")
        (folder / "hub.pub").write_bytes(public_pem(self.key.public))
        self.parties = {}
        for name in (f"silo-{k:02d}" for k in range(silos)):
            Board(folder / "board").inbox(name).mkdir(parents=True)
            self.parties[name] = public_pem(SigningKey.generate(folder / f"{name}.pem").public).decode()

    def solve(self, parts: list[sp.csr_matrix], settings: dict[str, Any]) -> tuple[Published, dict[str, Any]]:
        """Start the silos, solve, wait for them; what it took."""
        self.number += 1
        context, children = multiprocessing.get_context("spawn"), []
        for name, rows in zip(self.parties, parts, strict=True):
            sp.save_npz(self.folder / f"{name}.npz", rows)
            children.append(context.Process(target=be_silo, args=(self.folder, name, self.number)))
        before = spent(resource.RUSAGE_CHILDREN)
        for child in children:
            child.start()
        terms = Terms(FORMAT, "bench", 1, self.number, self.statistic, self.parties)
        own = time.process_time()
        with Solve(Board(self.folder / "board"), terms, self.key) as solve:
            solve.margins()  # the silos are there: what they took to start is not counted
            wall = time.perf_counter()
            published = solve.publish(settings)
            wall = time.perf_counter() - wall
        own = time.process_time() - own
        for child in children:
            child.join()
            assert child.exitcode == 0
        return published, {
            "rounds": solve.rounds,
            "bytes_out": solve.bytes_out,
            "bytes_in": solve.bytes_in,
            "seconds": wall,
            "coordinator_cpu": own,
            "silos_cpu_with_start": spent(resource.RUSAGE_CHILDREN) - before,
            **{key: published.record[key] for key in ("certified", "bound", "iterations")},
        }


def be_silo(folder: Path, name: str, number: int) -> None:
    """Be a silo for one solve."""
    hub = read_public_key((folder / "hub.pub").read_bytes())
    me = Member(name, SigningKey.load(folder / f"{name}.pem"), hub)
    take_part(Board(folder / "board"), me, number, sp.load_npz(folder / f"{name}.npz"))


def by_sums(parts: list[sp.csr_matrix], settings: dict[str, Any], rounds: Published) -> dict[str, Any]:
    """Send sums once instead: bytes, and how far apart what is published is."""
    statistic = statistic_of("spectral_mf", settings, parts[0].shape[1])
    sums = [sums_of(part, statistic) for part in parts]
    published = published_from_sums("spectral_mf", settings, merge(sums, statistic))
    ours, theirs = (np.asarray(p.arrays["item_factors"], dtype=np.float64) for p in (rounds, published))
    apart = np.linalg.norm(ours @ ours.T - theirs @ theirs.T) / np.linalg.norm(theirs @ theirs.T)
    return {
        "sums_bytes": sum(len(write_arrow(each)) for each in sums),
        "item_factors_apart": float(apart),
        "sums_bound": published.record["bound"],
    }


def spent(who: int) -> float:
    """Return the processor seconds of this process or of its children that have ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
