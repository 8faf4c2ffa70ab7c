"""Proximal gradient steps on the weighted loss with a nuclear norm, without ever forming a score matrix.

``min_S f(S) + lambda |S|_*`` (Mazumder, Hastie & Tibshirani 2010; Hastie et al. 2015). A step from ``S`` is
``S+ = SVT_{lambda/L}(S - grad f(S)/L)``; ``L S - grad f(S)`` is a sparse matrix on the observed pairs plus
``(L - 1) S``, of low rank, so its leading singular triplets come from one subspace iteration a step, warm
from the step before. The step sizes go through the Chebyshev nodes of the curvature's range (Young 1953):
as fast as momentum, without a second point to carry.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .weighted_kernels import Floats, residual_row_pass
from .weighted_loss import Matrix, WeightedLoss, orthonormal

OVER_RELAXATION = 0.5
"""How far the next product starts beyond the subspace: 0.3 is slower, 1 overshoots (measured)."""

LOWEST_CURVATURE = 1.2
"""Where the range of step sizes starts: every weight is at least 1, a smooth direction's mean is above it."""


@dataclass(frozen=True)
class Point:
    """Where the iteration stands: ``S = left @ right[:, :r].T``, and what the next step needs.

    Attributes
    ----------
    left : [m, r], user side, singular values included.
    right : [n, d], d >= r orthonormal columns: the whole work subspace, the r active ones first.
    sketch : [n, d], what the next product starts from: the subspace, over-relaxed.
    scores : [nnz], scores on the observed pairs of the point before.
    square : ``|S|_F^2``.
    change : ``|S - S_before|_F``; nan where rounding hides it, and at the start.
    lipschitz : L of the step that led here.
    truncated : a singular value that should be active was left out: work subspace or rank is too small.
    """

    left: Matrix
    right: Matrix
    sketch: Matrix
    scores: Floats
    square: float
    change: float
    lipschitz: float
    truncated: bool

    @property
    def rank(self) -> int:
        """Singular values that are not zero."""
        return int(self.left.shape[1])

    @property
    def active(self) -> Matrix:
        """The active right singular vectors, [n, r]."""
        return np.ascontiguousarray(self.right[:, : self.rank])


@dataclass(frozen=True)
class Observation:
    """What a step's pass over the data learns about the last change H = S - S_before.

    Attributes
    ----------
    curvature : ``|H|_C^2 / |H|_F^2``: the smallest L whose quadratic model dominates along H; nan if unknown.
    distance : ``|C^-1/2 o (C - L) o H|_F``, the distance to the optimum that the last step's own subgradient
        shows if its singular vectors were exact; nan if unknown. It steers; it proves nothing.
    observed : ``|H|_C`` over the observed pairs alone.
    """

    curvature: float
    distance: float
    observed: float


def starting_point(loss: WeightedLoss, left: Matrix, right: Matrix, dtype: DTypeLike) -> Point:
    """Stand at ``S = left @ right[:, :r].T``, r the columns of ``left``; right [n, d], orthonormal."""
    basis = np.ascontiguousarray(right, dtype)
    scores = np.zeros(loss.nnz, dtype)
    start = np.ascontiguousarray(left, dtype)
    square = float(np.vdot(left, left))
    return Point(start, basis, basis, scores, square, float("nan"), 1.0, False)


def widened(point: Point, width: int) -> Point:
    """Grow the work subspace to ``width`` columns, at random but always the same, or shrink it."""
    d = point.right.shape[1]
    if width <= d:
        right, sketch = point.right[:, :width], point.sketch[:, :width]
        return replace(point, right=np.ascontiguousarray(right), sketch=np.ascontiguousarray(sketch))
    extra = padding(point.right, width - d)
    right, sketch = (np.concatenate([part, extra], axis=1) for part in (point.right, point.sketch))
    return replace(point, right=right, sketch=sketch)


def padding(basis: Matrix, count: int) -> Matrix:
    """Return ``count`` orthonormal columns orthogonal to ``basis`` [n, d], always the same; O(n d count)."""
    n, d = basis.shape
    extra: Matrix = np.random.default_rng([n, d]).standard_normal((n, count))
    for _ in range(2):  # twice is enough (Kahan)
        extra -= basis @ (basis.T @ extra)
        extra = orthonormal(extra)
    return np.ascontiguousarray(extra, basis.dtype)


def chebyshev_cycle(lowest: float, highest: float) -> tuple[float, ...]:
    """Return the values of L of one cycle of steps for curvatures in [lowest, highest].

    They are the roots of the Chebyshev polynomial on that range, 3 for a narrow range and up to 32 for a
    wide one, in an order that keeps what a long step blows up under what short ones have shrunk
    (Lebedev & Finogenov 1971).

    Examples
    --------
    >>> [round(x, 2) for x in chebyshev_cycle(1.2, 3.4)]
    [1.35, 2.3, 3.25]
    """
    center, half = (highest + lowest) / 2, (highest - lowest) / 2
    ratio = highest / lowest
    if ratio < 6:
        return tuple(float(center - half * np.cos(np.pi * (2 * j + 1) / 6)) for j in range(3))
    order = [0, 1]
    while len(order) < min(2 * np.sqrt(ratio), 32):
        order = [x for j in order for x in (j, 2 * len(order) - 1 - j)]
    return tuple(float(center + half * np.cos(np.pi * (2 * j + 1) / (2 * len(order)))) for j in order)


def step(
    loss: WeightedLoss,
    confidence: Floats,
    point: Point,
    regularization: float,
    lipschitz: float,
    max_rank: int,
    inner: int = 0,
) -> tuple[Point, Observation]:
    """Take one proximal gradient step.

    Parameters
    ----------
    confidence : [nnz], the loss's own, in the dtype of the point.
    regularization : lambda. lipschitz : L of this step.
    max_rank : singular values kept at the most.
    inner : further subspace iterations on the same matrix: they bring the singular vectors, and with them
        the certificate, closer to what the step ought to be.

    Returns
    -------
    The next point, and what the pass over the data showed about the last change.

    Notes
    -----
    O(nnz (r + 2 d) + (m + n) d^2): two passes over the data.
    """
    scores, values = point.scores.copy(), np.empty_like(point.scores)
    active, sums = point.active, np.zeros((loss.row_blocks.size - 1, 3))
    product = np.empty((loss.shape[0], point.sketch.shape[1]), scores.dtype)
    residual_row_pass(
        loss.row_blocks, loss.indptr, loss.indices, confidence, point.left, active, point.sketch,
        point.lipschitz, scores, values, product, sums,
    )  # fmt: skip
    seen = _observe(sums.sum(axis=0), point)
    triplets = _iterate(loss, values, product, point, active, lipschitz - 1.0, inner)
    basis, coupling, vectors, length, right, sketch = triplets
    shrunk = (length - regularization) / lipschitz
    wanted = int((shrunk > 0).sum())
    rank = min(wanted, max_rank)
    weights = (vectors[:, :rank] * shrunk[:rank]).astype(scores.dtype)
    overlap = float(np.vdot(coupling @ weights, active.T @ right[:, :rank]))
    square = float(shrunk[:rank] @ shrunk[:rank])
    return Point(
        left=np.ascontiguousarray(basis @ weights),
        right=right,
        sketch=sketch,
        scores=scores,
        square=square,
        change=_root(square + point.square - 2.0 * overlap, square, scores.dtype),
        lipschitz=lipschitz,
        truncated=wanted > rank or wanted == length.size < min(loss.shape),
    ), seen


def _iterate(
    loss: WeightedLoss,
    values: Floats,
    product: Matrix,
    point: Point,
    active: Matrix,
    rest: float,
    inner: int,
) -> tuple[Matrix, Matrix, NDArray[np.float64], NDArray[np.float64], Matrix, Matrix]:
    """Iterate the subspace ``1 + inner`` times on ``A = E + rest S``; ``product`` is E sketch, overwritten.

    Return left basis U [m, d], ``left' U``, rotation and singular values of ``A'U``, right vectors, sketch.
    """
    low, sketch, before = product.dtype.type(rest), point.sketch, point.right
    while True:
        product += point.left @ (low * (active.T @ sketch))
        basis = orthonormal(product)
        coupling = point.left.T @ basis
        small = loss.transposed_times(values, basis)
        small += active @ (low * coupling)
        vectors, length = _descending_svd(small)
        right = np.ascontiguousarray(small @ (vectors * _inverse(length)).astype(product.dtype))
        sketch = right + product.dtype.type(OVER_RELAXATION) * (right - before @ (before.T @ right))
        if inner == 0:
            return basis, coupling, vectors, length, right, sketch
        inner, before = inner - 1, right
        product = loss.times(values, sketch)


def _descending_svd(small: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right singular vectors [d, d] and singular values [d], largest first."""
    values, vectors = np.linalg.eigh(np.asarray(small.T @ small, np.float64))
    return vectors[:, ::-1], np.sqrt(np.maximum(values[::-1], 0.0))


def _inverse(length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert singular values; 0 for those that are rounding only."""
    known = length > 1e-12 * length.max(initial=0.0)
    return np.divide(1.0, length, out=np.zeros_like(length), where=known)


def _root(square: float, scale: float, dtype: np.dtype[Any]) -> float:
    """Return the root of a difference of squares of size ``scale``; nan where rounding hides it."""
    return float(np.sqrt(square)) if square > 30 * float(np.finfo(dtype).eps) * scale else float("nan")


def _observe(sums: NDArray[np.float64], point: Point) -> Observation:
    weighted, plain, steep = (float(x) for x in sums)
    square = point.change * point.change
    outside = np.maximum(square - plain, 0.0)  # keeps nan
    return Observation(
        curvature=float((weighted + outside) / square) if square > 0 else float("nan"),
        distance=float(np.sqrt(steep + (1.0 - point.lipschitz) ** 2 * outside)),
        observed=float(np.sqrt(weighted)),
    )
