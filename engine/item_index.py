"""An approximate index of item factors, for catalogues that are too large to score whole for every answer.

A product quantiser (Jegou, Douze and Schmid 2011): item factors are turned by a fixed random rotation and cut
into pairs of numbers, and each pair becomes the number of one of sixteen centroids. A query then reads 4 bits
where the factors have 64, and what comes out on top is scored again with the factors themselves. Items are
divided by the octave of their length first, each octave with centroids of its own (as Norm-Ranging LSH does,
Yan et al. 2018): what everybody has is a hundred times as long as most items, and among centroids that tell
such items apart, the others would all be one. Octaves of few items need no codes: those are always scored.

It is made of the version's own factors whenever a version is loaded, kept in memory only, and goes with its
version: nothing of it is ever repaired or written. That is why it is this kind of index: it is built in
seconds where a graph takes minutes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.factorization import Factorization, FloatArray
from .state import StateError

Index: TypeAlias = Literal["exact", "pq"]
"""How what is ranked is found: every item is scored, or those that a product quantiser names."""

RECALL = 0.99
"""The share of the exact top ten that has to be among the candidates; else there is no index."""

LEAST_ITEMS = 1024
"""Below it there is too little to train a quantiser on."""

_TOP = 10  # what recall is of
_ASKED_USERS = 64
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
    candidates : how many for each item that is served.
    recall : the share of the exact top ten of the users asked that was among so many.

    Notes
    -----
    Thread-safe. ``k / 4`` bytes an item.
    """

    item_factors: FloatArray
    candidates: int
    recall: float
    _codes: "_Codes"

    def codes(self) -> bytes:
        """Return all that it holds of the items, codes and centroids, as bytes."""
        import faiss

        return b"".join(faiss.serialize_index(part).tobytes() for _, part in self._codes.strata)

    def near(self, query: FloatArray, n: int, seen: int) -> NDArray[np.int64] | None:
        """Name the candidates for ``n`` items besides ``seen`` that are left out; None: score all.

        Returns
        -------
        int64, ascending: at least ``n + seen`` items that somebody has.
        """
        wanted = self.candidates * max(n, _TOP) + seen
        if wanted > self._codes.most:
            return None
        found = self._codes.ranked(query, wanted)
        return np.sort(np.concatenate([self._codes.always, found])) if found.size == wanted else None


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
    """Build a product quantiser on a model's item factors, and find how many candidates it needs.

    That is asked of users of the model, drawn at random: where in the quantiser's order the items of their
    exact top ten are.

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
    codes = _Codes.of(factors, [usable[part] for part in octaves(lengths[usable])])
    if not codes.strata:
        return None
    places = _places_of_the_best(model, codes)
    if not places.size:
        return None
    needed = places[math.ceil(RECALL * places.size) - 1] + 1
    if needed > codes.most:
        return None
    candidates = math.ceil(needed / _TOP)
    return ItemIndex(factors, candidates, float((places < candidates * _TOP).mean()), codes)


@dataclass(frozen=True, eq=False)
class _Codes:
    """Quantisers, each with the items that are in it: its numbers are positions among them."""

    always: NDArray[np.int64]
    strata: list[tuple[NDArray[np.int64], Any]]

    @classmethod
    def of(cls, factors: FloatArray, parts: list[NDArray[np.int64]]) -> "_Codes":
        few = [items for items in parts if items.size < _FEW]
        always = np.concatenate([np.zeros(0, np.int64), *few])
        return cls(always, [(items, _quantiser(factors, items)) for items in parts if items.size >= _FEW])

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


def _quantiser(factors: FloatArray, items: NDArray[np.int64]) -> Any:
    """Train a quantiser on some items, and put all of them in."""
    import faiss

    faiss.omp_set_num_threads(1)  # of this thread's calls: the worker beside us has other things to do
    pairs = factors.shape[1] // 2 + factors.shape[1] % 2
    pairs += pairs % 2  # codes are scanned two at a time
    quantiser: Any = faiss.index_factory(
        factors.shape[1], f"RR{2 * pairs},PQ{pairs}x4fs", faiss.METRIC_INNER_PRODUCT
    )
    codes: Any = faiss.downcast_index(quantiser.index)
    codes.pq.cp.min_points_per_centroid = 1  # else it warns of small octaves
    few = np.random.default_rng(0).choice(items, min(items.size, _TRAINING_ROWS), replace=False)
    quantiser.train(_plain(factors[few]))
    for at in range(0, items.size, _ROWS_AT_ONCE):
        quantiser.add(_plain(factors[items[at : at + _ROWS_AT_ONCE]]))
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
        order = order[np.isin(order, own.indices, invert=True)]
        always = np.zeros(np.isin(best, codes.always).sum())
        found = np.flatnonzero(np.isin(order, best)).astype(np.float64)
        places += [always, found, np.full(best.size - always.size - found.size, np.inf)]
    return np.sort(np.concatenate(places)) if places else np.zeros(0)


def _some_users(model: Factorization) -> NDArray[np.int64]:
    """Draw users that something is recommended to; the same ones for the same model."""
    n_users = model.user_factors.shape[0]
    drawn = np.random.default_rng(0).choice(n_users, min(n_users, 4 * _ASKED_USERS), replace=False)
    chosen: NDArray[np.int64] = drawn[np.any(model.user_factors[drawn] != 0, axis=1)][:_ASKED_USERS]
    return chosen
