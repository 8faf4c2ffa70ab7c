"""Item similarity as implicit defines it (cosine, TF-IDF, BM25), forgotten exactly, bit for bit.

The similarity of two items is a sum over the users of both, times a factor of each item:
``S_ij = C_ij f_i f_j`` with ``C_ij = sum_u w_ui w_uj``. The sums are kept in whole units
(:class:`~recunlearn.models.statistics.CoOccurrence`), so that a user is subtracted without a trace; then the
lists of nearest neighbours are repaired where they can have changed.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from . import kernels, neighbour_kernels
from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar
from .item_model import BoolArray, ItemModel, restricted
from .statistics import COARSE_UNITS, CoOccurrence, csr_arrays, gram_is_exact, item_counts, select_rows

FloatArray: TypeAlias = NDArray[np.float64]
Weighting: TypeAlias = Literal["cosine", "tfidf", "bm25"]


def weigh(rows: Interactions, weighting: Weighting) -> Interactions:
    """Weigh rows of interactions by what each user alone decides; the pattern stays.

    cosine: the values. tfidf: ``sqrt(x_ui) idf_u``. bm25: ``idf_u``; what the items decide is in
    :func:`bm25_factor`. As in implicit, ``idf_u = log(n_items) - log(1 + |N(u)|)``: users are the terms.
    """
    if weighting == "cosine":
        return rows.astype(np.float64, copy=False)
    sizes = np.diff(rows.indptr)
    idf = np.repeat(np.log(max(rows.shape[1], 1)) - np.log1p(sizes), sizes)
    return _with_values(rows, idf if weighting == "bm25" else np.sqrt(rows.data.astype(np.float64)) * idf)


def weigh_bm25_counts(user_items: Interactions, k1: float, b: float) -> Interactions:
    """Weigh interactions of several values by BM25, item lengths and their mean included."""
    weights = weigh(user_items, "bm25")
    lengths = np.bincount(user_items.indices, user_items.data, minlength=user_items.shape[1])
    norm = (1.0 - b) + b * lengths / lengths.mean() if user_items.nnz else lengths
    values = user_items.data.astype(np.float64)
    weights.data *= values * (k1 + 1.0) / (k1 * norm[user_items.indices] + values)
    return weights


def bm25_factor(counts: IntVector, value: float, k1: float, b: float) -> FloatArray:
    """Compute what an item brings to BM25 where all values are the same v; float64 [n_items].

    ``v (K1 + 1) / (K1 (1 - B + B len_i / mean len) + v)``, 0 for an item without interactions.

    Parameters
    ----------
    counts : int64 [n_items], the users of each item.
    """
    if not counts.any():
        return np.zeros(counts.size)
    lengths = value * counts
    factor = value * (k1 + 1.0) / (k1 * ((1.0 - b) + b * lengths / lengths.mean()) + value)
    return np.where(lengths > 0, factor, 0.0)


def summing_units(user_items: Interactions, weights: Interactions, weighting: Weighting) -> float | None:
    """Choose the unit in which products of weights are summed without a trace; None: there is none.

    A function of the data alone: whatever was removed before, the same data is summed in the same way.
    """
    if weighting == "cosine" and gram_is_exact(user_items):
        return 1.0
    if weighting == "bm25" and np.unique(user_items.data).size > 1:
        return None
    return COARSE_UNITS if _fit_units(weights) else None


def _fit_units(weights: Interactions) -> bool:
    """Tell whether sums keep 12 digits (smallest product) and do not overflow (largest, number of rows)."""
    sizes = np.abs(weights.data[weights.data != 0.0])
    if not sizes.size:
        return True
    rows = weights.shape[0]
    return bool(sizes.min() ** 2 >= 2.0**-22 and sizes.max() ** 2 * rows <= 2.0**38 and rows <= 2**24)


def _with_values(rows: Interactions, values: FloatArray) -> Interactions:
    out: Interactions = sp.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)
    return out


class ItemKNN(ItemModel):
    """Nearest neighbours among items; forgetting is exact: the same bits as if never seen.

    Reading while another thread forgets is safe: a reader has the lists of before or of after, whole.

    Parameters
    ----------
    K : neighbours kept for each item, itself included, as implicit counts; those with similarity 0 are not
        kept. Ties go to the lower item id.
    weighting : "cosine", "tfidf" or "bm25": as ``implicit.nearest_neighbours`` defines them.
    K1, B : of BM25.

    Notes
    -----
    A user costs ``sum_{i in N(u)} (|N(u)| + co-occurrences of i)``. BM25 norms by the mean length of all
    items: every removal moves every similarity, so that all lists are ranked again (one pass over the
    co-occurrences, still no pass over the data). BM25 on values that are not all the same does not separate
    into sums at all, and values over too many orders of magnitude do not fit whole units: then, and only
    then, a removal sums up the co-occurrences afresh from what is kept: as exact, at the price of a fit.

    Examples
    --------
    >>> x = sp.csr_matrix([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]])
    >>> model = ItemKNN(K=2).fit(x)
    >>> model.forget_users([1])
    >>> model.similarity.toarray().round(3)
    array([[1.   , 0.5  , 0.   ],
           [0.   , 1.   , 0.707],
           [0.   , 0.707, 1.   ]])
    >>> model.recommend(3, x[3])
    (array([1], dtype=int32), array([0.5]))
    """

    name: ClassVar[str] = "item_knn"
    exact: ClassVar[bool] = True

    def __init__(
        self, K: int = 20, weighting: Weighting = "cosine", K1: float = 1.2, B: float = 0.75
    ) -> None:
        if K < 1:
            raise ValueError(f"K is {K}; keep at least one neighbour")
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting is {weighting!r}; choose one of {', '.join(get_args(Weighting))}")
        if not (np.isfinite(K1) and K1 >= 0 and 0 <= B <= 1):
            raise ValueError(f"K1 is {K1} and B is {B}; BM25 needs K1 >= 0 and B between 0 and 1")
        self.K = int(K)
        self.weighting: Weighting = weighting
        self.K1 = float(K1)
        self.B = float(B)
        self._lists: Lists | None = None
        self._packed: tuple[Lists | None, Interactions] | None = None  # the lists of which, and as CSR
        self._pairs: CoOccurrence | None = None
        self._factor: FloatArray | None = None
        self._has_forgotten = False

    @property
    def n_items(self) -> int:
        """How many items the model has, with or without interactions."""
        return int(self.similarity.shape[0])

    @property
    def similarity(self) -> Interactions:
        """CSR float64 [n_items, n_items]: row i holds the at most K items most like i. Read-only."""
        packed, lists = self._packed, self._lists  # in this order: a removal in between sets the lists first
        if packed is None or packed[0] is not lists:
            if lists is None:
                raise ValueError("ItemKNN is not fitted; call fit(user_items) first")
            self._packed = packed = lists, _pack(*lists)
        return packed[1]

    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        del show_progress  # a few seconds at ten million interactions
        self._derive(user_items)
        self._has_forgotten = False

    def _derive(self, user_items: Interactions) -> None:
        """Sum up and rank everything afresh from what is kept."""
        weights = weigh(user_items, self.weighting)
        units = summing_units(user_items, weights, self.weighting)
        if units is None and self.weighting == "bm25":
            weights = weigh_bm25_counts(user_items, self.K1, self.B)
        pairs = CoOccurrence.of(weights, units)
        everything = np.arange(user_items.shape[1])
        if self.weighting != "bm25":
            factor = inverse_norms(pairs.diagonal(everything))
        elif units is None:
            factor = np.ones(everything.size)
        else:
            factor = self._bm25_factor(user_items)
        self._lists, self._packed = _nearest_lists(pairs, factor, self.K), None
        self._pairs, self._factor = (None, None) if units is None else (pairs, factor)

    def _bm25_factor(self, user_items: Interactions) -> FloatArray:
        value = float(user_items.data[0]) if user_items.nnz else 1.0
        return bm25_factor(item_counts(user_items), value, self.K1, self.B)

    def _forget(self, change: Change) -> None:
        lost = np.diff(change.before.indptr) != np.diff(change.after.indptr)
        before = weigh(select_rows(change.before, lost), self.weighting)
        after = weigh(select_rows(change.after, lost), self.weighting)
        pairs, factor = self._pairs, self._factor
        if pairs is None or factor is None or not _can_subtract(pairs, before, after):
            self._derive(change.user_items)
        else:
            try:
                self._repair(pairs, factor, before, after, change)
            except BaseException:
                self._pairs = None  # half changed: summed up again when next needed
                raise
        self._has_forgotten = True

    def _repair(
        self,
        pairs: CoOccurrence,
        old_factor: FloatArray,
        before: Interactions,
        after: Interactions,
        change: Change,
    ) -> None:
        """Subtract the change and rank again the lists that it can have changed."""
        touched = np.unique(before.indices).astype(np.int64)
        pairs.subtract(before, after, touched)
        ids, scores, counts = self._lists or _unpack(self.similarity, self.K)
        lists = ids.copy(), scores.copy(), counts.copy()  # a reader may hold the old ones
        if self.weighting == "bm25":
            factor = self._bm25_factor(change.user_items)
            again = np.arange(self.n_items)
        else:
            factor = old_factor.copy()
            factor[touched] = inverse_norms(pairs.diagonal(touched))
            again = _repair_lists(pairs, touched, factor, old_factor, lists)
        _rank(again, pairs, factor, lists)
        self._lists, self._packed, self._factor = lists, None, factor

    def _score_row(self, items: NDArray[np.int32], values: FloatArray) -> tuple[FloatArray, BoolArray]:
        similarity = self.similarity
        scores, found = np.zeros(self.n_items), np.zeros(self.n_items, dtype=np.bool_)
        neighbour_kernels.neighbour_scores(items, values, *csr_arrays(similarity), scores, found)
        return scores, found

    def _score_item(self, item: int) -> tuple[FloatArray, BoolArray]:
        similarity = self.similarity
        scores = np.zeros(self.n_items)
        row = slice(similarity.indptr[item], similarity.indptr[item + 1])
        scores[similarity.indices[row]] = similarity.data[row]
        return scores, scores > 0.0

    def proof(self) -> Proof:
        """Exact to the bit: the sums are whole numbers, and the lists are functions of the sums."""
        return Proof(True, 0.0, 1.0 if self._has_forgotten else None, True)

    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments."""
        return {"K": self.K, "weighting": self.weighting, "K1": self.K1, "B": self.B}

    def published(self) -> Arrays:
        """Return ``similarity``: CSR [n_items, n_items]. The sums are derived from ``user_items``."""
        return {"similarity": self.similarity}

    def proof_record(self) -> Mapping[str, Scalar]:
        """Return whether anything was forgotten."""
        return {"has_forgotten": self._has_forgotten}

    @classmethod
    def restore(
        cls,
        settings: Mapping[str, Any],
        arrays: Arrays,
        record: Mapping[str, Any],
        user_items: Interactions,
    ) -> Self:
        """Rebuild from :meth:`published`, without copying; the first removal sums up the co-occurrences.

        Raises
        ------
        ValueError
            ``similarity`` does not fit ``user_items``.
        """
        similarity, n_items = arrays["similarity"], user_items.shape[1]
        if not sp.issparse(similarity) or similarity.shape != (n_items, n_items):
            raise ValueError(
                f"similarity has the shape {similarity.shape}, but user_items has {n_items} items: "
                "they are not of one version"
            )
        model = cls(**settings)
        model._user_items = user_items
        model._forgotten = np.zeros(user_items.shape[0], dtype=np.bool_)
        model._packed = None, similarity
        model._has_forgotten = bool(record["has_forgotten"])
        return model

    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the model without its empty rows and columns, and hand it the sums.

        Only one of the two models has the sums: this one sums up again if it ever forgets.

        Cosine: the same model. TF-IDF and BM25 count the items there are, with or without interactions:
        if one goes, the result is what a fit on the smaller matrix gives, and costs as much. (To keep on
        counting an item that only forgotten users had would be a trace of them; and a weight
        ``(log I - log(1 + n_u))^2`` in other units for a new I is another rounding of every term.)

        Raises
        ------
        ValueError
            A row or column that is not kept has interactions.
        """
        kept = restricted(self.user_items, users, items)
        model = type(self)(self.K, self.weighting, self.K1, self.B)
        fewer = items.size != self.n_items
        if fewer and self.weighting != "cosine":
            model._derive(kept)
        else:
            pairs, self._pairs = self._pairs, None
            model._lists = None if fewer else self._lists
            model._packed = model._lists, self.similarity[items][:, items] if fewer else self.similarity
            model._pairs = pairs.renumber(items) if fewer and pairs is not None else pairs
            model._factor = None if self._factor is None else self._factor[items]
        model._user_items, model._forgotten = kept, self._forgotten[users]
        model._has_forgotten = self._has_forgotten
        return model


def _can_subtract(pairs: CoOccurrence, before: Interactions, after: Interactions) -> bool:
    """Tell whether the changed rows fit the units and the pattern of the sums.

    A user who had every item but one weighs nothing in TF-IDF and BM25 (idf 0), but more with fewer items:
    their pairs may be new to the pattern.
    """
    if pairs.unit == 1.0:
        return True
    sizes = np.diff(before.indptr)
    weighed_nothing = before.data[before.indptr[:-1][sizes > 0]] == 0.0
    return bool(_fit_units(after) and not weighed_nothing.any())


def inverse_norms(diagonal: FloatArray) -> FloatArray:
    """Return ``1 / sqrt(C_ii)``, 0 for an item that weighs nothing."""
    norms = np.sqrt(diagonal)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0)


Lists: TypeAlias = tuple[NDArray[np.int32], FloatArray, IntVector]
"""ids [n_items, K] ascending, -1 where unused; their scores; how many are used [n_items]."""


def _empty_lists(n_items: int, k: int) -> Lists:
    width = min(k, n_items)
    ids = np.full((n_items, width), -1, dtype=np.int32)
    return ids, np.zeros((n_items, width)), np.zeros(n_items, dtype=np.int64)


def _unpack(similarity: Interactions, k: int) -> Lists:
    lists = _empty_lists(similarity.shape[0], k)
    neighbour_kernels.unpack_lists(*csr_arrays(similarity), *lists)
    return lists


def _pack(ids: NDArray[np.int32], scores: FloatArray, counts: IntVector) -> Interactions:
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    indices, data = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1])
    neighbour_kernels.pack_lists(ids, scores, counts, indptr, indices, data)
    lists: Interactions = sp.csr_matrix((data, indices, indptr), shape=(counts.size, counts.size))
    lists.has_sorted_indices = True
    lists.has_canonical_format = True
    return lists


def nearest(pairs: CoOccurrence, factor: FloatArray, k: int) -> Interactions:
    """Rank everything afresh: the lists of the ``k`` nearest, CSR [n_items, n_items]."""
    return _pack(*_nearest_lists(pairs, factor, k))


def _nearest_lists(pairs: CoOccurrence, factor: FloatArray, k: int) -> Lists:
    lists = _empty_lists(factor.size, k)
    _rank(np.arange(factor.size), pairs, factor, lists)
    return lists


def _rank(items: IntVector, pairs: CoOccurrence, factor: FloatArray, lists: Lists) -> None:
    with kernels.threads_for(float(pairs.length[items].sum())):
        neighbour_kernels.rank_rows(items, *pairs.arrays, factor, *lists)


def _repair_lists(
    pairs: CoOccurrence, touched: IntVector, factor: FloatArray, old_factor: FloatArray, lists: Lists
) -> IntVector:
    """Repair the lists of touched items, and others where that is enough; return those to rank afresh."""
    is_touched = np.zeros(factor.size, dtype=np.bool_)
    is_touched[touched] = True
    others, work = int(pairs.length[~is_touched].sum()), int(pairs.length[touched].sum())
    if others <= work:
        return np.arange(factor.size)  # to rank them all reads less
    is_stale = np.zeros(factor.size, dtype=np.bool_)
    with kernels.threads_for(float(work)):
        first, sizes, to, offers = neighbour_kernels.rank_touched(
            touched, is_touched, *pairs.arrays, factor, old_factor, *lists, is_stale
        )
    neighbour_kernels.put_offers(touched, first, sizes, to, offers, *lists)
    return np.flatnonzero(is_stale)
