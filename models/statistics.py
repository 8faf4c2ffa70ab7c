"""The sums that the item models rest on: counts, Grams, co-occurrences; exact, so that order leaves no trace.

A sum of floating-point numbers remembers the order in which they came; a sum of integers does not. Here
every contribution is rounded once, by itself, to a whole number of fixed units, and only whole numbers are
added and subtracted: any order of arrivals and removals gives the same bits, and a removed contribution
leaves nothing behind.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from . import kernels, pair_kernels
from .base import Interactions, IntVector

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
CsrArrays: TypeAlias = tuple[IntArray, NDArray[np.int32], FloatArray]
SumArrays: TypeAlias = tuple[IntArray, IntArray, NDArray[np.int32], NDArray[Any], IntArray, float]

COARSE_UNITS = float(2**pair_kernels.COARSE_BITS)
_BLOCK_BYTES = 64 * 2**20


def csr_arrays(matrix: sp.csr_matrix[Any] | sp.csc_matrix[Any]) -> CsrArrays:
    """Return ``indptr`` int64, ``indices`` int32 and ``data`` float64: what the kernels are compiled for.

    Views where the dtypes already fit.

    Examples
    --------
    >>> csr_arrays(sp.csr_matrix([[0.0, 2.0]]))
    (array([0, 1]), array([1], dtype=int32), array([2.]))
    """
    return (
        matrix.indptr.astype(np.int64, copy=False),
        matrix.indices.astype(np.int32, copy=False),
        matrix.data.astype(np.float64, copy=False),
    )


def select_rows(rows: Interactions, chosen: NDArray[np.bool_]) -> Interactions:
    """Keep the rows marked in ``chosen``; the matrix itself if that is all of them.

    Examples
    --------
    >>> select_rows(sp.csr_matrix([[1, 0], [0, 2]]), np.array([False, True])).toarray()
    array([[0, 2]])
    """
    return rows if chosen.all() else rows[np.flatnonzero(chosen)]


def select_entries(matrix: Interactions, chosen: NDArray[np.bool_]) -> Interactions:
    """Keep the stored entries marked in ``chosen``, in their order; the shape stays.

    Parameters
    ----------
    matrix : CSR [n_users, n_items]. chosen : bool [nnz].

    Examples
    --------
    >>> select_entries(sp.csr_matrix([[1, 2], [0, 3]]), np.array([False, True, True])).toarray()
    array([[0, 2],
           [0, 3]])
    """
    indptr = np.concatenate([[0], np.cumsum(chosen)])[matrix.indptr].astype(matrix.indptr.dtype)
    part: Interactions = sp.csr_matrix(
        (matrix.data[chosen], matrix.indices[chosen], indptr), shape=matrix.shape
    )
    return part


def item_counts(user_items: Interactions) -> IntVector:
    """Count the users of each item; int64 [n_items]. O(nnz).

    Examples
    --------
    >>> item_counts(sp.csr_matrix([[1, 5, 0], [0, 2, 0]]))
    array([1, 2, 0])
    """
    counts: IntVector = np.bincount(user_items.indices, minlength=user_items.shape[1]).astype(np.int64)
    return counts


def gram_is_exact(user_items: Interactions) -> bool:
    """Tell whether ``X'X`` can be held in int64 without rounding or overflow.

    All values are whole numbers up to 2^26 (so that a product is exact in float64) and no item's sum of
    squares passes 2^61 (by Cauchy and Schwarz no other entry of the Gram is larger).

    Examples
    --------
    >>> gram_is_exact(sp.csr_matrix([[1.0, 3.0]])), gram_is_exact(sp.csr_matrix([[0.5]]))
    (True, False)
    """
    values = user_items.data.astype(np.float64, copy=False)
    if not values.size:
        return True
    if values.max() > 2.0**26 or not np.array_equal(values, np.rint(values)):
        return False
    squares = np.bincount(user_items.indices, values * values, minlength=1)
    return bool(squares.max() < 2.0**61)


def gram(user_items: Interactions) -> IntArray | FloatArray:
    """Compute ``X'X``, dense [n_items, n_items]: int64 where that is exact, else float64.

    Time O(sum_u |N(u)|^2), in parallel over items.

    Examples
    --------
    >>> gram(sp.csr_matrix([[1.0, 3.0], [0.0, 1.0]]))
    array([[ 1,  3],
           [ 3, 10]])
    """
    by_user, by_item = csr_arrays(user_items), csr_arrays(user_items.tocsc())
    units = 1.0 if gram_is_exact(user_items) else None
    with kernels.threads_for(_pairs_in(user_items)):
        return _dense_rows(0, user_items.shape[1], by_item, by_user, units)[0]


@dataclass
class CoOccurrence:
    """The symmetric sums ``C_ij = sum_u w_ui w_uj`` in whole units, only the pairs that are not zero.

    Row i lies at ``start[i] : start[i] + length[i]`` of ``columns`` (ascending), ``coarse`` and ``fine``;
    room that removals freed is filled with zeros. The sum is ``(coarse + fine / 2^38) unit``.

    Attributes
    ----------
    start, length : int64 [n_items].
    columns : int32 [capacity].
    coarse : int64 [capacity]: whole units.
    fine : int64 [capacity], 0 <= fine < 2^38: parts of a unit; empty [0] where all sums are whole numbers.
    unit : 1.0 for whole numbers, else 2^-24.
    """

    start: IntArray
    length: IntArray
    columns: NDArray[np.int32]
    coarse: IntArray
    fine: IntArray
    unit: float

    @classmethod
    def of(cls, weights: Interactions, units: float | None) -> "CoOccurrence":
        """Sum up the co-occurrences of a weighted matrix.

        Parameters
        ----------
        weights : CSR float64 [n_users, n_items]; explicit zeros are allowed and contribute nothing.
        units : 1.0 if every product of two weights of a row is a whole number, else ``COARSE_UNITS``; None:
            plain float64 sums, users ascending, from which nothing can be subtracted.

        Notes
        -----
        Time O(sum_u |N(u)|^2), in parallel; memory 12 bytes a pair (20 with ``fine``), a bounded block and,
        for a moment, twice that.

        Examples
        --------
        >>> pairs = CoOccurrence.of(sp.csr_matrix([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]]), 1.0)
        >>> pairs.length, pairs.columns, pairs.coarse
        (array([2, 2, 0]), array([0, 1, 0, 1], dtype=int32), array([1, 2, 2, 5]))
        """
        n_items = weights.shape[1]
        by_user, by_item = csr_arrays(weights), csr_arrays(weights.tocsc())
        height = max(1, _BLOCK_BYTES // (8 * max(1, n_items)))
        blocks = []
        with kernels.threads_for(_pairs_in(weights)):
            for first in range(0, n_items, height):
                block = _dense_rows(first, min(height, n_items - first), by_item, by_user, units)
                nonzero = pair_kernels.count_nonzero_rows(*block)
                blocks.append((nonzero, *pair_kernels.compress_rows(*block, nonzero)))
        if not blocks:
            blocks = [
                (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
            ]
        length, columns, coarse, fine = (np.concatenate(part) for part in zip(*blocks, strict=True))
        return cls(np.cumsum(length) - length, length, columns, coarse, fine, 1.0 / (units or 1.0))

    @property
    def arrays(self) -> SumArrays:
        """The fields in their order, as the kernels take them."""
        return self.start, self.length, self.columns, self.coarse, self.fine, self.unit

    def diagonal(self, items: IntVector) -> FloatArray:
        """Read ``C_ii`` of ``items``; float64 [k]."""
        out: FloatArray = pair_kernels.diagonal_sums(items, *self.arrays)
        return out

    def renumber(self, items: IntVector) -> "CoOccurrence":
        """Return the sums with ``items`` numbered 0, 1, ...; all others must have none (nobody has them).

        Parameters
        ----------
        items : int64, ascending, unique.

        Notes
        -----
        The sums themselves are not copied: ``self`` is used up. One pass over the column numbers.

        Examples
        --------
        >>> pairs = CoOccurrence.of(sp.csr_matrix([[0.0, 1.0, 0.0, 2.0]]), 1.0).renumber(np.array([1, 3]))
        >>> pairs.length, pairs.columns, pairs.coarse
        (array([2, 2]), array([0, 1, 0, 1], dtype=int32), array([1, 2, 2, 4]))
        """
        place = np.full(self.start.size, -1, dtype=np.int32)
        place[items] = np.arange(items.size)
        start, length = self.start[items], self.length[items]
        with kernels.threads_for(float(length.sum())):
            pair_kernels.renumber_columns(start, length, place, self.columns)
        return CoOccurrence(start, length, self.columns, self.coarse, self.fine, self.unit)

    def subtract(self, before: Interactions, after: Interactions, items: IntVector) -> None:
        """Replace the contributions of the weighted rows ``before`` by those of ``after``, in place.

        Parameters
        ----------
        before, after : CSR float64 [k, n_items]; a pair that has a contribution in ``after`` has one in
            ``before``.
        items : int64, ascending: every item of ``before``.

        Notes
        -----
        Time O(sum_u |N(u)|^2) over the rows plus one pass over the co-occurrences of ``items``. Pairs that
        fall to zero leave the pattern.
        """
        change: Interactions = sp.vstack([before, after], format="csr") if after.nnz else before
        signs = np.repeat(
            np.array([-1, 1], dtype=np.int64), [before.shape[0], change.shape[0] - before.shape[0]]
        )
        by_item, by_row = csr_arrays(change.tocsc()), csr_arrays(change)
        sums = self.start, self.length, self.columns, self.coarse, self.fine
        with kernels.threads_for(float(self.length[items].sum()) + _pairs_in(change)):
            pair_kernels.change_rows(items, signs, *by_item, *by_row, self.unit, *sums)


def _dense_rows(
    first: int, rows: int, by_item: CsrArrays, by_user: CsrArrays, units: float | None
) -> tuple[NDArray[Any], IntArray]:
    """Sum up a block of rows; whole [rows, n_items], fine [rows, n_items or 0]."""
    n_items = by_item[0].size - 1
    parts = np.empty((rows, n_items if units == COARSE_UNITS else 0), dtype=np.int64)
    whole = np.empty((rows, n_items), dtype=np.int64 if units else np.float64)
    if units:
        pair_kernels.exact_gram_rows(first, *by_item, *by_user, units, whole, parts)
    else:
        pair_kernels.gram_rows(first, *by_item, *by_user, whole)
    return whole, parts


def _pairs_in(rows: Interactions) -> float:
    """Count the pairs of items in the rows, ``sum_u |N(u)|^2``: what it costs to sum them up."""
    sizes = np.diff(rows.indptr).astype(np.float64)
    return float(sizes @ sizes)
