"""How far published factors are from the unique optimum of the weighted loss, shown without a retrain.

``F(S) = f(S) + lambda |S|_*`` is 1-strongly convex in the norm of its own weights, so any subgradient g at S
bounds the distance to the optimum, ``|S - S*|_C <= |C^-1/2 o g|_F`` (docs/explanation-certificate-canonical.md
has the proof). Everything here is float64, on the factors exactly as they are published.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spectrum_bound import top_outside
from .weighted_kernels import discounted_square, residual_row_pass
from .weighted_loss import Matrix, WeightedLoss, orthonormal

Float64Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """A proven bound on the distance to the optimum, and its parts (all absolute, Frobenius).

    Attributes
    ----------
    bound : ``|S - S*|_F <= |S - S*|_C <= bound``; inf where the part outside cannot be bounded.
    tangent : ``|C^-1/2 o g|_F`` of the part of the subgradient in the tangent space of S.
    excess : what the residual exceeds lambda by outside of it.
    rounding : what float64 arithmetic can have hidden.
    norm : ``|S|_F``. rank : of S.
    """

    bound: float
    tangent: float
    excess: float
    rounding: float
    norm: float
    rank: int


@dataclass(frozen=True)
class _Factored:
    """``S = left diag(lengths) right'`` to float64 accuracy, with orthonormal columns."""

    left: Float64Matrix
    lengths: NDArray[np.float64]
    right: Float64Matrix


def distance_to_optimum(
    loss: WeightedLoss,
    user_factors: Matrix,
    item_factors: Matrix,
    subspace: Matrix,
    regularization: float,
    failure: float = 1e-9,
) -> Distance:
    """Bound ``|S - S*|`` for ``S = user_factors @ item_factors.T``, as it is.

    Parameters
    ----------
    user_factors : [m, k]; item_factors : [n, k], float32 or float64.
    subspace : [n, d], where the next singular vectors are thought to be: any columns; the better they
        are, the tighter the bound.
    regularization : lambda.
    failure : probability that the part of the bound outside ``subspace`` is wrong (block Lanczos).

    Notes
    -----
    Two passes over the data with k + d columns, one with 2 k, and the Lanczos products:
    O(nnz (k + d + 16 q) + (m + n) d^2).
    """
    s = _factor(user_factors, item_factors)
    rank = s.lengths.size
    extra = _complement(np.asarray(subspace, np.float64), s.right)
    values, sparse_right = _residual(loss, s, np.concatenate([s.right, extra], axis=1))
    # R = E - S, E the sparse matrix of `values`; its parts along V, along U and outside of both
    outside = sparse_right[:, rank:] - s.left @ (s.left.T @ sparse_right[:, rank:])
    sparse_left = loss.transposed_times(values, np.concatenate([s.left, outside], axis=1))
    along_right = sparse_right[:, :rank] - s.left * s.lengths
    along_left = sparse_left[:, :rank] - s.right * s.lengths

    tangent = _tangent_part(loss, s, along_right, along_left, regularization)
    size = float(np.linalg.norm(values)) + float(np.linalg.norm(s.lengths))
    rounding = _rounding(loss, rank) * size
    excess = _excess(loss, s, values, extra, outside, sparse_left[:, rank:], regularization + rounding, failure)
    norm = float(np.linalg.norm(s.lengths))
    return Distance(tangent + excess + rounding, tangent, excess, rounding, norm, rank)


def _factor(user_factors: Matrix, item_factors: Matrix) -> _Factored:
    """Take the exact singular value decomposition of the published product; zero values are dropped."""
    live = (np.abs(user_factors).sum(axis=0) > 0) & (np.abs(item_factors).sum(axis=0) > 0)
    left, left_factor = _thin_qr(np.asarray(user_factors[:, live], np.float64))
    right, right_factor = _thin_qr(np.asarray(item_factors[:, live], np.float64))
    inner_left, lengths, inner_right = np.linalg.svd(left_factor @ right_factor.T)
    kept = lengths > 1e-14 * lengths.max(initial=0.0)
    return _Factored(
        np.ascontiguousarray(left @ inner_left[:, : kept.size][:, kept]),
        lengths[kept],
        np.ascontiguousarray(right @ inner_right.T[:, : kept.size][:, kept]),
    )


def _thin_qr(columns: Float64Matrix) -> tuple[Float64Matrix, Float64Matrix]:
    """QR with Q orthonormal to rounding; by Cholesky twice where the columns allow it."""
    basis = orthonormal(columns)
    return basis, basis.T @ columns


def _complement(columns: Float64Matrix, known: Float64Matrix) -> Float64Matrix:
    """Return an orthonormal basis of (at least) the span of the columns, orthogonal to ``known``."""
    room = max(min(columns.shape[0] - known.shape[1], columns.shape[1]), 0)
    result = columns[:, :room]
    for _ in range(2):
        result = orthonormal(np.ascontiguousarray(result - known @ (known.T @ result)))
    return result


def _residual(
    loss: WeightedLoss, s: _Factored, basis: Float64Matrix
) -> tuple[NDArray[np.float64], Float64Matrix]:
    """Return the values of E on the observed pairs, ``c - (c - 1) s``, and ``E basis``."""
    scores, values = np.zeros(loss.nnz), np.empty(loss.nnz)
    product = np.empty((loss.shape[0], basis.shape[1]))
    sums = np.empty((loss.row_blocks.size - 1, 3))
    left = np.ascontiguousarray(s.left * s.lengths)
    residual_row_pass(
        loss.row_blocks, loss.indptr, loss.indices, loss.confidence, left, s.right,
        np.ascontiguousarray(basis), 1.0, scores, values, product, sums,
    )  # fmt: skip
    return values, product


def _tangent_part(
    loss: WeightedLoss, s: _Factored, along_right: Float64Matrix, along_left: Float64Matrix, regularization: float
) -> float:
    """Return ``|C^-1/2 o (P_T(R) - lambda U V')|_F``, T the tangent space of S.

    ``P_T(R) - lambda U V' = (R V - lambda U) V' + U (R'U - V V'R'U)'``: rank 2 r, and its two terms are
    orthogonal, so its norm needs no cancellation; the weights matter on the observed pairs only.
    """
    core = s.left.T @ along_right
    first = along_right - regularization * s.left
    second = along_left - s.right @ core.T
    whole = float(np.vdot(first, first) + np.vdot(second, second))
    sums = np.empty(loss.row_blocks.size - 1)
    scale = np.sqrt(whole) or 1.0  # float32 below: keep it away from underflow
    discounted_square(
        loss.row_blocks, loss.indptr, loss.indices, loss.confidence,
        np.concatenate([first / scale, s.left], axis=1).astype(np.float32),
        np.concatenate([s.right, second / scale], axis=1).astype(np.float32), sums,
    )  # fmt: skip
    slack = 4 * (2 * s.lengths.size + 4) * 2.0**-24  # |left_u| |right_i| summed over pairs is at most ~ whole
    discount = max(float(sums.sum()) - slack, 0.0)
    return float(np.sqrt(whole * max(1.0 - discount, 0.0)))


def _rounding(loss: WeightedLoss, rank: int) -> float:
    """Bound the relative error of sums of as many terms as there are, in float64 (Higham 2002, section 3)."""
    longest = int(np.diff(loss.indptr).max(initial=0)) + int(np.diff(loss.starts).max(initial=0))
    return 8.0 * (longest + sum(loss.shape) + rank) * 2.0**-53 * np.sqrt(max(rank, 1))


def _excess(
    loss: WeightedLoss,
    s: _Factored,
    values: NDArray[np.float64],
    extra: Float64Matrix,
    outside: Float64Matrix,
    back: Float64Matrix,
    limit: float,
    failure: float,
) -> float:
    """Bound by how much ``K = (I - UU') R (I - VV')`` exceeds ``limit``: ``|K - clip(K)|_F``.

    ``outside`` is K W, ``back`` is E' K W, W = ``extra``. Rayleigh-Ritz on M = K'K gives values theta and
    residuals F. The part outside everything known has top eta (block Lanczos). With the J leading Ritz
    vectors set aside, M is below limit^2 on the rest if ``eta + |F (limit^2 - theta)^-1/2|^2 <= limit^2``
    (Schur complement); then at most J eigenvalues of M exceed limit^2 (Cauchy), none of them by more than the
    2 x 2 block bound says. The best J is taken.
    """
    theta, rotation = np.linalg.eigh(outside.T @ outside)
    theta, rotation = np.maximum(theta[::-1], 0.0), rotation[:, ::-1]
    ritz = extra @ rotation
    image = (back - s.right @ (s.right.T @ back)) @ rotation
    misfit = image - ritz @ (ritz.T @ image)
    gram = misfit.T @ misfit
    square = limit * limit

    def apply(block: Float64Matrix) -> Float64Matrix:
        forth = loss.times(values, block)
        forth -= s.left @ (s.left.T @ forth)
        return loss.transposed_times(values, forth)

    known = np.ascontiguousarray(np.concatenate([s.right, ritz], axis=1))
    best = float("inf")
    loads = [_load(theta, gram, aside, square) for aside in range(theta.size + 1)]
    target = max((square - load for load in loads), default=square)
    eta = top_outside(apply, known, target * (1 - 1e-6), failure)
    for aside, load in enumerate(loads):
        if eta + load <= square:
            best = min(best, _set_aside(theta, gram, aside, square))
    return best


def _load(theta: NDArray[np.float64], gram: Float64Matrix, aside: int, square: float) -> float:
    """Return ``|F (square - theta)^-1/2|_2^2`` without the ``aside`` leading vectors; inf if one exceeds."""
    gaps = square - theta[aside:]
    if gaps.size == 0:
        return 0.0
    if gaps.min() <= 0:
        return float("inf")
    weights = 1.0 / np.sqrt(gaps)
    return float(np.linalg.eigvalsh(gram[aside:, aside:] * np.outer(weights, weights))[-1])


def _set_aside(theta: NDArray[np.float64], gram: Float64Matrix, aside: int, square: float) -> float:
    """Bound ``sqrt(J) (top - limit)`` for J vectors set aside; ``top`` by the 2 x 2 block bound."""
    if aside == 0:
        return 0.0
    highest = float(theta[0])
    coupling = float(np.sqrt(max(np.linalg.eigvalsh(gram[:aside, :aside])[-1], 0.0)))
    top = (highest + square + np.sqrt((highest - square) ** 2 + 4 * coupling**2)) / 2
    return float(np.sqrt(aside) * max(np.sqrt(top) - np.sqrt(square), 0.0))
