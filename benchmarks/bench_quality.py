"""How well SpectralMF ranks, beside implicit's ALS and EASE, each at its best on held-out training data.

    python benchmarks/bench_quality.py --train train.txt --test test.txt

Both files are lines of ``user item item ...``. Every model's settings are chosen by NDCG@10 on a tenth of the
training interactions, then it is fitted to all of them and measured once on the test set.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import turns
from implicit.als import AlternatingLeastSquares
from recunlearn.models import EASE, SpectralMF
from recunlearn.models.regularization_path import hold_out
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

Fit = Callable[[sp.csr_matrix], Any]


def spectral(user_power: float, item_power: float) -> Fit:
    """SpectralMF, lambda chosen by itself on a tenth of what it is given, for a rank of at most 384."""
    return lambda x: SpectralMF(384, "auto", user_power, item_power).fit(x)


def ease(regularization: float) -> Fit:
    """EASE."""
    return lambda x: EASE(regularization).fit(x)


def implicit(factors: int, regularization: float, alpha: float) -> Fit:
    """Fit implicit's ALS, BLAS on one thread as it asks for."""

    def fit(x: sp.csr_matrix) -> AlternatingLeastSquares:
        model = AlternatingLeastSquares(factors, regularization=regularization, alpha=alpha, random_state=0)
        with threadpool_limits(1, "blas"):
            model.fit(x.astype(np.float32), show_progress=False)
        return model

    return fit


GRIDS: dict[str, dict[str, Fit]] = {
    "SpectralMF": {
        f'regularization "auto", powers {a} and {b}': spectral(a, b)
        for a, b in itertools.product((0.0, 0.25, 0.5, 0.75), (0.2, 0.25, 0.3, 0.35, 0.4, 0.45))
    },
    "EASE": {f"lambda {r}": ease(r) for r in (100.0, 250.0, 500.0, 1000.0, 2000.0)},
    "implicit ALS": {
        f"factors {d}, regularization {r}, alpha {a}": implicit(d, r, a)
        for d, r, a in itertools.product((32, 64, 96), (10.0, 30.0, 100.0, 300.0), (2.0, 4.0, 8.0, 16.0))
    },
}


def quality(model: Any, train: sp.csr_matrix, users: np.ndarray, wanted: sp.csr_matrix) -> dict[str, float]:
    """NDCG@10 and Recall@20 over ``users`` with ``wanted`` CSR [users, items], nothing liked before."""
    ids, _ = model.recommend(users, train[users].astype(np.float32), N=20)
    sizes = np.diff(wanted.indptr)
    keys = np.repeat(np.arange(users.size), sizes) * train.shape[1] + wanted.indices
    hits = np.isin(np.arange(users.size)[:, None] * train.shape[1] + ids, keys) & (ids >= 0)
    discounts = 1 / np.log2(np.arange(10) + 2)
    best = np.cumsum(discounts)[np.minimum(sizes, 10) - 1]
    return {
        "ndcg@10": float(((hits[:, :10] * discounts).sum(axis=1) / best).mean()),
        "recall@20": float((hits.sum(axis=1) / sizes).mean()),
    }


def chosen(fits: Iterable[tuple[str, Fit]], train: sp.csr_matrix, name: str) -> tuple[str, Fit]:
    """Return the settings that rank a held-out tenth of the training interactions best."""
    split = hold_out(train, train.shape[0])
    scored = [
        (quality(fit(split.training), split.training, split.users, split.wanted)["ndcg@10"], settings, fit)
        for settings, fit in track(list(fits), description=name)
    ]
    _, settings, fit = max(scored, key=lambda entry: entry[0])
    return settings, fit


def main() -> None:
    """Choose, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    train, test = turns.read_lines(options.train), turns.read_lines(options.test)
    shape = tuple(np.maximum(train.shape, test.shape))
    train.resize(shape)
    test.resize(shape)
    users = np.flatnonzero(np.diff(test.indptr))
    measured = {}
    table = Table("model", "tried", "chosen", "NDCG@10", "Recall@20")
    for name, grid in GRIDS.items():
        settings, fit = chosen(grid.items(), train, name)
        found = quality(fit(train), train, users, test[users])
        measured[name] = {"tried": len(grid), "settings": settings, **found}
        table.add_row(name, str(len(grid)), settings, f"{found['ndcg@10']:.4f}", f"{found['recall@20']:.4f}")
    Console(width=120).print(table)
    turns.write(options.json, quality=measured)


if __name__ == "__main__":
    main()
