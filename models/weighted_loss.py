"""The weighted implicit-feedback loss of Hu, Koren & Volinsky (2008) on a set of interactions, as arrays."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .base import Interactions
from .weighted_kernels import (
    LANES,
    Floats,
    Ints,
    balanced_blocks,
    column_pass,
    narrow_pass,
    row_pass,
    transpose_pattern,
)

Matrix: TypeAlias = Floats
"""Dense, two-dimensional, C-contiguous, float32 or float64."""


@dataclass(frozen=True)
class WeightedLoss:
    """``f(S) = 1/2 sum_ui c_ui (y_ui - s_ui)^2``: c > 1 and y = 1 where observed, c = 1 and y = 0 elsewhere.

    The pattern is kept by rows and by columns, so that both products of a sparse matrix on it are one
    parallel pass.

    Attributes
    ----------
    shape : users, items.
    indptr : int64 [m + 1]; indices : int32 [nnz]; confidence : float64 [nnz], c of the observed pairs.
    starts, rows, order : the transposed pattern (:func:`.weighted_kernels.transpose_pattern`).
    row_blocks, column_blocks : int64, the units of parallel work.
    """

    shape: tuple[int, int]
    indptr: Ints
    indices: Ints
    confidence: NDArray[np.float64]
    starts: Ints
    rows: Ints
    order: Ints
    row_blocks: Ints
    column_blocks: Ints

    @classmethod
    def from_interactions(
        cls, user_items: Interactions, alpha: float, max_confidence: float
    ) -> "WeightedLoss":
        """Weigh interactions: ``c = min(1 + alpha r, max_confidence)``. O(nnz).

        Examples
        --------
        >>> import scipy.sparse as sp
        >>> loss = WeightedLoss.from_interactions(sp.csr_matrix([[1.0, 900.0]]), 3.0, 50.0)
        >>> loss.confidence
        array([ 4., 50.])
        """
        confidence = np.minimum(1.0 + alpha * user_items.data.astype(np.float64), max_confidence)
        return cls.from_confidence(user_items, confidence)

    @classmethod
    def from_confidence(cls, user_items: Interactions, confidence: NDArray[np.float64]) -> "WeightedLoss":
        """Take the confidence of each stored pair as it is: float64 [nnz], in the order of the CSR matrix."""
        indptr = user_items.indptr.astype(np.int64)
        indices = user_items.indices.astype(np.int32)
        starts, rows, order = transpose_pattern(indptr, indices, user_items.shape[1])
        return cls(
            shape=user_items.shape,
            indptr=indptr,
            indices=indices,
            confidence=confidence,
            starts=starts,
            rows=rows,
            order=order,
            row_blocks=balanced_blocks(indptr),
            column_blocks=balanced_blocks(starts),
        )

    @property
    def nnz(self) -> int:
        """Observed pairs."""
        return self.indices.size

    def times(self, values: Floats, basis: Matrix) -> Matrix:
        """Multiply ``E basis``, E the sparse matrix of ``values`` [nnz]; basis [n, d] -> [m, d]."""
        product = np.empty((self.shape[0], basis.shape[1]), basis.dtype)
        row_pass(self.row_blocks, self.indptr, self.indices, values, basis, product)
        return product

    def narrow_times(self, values: Floats, block: Matrix) -> Matrix:
        """Multiply as :meth:`times` by a block of 16 columns, faster; [n, 16] -> [m, 16]."""
        product = np.empty((self.shape[0], LANES), block.dtype)
        narrow_pass(self.row_blocks, self.indptr, self.indices, values, block, product)
        return product

    def narrow_transposed_times(self, column_values: Floats, block: Matrix) -> Matrix:
        """Multiply ``E' block``; the values in column order, ``values[order]``; block [m, 16] -> [n, 16]."""
        product = np.empty((self.shape[1], LANES), block.dtype)
        narrow_pass(self.column_blocks, self.starts, self.rows, column_values, block, product)
        return product

    def transposed_times(self, values: Floats, basis: Matrix) -> Matrix:
        """Multiply ``E' basis``; basis [m, d] -> [n, d]."""
        product = np.empty((self.shape[1], basis.shape[1]), basis.dtype)
        column_pass(self.column_blocks, self.starts, self.rows, self.order, values, basis, product)
        return product


def orthonormal(columns: Matrix) -> Matrix:
    """Return an orthonormal basis whose span holds the columns, [m, d] with m >= d.

    Cholesky QR after scaling the columns to unit length, once more where they were far from orthogonal: a
    few matrix products in place of a Householder sweep. Where the columns are too dependent for it,
    Householder. O(m d^2).

    Examples
    --------
    >>> q = orthonormal(np.array([[2.0, 2.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """
    if not columns.size:
        return columns
    gram = np.asarray(columns.T @ columns, np.float64)
    length = np.sqrt(np.diag(gram))
    if length.min() > 0 and np.isfinite(length).all():
        try:
            factor = np.linalg.cholesky(gram / np.outer(length, length))
        except np.linalg.LinAlgError:
            return np.ascontiguousarray(np.linalg.qr(columns)[0])
        pivot = float(np.diag(factor).min())
        if pivot > 1e3 * np.sqrt(np.finfo(columns.dtype).eps):
            inverse = np.linalg.inv(factor).T / length[:, None]
            basis = np.ascontiguousarray(columns @ inverse.astype(columns.dtype))
            return basis if pivot > 0.3 else orthonormal(basis)
    return np.ascontiguousarray(np.linalg.qr(columns)[0])
