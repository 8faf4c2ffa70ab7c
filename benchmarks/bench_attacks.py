"""Where our models leak, and where not: every attack on real removals.

docs/explanation/attacks.md has the figures:

    python benchmarks/bench_attacks.py --data train.txt
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from recunlearn.eval.attacks import ATTACKS, AttackResult, Scene, Served, served
from recunlearn.eval.attacks.outcome import mean_interval
from recunlearn.models import EASE, ItemKNN, SpectralMF
from recunlearn.models.base import ForgettableModel
from turns import add_data, data_of, write

MODELS: dict[str, Callable[..., ForgettableModel]] = {
    "SpectralMF": SpectralMF,
    "EASE": EASE,
    "ItemKNN": ItemKNN,
}
ON_TWO_VERSIONS = ("differencing", "differencing_answers")
BATCHES = {1: 20, 10: 5, 100: 1}
"""People who leave between two versions -> how many draws of them."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--forget", type=int, default=100, help="people who leave; one version is attacked")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="repeats; all by default")
    parser.add_argument("--attack", action="append", choices=list(ATTACKS), help="repeats; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = data_of(arguments)
    print(f"{data.shape[0]:,} x {data.shape[1]:,}, {data.nnz:,} interactions")
    measured = {
        name: measure(MODELS[name], data, arguments.forget, arguments.seed, arguments.attack or list(ATTACKS))
        for name in arguments.model or MODELS
    }
    write(arguments.json, data=str(arguments.data or arguments.generate), seed=arguments.seed, **measured)


def measure(
    make: Callable[..., ForgettableModel],
    data: sp.csr_matrix,
    leavers: int,
    seed: int,
    attacks: Sequence[str],
) -> dict[str, Any]:
    """Run attacks on one model."""
    model = make().fit(data)
    fixed = {"regularization": model.regularization} if hasattr(model, "regularization") else {}
    before = served(model)

    def fit(rows: sp.csr_matrix) -> Served:
        return served(make(**fixed).fit(rows))

    rng = np.random.default_rng(seed)
    people = np.flatnonzero(np.diff(data.indptr))
    users = draw(rng, people, leavers)
    singly = [name for name in attacks if name not in ON_TWO_VERSIONS]
    found = attack_one_version(model, before, fit, users, seed, singly) if singly else {}
    compared = [name for name in attacks if name in ON_TWO_VERSIONS]
    for batch, times in BATCHES.items() if compared else ():
        results: dict[str, list[AttackResult]] = {name: [] for name in compared}
        for _ in range(times):
            users = draw(rng, people, batch)
            scene = Scene(before, forgotten(model, users), data, users, seed=seed)
            for name in compared:
                results[name].append(ATTACKS[name](scene))
        for name in compared:
            found[f"{name}, {batch}"] = pooled(results[name], seed)
            print(
                type(model).__name__, f"{name}, {batch} leave:", shown(found[f"{name}, {batch}"]), flush=True
            )
    return found


def attack_one_version(
    model: ForgettableModel,
    before: Served,
    fit: Callable[[sp.csr_matrix], Served],
    users: np.ndarray,
    seed: int,
    attacks: Sequence[str],
) -> dict[str, Any]:
    """Run the attacks that look at one version after a removal."""
    scene = Scene(before, forgotten(model, users), model.user_items, users, fit=fit, seed=seed)
    scene = Scene(before, scene.after, scene.user_items, users, fit(scene.kept), fit, seed)
    found = {}
    for name in attacks:
        started = time.perf_counter()
        result = ATTACKS[name](scene)
        found[name] = {**vars(result), "seconds": time.perf_counter() - started}
        print(
            type(model).__name__,
            f"{name}: {result.auc:.4f} [{result.low:.4f}, {result.high:.4f}], chance {result.chance:.4f}, "
            f"excess [{result.excess_low:+.4f}, {result.excess_high:+.4f}], before {result.power:.4f}, "
            f"{found[name]['seconds']:.0f} s",
        )
    return found


def draw(rng: np.random.Generator, people: np.ndarray, number: int) -> np.ndarray:
    """Choose who leaves."""
    return np.sort(rng.choice(people, number, replace=False))


def forgotten(model: ForgettableModel, users: np.ndarray) -> Served:
    """Return what a copy of the model serves after it forgot ``users``; the model stays as it is."""
    arrays = {name: array.copy() for name, array in model.published().items()}
    twin = type(model).restore(model.settings(), arrays, model.proof_record(), model.user_items)
    twin.forget_users(users)
    return served(twin)


def pooled(results: Sequence[AttackResult], seed: int) -> dict[str, Any]:
    """Average over victims; the intervals are over draws where there are several."""
    victims = np.array([result.subjects for result in results], dtype=float)
    keys = ("precision", "precision_popular", "precision_unlinked", "peeled")
    record: dict[str, Any] = {
        key: float(np.average([r.details[key] for r in results], weights=victims)) for key in keys
    }
    for key in ("auc", "chance"):
        record[key] = float(np.average([getattr(result, key) for result in results], weights=victims))
    precise = np.array([result.details["precision"] for result in results])
    interval = mean_interval(precise, seed)
    if len(results) == 1:
        interval = (results[0].details["precision_low"], results[0].details["precision_high"])
    return {**record, "interval": interval, "victims": int(victims.sum()), "draws": len(results)}


def shown(record: dict[str, Any]) -> str:
    """Write a pooled record in one line."""
    low, high = record["interval"]
    return (
        f"precision {record['precision']:.3f} [{low:.3f}, {high:.3f}] of {record['victims']} victims, "
        f"without known items {record['precision_unlinked']:.3f}, "
        f"by popularity {record['precision_popular']:.3f}, peeled whole {record['peeled']:.3f}; "
        f"area {record['auc']:.3f}, by popularity {record['chance']:.3f}"
    )


if __name__ == "__main__":
    main()
