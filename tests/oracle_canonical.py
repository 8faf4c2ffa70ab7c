"""The canonical optimum by brute force: dense, float64, the provable step size, no shared code.

Written from the definition: ``min_S 1/2 sum c (y - s)^2 + lambda |S|_*`` by proximal gradient with Nesterov's
momentum for strongly convex functions, every step a full singular value decomposition.
"""

import numpy as np
from numpy.typing import NDArray


def weights(dense: NDArray[np.float64], alpha: float, cap: float) -> NDArray[np.float64]:
    """Confidence of every pair: ``min(1 + alpha r, cap)``, 1 where nothing was observed."""
    return np.where(dense > 0, np.minimum(1.0 + alpha * dense, cap), 1.0)


def shrink(matrix: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    """Soft-threshold the singular values."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u * np.maximum(s - by, 0.0)) @ vt


def optimum(
    dense: NDArray[np.float64],
    regularization: float,
    alpha: float,
    cap: float = 50.0,
    accuracy: float = 1e-10,
) -> NDArray[np.float64]:
    """Scores of the unique optimum, within ``accuracy`` of it relative to the data."""
    c = weights(dense, alpha, cap)
    y = (dense > 0).astype(np.float64)
    steepest = c.max()
    beta = (np.sqrt(steepest) - 1) / (np.sqrt(steepest) + 1)
    s = before = np.zeros_like(y)
    scale = accuracy * max(np.linalg.norm(y), 1e-300) / steepest
    for _ in range(20_000):
        z = s + beta * (s - before)
        before, s = s, shrink(z - c * (z - y) / steepest, regularization / steepest)
        if np.linalg.norm(s - z) <= scale and np.linalg.norm(s - before) <= scale:
            return s
    raise AssertionError("the oracle did not converge")


def objective(
    scores: NDArray[np.float64], dense: NDArray[np.float64], regularization: float, alpha: float
) -> float:
    """Evaluate the loss at dense scores."""
    c = weights(dense, alpha, 50.0)
    y = (dense > 0).astype(np.float64)
    return float(0.5 * (c * (y - scores) ** 2).sum() + regularization * np.linalg.svd(scores)[1].sum())
