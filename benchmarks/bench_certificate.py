"""How tight the bounds of SpectralMF's certificate are, as the filter's degree grows.

    python benchmarks/bench_certificate.py --data train.txt

From the subspace of everybody, users are removed, one Chebyshev filter of each degree is run on what is left,
and every bound is compared with the true distance by a full eigendecomposition in float64. The spectrum
outside the subspace is bounded as the model does it.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import turns
from recunlearn.models.gram_operator import GramOperator
from recunlearn.models.outside import outside_bound
from recunlearn.models.spectral_bound import (
    Residuals,
    gap,
    gap_bound,
    lipschitz_bound,
    strong_convexity_bound,
)
from recunlearn.models.spectral_solver import round_regularization
from recunlearn.models.subspace import chebyshev_filter, rayleigh_ritz, shrinkage
from rich.console import Console
from rich.table import Table

POWER, FACTORS, WIDTH = 0.25, 128, 192


def spectrum(x: sp.csr_matrix) -> tuple[GramOperator, np.ndarray, np.ndarray, np.ndarray]:
    """Return the operator, the formed Gram and all its eigenpairs, descending."""
    gram = GramOperator(x, POWER, POWER)
    formed = gram.apply(np.eye(x.shape[1]))
    values, vectors = np.linalg.eigh((formed + formed.T) / 2)
    return gram, formed, values[::-1], vectors[:, ::-1]


def distance(formed: np.ndarray, a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> float:
    """``|X~ (A1 A2' - B1 B2')|_F`` from the formed Gram."""
    left = np.concatenate([a[0], -b[0]], axis=1)
    right = np.concatenate([a[1], b[1]], axis=1)
    return float(np.sqrt(max(np.sum((left.T @ formed @ left) * (right.T @ right)), 0.0)))


def shrunk(values: np.ndarray, vectors: np.ndarray, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of ``V f V'`` over the active pairs."""
    active = values > lam**2
    return vectors[:, active] * shrinkage(values[active], lam), vectors[:, active]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="lines of: user item item ...")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    x = turns.read_lines(options.data)
    whole, _, values, vectors = spectrum(x)
    lam = round_regularization(float(np.sqrt(values[FACTORS])))
    table = Table("removed", "degree", "truly erased", "strong convexity", "Lipschitz", "gap")
    rows = []
    rng = np.random.default_rng(0)
    for count in (100, 1):
        kept = x.copy()
        for user in rng.choice(x.shape[0], count, replace=False):
            kept.data[kept.indptr[user] : kept.indptr[user + 1]] = 0
        kept.eliminate_zeros()
        gram, formed, best_values, best_vectors = spectrum(kept)
        best = shrunk(best_values, best_vectors, lam)
        ratio = (whole.item_scale / gram.item_scale)[:, None]
        before = shrunk(values, vectors, lam)
        influence = distance(formed, (before[0] * ratio, before[1] / ratio), best)
        basis = vectors[:, :WIDTH] * ratio
        start = rayleigh_ritz(basis.copy(), formed @ basis)
        for degree in (3, 4, 5, 6, 7, 8):
            filtered = chebyshev_filter(gram.apply, start, float(start.values[-1]), degree)
            pairs = rayleigh_ritz(filtered, formed @ filtered)
            true = distance(formed, shrunk(pairs.values, pairs.vectors, lam), best)
            last = float(pairs.values[-1])
            outside = outside_bound(gram.apply, pairs.vectors, last, last + 0.4 * (lam**2 - last))
            residuals = Residuals(pairs.values, pairs.residuals.T @ pairs.residuals, lam, outside)
            gamma = gap(residuals)
            bounds = {
                "strong convexity": strong_convexity_bound(residuals),
                "lipschitz": lipschitz_bound(residuals) if gamma >= 0 else float("nan"),
                "gap": gap_bound(residuals, gamma) if gamma > 0 else float("nan"),
            }
            row = {"removed": count, "degree": degree, "erased": 1 - true / influence}
            row |= {name: bound / true for name, bound in bounds.items()}
            rows.append(row)
            table.add_row(str(count), str(degree), *(f"{value:.4g}" for value in list(row.values())[2:]))
    Console(width=100).print(table)
    turns.write(options.json, certificate=rows)


if __name__ == "__main__":
    main()
