"""The normalised Gram of users over items, applied without forming it unless that is cheaper.

With degrees ``d_u``, ``d_i`` (row and column sums of the weights, 1 where 0) and
``X~ = D_u^-a X D_i^-b``, everything that :class:`.spectral_mf.SpectralMF` does to data is
``G~ V = X~'(X~ V)``: two passes over the interactions.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .base import Interactions
from .gram_kernels import binary_row_sums, row_blocks, weighted_row_sums
from .statistics import gram

FloatMatrix = NDArray[Any]
BLOCKS_PER_THREAD = 4
DENSE_MOST_ITEMS = 8192


def degrees(weights: Interactions, axis: int) -> NDArray[np.float64]:
    """Sum weights over ``axis``, with 1 in place of 0: float64 [n].

    Exact for integer weights below 2^53, whatever the order: a sum of integers in float64.

    Examples
    --------
    >>> from scipy.sparse import csr_matrix
    >>> degrees(csr_matrix([[2.0, 0.0], [1.0, 0.0]]), axis=0)
    array([3., 1.])
    """
    sums = np.asarray(weights.sum(axis=axis, dtype=np.float64)).ravel()
    sums[sums == 0] = 1.0
    return sums


@dataclass(frozen=True)
class _Rows:
    """One orientation of the weights, ready for the kernels."""

    indptr: NDArray[Any]
    indices: NDArray[Any]
    data: NDArray[Any] | None
    blocks: NDArray[np.int64]

    def sums(self, dense: FloatMatrix, row_scale: NDArray[np.float64]) -> FloatMatrix:
        out = np.empty((self.indptr.size - 1, dense.shape[1]), dtype=dense.dtype)
        scale = row_scale.astype(dense.dtype)
        if self.data is None:
            binary_row_sums(self.indptr, self.indices, dense, scale, self.blocks, out)
        else:
            data = self.data.astype(dense.dtype, copy=False)
            weighted_row_sums(self.indptr, self.indices, data, dense, scale, self.blocks, out)
        return out


def _rows(matrix: Interactions, binary: bool) -> _Rows:
    blocks = row_blocks(matrix.indptr, BLOCKS_PER_THREAD * numba.get_num_threads())
    return _Rows(matrix.indptr, matrix.indices, None if binary else matrix.data, blocks)


def dense_is_cheaper(n_items: int, entries: int) -> bool:
    """Tell whether forming the Gram pays: few items, many interactions.

    A dense product costs ``2 n^2`` operations a column, the operator ``4 nnz`` at a seventh of the speed
    (measured); forming costs the pairs of every row, a few applications, so it has to win by far.

    Examples
    --------
    >>> dense_is_cheaper(500, 10_000_000), dense_is_cheaper(3_700, 720_000)
    (True, False)
    """
    return 0 < n_items <= DENSE_MOST_ITEMS and n_items * n_items <= entries


class GramOperator:
    """``G~ = X~'X~`` with ``X~ = D_u^-a X D_i^-b``, applied to blocks of columns.

    With few items and many interactions the Gram is formed once (:func:`dense_is_cheaper`); else two passes
    over the interactions take its place.

    Parameters
    ----------
    weights : canonical CSR [n_users, n_items], not modified, not copied.
    user_power, item_power : a and b.

    Attributes
    ----------
    item_scale : float64 [n_items], ``d_i^-b``.
    user_scale : float64 [n_users], ``d_u^-a``.
    longest : int, the longest chain of additions behind one entry of ``G~ V``; 0 without interactions.

    Notes
    -----
    An application to k columns costs O(nnz k) time and an [n_users, k] block of memory, or O(n_items^2 k)
    after O(sum of squared row lengths). Columns may be
    float32 or float64; the passes run in that precision.

    Examples
    --------
    >>> from scipy.sparse import csr_matrix
    >>> x = csr_matrix(np.array([[1.0, 1.0], [0.0, 1.0]]))
    >>> gram = GramOperator(x, 0.0, 0.0)
    >>> gram.apply(np.eye(2))
    array([[1., 1.],
           [1., 2.]])
    """

    def __init__(self, weights: Interactions, user_power: float, item_power: float) -> None:
        self.shape: tuple[int, int] = weights.shape
        self.user_scale = degrees(weights, axis=1) ** -user_power
        self.item_scale = degrees(weights, axis=0) ** -item_power
        binary = bool(np.all(weights.data == 1))
        self._users = _rows(weights, binary)
        longest_row = int(np.diff(weights.indptr).max(initial=0))
        self._gram: FloatMatrix | None = None
        self._items: _Rows | None = None
        if dense_is_cheaper(weights.shape[1], weights.nnz):
            scaled = weights.data * np.repeat(self.user_scale, np.diff(weights.indptr))
            rows: Interactions = sp.csr_matrix((scaled, weights.indices, weights.indptr), shape=weights.shape)
            self._gram = np.asarray(gram(rows), dtype=np.float64)
            self._narrow = self._gram.astype(np.float32)
            self.longest = longest_row + weights.shape[0] + weights.shape[1]
        else:
            items = weights.T.tocsr()
            self._items = _rows(items, binary)
            self.longest = longest_row + int(np.diff(items.indptr).max(initial=0))

    def rows_times(self, block: FloatMatrix) -> FloatMatrix:
        """Compute ``X~ V``: [n_users, k] of the dtype of ``block``, float [n_items, k]."""
        return self._users.sums(self._scaled(block), self.user_scale)

    def apply(self, block: FloatMatrix) -> FloatMatrix:
        """Compute ``G~ V``: [n_items, k] of the dtype of ``block``, float [n_items, k]."""
        if self._gram is None:
            return self.apply_with_rows(block)[0]
        matrix = self._narrow if block.dtype == np.float32 else self._gram
        return np.asarray((matrix @ self._scaled(block)) * self.item_scale.astype(block.dtype)[:, None])

    def apply_with_rows(self, block: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
        """Compute ``G~ V`` and ``D_u^-a X~ V``, [n_users, k], which the operator form passes through."""
        rows = self._users.sums(self._scaled(block), self.user_scale**2)
        if self._items is None:
            return self.apply(block), rows
        return self._items.sums(rows, self.item_scale), rows

    def _scaled(self, block: FloatMatrix) -> FloatMatrix:
        return np.ascontiguousarray(block * self.item_scale.astype(block.dtype)[:, None])
