"""Leading singular subspace of normalised interactions, from scratch or from where a model stands.

The certificate drives the iteration: the degree of each Chebyshev filter is the smallest that is predicted
to reach the target, and the solve ends when the target is *shown*, not when it is guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .gram_operator import ItemGram
from .outside import outside_bound
from .progress import Report
from .spectral_bound import Residuals, distance_bound
from .subspace import (
    FloatMatrix,
    RitzPairs,
    chebyshev_filter,
    inner_products,
    orthonormalise,
    rayleigh_ritz,
    shrinkage,
)

Target = Callable[[RitzPairs, float], float]

SEED = 20210711
FIRST_DEGREE = 5
SETTLED = 1e-3
LARGEST_DEGREE = 12
MOST_ROUNDS = 40
MOST_VAIN_ROUNDS = 5
"""In a row, with which no more could be shown: lambda sits on a singular value, or rounding is reached."""
OUTSIDE_SLACK = 1.02
OUTSIDE_SHARE = 0.4
NEXT_TO_NOTHING = 1e-2
"""Of the largest singular value, or of lambda squared: no use in what lies below (low rank leaves zeros)."""
PREDICTION_MARGIN = 1.2
FLOAT32_FLOOR = 2e-6


@dataclass(frozen=True)
class Solution:
    """Ritz pairs with what is shown about them.

    Attributes
    ----------
    pairs : of ``G~``, float64.
    threshold : lambda.
    distance : proven upper bound on ``|S~ - S~*|_F``; inf where nothing can be shown.
    outside : proven upper bound on the spectrum outside the vectors.
    applications : of ``G~`` to the whole block, in either precision.
    """

    pairs: RitzPairs
    threshold: float
    distance: float
    outside: float
    applications: int

    def directions(self) -> FloatMatrix:
        """``V f^1/2`` of the active pairs, at least one: float64 [n_items, rank]."""
        roots = np.sqrt(shrinkage(self.pairs.values, self.threshold))
        rank = max(int((roots > 0).sum()), 1)
        return np.asarray(self.pairs.vectors[:, :rank] * roots[:rank])


def round_regularization(value: float) -> float:
    """Round lambda up to three digits, so that as a statistic of everybody it says little about anybody.

    Upwards, so that no more factors lie above it than were asked for.

    Examples
    --------
    >>> round_regularization(1.68123), round_regularization(0.05)
    (1.69, 0.05)
    """
    nearest = float(f"{value:.3g}")
    return nearest if nearest >= value else float(f"{nearest + 10.0 ** (np.floor(np.log10(value)) - 2):.3g}")


def norm_of(pairs: RitzPairs, threshold: float) -> float:
    """``|S~|_F`` of the soft-thresholded Ritz approximation."""
    return float(np.linalg.norm(np.sqrt(np.maximum(pairs.values, 0.0)) * shrinkage(pairs.values, threshold)))


def random_start(gram: ItemGram, width: int) -> RitzPairs:
    """Ritz pairs on ``G~`` times a seeded Gaussian block [n_items, width]: two applications."""
    draws = np.random.default_rng(SEED).standard_normal((gram.shape[1], width), dtype=np.float32)
    (basis,) = orthonormalise(gram.apply(draws))
    return rayleigh_ritz(basis, gram.apply(basis), orthonormal=True)


def whole_space(gram: ItemGram) -> RitzPairs:
    """All eigenpairs of ``G~``: for few items, O(n^3)."""
    identity = np.eye(gram.shape[1])
    return rayleigh_ritz(identity, gram.apply(identity), orthonormal=True)


def widened(gram: ItemGram, pairs: RitzPairs, width: int) -> RitzPairs:
    """Add random directions until there are ``width``: two applications to the new ones."""
    missing = width - pairs.values.size
    fresh = gram.apply(np.random.default_rng(SEED + width).standard_normal((gram.shape[1], missing)))
    fresh -= pairs.vectors @ (pairs.vectors.T @ fresh)
    (basis,) = orthonormalise(np.concatenate([pairs.vectors, fresh], axis=1))
    return rayleigh_ritz(basis, gram.apply(basis), orthonormal=True)


def nothing(gram: ItemGram, threshold: float) -> Solution:
    """Solve for no interactions at all: everything is zero, exactly."""
    nowhere = np.zeros((gram.shape[1], 1))
    return Solution(RitzPairs(np.zeros(1), nowhere, nowhere, np.eye(1)), threshold, 0.0, 0.0, 0)


def settle(gram: ItemGram, start: RitzPairs, factors: int) -> tuple[RitzPairs, int]:
    """Filter until the ``(factors + 1)``-th singular value is known to about three digits.

    Returns
    -------
    pairs, applications spent.

    Notes
    -----
    The error of a Ritz value is about ``|E_k|^2 / (theta_k - theta_last)`` (Kato-Temple).
    """
    pairs, spent = start, 0
    for _ in range(MOST_ROUNDS):
        basis = _filter(gram, pairs, NEXT_TO_NOTHING**2 * float(pairs.values[0]), FIRST_DEGREE, np.float32)
        basis = basis.astype(np.float32)
        pairs = rayleigh_ritz(basis, gram.apply(basis), orthonormal=True)
        spent += FIRST_DEGREE
        error = np.linalg.norm(pairs.residuals[:, factors]) ** 2
        value = max(pairs.values[factors], NEXT_TO_NOTHING**2 * pairs.values[0])
        last = pairs.values[-1]
        if error <= SETTLED * value * max(value - last, SETTLED * value):
            break
    return pairs, spent


def converge(
    gram: ItemGram,
    start: RitzPairs,
    threshold: float,
    target: Target,
    report: Report | None = None,
    spent: int = 0,
) -> Solution:
    """Filter ``start`` until the distance to the optimum is shown to be at most ``target``.

    Parameters
    ----------
    gram : the operator.
    start : Ritz pairs to start from; with as many as there are items nothing is iterated.
    threshold : lambda, > 0.
    target : (pairs, lambda) -> the largest acceptable ``|S~ - S~*|_F``.
    report, spent : called after each round with ``spent`` more applications than were made here.

    Notes
    -----
    Passes run in float32 while the target is above their rounding, in float64 beyond; the last application,
    which the certificate rests on, is always in float64. O(nnz k) for each application. If the target is
    not reached in a bounded number of rounds, what was reached is returned: its ``distance`` is true.
    """
    pairs = start
    outside = distance = float("inf")
    applications = vain = 0
    whole = pairs.values.size >= gram.shape[1]
    for left in reversed(range(1 if whole else MOST_ROUNDS)):
        goal = target(pairs, threshold)
        degree = 0 if whole else predicted_degree(pairs, threshold, goal)
        coarse = goal > FLOAT32_FLOOR * max(norm_of(pairs, threshold), threshold)
        lowest = NEXT_TO_NOTHING * threshold**2
        pairs = pairs.compact() if coarse else pairs
        basis = _filter(gram, pairs, lowest, degree, np.float32 if coarse else np.float64)
        del pairs  # the room that they take is needed
        pairs = rayleigh_ritz(basis, gram.apply(basis), orthonormal=True)
        applications += max(degree, 1)
        goal, estimate = target(pairs, threshold), first_order(pairs, threshold)
        if report is not None:
            report(spent + applications, estimate / max(norm_of(pairs, threshold), threshold))
        if estimate <= PREDICTION_MARGIN * goal or not left:
            outside = _outside(gram, pairs, threshold)
            shown = distance_bound(_residuals(gram, pairs, threshold, outside))
            vain = 0 if shown < 0.9 * distance else vain + 1
            distance = shown
            if distance <= goal or vain == MOST_VAIN_ROUNDS:
                break
    return Solution(pairs, threshold, distance, outside, applications)


def _filter(gram: ItemGram, pairs: RitzPairs, lowest: float, degree: int, dtype: DTypeLike) -> FloatMatrix:
    """Filter and orthonormalise, with passes in ``dtype``: float64 [n_items, k]. The cut: >= ``lowest``."""
    if not degree:
        return orthonormalise(pairs.vectors.astype(np.float64))[0]
    return chebyshev_filter(gram.apply, pairs, max(float(pairs.values[-1]), lowest), degree, dtype)


def first_order(pairs: RitzPairs, threshold: float) -> float:
    """Estimate the distance to the optimum to first order in the residuals; not a bound.

    ``[sum_k f_k^2 (eta + theta_k) (|E_k| / (theta_k - eta))^2]^1/2`` over active k; eta: the last Ritz value.
    """
    return _first_order(pairs.values, np.linalg.norm(pairs.residuals, axis=0), threshold)


def _first_order(values: NDArray[np.float64], norms: NDArray[np.float64], threshold: float) -> float:
    active = values > threshold**2
    theta, eta = values[active], min(float(values[-1]) * OUTSIDE_SLACK, 0.999 * threshold**2)
    weights = shrinkage(theta, threshold) * np.sqrt(eta + theta) / (theta - eta)
    return float(np.linalg.norm(weights * norms[active]))


def predicted_degree(pairs: RitzPairs, threshold: float, goal: float) -> int:
    """Choose the smallest Chebyshev degree that should bring the first-order distance to ``goal``.

    A filter of degree d divides the residual of a Ritz vector by about ``T_d(2 theta / cut - 1)``.
    """
    norms = np.linalg.norm(pairs.residuals, axis=0)
    cut = max(float(pairs.values[-1]), NEXT_TO_NOTHING * threshold**2)
    growth = np.arccosh(np.maximum(2.0 * pairs.values / cut - 1.0, 1.0))
    for degree in range(2, LARGEST_DEGREE):
        damped = norms / np.cosh(np.minimum(degree * growth, 300.0))
        if _first_order(pairs.values, damped, threshold) * PREDICTION_MARGIN <= goal:
            return degree
    return LARGEST_DEGREE


def _outside(gram: ItemGram, pairs: RitzPairs, threshold: float) -> float:
    """Bound ``G~`` outside the Ritz vectors, from above; rounding of the products included."""
    if pairs.values.size >= gram.shape[1]:
        return 0.0
    square = threshold**2
    level = max(float(pairs.values[-1]), NEXT_TO_NOTHING * square)
    target = max(OUTSIDE_SLACK * level, level + OUTSIDE_SHARE * (square - level))
    bound = outside_bound(gram.apply, pairs.vectors, level, target)
    return bound + _product_rounding(gram, pairs)


def _product_rounding(gram: ItemGram, pairs: RitzPairs) -> float:
    """Bound the rounding in a column of ``G~ V``: gamma_p ``||X~|'|X~||_2``, and X~ is not negative."""
    return (gram.longest + 16) * np.finfo(np.float64).eps * float(pairs.values[0])


def _residuals(gram: ItemGram, pairs: RitzPairs, threshold: float, outside: float) -> Residuals:
    """Collect the residuals, made larger by what rounding can hide in them."""
    errors = pairs.residuals
    width = pairs.values.size
    metric = inner_products(pairs.vectors, pairs.vectors) - np.eye(width)
    hidden = _product_rounding(gram, pairs) + float(np.linalg.norm(metric)) * float(pairs.values[0])
    inflated = 1.001 * inner_products(errors, errors) + 1001.0 * hidden**2 * np.eye(width)
    return Residuals(pairs.values, inflated, threshold, outside)
