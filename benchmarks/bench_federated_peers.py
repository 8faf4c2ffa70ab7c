"""One user leaves a silo, and a silo leaves: FedEraser and federated retraining beside sums in one round.

docs/explanation/federated.md has the figures:

    python benchmarks/bench_federated_peers.py --data train.txt --test test.txt

How far a forgotten model is from its own retraining is measured on the scores of those who stay, as a share
of how far the model was before: 0 is forgotten, 1 is nothing done, and more is further away than that.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from bench_federated import Run
from recunlearn.eval.battery.ranking import ndcg, top_items
from recunlearn.eval.federated_mf import Factors, Recipe, Silos, Traffic, erase, train, users_of
from recunlearn.models.score_distance import score_distance
from recunlearn.streaming.federated.silo import Silo
from turns import add_data, data_of, read_lines, write

LEAVING = 0
"""The silo that leaves, and from which a user does."""
OURS = ("item_knn", "spectral_mf")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--test", type=Path, help="lines as in --data: what users took later")
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 50])
    parser.add_argument("--factors", type=int, default=Recipe.factors)
    parser.add_argument("--rounds", type=int, default=Recipe.rounds)
    parser.add_argument("--no-ours", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = data_of(arguments)
    data.data[:] = 1.0
    later = None if arguments.test is None else read_lines(arguments.test)
    shape = tuple(np.max([part.shape for part in (data, later) if part is not None], axis=0))
    for part in (data, later):
        if part is not None:
            part.resize(shape)
    recipe = Recipe(factors=arguments.factors, rounds=arguments.rounds)
    print(f"{data.shape[0]:,} x {data.shape[1]:,}, {data.nnz:,} interactions; {recipe}", flush=True)
    found: dict[str, Any] = {}
    for count in arguments.silos:
        home = np.random.default_rng(count).integers(count, size=data.shape[0])
        found[f"peer, {count} silos"] = peer(data, home, later, recipe)
        for name in () if arguments.no_ours else OURS:
            found[f"{name}, {count} silos"] = ours(name, data, home)
    write(arguments.json, data=str(arguments.data or arguments.generate), **found)


def peer(data: sp.csr_matrix, home: np.ndarray, later: sp.csr_matrix | None, recipe: Recipe) -> Any:
    """Train, then forget a user and a silo, each by FedEraser and by training again."""
    everybody = np.arange(data.shape[0])
    cpu = time.process_time()
    before = train(silos_of(data, everybody, home), data.shape[1], recipe)
    figures: dict[str, Any] = {"fit": record(before.traffic, time.process_time() - cpu)}
    figures["fit"]["kept_bytes"] = before.kept_bytes
    figures["fit"]["ndcg"] = quality(data, before.items, recipe, later)
    say(f"{home.max() + 1} silos, fit", figures["fit"])
    user = np.flatnonzero(home == LEAVING)[7]
    for what, gone in (("one user", np.array([user])), ("a silo", np.flatnonzero(home == LEAVING))):
        stay = np.setdiff1d(everybody, gone)
        left = silos_of(data, stay, home)
        cpu = time.process_time()
        again = train(left, data.shape[1], recipe)
        retrained = record(again.traffic, time.process_time() - cpu)
        cpu = time.process_time()
        erased, traffic = erase(before, left, recipe)
        eraser = record(traffic, time.process_time() - cpu)
        moved = apart(data[stay], before.items, again.items, recipe)
        eraser["influence_left"] = apart(data[stay], erased, again.items, recipe) / moved
        size = length(data[stay], again.items, recipe)
        eraser["influence"], eraser["distance"] = moved / size, eraser["influence_left"] * moved / size
        eraser["ndcg"] = quality(data[stay], erased, recipe, None if later is None else later[stay])
        retrained["ndcg"] = quality(data[stay], again.items, recipe, None if later is None else later[stay])
        for way, one in (("retraining", retrained), ("FedEraser", eraser)):
            figures[f"{what}, {way}"] = one
            say(f"{home.max() + 1} silos, {what}, {way}", one)
    return figures


def silos_of(data: sp.csr_matrix, users: np.ndarray, home: np.ndarray) -> Silos:
    """Deal out rows; a silo without any has left."""
    return {int(silo): data[users[home[users] == silo]] for silo in np.unique(home[users])}


def record(traffic: Traffic, cpu: float) -> dict[str, Any]:
    """Return what was counted."""
    return {**vars(traffic), "cpu_seconds": cpu}


def apart(rows: sp.csr_matrix, one: Factors, other: Factors, recipe: Recipe) -> float:
    """Return how far the scores of rows are apart."""
    users = (users_of(rows, items, recipe.regularization) for items in (one, other))
    return score_distance(next(users), one, next(users), other)


def length(rows: sp.csr_matrix, items: Factors, recipe: Recipe) -> float:
    """Return the norm of the scores of rows."""
    nothing = np.zeros((rows.shape[0], 1)), np.zeros((rows.shape[1], 1))
    return score_distance(users_of(rows, items, recipe.regularization), items, *nothing)


def quality(rows: sp.csr_matrix, items: Factors, recipe: Recipe, later: sp.csr_matrix | None) -> float | None:
    """Return NDCG@10 on what users took later."""
    if later is None:
        return None
    found = []
    has = np.flatnonzero((np.diff(later.indptr) > 0) & (np.diff(rows.indptr) > 0))
    for part in np.array_split(has, max(1, has.size // 1000)):
        scores = users_of(rows[part], items, recipe.regularization) @ items.T.astype(np.float64)
        found.append(ndcg(top_items(scores, rows[part]), later[part]))
    return float(np.concatenate(found).mean())


def ours(name: str, data: sp.csr_matrix, home: np.ndarray) -> dict[str, Any]:
    """Fit by sums, let one user go, then the rest of a silo; each compared with a pooled fit."""
    filled = np.flatnonzero(np.diff(data.indptr))
    data, home = data[filled], home[filled]
    own = np.flatnonzero(home == LEAVING)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), name, data, home)
        figures = {"fit": run.round()}
        run.forget(own[7:8])
        figures["one user"] = run.round()
        figures["one user"]["same"] = run.same_as_pooled(np.setdiff1d(np.arange(data.shape[0]), own[7:8]))
        with Silo(run.folder / f"silo-{LEAVING}") as silo:
            silo.leave()
        figures["a silo"] = run.round()
        figures["a silo"]["same"] = run.same_as_pooled(np.setdiff1d(np.arange(data.shape[0]), own))
    for what, one in figures.items():
        say(f"{name}, {home.max() + 1} silos, {what}", one)
    return figures


def say(what: str, figures: dict[str, Any]) -> None:
    """Print figures, bytes in MB."""
    shown = {key: value for key, value in figures.items() if value is not None}
    parts = [
        f"{key} {value / 1e6:.3f} MB" if "bytes" in key else f"{key} {value:.4g}"
        if isinstance(value, float)
        else f"{key} {value}"
        for key, value in shown.items()
    ]  # fmt: skip
    print(f"{what}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
