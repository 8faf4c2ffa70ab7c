"""How far published factors are from the unique optimum of the weighted loss, shown without a retrain.

``F(S) = f(S) + lambda |S|_*`` is 1-strongly convex in the norm of its own weights. For any Z with
``|Z|_2 <= 1``, with ``g = grad f(S) + lambda Z`` and ``eps = |S|_* - <Z, S>``,

    ``|S - S*|_C^2 <= |C^-1/2 o g|_F |S - S*|_C + lambda eps``

(docs/explanation/certificate-canonical.md has the proof). Z is put together from the right singular vectors
of S with left partners that fit the residual, and from the residual itself, clipped, on all the rest.
Everything here is float64, on the factors exactly as they are published.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .spectrum_bound import top_outside
from .weighted_kernels import LANES, Floats, discounted_square, residual_row_pass
from .weighted_loss import Matrix, WeightedLoss, orthonormal

Float64Matrix: TypeAlias = Floats
"""float64 throughout."""


@dataclass(frozen=True)
class Distance:
    """A proven bound on the distance to the optimum, and its parts (absolute).

    Attributes
    ----------
    bound : ``|S - S*|_F <= |S - S*|_C <= bound``; inf where the part outside cannot be bounded.
    tangent : ``|C^-1/2 o g|_F`` of what g has along the singular vectors of S.
    excess : what the residual exceeds lambda by on all the rest.
    gap : ``sqrt(lambda eps)``.
    rounding : what float64 arithmetic can have hidden in g.
    norm : ``|S|_F``. rank : of S.
    """

    bound: float
    tangent: float
    excess: float
    gap: float
    rounding: float
    norm: float
    rank: int


@dataclass(frozen=True)
class _Factored:
    """``S = left diag(lengths) right'`` to float64 accuracy, orthonormal columns, lengths descending."""

    left: Float64Matrix
    lengths: NDArray[np.float64]
    right: Float64Matrix


@dataclass(frozen=True)
class _Residual:
    """``R = C o (Y - S)`` seen from two subspaces: the partners and V, then what is near lambda.

    Attributes
    ----------
    values : [nnz], E on the observed pairs, ``R = E - S``.
    left, right : [m, d], [n, e], orthonormal columns Uw, Vw.
    core : [d, e], ``Uw' R Vw``.
    right_misfit : [m, e], ``R Vw - Uw core``. left_misfit : [n, d], ``R' Uw - Vw core'``.
    """

    values: NDArray[np.float64]
    left: Float64Matrix
    right: Float64Matrix
    core: Float64Matrix
    right_misfit: Float64Matrix
    left_misfit: Float64Matrix


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
    subspace : [n, d], where the next right singular vectors of the residual are thought to be: any columns;
        the better they are, the tighter the bound.
    regularization : lambda.
    failure : probability that the part of the bound outside ``subspace`` is wrong (block Lanczos).

    Notes
    -----
    Two passes over the data with k + d columns, one with at most 2 k, and 2 q of 16 for Lanczos:
    O(nnz (k + d + 16 q) + (m + n) d^2).
    """
    s = _factor(user_factors, item_factors)
    residual, partners = _residual(loss, s, np.asarray(subspace, np.float64), regularization)
    norm, rank = float(np.linalg.norm(s.lengths)), s.lengths.size
    rounding = _rounding(loss, rank) * (float(np.linalg.norm(residual.values)) + norm)
    limit = regularization - rounding
    excess = _excess(residual, rank, limit, _beyond(loss, residual, limit, failure))
    if rank == 0 and excess == 0.0:  # S = 0, and the residual is in the ball: 0 is the optimum itself
        return Distance(0.0, 0.0, 0.0, 0.0, rounding, norm, rank)
    tangent = _tangent(loss, residual, rank, regularization)
    apart = ((partners - s.left) ** 2).sum(axis=0)  # 2 (1 - cosine), without cancellation
    gap = float(np.sqrt(regularization * float(s.lengths @ apart) / 2 + rounding * rounding))
    bound = _combined(tangent + excess + rounding, gap)
    return Distance(bound, tangent, excess, gap, rounding, norm, rank)


def _combined(slope: float, gap: float) -> float:
    """Return the larger root of ``x^2 = slope x + gap^2``; inf stays inf."""
    return slope / 2 + float(np.hypot(slope / 2, gap))


def _factor(user_factors: Matrix, item_factors: Matrix) -> _Factored:
    """Take the singular value decomposition of the published product; zero values are dropped."""
    live = (np.abs(user_factors).sum(axis=0) > 0) & (np.abs(item_factors).sum(axis=0) > 0)
    left, left_factor = _thin_qr(np.asarray(user_factors[:, live], np.float64))
    right, right_factor = _thin_qr(np.asarray(item_factors[:, live], np.float64))
    inner_left, lengths, inner_right = np.linalg.svd(left_factor @ right_factor.T, full_matrices=False)
    kept = int((lengths > 1e-14 * lengths.max(initial=0.0)).sum())
    return _Factored(
        np.ascontiguousarray(left @ inner_left[:, :kept]),
        lengths[:kept],
        np.ascontiguousarray(right @ inner_right[:kept].T),
    )


def _thin_qr(columns: Float64Matrix) -> tuple[Float64Matrix, Float64Matrix]:
    basis = orthonormal(columns)
    return basis, basis.T @ columns


def _complement(columns: Float64Matrix, known: Float64Matrix) -> Float64Matrix:
    """Return orthonormal columns orthogonal to ``known``, of the span of ``columns`` as far as room is."""
    room = max(min(columns.shape[0] - known.shape[1], columns.shape[1]), 0)
    result = columns[:, :room]
    for _ in range(2):
        result = orthonormal(np.ascontiguousarray(result - known @ (known.T @ result)))
    overlap = np.abs(known.T @ result).max(axis=0, initial=0.0)
    return np.ascontiguousarray(result[:, overlap < 1e-12])  # what could not be made orthogonal is left out


def _residual(
    loss: WeightedLoss, s: _Factored, subspace: Float64Matrix, regularization: float
) -> tuple[_Residual, Float64Matrix]:
    """Multiply the residual from both sides: two passes over the data. Also the left partners, [m, r]."""
    right = np.concatenate([s.right, _complement(subspace, s.right)], axis=1)
    scores, values = np.zeros(loss.nnz), np.empty(loss.nnz)
    forth = np.empty((loss.shape[0], right.shape[1]))
    scaled = np.ascontiguousarray(s.left * s.lengths)
    residual_row_pass(
        loss.row_blocks, loss.indptr, loss.indices, loss.confidence, scaled, s.right, right, 1.0,
        scores, values, forth, np.empty((loss.row_blocks.size - 1, 3)),
    )  # fmt: skip
    rank = s.lengths.size
    forth[:, :rank] -= scaled
    partners = _partners(s, forth[:, :rank], regularization)
    left = np.concatenate([partners, _complement(forth[:, rank:], partners)], axis=1)
    back = loss.transposed_times(values, left)
    back -= s.right @ (scaled.T @ left)
    core = left.T @ forth
    return _Residual(values, left, right, core, forth - left @ core, back - right @ core.T), partners


def _partners(s: _Factored, along_right: Float64Matrix, regularization: float) -> Float64Matrix:
    """Choose orthonormal left partners for the right singular vectors: between U and ``R V / lambda``.

    Moved all the way, a partner leaves no residual but opens a gap of half its square angle times sigma;
    the share of the way that balances the two is taken, then the nearest orthonormal columns (polar factor).
    """
    share = 1.0 / (1.0 + s.lengths / (2 * regularization))
    mixed = s.left * (1.0 - share) + along_right * (share / regularization)
    values, vectors = np.linalg.eigh(mixed.T @ mixed)
    if values.size and values[0] < 0.25:  # far from the optimum: the singular vectors themselves
        return s.left
    polar = np.ascontiguousarray(mixed @ (vectors / np.sqrt(values)) @ vectors.T)
    return np.ascontiguousarray(polar @ (1.5 * np.eye(values.size) - 0.5 * (polar.T @ polar)))


def _beyond(loss: WeightedLoss, residual: _Residual, limit: float, failure: float) -> float:
    """Bound ``|(I - Uw Uw') R (I - Vw Vw')|_2`` by block Lanczos; there R is E."""
    in_columns = residual.values[loss.order]

    def apply(block: Float64Matrix) -> Float64Matrix:
        narrow = block.shape[1] == LANES
        forth = (loss.narrow_times if narrow else loss.times)(residual.values, block)
        forth -= residual.left @ (residual.left.T @ forth)
        if narrow:
            return loss.narrow_transposed_times(in_columns, forth)
        return loss.transposed_times(residual.values, forth)

    square = limit * limit
    return float(np.sqrt(top_outside(apply, residual.right, 0.98 * square, 0.995 * square, failure)))


def _excess(residual: _Residual, rank: int, limit: float, beyond: float) -> float:
    """Bound ``|K - clip(K)|_F``: by how much R, seen outside of the partners, exceeds ``limit``.

    The singular values of K above ``limit`` are at most the eigenvalues of the dilation [[0, B], [B', 0]] of
    its core B plus the squares of what leads out of the subspaces over ``limit - beyond`` (Schur complement).
    """
    if not beyond < limit:
        return float("inf")
    room = limit - beyond
    core = residual.core[rank:, rank:]
    out_left, out_right = residual.left_misfit[:, rank:], residual.right_misfit[:, rank:]
    dilation = np.block([[out_left.T @ out_left / room, core], [core.T, out_right.T @ out_right / room]])
    if not dilation.size:
        return 0.0
    return float(np.linalg.norm(np.maximum(np.linalg.eigvalsh(dilation) - limit, 0.0)))


def _tangent(loss: WeightedLoss, residual: _Residual, rank: int, regularization: float) -> float:
    """Return ``|C^-1/2 o (P_T(R) - lambda U V')|_F``, U the partners, T the tangent space of U V'.

    ``P_T(R) - lambda U V' = (R V - lambda U) V' + U (R'U - V V'R'U)'``: rank 2 r, and its two terms are
    orthogonal, so that its norm needs no cancellation. The weights take off ``(1 - 1/c) g^2`` where observed.
    """
    left, right, core = residual.left[:, :rank], residual.right[:, :rank], residual.core
    first = residual.right_misfit[:, :rank] + residual.left @ core[:, :rank] - regularization * left
    second = residual.left_misfit[:, :rank] + residual.right[:, rank:] @ core[:rank, rank:].T
    whole = float(np.sqrt(np.vdot(first, first) + np.vdot(second, second)))
    if whole == 0.0:
        return 0.0
    sums = np.empty(loss.row_blocks.size - 1)
    discounted_square(
        loss.row_blocks, loss.indptr, loss.indices, loss.confidence,
        np.concatenate([first / whole, left], axis=1).astype(np.float32),
        np.concatenate([right, second / whole], axis=1).astype(np.float32), sums,
    )  # fmt: skip
    # float32 errors are at most slack |left_u| |right_i|; all these together are below (1 + rank)
    slack = (2 * rank + 8) * 2.0**-24 * (1 + rank)
    discount = max(float(sums.sum()) - 2 * slack - slack * slack, 0.0)
    return whole * float(np.sqrt(max(1.0 - discount, 0.0)))


def _rounding(loss: WeightedLoss, rank: int) -> float:
    """Bound the relative error of sums of as many terms as there are, in float64 (Higham 2002, section 3)."""
    longest = int(np.diff(loss.indptr).max(initial=0)) + int(np.diff(loss.starts).max(initial=0))
    return 8.0 * (longest + sum(loss.shape) + rank) * 2.0**-53 * float(np.sqrt(max(rank, 1)))
