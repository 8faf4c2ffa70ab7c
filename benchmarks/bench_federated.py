"""Silos on real data: the same bits as pooled, bytes and seconds of a fit and of a deletion, and what leaks.

docs/explanation/federated.md has the figures:

    python benchmarks/bench_federated.py --data train.txt
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from recunlearn.engine.state import StatePaths
from recunlearn.eval.attacks.peeling import Profile, gram_of_inverse, peel
from recunlearn.models import EASE, MODELS
from recunlearn.models.summed import SUMMED, statistic_of
from recunlearn.models.sums import Statistic, sums_of
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import found_federation
from recunlearn.streaming.federated.publication import read_version
from recunlearn.streaming.federated.silo import Silo, join
from recunlearn.streaming.federated.silo_state import ask
from recunlearn.streaming.federated.sums_file import write_arrow
from turns import add_data, data_of, write

DELETED = 100
BATCHES = (1, 10, 100, 1000)
DRAWS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 50])
    parser.add_argument("--model", action="append", choices=SUMMED, help="repeats")
    parser.add_argument("--no-federation", action="store_true", help="only the attack")
    parser.add_argument("--no-attack", action="store_true", help="only the federation")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = data_of(arguments)
    data = data[np.flatnonzero(np.diff(data.indptr))]
    print(f"{data.shape[0]:,} x {data.shape[1]:,}, {data.nnz:,} interactions")
    found: dict[str, Any] = {}
    for name in arguments.model or SUMMED if not arguments.no_federation else ():
        for silos in arguments.silos:
            found[f"{name}, {silos}"] = federated(name, data, silos)
    if not arguments.no_attack:
        found["peeling"] = attacked(data)
    write(arguments.json, data=str(arguments.data or arguments.generate), **found)


def federated(name: str, data: sp.csr_matrix, silos: int) -> dict[str, Any]:
    """Fit over silos, delete one user and then the rest of a hundred; compare with pooled fits."""
    draw = np.random.default_rng(silos)
    home = draw.integers(silos, size=data.shape[0])
    gone = draw.choice(data.shape[0], DELETED, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), name, data, home)
        figures = {"fit": run.round()}
        figures["fit"]["same"] = run.same_as_pooled(np.arange(data.shape[0]))
        run.forget(gone[:1])
        figures["one user"] = run.round()
        run.forget(gone[1:])
        figures["99 users"] = run.round()
        figures["99 users"]["same"] = run.same_as_pooled(np.setdiff1d(np.arange(data.shape[0]), gone))
    for what, one in figures.items():
        print(
            f"{name}, {silos} silos, {what}: {one['messages']} messages, {one['bytes'] / 1e6:.3f} MB; silos "
            f"{one['silos']:.2f} processor s together, coordinator {one['coordinator']:.2f} s; "
            f"{one.get('same', '')}",
            flush=True,
        )
    return figures


class Run:
    """A federation in a folder, each part run by hand so that it can be timed."""

    def __init__(self, folder: Path, name: str, data: sp.csr_matrix, home: np.ndarray) -> None:
        self.folder, self.name, self.data, self.home = folder, name, data, home
        self.board, self.root = folder / "board", folder / "coordinator"
        items = [str(k) for k in range(data.shape[1])]
        found_federation(self.root, self.board, "bench", items, name, {}, batch=1)
        trusted = StatePaths(self.root).receipt_public_key.read_bytes()
        self.silos = [f"silo-{k}" for k in np.unique(home)]
        with Coordinator(self.root) as coordinator:
            for silo in self.silos:
                rows = np.flatnonzero(home == int(silo[5:]))
                key = join(folder / silo, self.board, silo, frame_of(data, rows), trusted)
                coordinator.admit(silo, key.read_bytes())

    def forget(self, users: np.ndarray) -> None:
        """Ask each silo to forget its own."""
        for silo in self.silos:
            ask(self.folder / silo, [str(user) for user in users if f"silo-{self.home[user]}" == silo])

    def round(self) -> dict[str, Any]:
        """Let silos send, the coordinator publish, silos read; bytes and processor seconds of it."""
        started = time.process_time()
        for silo in self.silos:
            with Silo(self.folder / silo) as one:
                one.step()
        sent = time.process_time() - started
        letters = [path for path in (self.board / "inbox").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in letters)
        started = time.process_time()
        with Coordinator(self.root) as coordinator:
            step = coordinator.step()
        took = time.process_time() - started
        for silo in self.silos:
            with Silo(self.folder / silo) as one:
                one.step()
                assert not one.state.outgoing
        assert step.refused == 0
        return {"messages": step.taken, "bytes": size, "silos": sent, "coordinator": took}

    def same_as_pooled(self, rows: np.ndarray) -> str:
        """Compare what is published with a fit on all rows: bits, or the bound and the distance."""
        with Coordinator(self.root) as coordinator:
            manifest, published = read_version(coordinator.board, coordinator._key.public)
        pooled = MODELS[self.name](**manifest.settings).fit(self.data[rows])
        if self.name != "spectral_mf":
            return (
                "same bits"
                if all(same(published.arrays[key], array) for key, array in pooled.published().items())
                else "OTHER BITS"
            )
        ours = np.asarray(published.arrays["item_factors"], dtype=np.float64)
        theirs = np.asarray(pooled.published()["item_factors"], dtype=np.float64)
        apart = np.linalg.norm(ours @ ours.T - theirs @ theirs.T) / np.linalg.norm(theirs @ theirs.T)
        record = manifest.record
        return (
            f"bound {record['bound']:.1e}, certified {record['certified']}; item factors (Q Q') {apart:.1e} "
            f"from those of the pooled fit, bound {pooled.certificate.bound:.1e}"
        )


def frame_of(data: sp.csr_matrix, rows: np.ndarray) -> pl.DataFrame:
    """Write rows as user_id, item_id, value."""
    part = data[rows]
    users = np.repeat(rows, np.diff(part.indptr))
    return pl.DataFrame({"user_id": users, "item_id": part.indices, "value": part.data})


def same(ours: Any, theirs: Any) -> bool:
    """Tell whether two arrays, or CSR matrices, are equal to the bit."""
    if sp.issparse(theirs):
        return all(
            np.array_equal(getattr(ours, p), getattr(theirs, p)) for p in ("indptr", "indices", "data")
        )
    return np.array_equal(ours, theirs)


def attacked(data: sp.csr_matrix) -> dict[str, Any]:
    """Read profiles out of differences: of the totals, and of two published inverses of EASE."""
    what = Statistic("whole", data.shape[1])
    total, found = sums_of(data, what), {}
    for batch in BATCHES:
        shares, sizes = [], []
        for draw in range(max(1, min(DRAWS, 200 // batch))):
            users = np.random.default_rng([batch, draw]).choice(data.shape[0], batch, replace=False)
            lost = sums_of(data[users], what)
            difference = total.subtract(total.subtract(lost))
            shares.append(recovered(peel(difference.counts, difference.gram()), data[users]))
            sizes.append(len(write_arrow(lost)))
        found[str(batch)] = {"recovered": shares, "bytes": float(np.mean(sizes))}
        print(
            f"differences of totals, {batch} leave: whole profiles read {np.mean(shares):.3f} "
            f"(least {min(shares):.3f}, {len(shares)} draws); message {np.mean(sizes) / 1e3:.0f} kB",
            flush=True,
        )
    for users_of_silo in (data.shape[0] // 50, data.shape[0] // 10, data.shape[0] // 3, data.shape[0]):
        users = np.random.default_rng(1).choice(data.shape[0], users_of_silo, replace=False)
        sums = sums_of(data[users], what)
        share = recovered(peel(sums.counts, sums.gram()), data[users])
        found[f"silo of {users_of_silo}"] = share
        print(f"all sums of a silo of {users_of_silo:,} users: whole profiles read {share:.3f}", flush=True)
    users = np.random.default_rng(5).choice(data.shape[0], 100, replace=False)
    model = EASE().fit(data)
    first = gram_of_inverse(model.inverse, model.regularization)
    model.forget_users(users)
    difference_of_two = first - gram_of_inverse(model.inverse, model.regularization)
    lost = sums_of(data[users], statistic_of("ease", {}, data.shape[1]))
    share = recovered(peel(difference_of_two.diagonal().copy(), difference_of_two), data[users])
    exact = bool(np.array_equal(difference_of_two, lost.gram()))
    print(f"two published inverses of EASE, 100 leave: Gram exact {exact}, whole profiles read {share:.3f}")
    found["ease"] = {"recovered": share, "exact": exact}
    return found


def recovered(found: list[Profile], rows: sp.csr_matrix) -> float:
    """Return the share of those who left whose profile was read whole and right."""
    read = {tuple(one.items.tolist()) for one in found}
    parts = np.split(rows.indices, rows.indptr[1:-1])
    return float(np.mean([tuple(np.sort(part).tolist()) in read for part in parts]))


if __name__ == "__main__":
    main()
