"""Leading eigenpairs of a symmetric operator by Chebyshev-filtered subspace iteration.

Zhou & Saad 2007 (A Chebyshev-Davidson algorithm) and Saad 2016 (Analysis of subspace iteration): a
polynomial that stays within [-1, 1] on the unwanted part ``[0, cut]`` of the spectrum and grows fast above
it is applied to a block, which is then made orthonormal and rotated to its Ritz vectors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg as sl
from numpy.typing import DTypeLike, NDArray

FloatMatrix = NDArray[Any]
Apply = Callable[[FloatMatrix], FloatMatrix]
DEGREES_BETWEEN_QR = 2
ROWS_AT_ONCE = 512
"""Of a tall block: temporaries stay this high."""


@dataclass(frozen=True)
class RitzPairs:
    """Ritz values and vectors of an operator G on a subspace.

    Attributes
    ----------
    values : float64 [k], descending.
    vectors : float [n, k], orthonormal columns V.
    residuals : float [n, k], ``G V - V diag(values)``, orthogonal to every column of V.
    rotation : float64 [b, k], what the basis Z that they were found on was multiplied by: ``V = Z rotation``.
    """

    values: NDArray[np.float64]
    vectors: FloatMatrix
    residuals: FloatMatrix
    rotation: NDArray[np.float64]

    @property
    def images(self) -> FloatMatrix:
        """``G V``: [n, k], a new array."""
        return np.asarray(self.vectors * self.values + self.residuals)

    def compact(self) -> "RitzPairs":
        """Return the same with residuals in float32: they are small, and so is what rounding does to them."""
        return replace(self, residuals=self.residuals.astype(np.float32, copy=False))

    def narrow(self) -> "RitzPairs":
        """Return the same in float32: enough to start a filter from."""
        vectors = self.vectors.astype(np.float32, order="C", copy=False)
        return replace(self, vectors=vectors, residuals=self.residuals.astype(np.float32, order="C"))


def shrinkage(values: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """``f_k = (1 - lambda / sqrt(theta_k))_+`` for Ritz values theta of ``G~``.

    Examples
    --------
    >>> shrinkage(np.array([4.0, 0.25]), 1.0)
    array([0.5, 0. ])
    """
    roots = np.sqrt(np.maximum(values, 0.0))
    return np.asarray(np.maximum(1.0 - threshold / np.maximum(roots, threshold), 0.0))


def orthonormalise(block: FloatMatrix, *companions: FloatMatrix) -> tuple[FloatMatrix, ...]:
    """Make columns orthonormal and take companions through the same change of basis, in place.

    Cholesky QR of the scaled columns, done twice where it is needed, Householder QR where it breaks down.
    Inner products are summed in float64 whatever the dtype.

    Parameters
    ----------
    block : float [n, k], n >= k; overwritten; zero or dependent columns are replaced by orthonormal ones.
    companions : float [n, k] each, multiplied by the same ``R^-1``; overwritten.

    Returns
    -------
    (Q, companions R^-1 ...): the arguments; ``Q'Q = I`` to about the rounding of the dtype unless the block
    is badly conditioned.

    Notes
    -----
    O(n k^2) time; memory O(k^2) and a strip of rows.

    Examples
    --------
    >>> q, = orthonormalise(np.array([[3.0, 1.0], [0.0, 2.0], [4.0, 0.0]]))
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """
    norms = np.sqrt(sum(np.einsum("ij,ij->j", rows, rows, dtype=np.float64) for rows in _strips(block)))
    norms = np.where(norms == 0, 1.0, norms) if block.size else np.ones(block.shape[1])
    for part in (block, *companions):
        part /= norms.astype(part.dtype)
    for _ in range(2):
        try:
            factor = sl.cholesky(inner_products(block, block), lower=False, check_finite=False)
        except np.linalg.LinAlgError:
            break
        diagonal = np.diagonal(factor)
        inverse = sl.lapack.dtrtri(factor)[0]
        for part in (block, *companions):
            rotate(part, inverse, part)
        if diagonal.min() > 0.1 * diagonal.max():
            return (block, *companions)
    _householder(block, *companions)  # numerically dependent: a second pass should have found almost I
    return (block, *companions)


def _householder(block: FloatMatrix, *companions: FloatMatrix) -> None:
    """Do the same by Householder QR; companions of dependent columns are left as they are."""
    q, factor = sl.qr(block.astype(np.float64, copy=False), mode="economic", check_finite=False)
    diagonal = np.diagonal(factor)
    dependent = np.abs(diagonal) <= 1e-14 * np.abs(diagonal).max(initial=0.0)
    np.fill_diagonal(factor, np.where(dependent, 1.0, diagonal))
    inverse = sl.lapack.dtrtri(factor)[0]
    block[:] = q
    for part in companions:
        rotate(part, inverse, part)


def _strips(block: FloatMatrix) -> Iterator[FloatMatrix]:
    for at in range(0, block.shape[0], ROWS_AT_ONCE):
        yield block[at : at + ROWS_AT_ONCE]


def inner_products(left: FloatMatrix, right: FloatMatrix) -> NDArray[np.float64]:
    """``left' right`` in float64, for float [n, k] and [n, l]; a strip of rows at a time."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for rows, others in zip(_strips(left), _strips(right), strict=True):
        total += rows.astype(np.float64, copy=False).T @ others.astype(np.float64, copy=False)
    return total


def rotate(block: FloatMatrix, rotation: FloatMatrix, out: FloatMatrix) -> None:
    """Write ``block rotation`` to ``out``, which may be ``block`` itself; a strip of rows at a time."""
    factor = rotation.astype(block.dtype)
    for rows, target in zip(_strips(block), _strips(out), strict=True):
        target[:] = rows @ factor


def rayleigh_ritz(
    vectors: FloatMatrix, images: FloatMatrix, keep: int | None = None, orthonormal: bool = False
) -> RitzPairs:
    """Rotate a basis to its Ritz vectors.

    Parameters
    ----------
    vectors : float [n, k], linearly independent columns Z, not necessarily orthonormal; overwritten.
    images : float [n, k], ``G Z``; overwritten.
    keep : how many of the leading Ritz pairs to keep; all by default.
    orthonormal : the basis is known to be orthonormal: its metric need not be formed.

    Notes
    -----
    O(n k^2 + k^3). The signs are fixed: the entry of largest magnitude in a vector is positive.

    Examples
    --------
    >>> g = np.diag([1.0, 3.0])
    >>> rayleigh_ritz(np.eye(2), g).values
    array([3., 1.])
    """
    metric = None if orthonormal else inner_products(vectors, vectors)
    values, rotation = ritz_rotation(inner_products(vectors, images), metric, keep)
    return rotated(vectors, images, values, rotation)


def ritz_rotation(
    projected: NDArray[np.float64], metric: NDArray[np.float64] | None, keep: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve ``Z'GZ r = theta Z'Z r``: the leading values [keep], descending, and their columns [k, keep]."""
    values, rotation = sl.eigh(0.5 * (projected + projected.T), metric, check_finite=False)
    return values[::-1][:keep].copy(), np.ascontiguousarray(rotation[:, ::-1][:, :keep])


def rotated(
    vectors: FloatMatrix, images: FloatMatrix, values: NDArray[np.float64], rotation: NDArray[np.float64]
) -> RitzPairs:
    """Rotate a basis and its images, both overwritten, to the Ritz pairs of :func:`ritz_rotation`."""
    width = values.size
    ritz, residuals = vectors[:, :width], images[:, :width]
    rotate(vectors, rotation, ritz)
    signs = np.where(ritz.max(axis=0, initial=0.0) >= -ritz.min(axis=0, initial=0.0), 1.0, -1.0)
    ritz *= signs.astype(ritz.dtype)
    rotation = rotation * signs
    rotate(images, rotation, residuals)
    for rows, others in zip(_strips(residuals), _strips(ritz), strict=True):
        rows -= others * values.astype(others.dtype)
    return RitzPairs(values, ritz, residuals, rotation)


def chebyshev_filter(
    apply: Apply, pairs: RitzPairs, cut: float, degree: int, dtype: DTypeLike = np.float64
) -> FloatMatrix:
    """Damp what lies in ``[0, cut]`` and amplify what lies above, by a Chebyshev polynomial of G.

    Parameters
    ----------
    apply : block -> G block, a new array of the same dtype; not called for the first degree: the images are
        known.
    pairs : where to start.
    cut : upper end of the unwanted part of the spectrum, > 0.
    degree : of the polynomial, >= 1; costs ``degree - 1`` applications.
    dtype : of the recurrence. What float32 rounds off it is as small, beside each column, as what an
        application in float32 does.

    Returns
    -------
    float64 [n, k], orthonormal columns.

    Notes
    -----
    ``Y_j+1 = 2 (2 G / cut - 1) Y_j - Y_j-1`` (Zhou & Saad 2007, algorithm 2). Both running blocks go
    through the same change of basis every two degrees, so that small directions are not lost behind large
    ones; a change of basis commutes with the recurrence.

    Examples
    --------
    >>> g = np.diag([4.0, 1.0, 0.5])
    >>> start = np.array([[1.0], [1.0], [1.0]]) / np.sqrt(3)
    >>> pairs = RitzPairs(np.ones(1), start, g @ start - start, np.eye(1))
    >>> bool(abs(chebyshev_filter(lambda v: g @ v, pairs, 1.0, 6)[0, 0]) > 0.99999)
    True
    """
    before = pairs.vectors.astype(dtype)
    now = before * (2.0 * pairs.values / cut - 1.0).astype(dtype)
    now += (2.0 / cut) * pairs.residuals.astype(dtype, copy=False)
    for step in range(2, degree + 1):
        if step % DEGREES_BETWEEN_QR == 1:
            orthonormalise(now, before)
        image = apply(now)
        image *= 4.0 / cut
        image -= before
        image -= now
        image -= now
        now, before = image, now
    del before
    return orthonormalise(now.astype(np.float64, copy=False))[0]
