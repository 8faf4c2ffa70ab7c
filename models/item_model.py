"""What the item models share: a user is the row of their interactions, scored item by item."""

from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from . import neighbour_kernels
from .base import ForgettableModel, Interactions, IntVector
from .statistics import csr_arrays

BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.int32]
Ranked: TypeAlias = tuple[Ids, FloatArray]


class ItemModel(ForgettableModel):
    """A model without user factors: anyone with a row of interactions can be served, known or new.

    Subclasses say how a row is scored and what an item is like; serial kernels only, for server threads.
    """

    @property
    @abstractmethod
    def n_items(self) -> int:
        """How many items the model has, with or without interactions."""

    @abstractmethod
    def _score_row(self, items: NDArray[np.int32], values: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Score every item for a row of interactions: float64 [n_items], and which can be recommended."""

    @abstractmethod
    def _score_item(self, item: int) -> tuple[FloatArray, BoolArray]:
        """Score every item by its likeness to ``item``: float64 [n_items], and which are like it at all."""

    def recommend(
        self,
        userid: Any,
        user_items: Interactions | None,
        N: int = 10,
        filter_already_liked_items: bool = True,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank items for users, as implicit's models do; ties go to the lower item id.

        Only items that somebody still has are recommended, and nothing to a user without interactions.

        Parameters
        ----------
        userid : int, or int [b]; read only if ``user_items`` is None.
        user_items : CSR [1 or b, n_items]: the rows of those users, who need not be in the model. None:
            the rows that the model keeps.
        N : how many items at the most.
        filter_already_liked_items : leave out the items of the row itself.

        Returns
        -------
        ids int32, scores float64 : [n <= N] for one user; [b, N] for several, padded with -1 and -inf.

        Raises
        ------
        ValueError
            N is not positive, or ``user_items`` has the wrong shape or values that are not finite.
        ConcurrentForgettingError
            Only where the class says so.
        """
        kept, users = self._rows(userid, user_items)
        indptr, indices, data = csr_arrays(kept)

        def rank(r: int) -> Ranked:
            items, values = indices[indptr[r] : indptr[r + 1]], data[indptr[r] : indptr[r + 1]]
            scores, usable = self._score_row(items, values)
            if filter_already_liked_items:
                usable[items] = False
            return _best(scores, usable, N)

        return rank(users[0]) if np.ndim(userid) == 0 else _padded([rank(r) for r in users], N)

    def similar_items(self, itemid: Any, N: int = 10) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank the items most alike; ties go to the lower id.

        Parameters
        ----------
        itemid : int, or int [b].
        N : how many items at the most.

        Returns
        -------
        ids int32, scores float64 : [n <= N] for one item; [b, N] for several, padded with -1 and -inf.

        Raises
        ------
        ValueError
            An item is unknown, or N is not positive.
        """
        items = np.atleast_1d(np.asarray(itemid))
        for item in items:
            if not 0 <= item < self.n_items:
                raise ValueError(f"item {item} is not in the model (it has items 0..{self.n_items - 1})")
        ranked = [_best(*self._score_item(int(item)), N) for item in items]
        return ranked[0] if np.ndim(itemid) == 0 else _padded(ranked, N)

    def _rows(self, userid: Any, user_items: Interactions | None) -> tuple[Interactions, IntVector]:
        """Return a matrix, and which of its rows are to be ranked for."""
        users = np.atleast_1d(np.asarray(userid))
        if user_items is None:
            kept = self.user_items
            for user in users:
                if not 0 <= user < kept.shape[0]:
                    raise ValueError(f"user {user} is not in the model (it has rows 0..{kept.shape[0] - 1})")
            return kept, users
        if not sp.issparse(user_items):
            raise ValueError(f"user_items is a {type(user_items).__name__}; pass CSR, one row for each user")
        if user_items.shape != (users.size, self.n_items):
            raise ValueError(
                f"user_items is {user_items.shape[0]} x {user_items.shape[1]}; pass one row for each of "
                f"{users.size} users and a column for each of {self.n_items} items"
            )
        rows: Interactions = user_items.tocsr()
        if not np.isfinite(rows.data).all():
            raise ValueError("user_items has a value that is NaN or infinite; values must be finite")
        return rows, np.arange(users.size)


def _best(scores: FloatArray, usable: BoolArray, n: int) -> Ranked:
    if n < 1:
        raise ValueError(f"N is {n}; ask for at least one item")
    ids: IntVector = neighbour_kernels.top_n(scores, usable, min(int(n), scores.size))
    return ids.astype(np.int32), scores[ids]  # int32 as implicit's: its evaluation takes nothing else


def _padded(ranked: list[Ranked], n: int) -> Ranked:
    ids = np.full((len(ranked), n), -1, dtype=np.int32)
    scores = np.full((len(ranked), n), -np.inf)
    for r, (row_ids, row_scores) in enumerate(ranked):
        ids[r, : row_ids.size] = row_ids
        scores[r, : row_ids.size] = row_scores
    return ids, scores


def restricted(user_items: Interactions, users: IntVector, items: IntVector) -> Interactions:
    """Keep some rows and columns; all others must be empty. Rows in their order share the values.

    Parameters
    ----------
    user_items : canonical CSR [n_users, n_items], not modified.
    users, items : int64, unique; items ascending, users in the order that they are to have.

    Raises
    ------
    ValueError
        A row or column that is not kept has interactions.

    Notes
    -----
    O(n_users), one pass over the column numbers if a column goes, and one over all if rows change places.

    Examples
    --------
    >>> x = sp.csr_matrix([[0, 0, 0], [1, 0, 2]])
    >>> restricted(x, np.array([1]), np.array([0, 2])).toarray()
    array([[1, 2]])
    """
    sizes = np.diff(user_items.indptr)
    left_out = sizes.astype(np.bool_)
    left_out[users] = False
    indices = user_items.indices
    if items.size != user_items.shape[1]:
        place = np.full(user_items.shape[1], -1, dtype=indices.dtype)
        place[items] = np.arange(items.size)
        indices = place[indices]
    if left_out.any() or (indices.size and indices.min() < 0):
        what, ids = "user", np.flatnonzero(left_out)
        if not ids.size:
            what, ids = "item", np.setdiff1d(user_items.indices, items)
        raise ValueError(f"{what} {ids[0]} has interactions; forget them before it is left out")
    indptr = np.concatenate([[0], np.cumsum(sizes[users])]).astype(user_items.indptr.dtype)
    data = user_items.data
    if np.any(users[1:] < users[:-1]):
        starts = user_items.indptr[users].astype(np.int64)
        moved = np.repeat(starts - indptr[:-1], sizes[users]) + np.arange(indptr[-1])
        data, indices = data[moved], indices[moved]
    kept: Interactions = sp.csr_matrix((data, indices, indptr), shape=(users.size, items.size))
    kept.has_sorted_indices = True
    kept.has_canonical_format = True
    return kept
