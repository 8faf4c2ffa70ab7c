"""The normalised Gram of users over items, applied without forming it unless that is cheaper.

With degrees ``d_u``, ``d_i`` (row and column sums of the weights, 1 where 0) and
``X~ = D_u^-a X D_i^-b``, everything that :class:`.spectral_mf.SpectralMF` does to data is
``G~ V = X~'(X~ V)``: two passes over the interactions.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .base import Interactions
from .gram_kernels import (
    binary_products,
    binary_row_sums,
    row_blocks,
    weighted_products,
    weighted_row_sums,
)
from .statistics import gram, item_counts

FloatMatrix = NDArray[Any]
BLOCKS_PER_THREAD = 4
DENSE_MOST_ITEMS = 8192
STRIP_BYTES = 256
"""Bytes of a row of a strip of columns: a strip of the items' block should stay in a core's cache."""
COLUMNS_BYTES = 768
"""Bytes of a row of the columns applied to at once: they bound the users' block between two passes."""
CACHE_BYTES = 8_000_000
"""A strip of the users' block beyond this goes through memory between two passes."""


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


class _Pattern:
    """One orientation of the weights, ready for the kernels."""

    def __init__(self, weights: Interactions, blocks: int) -> None:
        self.indptr, self.indices = weights.indptr, weights.indices
        self.data = None if np.all(weights.data == 1) else weights.data
        self.blocks = row_blocks(weights.indptr, blocks)

    def row_sums(self, dense: FloatMatrix, row_scale: NDArray[np.float64]) -> FloatMatrix:
        """``diag(row_scale) X dense``."""
        out = np.empty((self.indptr.size - 1, dense.shape[1]), dtype=dense.dtype)
        scale = row_scale.astype(dense.dtype)
        if self.data is None:
            binary_row_sums(self.indptr, self.indices, dense, scale, self.blocks, out)
        else:
            data = self.data.astype(dense.dtype, copy=False)
            weighted_row_sums(self.indptr, self.indices, data, dense, scale, self.blocks, out)
        return out


class _TwoPasses:
    """``X' D X`` by users, then by items: fastest while the block between them stays in the caches."""

    def __init__(self, users: _Pattern, weights: Interactions, row_scale: NDArray[np.float64]) -> None:
        self._users, self._row_scale = users, row_scale
        self._items = _Pattern(weights.T.tocsr(), BLOCKS_PER_THREAD * numba.get_num_threads())
        self._ones = np.ones(weights.shape[1])

    def times(self, block: FloatMatrix) -> FloatMatrix:
        return self._items.row_sums(self._users.row_sums(block, self._row_scale), self._ones)


class _OnePass:
    """``X' D X`` user by user, a strip of columns at a time: for many users, no transposed copy."""

    def __init__(self, weights: Interactions, row_scale: NDArray[np.float64]) -> None:
        self._users, self._row_scale = _Pattern(weights, numba.get_num_threads()), row_scale

    def times(self, block: FloatMatrix) -> FloatMatrix:
        width = STRIP_BYTES // block.dtype.itemsize
        product = np.empty_like(block)
        for at in range(0, block.shape[1], width):
            strip = slice(at, at + width)
            product[:, strip] = self._strip(np.ascontiguousarray(block[:, strip]))
        return product

    def _strip(self, block: FloatMatrix) -> FloatMatrix:
        users = self._users
        parts = np.empty((users.blocks.size - 1, *block.shape), dtype=block.dtype)
        scale = self._row_scale.astype(block.dtype)
        if users.data is None:
            binary_products(users.indptr, users.indices, block, scale, users.blocks, parts)
        else:
            data = users.data.astype(block.dtype, copy=False)
            weighted_products(users.indptr, users.indices, data, block, scale, users.blocks, parts)
        return np.asarray(parts.sum(axis=0))


class _Formed:
    """``X' D X`` as a dense matrix: for few items."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self._gram, self._narrow = matrix, matrix.astype(np.float32)

    def times(self, block: FloatMatrix) -> FloatMatrix:
        return np.asarray((self._narrow if block.dtype == np.float32 else self._gram) @ block)


def _form(weights: Interactions, row_scale: NDArray[np.float64]) -> _Formed:
    scaled = weights.data * np.repeat(np.sqrt(row_scale), np.diff(weights.indptr))
    rows: Interactions = sp.csr_matrix((scaled, weights.indices, weights.indptr), shape=weights.shape)
    return _Formed(np.asarray(gram(rows), dtype=np.float64))


def dense_is_cheaper(n_items: int, entries: int) -> bool:
    """Tell whether forming the Gram pays: few items, many interactions.

    A dense product costs ``2 n^2`` operations a column, the operator ``4 nnz`` at about a quarter of the
    speed (measured); forming costs the pairs of every row, a few applications, so it has to win by far.

    Examples
    --------
    >>> dense_is_cheaper(500, 10_000_000), dense_is_cheaper(3_700, 720_000)
    (True, False)
    """
    return 0 < n_items <= DENSE_MOST_ITEMS and n_items * n_items <= entries


class ItemGram:
    """``G~ = D_i^-b M D_i^-b`` applied to blocks of columns, whatever M is made of.

    Attributes
    ----------
    shape : (n_users, n_items).
    item_scale : float64 [n_items], ``d_i^-b``.
    longest : int, the longest chain of additions behind one entry of ``G~ V``; 0 without interactions.
    """

    shape: tuple[int, int]
    item_scale: NDArray[np.float64]
    longest: int
    _form: "_Formed | _OnePass | _TwoPasses"

    def apply(self, block: FloatMatrix) -> FloatMatrix:
        """Compute ``G~ V``: [n_items, k] of the dtype of ``block``, float [n_items, k]."""
        width = COLUMNS_BYTES // block.dtype.itemsize
        scale = self.item_scale.astype(block.dtype)[:, None]
        product = np.empty_like(block, order="C")
        for at in range(0, block.shape[1], width):
            strip = slice(at, at + width)
            product[:, strip] = self._form.times(self._scaled(block[:, strip]))
        product *= scale
        return product

    def _scaled(self, block: FloatMatrix) -> FloatMatrix:
        return np.ascontiguousarray(block * self.item_scale.astype(block.dtype)[:, None])


class SummedGram(ItemGram):
    """The operator of ``M = X' D_u^-2a X`` that was summed up elsewhere: no interactions are needed.

    Parameters
    ----------
    matrix : M, float64 [n_items, n_items], symmetric; not copied.
    item_degrees : float64 [n_items], the sums of the values of each item, with 1 in place of 0.
    item_power : b.
    users : how many rows M sums up.
    rounding : how much each entry of M may be off by, relative, in units of float64's eps.

    Notes
    -----
    An application to k columns costs O(n_items^2 k).

    Examples
    --------
    >>> x = np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> SummedGram(x.T @ x, np.ones(2), 0.0, users=2, rounding=0).apply(np.eye(2))
    array([[1., 1.],
           [1., 2.]])
    """

    def __init__(
        self,
        matrix: NDArray[np.float64],
        item_degrees: NDArray[np.float64],
        item_power: float,
        *,
        users: int,
        rounding: int,
    ) -> None:
        self.shape = (users, matrix.shape[0])
        self.item_scale = item_degrees**-item_power
        self._form = _Formed(matrix)
        self.longest = matrix.shape[0] + rounding if users else 0


class DistantGram(ItemGram):
    """The operator of rows that are elsewhere: each application is one round of products.

    Parameters
    ----------
    products : block, float [n_items, k] -> ``X' D_u^-2a X block``, a new array of the same dtype.
    item_degrees : float64 [n_items], the sums of the values of each item, with 1 in place of 0.
    item_power : b.
    users : how many rows there are.
    longest : the longest chain of additions behind one entry of a product.

    Examples
    --------
    >>> x = np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> DistantGram(lambda v: x.T @ (x @ v), np.ones(2), 0.0, users=2, longest=4).apply(np.eye(2))
    array([[1., 1.],
           [1., 2.]])
    """

    def __init__(
        self,
        products: Callable[[FloatMatrix], FloatMatrix],
        item_degrees: NDArray[np.float64],
        item_power: float,
        *,
        users: int,
        longest: int,
    ) -> None:
        self.shape = (users, item_degrees.size)
        self.item_scale = item_degrees**-item_power
        self._products = products
        self.longest = longest if users else 0

    def apply(self, block: FloatMatrix) -> FloatMatrix:
        """Compute ``G~ V`` in one round, however many columns."""
        product = self._products(self._scaled(block))
        product *= self.item_scale.astype(block.dtype)[:, None]
        return product


class GramOperator(ItemGram):
    """``G~ = X~'X~`` with ``X~ = D_u^-a X D_i^-b``, applied to blocks of columns.

    With few items and many interactions the Gram is formed once (:func:`dense_is_cheaper`). Else its
    application is two passes over the interactions, by users and by items, or with many users one (ml-1m:
    two are 1.5x as fast; 200,000 users: one is 1.3x as fast with 96 float32 columns, 2.7x with 16 float64).

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
    An application to k columns costs O(nnz k) time and an [n_users, k] block of memory or strips of
    [n_items, 256 bytes] for each thread; formed, O(n_items^2 k) after O(sum of squared row lengths). Columns
    may be float32 or float64; the passes run in that precision. Bits depend on the number of threads.

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
        self.shape = weights.shape
        self.user_scale = degrees(weights, axis=1) ** -user_power
        self.item_scale = degrees(weights, axis=0) ** -item_power
        self._users = _Pattern(weights, BLOCKS_PER_THREAD * numba.get_num_threads())
        self._form = self._cheapest(weights)
        chains = [int(np.diff(weights.indptr).max(initial=0)), int(item_counts(weights).max(initial=0))]
        dense = sum(self.shape) if isinstance(self._form, _Formed) else 0
        self.longest = sum(chains) + dense

    def _cheapest(self, weights: Interactions) -> "_Formed | _OnePass | _TwoPasses":
        if dense_is_cheaper(weights.shape[1], weights.nnz):
            return _form(weights, self.user_scale**2)
        if weights.shape[0] * STRIP_BYTES > CACHE_BYTES:
            return _OnePass(weights, self.user_scale**2)
        return _TwoPasses(self._users, weights, self.user_scale**2)

    def rows_times(self, block: FloatMatrix) -> FloatMatrix:
        """Compute ``X~ V``: [n_users, k] of the dtype of ``block``, float [n_items, k]."""
        return self._users.row_sums(self._scaled(block), self.user_scale)
