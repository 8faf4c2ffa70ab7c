"""How long SpectralMF takes to fit and to forget, beside a fresh fit of implicit's ALS on what is left.

    python benchmarks/bench_spectral.py --data train.txt --truth
    python benchmarks/bench_spectral.py --generate 200000 20000 10000000 --factors 64 --memory

Every figure is taken in turns with its peer, in one process, on the same data and threads; the ratio is the
median of the ratios of neighbours in time. ``--truth`` compares the bounds with the true distances by a full
eigendecomposition in float64, ``--memory`` takes
how far a process of its own rises above its data.
"""

import argparse
import copy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import turns
from recunlearn.models import SpectralMF
from recunlearn.models.gram_operator import GramOperator
from recunlearn.models.score_distance import score_distance
from rich.console import Console
from rich.table import Table
from turns import Figure, implicit_fit, seconds

CASES = (
    ("forget 100 users, 0.99", 100, 0.99),
    ("forget 100 users, 0.999", 100, 0.999),
    ("forget 1 user, 0.99", 1, 0.99),
    ("forget 1 user, 0.999", 1, 0.999),
    ("forget the 5 % most active, 0.99", -20, 0.99),
)
"""Name, how many random users (negative: that part of all, the most active), share to be shown gone."""


def who_goes(x: sp.csr_matrix, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose the users to forget."""
    sizes = np.diff(x.indptr)
    if count > 0:
        return rng.choice(np.flatnonzero(sizes), count, replace=False)
    return np.argsort(-sizes, kind="stable")[: x.shape[0] // -count]


def bench(
    x: sp.csr_matrix, fitted: SpectralMF, factors: int, repeats: int, best: "Oracle | None"
) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Forget in turns with implicit's fit on what is left."""
    rng = np.random.default_rng(0)
    figures, proofs = [], []
    for name, count, erasure in CASES:
        figure = Figure(name, "implicit ALS on what is left")
        for _ in range(repeats):
            model = copy.copy(fitted)
            model.erasure = erasure
            gone = who_goes(x, count, rng)
            figure.ours.append(seconds(lambda model=model, gone=gone: model.forget_users(gone)))
            figure.theirs.append(seconds(lambda model=model: implicit_fit(model.user_items, factors)))
        figures.append(figure)
        proof = asdict(model.certificate)
        proofs.append(proof | (best.compare(model, fitted, gone) if best else {}))
    return figures, proofs


class Oracle:
    """The optimum on what is left, by a full eigendecomposition in float64."""

    def compare(self, model: SpectralMF, before: SpectralMF, gone: np.ndarray) -> dict[str, float]:
        """Compare the bound and the share erased with the truth."""
        lam = float(model.regularization)
        gram = GramOperator(model.user_items, model.user_power, model.item_power)
        values, vectors = np.linalg.eigh(gram.apply(np.eye(model.user_items.shape[1])))
        active = values > lam**2
        shrunk = 1.0 - lam / np.sqrt(values[active])
        best = gram.rows_times(np.ascontiguousarray(vectors[:, active] * shrunk)), vectors[:, active]
        scale = gram.item_scale[:, None]
        stay = np.setdiff1d(np.arange(model.user_items.shape[0]), gone)
        items = model.item_factors * scale
        true = score_distance(model.user_factors, items, *best)
        left = score_distance(model.user_factors[stay], items, best[0][stay], best[1])
        influence = score_distance(
            before.user_factors[stay], before.item_factors * scale, best[0][stay], best[1]
        )
        norm = float(np.linalg.norm(np.sqrt(values[active]) * shrunk))
        ratio = model.certificate.bound * norm / true
        return {"bound_over_true": ratio, "truly_erased": 1 - left / influence}


def peak_memory(arguments: list[str], what: str) -> float:
    """Return by how much a fresh process grows that does ``what``, in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--only", what], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def only(x: sp.csr_matrix, what: str, factors: int) -> None:
    """Do one thing and print how far memory rose, in MiB: "implicit", "fit" or "forget"."""
    small = x[:1000]
    if what == "implicit":
        implicit_fit(small, 8)
        print(turns.peak_above(lambda: implicit_fit(x, factors)))
        return
    SpectralMF(8).fit(small).forget_users([0])  # what compiling takes is not the model's
    if what == "fit":
        print(turns.peak_above(lambda: SpectralMF(factors).fit(x)))
    else:
        model = SpectralMF(factors).fit(x)
        print(turns.peak_above(lambda: model.forget_users(np.arange(100))))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    turns.add_data(parser)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="count what all threads used, not the wall clock")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = parsed()
    x = turns.data_of(options)
    if options.only:
        only(x, options.only, options.factors)
        return
    if options.cpu:
        turns.count_cpu_seconds()
    fitted = SpectralMF(options.factors).fit(x)
    copy.copy(fitted).forget_users([0])  # compiles what only forgetting needs
    implicit_fit(x[:1000], 8)
    fit = Figure("fit to a bound of 1e-4", "implicit ALS")
    for _ in range(options.repeats):
        fit.ours.append(seconds(lambda: SpectralMF(options.factors).fit(x)))
        fit.theirs.append(seconds(lambda: implicit_fit(x, options.factors)))
    figures, proofs = bench(x, fitted, options.factors, options.repeats, Oracle() if options.truth else None)
    figures, proofs = [fit, *figures], [asdict(fitted.certificate), *proofs]
    memory = {}
    if options.memory:
        source = ["--data", str(options.data)] if options.data else ["--generate"]
        source += map(str, options.generate or ())
        arguments = [*source, "--factors", str(options.factors)]
        memory = {what: peak_memory(arguments, what) for what in ("implicit", "fit", "forget")}
    report(x, figures, proofs, memory)
    measured = [figure.record() | {"proof": proof} for figure, proof in zip(figures, proofs, strict=True)]
    turns.write(options.json, shape=x.shape, interactions=x.nnz, figures=measured, peak_mib=memory)


def report(
    x: sp.csr_matrix, figures: list[Figure], proofs: list[dict[str, Any]], memory: dict[str, float]
) -> None:
    """Print times and what was shown."""
    table = Table(
        "figure", "ours, s", "implicit, s", "ratio", "bound", "erased >=", "passes", "bound/true", "truly",
        title=f"SpectralMF, {x.shape[0]:,} x {x.shape[1]:,}, {x.nnz:,} interactions",
    )  # fmt: skip
    for figure, proof in zip(figures, proofs, strict=True):
        keys = ("bound", "erased_at_least", "iterations", "bound_over_true", "truly_erased")
        cells = ["" if proof.get(key) is None else f"{proof[key]:.5g}" for key in keys]
        times = f"{np.median(figure.ours):.3f}", f"{np.median(figure.theirs):.3f}", f"{figure.ratio():.3f}"
        table.add_row(figure.name, *times, *cells)
    console = Console(width=140)
    console.print(table)
    if memory:
        console.print(
            "peak memory above the data, MiB: "
            + ", ".join(f"{what} {mib:.0f}" for what, mib in memory.items())
        )


if __name__ == "__main__":
    main()
