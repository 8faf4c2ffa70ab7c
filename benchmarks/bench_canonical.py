"""How long CanonicalMF takes to fit and to forget, beside a fresh fit of implicit's ALS on what is left.

    python benchmarks/bench_canonical.py --data train.txt --alpha 3 --regularization 75
    python benchmarks/bench_canonical.py --generate 200000 20000 10000000 --factors 64 --regularization 400

Every figure is taken in turns with its peer, in one process, on the same data and threads; the ratio is the
median of the ratios of neighbours in time. ``--truth`` also runs to 1e-8 in float64 on what is left and
compares the bounds with the true distances. Prints a table and, with ``--json``, writes what it measured.
"""

import argparse
import copy
import resource
from dataclasses import asdict
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import turns
from recunlearn.models import CanonicalMF
from recunlearn.models.score_distance import score_distance
from rich.console import Console
from rich.table import Table
from turns import Figure, implicit_fit, seconds

CASES = (
    ("forget 100 users to 0.99", 100, 0.99, 1e-3),
    ("forget 100 users to 0.99 and a bound of 1e-4", 100, 0.99, 1e-4),
    ("forget 100 users to 0.999", 100, 0.999, 1e-3),
    ("forget 1 user to 0.99", 1, 0.99, 1e-3),
)
"""Name, users, share of the influence to be shown gone, tolerance of the bound."""


def bench(
    x: sp.csr_matrix, fitted: CanonicalMF, factors: int, repeats: int, truth: bool
) -> tuple[list[Figure], list[dict[str, object]]]:
    """Forget random users, in turns with implicit's fit on what is left."""
    rng = np.random.default_rng(0)
    figures, proofs = [], []
    for name, count, erasure, tolerance in CASES:
        figure = Figure(name, f"implicit ALS, {factors} factors, on what is left")
        for _ in range(repeats):
            model = copy.copy(fitted)
            model.erasure, model.tolerance = erasure, tolerance
            before = fitted.user_factors, fitted.item_factors
            gone = rng.choice(x.shape[0], count, replace=False)
            figure.ours.append(seconds(lambda model=model, gone=gone: model.forget_users(gone)))
            figure.theirs.append(seconds(lambda model=model: implicit_fit(model.user_items, factors)))
        figures.append(figure)
        certificate = model.certificate
        proof = {"name": name, "seconds": float(np.median(figure.ours)), **asdict(certificate)}
        if truth:
            proof |= compare(model, before)
        proofs.append(proof)
    return figures, proofs


def compare(model: CanonicalMF, before: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Compare bound and share erased with a fit on what is left to 1e-8."""
    exact = CanonicalMF(
        model.regularization, model.alpha, max_factors=model.max_factors, tolerance=1e-8, dtype="float64"
    ).fit(model.user_items)
    stay = np.diff(model.user_items.indptr) > 0
    best = exact.user_factors, exact.item_factors
    true = score_distance(model.user_factors, model.item_factors, *best)
    left = score_distance(model.user_factors[stay], model.item_factors, best[0][stay], best[1])
    influence = score_distance(before[0][stay], before[1], best[0][stay], best[1])
    norm = float(np.linalg.norm(np.linalg.norm(best[0], axis=0) * np.linalg.norm(best[1], axis=0)))
    return {"bound_over_true": model.certificate.bound * norm / true, "truly_erased": 1.0 - left / influence}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    turns.add_data(parser)
    parser.add_argument("--alpha", type=float, default=3.0)
    parser.add_argument("--regularization", type=float, default=75.0)
    parser.add_argument("--max-factors", type=int, default=256)
    parser.add_argument("--factors", type=int, default=128, help="of implicit's ALS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="count what all threads used, not the wall clock")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.cpu:
        turns.count_cpu_seconds()
    x = turns.data_of(arguments)

    def unfitted() -> CanonicalMF:
        return CanonicalMF(arguments.regularization, arguments.alpha, max_factors=arguments.max_factors)

    fitted = unfitted().fit(x)
    copy.copy(fitted).forget_users([0])  # compiles what only forgetting needs
    implicit_fit(x, arguments.factors)
    fit = Figure("fit to a bound of 1e-4", f"implicit ALS, {arguments.factors} factors")
    for _ in range(arguments.repeats):
        fit.ours.append(seconds(lambda: unfitted().fit(x)))
        fit.theirs.append(seconds(lambda: implicit_fit(x, arguments.factors)))
    figures, proofs = bench(x, fitted, arguments.factors, arguments.repeats, arguments.truth)
    figures, proofs = [fit, *figures], [{"name": fit.name, **asdict(fitted.certificate)}, *proofs]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    report(figures, proofs, peak)
    turns.write(
        arguments.json,
        data={"users": x.shape[0], "items": x.shape[1], "interactions": x.nnz},
        figures=[figure.record() for figure in figures],
        proofs=proofs,
        peak_memory_gib=peak,
    )


def report(figures: list[Figure], proofs: list[dict[str, object]], peak: float) -> None:
    """Print times and what was shown."""
    table = Table("figure", "ours, s", "peer, s", "ratio", "bound", "erased", "steps", "bound/true", "truth")
    for figure, proof in zip(figures, proofs, strict=True):
        shown = (proof["bound"], proof["erased_at_least"], proof["iterations"])
        true = (proof.get("bound_over_true"), proof.get("truly_erased"))
        cells = ["" if value is None else f"{value:.5g}" for value in (*shown, *true)]
        times = f"{np.median(figure.ours):.3f}", f"{np.median(figure.theirs):.3f}", f"{figure.ratio():.2f}"
        table.add_row(figure.name, *times, *cells)
    console = Console(width=140)
    console.print(table)
    console.print(f"peak memory {peak:.2f} GiB, the peer's fits included")


if __name__ == "__main__":
    main()
