"""Leading eigenpairs of a symmetric operator by Chebyshev-filtered subspace iteration.

Zhou & Saad 2007 (A Chebyshev-Davidson algorithm) and Saad 2016 (Analysis of subspace iteration): a
polynomial that stays within [-1, 1] on the unwanted part ``[0, cut]`` of the spectrum and grows fast above
it is applied to a block, which is then made orthonormal and rotated to its Ritz vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray

FloatMatrix = NDArray[Any]
Apply = Callable[[FloatMatrix], FloatMatrix]
DEGREES_BETWEEN_QR = 2


@dataclass(frozen=True)
class RitzPairs:
    """Ritz values and vectors of an operator G on a subspace.

    Attributes
    ----------
    values : float64 [k], descending.
    vectors : float64 [n, k], orthonormal columns V.
    images : float64 [n, k], ``G V``.
    rotation : float64 [b, k], what the basis Z that they were found on was multiplied by: ``V = Z rotation``.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    images: NDArray[np.float64]
    rotation: NDArray[np.float64]

    @cached_property
    def residuals(self) -> NDArray[np.float64]:
        """``G V - V diag(values)``: float64 [n, k], orthogonal to every column of V."""
        return np.asarray(self.images - self.vectors * self.values, dtype=np.float64)


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
    """Make columns orthonormal and take companions through the same change of basis.

    Cholesky QR of the scaled columns, done twice where it is needed, Householder QR where it breaks down.

    Parameters
    ----------
    block : float64 [n, k], n >= k; zero or dependent columns are replaced by orthonormal ones.
    companions : float64 [n, k] each, multiplied by the same ``R^-1``.

    Returns
    -------
    (Q, companions R^-1 ...), float64; ``Q'Q = I`` to about 1e-14 unless the block is badly conditioned.

    Notes
    -----
    O(n k^2).

    Examples
    --------
    >>> q, = orthonormalise(np.array([[3.0, 1.0], [0.0, 2.0], [4.0, 0.0]]))
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """
    norms = np.linalg.norm(block, axis=0)
    norms[norms == 0] = 1.0
    blocks = [part / norms for part in (block, *companions)]
    for _ in range(2):
        try:
            factor = sl.cholesky(blocks[0].T @ blocks[0], lower=False, check_finite=False)
        except np.linalg.LinAlgError:
            return _householder(*blocks)
        diagonal = np.diagonal(factor)
        inverse = sl.lapack.dtrtri(factor)[0]
        blocks = [part @ inverse for part in blocks]
        if diagonal.min() > 0.1 * diagonal.max():
            return tuple(blocks)
    return _householder(*blocks)  # numerically dependent: a second pass should have found almost I


def _householder(block: FloatMatrix, *companions: FloatMatrix) -> tuple[FloatMatrix, ...]:
    """Do the same by Householder QR; companions of dependent columns are left as they are."""
    q, factor = sl.qr(block, mode="economic", check_finite=False)
    diagonal = np.diagonal(factor)
    dependent = np.abs(diagonal) <= 1e-14 * np.abs(diagonal).max(initial=0.0)
    np.fill_diagonal(factor, np.where(dependent, 1.0, diagonal))
    inverse = sl.lapack.dtrtri(factor)[0]
    return (q, *(part @ inverse for part in companions))


def rayleigh_ritz(
    vectors: FloatMatrix, images: FloatMatrix, keep: int | None = None, orthonormal: bool = False
) -> RitzPairs:
    """Rotate a basis to its Ritz vectors.

    Parameters
    ----------
    vectors : float64 [n, k], linearly independent columns Z, not necessarily orthonormal.
    images : float64 [n, k], ``G Z``.
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
    projected = vectors.T @ images
    metric = None if orthonormal else vectors.T @ vectors
    values, rotation = sl.eigh(0.5 * (projected + projected.T), metric, check_finite=False)
    rotation = rotation[:, ::-1][:, :keep]
    ritz = vectors @ rotation
    signs = np.where(ritz.max(axis=0, initial=0.0) >= -ritz.min(axis=0, initial=0.0), 1.0, -1.0)
    rotation = rotation * signs
    ritz *= signs
    return RitzPairs(values[::-1][:keep].copy(), ritz, images @ rotation, rotation)


def chebyshev_filter(apply: Apply, pairs: RitzPairs, cut: float, degree: int) -> FloatMatrix:
    """Damp what lies in ``[0, cut]`` and amplify what lies above, by a Chebyshev polynomial of G.

    Parameters
    ----------
    apply : block -> G block, in any precision; not called for the first degree (the images are known).
    pairs : where to start.
    cut : upper end of the unwanted part of the spectrum, > 0.
    degree : of the polynomial, >= 1; costs ``degree - 1`` applications.

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
    >>> pairs = RitzPairs(np.ones(1), start, g @ start, np.eye(1))
    >>> bool(abs(chebyshev_filter(lambda v: g @ v, pairs, 1.0, 6)[0, 0]) > 0.99999)
    True
    """
    before = pairs.vectors
    now = pairs.images * (2.0 / cut) - before
    for step in range(2, degree + 1):
        if step % DEGREES_BETWEEN_QR == 1:
            now, before = orthonormalise(now, before)
        image = apply(now)
        image *= 4.0 / cut
        image -= before
        image -= now
        image -= now
        now, before = image, now
    return orthonormalise(now)[0]
