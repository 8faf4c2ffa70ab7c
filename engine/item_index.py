"""An approximate index of item factors, for catalogues that are too large to score whole for every answer.

A product quantiser (Jegou, Douze and Schmid 2011): item factors are turned by a fixed random rotation and cut
into pairs of numbers, and each pair becomes the number of one of sixteen centroids. A query then reads 4 bits
where the factors have 64, and what comes out on top is scored again with the factors themselves. Items are
divided by the octave of their length first, each octave with centroids of its own (as Norm-Ranging LSH does,
Yan et al. 2018): what everybody has is a hundred times as long as most items, and among centroids that tell
such items apart, the others would all be one. Octaves of few items need no codes: those are always scored.
For similar items there is a second one, of the same factors at length one: cosines know no octaves.

It is made of the version's own factors whenever a version is loaded, kept in memory only, and goes with its
version: nothing of it is ever repaired or written. That is why it is this kind of index: it is built in
seconds where a graph takes minutes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.factorization import Factorization, FloatArray, normalised
from .state import StateError

Index: TypeAlias = Literal["exact", "pq"]
"""How what is ranked is found: every item is scored, or those that a product quantiser names."""

_Rows: TypeAlias = Callable[[NDArray[np.int64]], FloatArray]
"""Positions -> the rows that are to be told apart by codes."""

RECALL = 0.99
"""The share of the exact top ten that has to be among the candidates; else there is no index."""

LEAST_ITEMS = 1024
"""Below it there is too little to train a quantiser on."""

_TOP = 10  # what recall is of
_ASKED = 64  # users, and items
_MOST_CANDIDATES = 16  # one item in so many at the most: with more to score again, all are scored as fast
_TRAINING_ROWS = 4096  # 256 for each centroid
_ROWS_AT_ONCE = 65_536
_FEW = 128  # items in an octave that are scored always


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Names the items among which a query's best are; a :class:`~recunlearn.models.factorization.Shortlist`.

    Attributes
    ----------
    item_factors : [n_items, k], of the version that it was built for.

    Notes
    -----
    Thread-safe. ``k / 4`` bytes an item, and as many once more where similar items have codes.
    """

    item_factors: FloatArray
    _scores: "_Search"
    _cosines: "_Search | None"

    @property
    def candidates(self) -> int:
        """How many are scored for each item that is served."""
        return self._scores.candidates

    @property
    def recall(self) -> float:
        """The share of the exact top ten of the users asked that was among so many."""
        return self._scores.recall

    @property
    def similar_candidates(self) -> int | None:
        """The same for similar items; None: every item is scored for them."""
        return None if self._cosines is None else self._cosines.candidates

    @property
    def similar_recall(self) -> float:
        """The share of the ten most like each of the items asked that was among so many."""
        return 1.0 if self._cosines is None else self._cosines.recall

    def codes(self) -> bytes:
        """Return all that it holds of the items, codes and centroids, as bytes."""
        import faiss

        searches = [self._scores] if self._cosines is None else [self._scores, self._cosines]
        strata = [part for search in searches for _, part in search.codes.strata]
        return b"".join(faiss.serialize_index(part).tobytes() for part in strata)

    def near(self, query: FloatArray, n: int, seen: int) -> NDArray[np.int64] | None:
        """Name the candidates for ``n`` items besides ``seen`` that are left out; None: score all.

        Returns
        -------
        int64, ascending: at least ``n + seen`` items that somebody has.
        """
        return self._scores.candidates_for(query, n, seen)

    def alike(self, item: int, n: int) -> NDArray[np.int64] | None:
        """Name the candidates for the ``n`` items most like one, itself among them; None: score all.

        Returns
        -------
        int64, ascending: at least ``n`` items that somebody has.
        """
        if self._cosines is None:
            return None
        found = self._cosines.candidates_for(normalised(self.item_factors[[item]])[0][0], n)
        return None if found is None else np.union1d(found, [item])


@dataclass(frozen=True, eq=False)
class _Search:
    """Codes, and how many candidates of them it takes for each item that is served, at which recall."""

    codes: "_Codes"
    candidates: int
    recall: float

    @classmethod
    def of(cls, codes: "_Codes", places: NDArray[np.float64]) -> "_Search | None":
        """Find how many it takes, if what is wanted is in these places of their order; None: too many."""
        if not places.size:
            return None
        needed = places[math.ceil(RECALL * places.size) - 1] + 1
        if needed > codes.most:
            return None
        candidates = math.ceil(needed / _TOP)
        return cls(codes, candidates, float((places < candidates * _TOP).mean()))

    def candidates_for(self, query: FloatArray, n: int, seen: int = 0) -> NDArray[np.int64] | None:
        """Name them, ascending; None: they are too many to be worth it."""
        wanted = self.candidates * max(n, _TOP) + seen
        if wanted > self.codes.most:
            return None
        found = self.codes.ranked(query, wanted)
        return np.sort(np.concatenate([self.codes.always, found])) if found.size == wanted else None


def require_index(index: Index) -> None:
    """Make sure that an index can be built here.

    Raises
    ------
    StateError
        There is none of that name, or the library for it is not installed.
    """
    if index not in get_args(Index):
        raise StateError(f"there is no index {index!r}; choose one of {', '.join(get_args(Index))}")
    if index != "exact":
        try:
            import faiss  # noqa: F401  # asked for here, so that it is not missed in the middle of a swap
        except ImportError:
            raise StateError(
                f"the index {index!r} needs faiss, which is not installed; pip install 'recunlearn[ann]'"
            ) from None


def build_item_index(model: Factorization) -> ItemIndex | None:
    """Build product quantisers on a model's item factors, and find how many candidates they need.

    That is asked of users and items of the model, drawn at random: where in the quantiser's order the items
    of their exact top ten are.

    Returns
    -------
    None where scoring every item is no slower: few items, or factors that the codes tell apart too badly.

    Notes
    -----
    O(n_items k), on one thread and without the interpreter's lock.
    """
    factors = model.item_factors
    lengths = np.sqrt(np.einsum("ij,ij->i", factors, factors))
    usable = np.flatnonzero(lengths)
    if usable.size < LEAST_ITEMS:
        return None
    codes = _Codes.of(lambda items: factors[items], [usable[part] for part in octaves(lengths[usable])])
    scores = _Search.of(codes, _places_of_the_best(model, codes)) if codes.strata else None
    if scores is None:
        return None
    unit_codes = _Codes.of(lambda items: normalised(factors[items])[0], [usable])
    return ItemIndex(factors, scores, _Search.of(unit_codes, _places_of_similar(model, usable, unit_codes)))


@dataclass(frozen=True, eq=False)
class _Codes:
    """Quantisers, each with the items that are in it: its numbers are positions among them."""

    always: NDArray[np.int64]
    strata: list[tuple[NDArray[np.int64], Any]]

    @classmethod
    def of(cls, rows: _Rows, parts: list[NDArray[np.int64]]) -> "_Codes":
        few = [items for items in parts if items.size < _FEW]
        always = np.concatenate([np.zeros(0, np.int64), *few])
        return cls(always, [(items, _quantiser(rows, items)) for items in parts if items.size >= _FEW])

    @property
    def most(self) -> int:
        """How many candidates are still worth it."""
        return sum(items.size for items, _ in self.strata) // _MOST_CANDIDATES

    def ranked(self, query: FloatArray, n: int) -> NDArray[np.int64]:
        """Rank items by their codes, without those that are scored always: int64 [<= n], best first."""
        import faiss

        faiss.omp_set_num_threads(1)  # a second one costs more than it scans, in each thread that asks
        found, scores = [], []
        for items, quantiser in self.strata:
            near, positions = quantiser.search(_plain(query[None]), min(n, items.size))
            real = positions[0] >= 0
            found.append(items[positions[0][real]])
            scores.append(near[0][real])
        best: NDArray[np.int64] = np.concatenate(found)
        return best[np.argsort(-np.concatenate(scores), kind="stable")[:n]]


def octaves(lengths: FloatArray) -> list[NDArray[np.int64]]:
    """Divide positions by length: in each part the longest is at most twice as long as the others.

    Parameters
    ----------
    lengths : [n], positive.

    Returns
    -------
    int64, ascending each, the longest first.

    Examples
    --------
    >>> [part.tolist() for part in octaves(np.array([1.0, 9.0, 8.0, 1.1, 2.5]))]
    [[1, 2], [4], [0, 3]]
    """
    order = np.argsort(-lengths, kind="stable")
    descending = -lengths[order]
    parts, start = [], 0
    while start < order.size:
        end = int(np.searchsorted(descending, descending[start] / 2, side="right"))
        parts.append(np.sort(order[start:end]))
        start = end
    return parts


def _quantiser(rows: _Rows, items: NDArray[np.int64]) -> Any:
    """Train a quantiser on some items, and put all of them in."""
    import faiss

    faiss.omp_set_num_threads(1)  # of this thread's calls: the worker beside us has other things to do
    few = np.random.default_rng(0).choice(items, min(items.size, _TRAINING_ROWS), replace=False)
    sample = _plain(rows(few))
    width = sample.shape[1]
    pairs = width // 2 + width % 2
    pairs += pairs % 2  # codes are scanned two at a time
    quantiser: Any = faiss.index_factory(width, f"RR{2 * pairs},PQ{pairs}x4fs", faiss.METRIC_INNER_PRODUCT)
    codes: Any = faiss.downcast_index(quantiser.index)
    codes.pq.cp.min_points_per_centroid = 1  # else it warns of small octaves
    quantiser.train(sample)
    for at in range(0, items.size, _ROWS_AT_ONCE):
        quantiser.add(_plain(rows(items[at : at + _ROWS_AT_ONCE])))
    return quantiser


def _plain(rows: FloatArray) -> FloatArray:
    return np.ascontiguousarray(rows, np.float32)


def _places_of_the_best(model: Factorization, codes: _Codes) -> NDArray[np.float64]:
    """Look up where the exact top ten of some users are in the order of the codes, ascending; inf: too far.

    Items that a user has are left out of both, as they are when it is served.
    """
    places = []
    for user in _some_users(model):
        own = model.user_items[user]
        best, _ = model.recommend(int(user), own, N=_TOP)
        order = codes.ranked(model.user_factors[user], codes.most + own.nnz)
        places += _places(best, order[np.isin(order, own.indices, invert=True)], codes)
    return np.sort(np.concatenate(places)) if places else np.zeros(0)


def _places_of_similar(model: Factorization, usable: NDArray[np.int64], codes: _Codes) -> NDArray[np.float64]:
    """Look up the same of the ten items most like each of some items."""
    asked = np.random.default_rng(1).choice(usable, min(usable.size, _ASKED), replace=False)
    alike, _ = model.similar_items(asked, N=_TOP + 1)  # so many at once are exact
    unit, _ = normalised(model.item_factors[asked])
    places = []
    for item, query, best in zip(asked, unit, alike, strict=True):
        order = codes.ranked(query, codes.most + 1)
        places += _places(best[(best != item) & (best >= 0)][:_TOP], order[order != item], codes)
    return np.sort(np.concatenate(places))


def _places(best: NDArray[Any], order: NDArray[np.int64], codes: _Codes) -> list[NDArray[np.float64]]:
    """Look up where the best are in an order; 0: always scored; inf: too far."""
    always = np.zeros(np.isin(best, codes.always).sum())
    found = np.flatnonzero(np.isin(order, best)).astype(np.float64)
    return [always, found, np.full(best.size - always.size - found.size, np.inf)]


def _some_users(model: Factorization) -> NDArray[np.int64]:
    """Draw users that something is recommended to; the same ones for the same model."""
    n_users = model.user_factors.shape[0]
    drawn = np.random.default_rng(0).choice(n_users, min(n_users, 4 * _ASKED), replace=False)
    chosen: NDArray[np.int64] = drawn[np.any(model.user_factors[drawn] != 0, axis=1)][:_ASKED]
    return chosen
