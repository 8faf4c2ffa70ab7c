"""Interactions that lose rows and entries one removal at a time, at a cost that follows the removal.

Copying everything that is kept for each removal would cost more than some models' whole forgetting. So a
removal only notes the rows it changes; the matrix is put together when somebody asks for all of it.
"""

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Interactions: TypeAlias = sp.csr_matrix[Any]
"""CSR, rows = users, columns = items, values > 0; int32 or int64 indices, sorted, no duplicates, no zeros."""

IntVector: TypeAlias = NDArray[np.int64]
MOST_ROWS_NOTED = 1024


class KeptInteractions:
    """A matrix of which entries have been removed since it was put together.

    Threads may share it: what it says never changes, only where it is stored.

    Parameters
    ----------
    base : canonical CSR [n_users, n_items], not copied, not modified.
    removed : row -> positions of the row's entries that are gone, ascending, in ``base.data``.

    Examples
    --------
    >>> kept = KeptInteractions(sp.csr_matrix([[1.0, 2.0], [0.0, 3.0]]))
    >>> kept.without({0: np.array([1])}).matrix().toarray()
    array([[1., 0.],
           [0., 3.]])
    """

    def __init__(self, base: Interactions, removed: dict[int, IntVector] | None = None) -> None:
        self._state = (base, removed or {})  # replaced whole: another thread sees one or the other

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_users, n_items)``."""
        return self._state[0].shape

    def own(self) -> "KeptInteractions":
        """Return the same as an object whose positions no other thread's :meth:`matrix` moves."""
        return KeptInteractions(*self._state)

    def positions(self, user: int) -> IntVector:
        """Return where the row's entries are stored in the base: int64, ascending."""
        base, removed = self._state
        start, stop = int(base.indptr[user]), int(base.indptr[user + 1])
        gone = removed.get(user)
        if gone is not None and gone.size == stop - start:
            return gone[:0]
        row = np.arange(start, stop, dtype=np.int64)
        return row if gone is None else np.setdiff1d(row, gone, assume_unique=True)

    def items(self, positions: IntVector) -> NDArray[Any]:
        """Return the columns of entries by their positions."""
        return self._state[0].indices[positions]

    def rows(self, users: IntVector) -> Interactions:
        """Return some rows: CSR [k, n_items], O(their entries)."""
        base = self._state[0]
        rows = [self.positions(int(user)) for user in users]
        positions = np.concatenate([np.zeros(0, np.int64), *rows])
        indptr = np.concatenate([[0], np.cumsum([row.size for row in rows])]).astype(base.indptr.dtype)
        return _canonical(base.data[positions], base.indices[positions], indptr, (len(rows), base.shape[1]))

    def without(self, removed: dict[int, IntVector]) -> "KeptInteractions":
        """Return what is kept once these entries, row -> positions, are gone too; O(removed), mostly."""
        base, before = self._state
        noted = dict(before)
        for user, positions in removed.items():
            noted[user] = np.union1d(noted[user], positions) if user in noted else positions
        later = KeptInteractions(base, noted)
        if len(noted) > MOST_ROWS_NOTED:
            later.matrix()
        return later

    def matrix(self) -> Interactions:
        """Return all that is kept as one CSR matrix; put together once, O(nnz)."""
        base, removed = self._state
        if removed:
            base = drop_entries(base, np.sort(np.concatenate(list(removed.values()))))
            self._state = (base, {})
        return base


def drop_entries(matrix: Interactions, positions: IntVector) -> Interactions:
    """Build the CSR matrix without the entries stored at ``positions``: int64 [k], ascending, unique.

    What lies between them is copied in whole pieces: at the speed of memory, few rows go.

    Examples
    --------
    >>> drop_entries(sp.csr_matrix([[1.0, 2.0]]), np.array([0])).toarray()
    array([[0., 2.]])
    """
    rows = np.searchsorted(matrix.indptr, positions, side="right")
    lost = np.cumsum(np.bincount(rows, minlength=matrix.indptr.size))
    bounds = np.concatenate([[-1], positions, [matrix.nnz]])
    ends = np.flatnonzero(np.diff(bounds) > 1)
    pieces = [slice(bounds[k] + 1, bounds[k + 1]) for k in ends] or [slice(0, 0)]
    data = np.concatenate([matrix.data[piece] for piece in pieces])
    indices = np.concatenate([matrix.indices[piece] for piece in pieces])
    indptr = (matrix.indptr - lost).astype(matrix.indptr.dtype)
    return _canonical(data, indices, indptr, matrix.shape)


def _canonical(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> Interactions:
    matrix: Interactions = sp.csr_matrix((data, indices, indptr), shape=shape)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix
