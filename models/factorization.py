"""What the factorisations share: implicit's interface on user and item factors, served by its top-k."""

import json
from os import PathLike
from typing import Any, Protocol, Self, TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from implicit.cpu.matrix_factorization_base import MatrixFactorizationBase
from implicit.cpu.topk import topk
from numpy.typing import ArrayLike, NDArray

from .base import ForgettableModel, Interactions, row_of

FloatArray: TypeAlias = NDArray[Any]
Ranked: TypeAlias = tuple[NDArray[Any], NDArray[Any]]

_FEW_QUERIES = 16  # more of them at once share one pass over all items, which costs each no more


class Shortlist(Protocol):
    """Names the items among which a query's best are: an approximate index of item factors."""

    @property
    def item_factors(self) -> FloatArray:
        """The very factors that it was built on; of no others does it know anything."""
        ...

    def near(self, query: FloatArray, n: int, seen: int) -> NDArray[np.int64] | None:
        """Name candidates for ``n`` items besides ``seen`` that are left out; None: score all.

        Returns
        -------
        int64, ascending: ``n + seen`` items or more, none of them empty.
        """
        ...

    def alike(self, item: int, n: int) -> NDArray[np.int64] | None:
        """Name candidates for the ``n`` items most like one by the cosine of factors; None: score all.

        Returns
        -------
        int64, ascending: ``n`` items or more, the one itself among them, none of the others empty.
        """
        ...


class Factorization(ForgettableModel, MatrixFactorizationBase):  # type: ignore[misc]  # implicit is untyped
    """A model whose scores are ``user_factors @ item_factors.T``; a drop-in for implicit's factorisations.

    Attributes
    ----------
    user_factors : [n_users, k]; item_factors : [n_items, k], one dtype, C-contiguous. Replaced, never
        written to: a reader that holds them keeps what it had. Recommending while another thread forgets
        is safe: the answer is of before or of after, whole.
    num_threads : of implicit's top-k for batches; 0: all cores.
    shortlist : narrows down what is scored for a few users or items at once; None, or one that was built on
        other item factors than are published: everything is. Scores are the factors' own either way.
    """

    shortlist: Shortlist | None = None
    _factors: tuple[Any, Any, Any] = (None, None, None)
    _usable_of: tuple[Any, Any] = (None, None)
    _unit_of: tuple[Any, Any, Any] = (None, None, None)

    def __init__(self, num_threads: int = 0) -> None:
        MatrixFactorizationBase.__init__(self, num_threads=num_threads)

    @property
    def user_factors(self) -> FloatArray:
        """The users' factors: [n_users, k]."""
        return cast(FloatArray, self._factors[0])

    @user_factors.setter
    def user_factors(self, factors: FloatArray) -> None:
        self._factors = (factors, *self._factors[1:])

    @property
    def item_factors(self) -> FloatArray:
        """The items' factors: [n_items, k]."""
        return cast(FloatArray, self._factors[1])

    @item_factors.setter
    def item_factors(self, factors: FloatArray) -> None:
        self._factors = (self._factors[0], factors, self._factors[2])

    def _publish(
        self, user_factors: FloatArray, item_factors: FloatArray, item_scale: FloatArray | None = None
    ) -> None:
        """Replace the factors, and the scale of items that folding in needs, all at once.

        What is cached of the old ones is dropped.
        """
        self._user_norms = self._item_norms = None
        self._usable_of, self._unit_of = (None, None), (None, None, None)
        self._factors = (user_factors, item_factors, item_scale)

    def recommend(
        self,
        userid: Any,
        user_items: Interactions | None,
        N: int = 10,
        filter_already_liked_items: bool = True,
        filter_items: ArrayLike | None = None,
        recalculate_user: bool = False,
        items: ArrayLike | None = None,
    ) -> Ranked:
        """Rank items for users, as implicit's models do.

        Only items that somebody still has are recommended, and nothing to a user whose factors are zero.

        Parameters
        ----------
        userid : int, or int [b].
        user_items : CSR [1 or b, n_items]: the rows of those users; None: the rows that the model keeps.
        N : how many items at the most.
        filter_already_liked_items : leave out the items of the row itself.
        filter_items : int, items to leave out as well.
        recalculate_user : fold the rows of ``user_items`` in, in place of the stored factors: for new users.
        items : int, the only items to rank.

        Returns
        -------
        ids int32, scores : [n <= N] for one user, only real candidates; [b, N] for several, padded with id
        -1 and score -inf.

        Raises
        ------
        ValueError
            N is not positive, or ``user_items`` has the wrong shape.
        IndexError
            A user or an item is unknown.
        """
        if N < 1:
            raise ValueError(f"N is {N}; ask for at least one item")
        users = np.atleast_1d(np.asarray(userid))
        rows = self._rows(users, user_items)
        queries, factors = self._queries(users, rows if recalculate_user else None)
        candidates = self._candidates(factors, items, filter_items)
        liked = rows if filter_already_liked_items else None
        near = self._near(queries, factors, liked, N) if items is None and filter_items is None else None
        if near is None:
            ids, scores = self._top(queries, factors, candidates, liked, N)
        else:
            ids, scores = self._top_near(queries, factors, near, N)
        return _real(ids[0], scores[0]) if np.ndim(userid) == 0 else (ids, scores)

    def similar_items(
        self,
        itemid: Any,
        N: int = 10,
        recalculate_item: bool = False,
        item_users: Any = None,
        filter_items: ArrayLike | None = None,
        items: ArrayLike | None = None,
    ) -> Ranked:
        """Rank items by the cosine of their factors, the item itself first; as :meth:`recommend`.

        An item whose factors are zero is like nothing. ``recalculate_item`` is not supported.
        """
        if recalculate_item or item_users is not None:
            raise NotImplementedError("an item cannot be folded in; fit with its interactions")
        factors, asked = self.item_factors, np.atleast_1d(np.asarray(itemid))
        self._known(asked, factors.shape[0], "item")
        near = self._alike(asked, factors, N) if items is None and filter_items is None else None
        if near is None:
            return self._similar(itemid, factors, N, items, filter_items)
        ids, scores = self._similar_near(asked, factors, near, N)
        return _real(ids[0], scores[0]) if np.ndim(itemid) == 0 else (ids, scores)

    def similar_users(
        self,
        userid: Any,
        N: int = 10,
        filter_users: ArrayLike | None = None,
        users: ArrayLike | None = None,
    ) -> Ranked:
        """Rank users by the cosine of their factors, the user first; as :meth:`similar_items`."""
        self._known(np.atleast_1d(np.asarray(userid)), self.user_factors.shape[0], "user")
        return self._similar(userid, self.user_factors, N, users, filter_users)

    def recalculate_user(self, userid: Any, user_items: Interactions) -> FloatArray:
        """Fold rows of interactions in: the factors [b, k] that users with these rows have, [k] for one."""
        folded = self._fold_in(sp.csr_matrix(user_items))
        return cast(FloatArray, folded[0] if np.ndim(userid) == 0 else folded)

    def _fold_in(self, rows: Interactions) -> FloatArray:
        raise NotImplementedError(f"{type(self).__name__} cannot fold a user in")

    def save(self, file: str | PathLike[str] | Any) -> None:
        """Write the whole model to an uncompressed .npz file, no pickle in it; :meth:`load` reads it."""
        kept = self.user_items
        arrays = {f"array.{key}": value for key, value in self.published().items() if not sp.issparse(value)}
        np.savez(
            file,
            settings=np.array(json.dumps(dict(self.settings()))),
            record=np.array(json.dumps(dict(self.proof_record()))),
            data=kept.data,
            indices=kept.indices,
            indptr=kept.indptr,
            shape=np.array(kept.shape),
            forgotten=self._forgotten,
            **cast(Any, arrays),
        )

    @classmethod
    def load(cls, fileobj_or_path: Any) -> Self:
        """Read what :meth:`save` wrote."""
        path = fileobj_or_path
        if isinstance(path, str) and not path.endswith(".npz"):
            path += ".npz"
        with np.load(path, allow_pickle=False) as stored:
            kept: Interactions = sp.csr_matrix(
                (stored["data"], stored["indices"], stored["indptr"]), shape=tuple(stored["shape"])
            )
            arrays = {key[6:]: stored[key] for key in stored.files if key.startswith("array.")}
            settings, record = (json.loads(str(stored[key])) for key in ("settings", "record"))
            model = cls.restore(settings, arrays, record, kept)
            model._forgotten = stored["forgotten"]
        return model

    def _rows(self, users: NDArray[Any], user_items: Interactions | None) -> Interactions:
        """Return the rows of interactions to filter by, CSR [b, n_items]."""
        n_items = self.item_factors.shape[0]
        if user_items is None:
            self._known(users, self.user_items.shape[0], "user")
            return row_of(self.user_items, users[0]) if users.size == 1 else self.user_items[users]
        if not sp.issparse(user_items) or user_items.shape != (users.size, n_items):
            raise ValueError(
                f"user_items is a {type(user_items).__name__} of shape {np.shape(user_items)}; pass CSR with "
                f"one row for each of {users.size} users and a column for each of {n_items} items"
            )
        return user_items.tocsr()

    @staticmethod
    def _known(ids: NDArray[Any], size: int, what: str) -> NDArray[Any]:
        bad = (ids < 0) | (ids >= size)
        if bad.any():
            raise IndexError(f"{what} {ids[bad][0]} is not in the model (it has {what}s 0..{size - 1})")
        return ids

    def _queries(self, users: NDArray[Any], rows: Interactions | None) -> tuple[FloatArray, FloatArray]:
        """Return the factors of users, folded in if ``rows`` are given, and the item factors beside them."""
        while True:
            factors = self._factors
            if rows is not None:
                queries = np.atleast_2d(self.recalculate_user(users, rows))
            else:
                queries = factors[0][self._known(users, factors[0].shape[0], "user")]
            if factors is self._factors:  # else another thread has published in between
                return queries, factors[1]

    def _candidates(
        self, item_factors: FloatArray, items: ArrayLike | None, filter_items: ArrayLike | None
    ) -> NDArray[np.int64]:
        """Return the items that can be recommended: not empty, asked for, not filtered; ascending."""
        n_items = item_factors.shape[0]
        if items is not None and filter_items is not None:
            raise ValueError("items and filter_items are both given; give one of them")
        if items is None and filter_items is None:
            return self._usable(item_factors)
        usable = np.zeros(n_items, np.bool_)
        usable[self._usable(item_factors)] = True
        if items is not None:
            asked = np.zeros(n_items, np.bool_)
            asked[self._known(np.asarray(items, np.int64).reshape(-1), n_items, "item")] = True
            usable &= asked
        if filter_items is not None:
            usable[self._known(np.asarray(filter_items, np.int64).reshape(-1), n_items, "item")] = False
        return np.flatnonzero(usable)

    def _usable(self, item_factors: FloatArray) -> NDArray[np.int64]:
        """Return the items that are not empty, ascending; looked up once for factors that are published."""
        known, usable = self._usable_of
        if known is not item_factors:
            usable = np.flatnonzero(np.any(item_factors != 0, axis=1))
            self._usable_of = (item_factors, usable)
        return cast("NDArray[np.int64]", usable)

    def _unit(self, factors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what :func:`normalised` does, worked out once for item factors that are published."""
        known, unit, norms = self._unit_of
        if known is not factors:
            unit, norms = normalised(factors)
            if factors is self.item_factors:
                self._unit_of = (factors, unit, norms)
        return unit, norms

    def _top(
        self,
        queries: FloatArray,
        item_factors: FloatArray,
        candidates: NDArray[np.int64],
        liked: Interactions | None,
        n: int,
    ) -> Ranked:
        """Rank candidates for each query [b, k] by implicit's top-k; [b, n], padded.

        Others are scored too, and left out, where that reads less than a copy of the candidates takes.
        """
        n_items = item_factors.shape[0]
        ids = np.full((queries.shape[0], n), -1, np.int32)
        scores = np.full((queries.shape[0], n), -np.inf, item_factors.dtype)
        if not (candidates.size and queries.size):
            return ids, scores
        if queries.shape[0] * (n_items - candidates.size) > 2 * candidates.size:
            factors, others = item_factors[candidates], None
            liked = None if liked is None else liked[:, candidates]
        else:
            factors, others = item_factors, _others(candidates, n_items)
        found, found_scores = topk(
            factors,
            np.ascontiguousarray(queries, factors.dtype),
            min(n, candidates.size),
            filter_query_items=None if liked is None else _implicit_csr(liked),
            filter_items=others,
            num_threads=self._threads(queries.shape[0]),
        )
        padding = (found_scores <= -np.finfo(np.float32).max) | ~np.any(queries != 0, axis=1)[:, None]
        found = found if factors is item_factors else candidates[found]
        ids[:, : found.shape[1]] = np.where(padding, -1, found)
        scores[:, : found.shape[1]] = np.where(padding, -np.inf, found_scores)
        return ids, scores

    def _near(
        self, queries: FloatArray, item_factors: FloatArray, liked: Interactions | None, n: int
    ) -> list[NDArray[np.int64]] | None:
        """Name the items to score for each of a few queries, without those liked; None: score all."""
        index = self.shortlist
        if index is None or index.item_factors is not item_factors or not 0 < len(queries) <= _FEW_QUERIES:
            return None
        nearby = []
        for row, query in enumerate(queries):
            own = None if liked is None else liked.indices[liked.indptr[row] : liked.indptr[row + 1]]
            near = index.near(query, n, 0 if own is None else own.size)
            if near is None:
                return None
            nearby.append(near if own is None else np.setdiff1d(near, own, assume_unique=True))
        return nearby

    def _top_near(
        self, queries: FloatArray, item_factors: FloatArray, near: list[NDArray[np.int64]], n: int
    ) -> Ranked:
        """Rank for each query the items named for it; as :meth:`_top`."""
        found = [
            self._top(queries[row : row + 1], item_factors, items, None, n) for row, items in enumerate(near)
        ]
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def _alike(self, asked: NDArray[Any], item_factors: FloatArray, n: int) -> list[NDArray[np.int64]] | None:
        """Name the items to score for each of a few items; None: score all."""
        index = self.shortlist
        if index is None or index.item_factors is not item_factors or not 0 < len(asked) <= _FEW_QUERIES:
            return None
        if n < 1:
            return None  # refused where all are scored
        nearby = []
        for item in asked.tolist():
            near = index.alike(item, n)
            if near is None:
                return None
            nearby.append(near)
        return nearby

    def _similar_near(
        self, asked: NDArray[Any], item_factors: FloatArray, near: list[NDArray[np.int64]], n: int
    ) -> Ranked:
        """Rank for each item those named for it by cosine; as :meth:`_top`."""
        found = []
        for item, names in zip(asked, near, strict=True):
            unit, _ = normalised(item_factors[names])
            query = unit[np.searchsorted(names, item)]
            places, cosines = self._top(query[None], unit, np.arange(names.size), None, n)
            found.append((np.where(places < 0, -1, names[places]).astype(np.int32), cosines))
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def _threads(self, queries: int) -> int:
        """Return implicit's number of threads: for one query, a second thread only costs."""
        return 1 if queries == 1 else self.num_threads

    def _similar(
        self, ids: Any, factors: FloatArray, n: int, only: ArrayLike | None, without: ArrayLike | None
    ) -> Ranked:
        """Rank rows of ``factors`` by cosine."""
        if n < 1:
            raise ValueError(f"N is {n}; ask for at least one")
        unit, norms = self._unit(factors)
        usable = norms > 0
        if only is not None:
            asked = np.zeros(norms.size, np.bool_)
            asked[np.asarray(only, np.int64)] = True
            usable &= asked
        if without is not None:
            usable[np.asarray(without, np.int64)] = False
        candidates, asked_ids = np.flatnonzero(usable), np.atleast_1d(np.asarray(ids))
        found, scores = self._top(unit[asked_ids], unit, candidates, None, n)
        return _real(found[0], scores[0]) if np.ndim(ids) == 0 else (found, scores)


def normalised(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rows at length one (zero rows as they are), C-contiguous, and their lengths.

    Examples
    --------
    >>> normalised(np.array([[3.0, 4.0], [0.0, 0.0]]))
    (array([[0.6, 0.8],
           [0. , 0. ]]), array([5., 0.]))
    """
    norms = np.linalg.norm(rows, axis=1)
    return np.ascontiguousarray(rows / np.where(norms > 0, norms, 1)[:, None]), norms


def _real(ids: NDArray[Any], scores: NDArray[Any]) -> Ranked:
    """Drop the padding."""
    return ids[ids >= 0], scores[ids >= 0]


def _others(chosen: NDArray[np.int64], size: int) -> NDArray[np.int64] | None:
    """Return the numbers below ``size`` that are not chosen, ascending; None: there are none."""
    if chosen.size == size:
        return None
    mask = np.ones(size, np.bool_)
    mask[chosen] = False
    return np.flatnonzero(mask)


def _implicit_csr(matrix: Interactions) -> Interactions:
    """Give implicit's top-k the index types it takes."""
    return sp.csr_matrix(
        (matrix.data.astype(np.float32), matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)),
        shape=matrix.shape,
    )
