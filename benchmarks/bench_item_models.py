"""How long EASE and ItemKNN take to forget, beside the fastest way to do without: a fresh fit.

    python benchmarks/bench_item_models.py --data train.txt
    python benchmarks/bench_item_models.py --generate 200000 20000 10000000 --models item_knn

Every figure is taken in turns with its peer, in one process, on the same data and threads; the ratio is the
median of the ratios of neighbours in time, so that a busy machine slows both. Prints a table and, with
``--json``, writes what it measured.

EASE, one user, beside an in-place pass over its n x n inverse: a pass moves 16 n^2 bytes (8 read, 8 written),
220 MB for 3,706 items, and so does the downdate: less is not possible while all of the inverse is kept. On
top come the other operands from the cache (the user's row for the update, eight rows once more for the
measurement), the copy of what is kept, 24 bytes an interaction, and about a millisecond of small sparse
products, which for a few thousand items is not small beside a pass.
"""

import argparse
import resource
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
import turns
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from recunlearn.models import EASE, ItemKNN
from recunlearn.models.ridge_inverse import ridge_inverse
from recunlearn.models.statistics import gram
from rich.console import Console
from rich.table import Table
from turns import Figure, seconds


@numba.njit(parallel=True)
def pass_over(matrix: Any) -> None:
    """Read and write every entry once, on all threads."""
    for i in numba.prange(matrix.shape[0]):
        row = matrix[i]
        for j in range(row.size):
            row[j] *= 0.999999999


def bench_ease(x: sp.csr_matrix, repeats: int, batch: int, users: np.ndarray) -> list[Figure]:
    """Time one user against a pass over the matrix, a batch against a fresh inverse."""
    model = EASE(500.0).fit(x)
    turns = iter(users)
    model.forget_users([next(turns), next(turns)])
    model.forget_users([next(turns)])
    model.forget_users([next(turns) for _ in range(batch)])
    other = model.inverse.copy()
    pass_over(other)
    one = Figure("EASE, one user", "in-place pass, faster of 1 and all threads")
    many = Figure(f"EASE, {batch} users in one batch", "fresh inverse (Cholesky, Gram given)")
    fit = Figure(f"EASE, {batch} users in one batch", "fresh Gram and inverse")
    proof = Figure("EASE, proof on 6 probes", "in-place pass, faster of 1 and all threads")
    for _ in range(repeats):
        for _ in range(4):
            theirs = min(
                seconds(lambda: np.multiply(other, 0.999999999, out=other)), seconds(lambda: pass_over(other))
            )
            user = next(turns)
            one.ours.append(seconds(partial(model.forget_users, [user])))
            one.theirs.append(theirs)
        proof.theirs.append(theirs)
        proof.ours.append(seconds(model.proof))
        gone = [next(turns) for _ in range(batch)]
        ours = seconds(partial(model.forget_users, gone))
        summing = seconds(partial(gram, model.user_items))
        sums = model.gram
        inverting = seconds(partial(ridge_inverse, sums, 500.0))
        many.ours.append(ours)
        many.theirs.append(inverting)
        fit.ours.append(ours)
        fit.theirs.append(summing + inverting)
    return [one, proof, many, fit]


def bench_knn(
    x: sp.csr_matrix, weighting: str, repeats: int, batch: int, users: np.ndarray
) -> tuple[list[Figure], list[tuple[int, float]]]:
    """Time fit, one user, a pair and a batch against implicit's fit; also each single user's own time."""
    peers = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}

    def implicits() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peers[weighting](K=20).fit(model.user_items, show_progress=False)

    model = ItemKNN(20, weighting).fit(x)
    turns = iter(users)
    model.forget_users([next(turns)])
    model.forget_users([next(turns) for _ in range(batch)])
    name = f"ItemKNN {weighting}"
    figures = [
        Figure(f"{name}, {what}", "implicit's fit")
        for what in ("fit", "one user", "one pair", f"{batch} users")
    ]
    single = []
    for _ in range(repeats):
        theirs = seconds(implicits)
        calls: list[Callable[[], object]] = [lambda: ItemKNN(20, weighting).fit(model.user_items)]
        user, other = next(turns), next(turns)
        item = model.user_items[other].indices[:1]
        gone = [next(turns) for _ in range(batch)]
        size = model.user_items[user].nnz
        calls += [
            partial(model.forget_users, [user]),
            partial(model.forget_interactions, [other], item),
            partial(model.forget_users, gone),
        ]
        for figure, call in zip(figures, calls, strict=True):
            figure.ours.append(seconds(call))
            figure.theirs.append(theirs)
        single.append((size, figures[1].ours[-1]))
        for user in (next(turns) for _ in range(10)):
            size = model.user_items[user].nnz
            single.append((size, seconds(partial(model.forget_users, [user]))))
    return figures, single


def by_size(single: list[tuple[int, float]]) -> list[dict[str, float]]:
    """Summarise single users' times by quarters of their number of items."""
    ordered = sorted(single)
    quarters = [ordered[k * len(ordered) // 4 : (k + 1) * len(ordered) // 4] for k in range(4)]
    return [
        {
            "items": float(np.median([size for size, _ in part])),
            "p50": float(np.percentile([t for _, t in part], 50)),
            "p99": float(np.percentile([t for _, t in part], 99)),
        }
        for part in quarters
        if part
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    turns.add_data(parser)
    parser.add_argument("--models", nargs="+", default=["ease", "item_knn"], choices=["ease", "item_knn"])
    parser.add_argument("--weightings", nargs="+", default=["cosine", "tfidf", "bm25"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for a machine that others use too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.cpu:
        turns.count_cpu_seconds()
    x = turns.data_of(options)
    users = np.random.default_rng(0).permutation(np.flatnonzero(np.diff(x.indptr) > 1))
    figures: list[Figure] = []
    sizes: dict[str, list[dict[str, float]]] = {}
    if "ease" in options.models:
        figures += bench_ease(x, options.repeats, options.batch, users)
    for weighting in options.weightings if "item_knn" in options.models else []:
        found, single = bench_knn(x, weighting, options.repeats, options.batch, users)
        figures += found
        sizes[weighting] = by_size(single)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    report(x, figures, sizes, peak)
    turns.write(
        options.json,
        data={"users": x.shape[0], "items": x.shape[1], "interactions": x.nnz},
        figures=[figure.record() for figure in figures],
        single_users=sizes,
        peak_memory_gib=peak,
    )


def report(
    x: sp.csr_matrix, figures: list[Figure], sizes: dict[str, list[dict[str, float]]], peak: float
) -> None:
    """Print times, and single users' times by how many items they have."""
    table = Table(title=f"{x.shape[0]:,} x {x.shape[1]:,}, {x.nnz:,} interactions")
    for column in ("figure", "median", "peer", "peer's median", "ratio"):
        table.add_column(column, justify="left" if column in ("figure", "peer") else "right")
    for figure in figures:
        ours, theirs = np.median(figure.ours), np.median(figure.theirs)
        table.add_row(figure.name, f"{ours:.4f} s", figure.peer, f"{theirs:.4f} s", f"{figure.ratio():.4f}")
    console = Console(width=130)
    console.print(table)
    for weighting, quarters in sizes.items():
        spread = "  ".join(
            f"{q['items']:.0f} items {q['p50'] * 1e3:.2f}/{q['p99'] * 1e3:.2f} ms" for q in quarters
        )
        console.print(f"{weighting}, one user, p50/p99 by quarters of their items: {spread}")
    console.print(f"peak memory {peak:.2f} GiB, the peers' fits included")


if __name__ == "__main__":
    main()
