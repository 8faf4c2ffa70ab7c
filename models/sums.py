"""Sums of rows as a value: added, subtracted and merged in any order, over any partition, to the same bits.

One machine, silos that share no rows, and the partitions of a cluster all do the same: each sums up the rows
that it has (:func:`sums_of`), somebody merges (:func:`merge`), and ``models.summed`` makes the model that a
fit on all rows would have made. Everything is a whole number, or a whole number of 2^-62: see
:mod:`~recunlearn.models.statistics`.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from . import sums_kernels
from .base import Interactions
from .item_knn import weigh
from .merging import merged
from .statistics import CoOccurrence, IntArray, gram_is_exact
from .sums_statistic import Kind as Kind
from .sums_statistic import Statistic as Statistic
from .sums_statistic import SumsError as SumsError

LARGEST: Final = 2**61
"""No count, degree or sum on the diagonal reaches this; by Cauchy and Schwarz then no other sum does."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of rows, in the one form that they can have: equal sums have equal arrays.

    Attributes
    ----------
    statistic : what is summed.
    users : how many rows with interactions.
    counts : int64 [n_items], the users of each item.
    degrees : int64 [n_items], the sum of each item's values; [0] where the statistic has none.
    keys : int64 [p], ``i * n_items + j`` with i <= j, ascending: the pairs whose sum is not zero.
    coarse : int64 [p], whole units.
    fine : int64 [p], 0 <= fine < 2^38, parts of a unit; [0] where the statistic has none.

    Examples
    --------
    >>> gram = Statistic("whole", 3)
    >>> one, two = (sums_of(sp.csr_matrix([row]), gram) for row in ([1.0, 2.0, 0.0], [0.0, 1.0, 0.0]))
    >>> both = one.add(two)
    >>> both.keys, both.coarse
    (array([0, 1, 4]), array([1, 2, 5]))
    >>> both.subtract(two).same_as(one)
    True
    """

    statistic: Statistic
    users: int
    counts: IntArray
    degrees: IntArray
    keys: IntArray
    coarse: IntArray
    fine: IntArray

    @classmethod
    def nothing(cls, statistic: Statistic) -> "Sums":
        """Return the sums of no rows."""
        n_items, none = statistic.n_items, np.zeros(0, np.int64)
        degrees = np.zeros(n_items if statistic.has_degrees else 0, np.int64)
        return cls(statistic, 0, np.zeros(n_items, np.int64), degrees, none, none, none)

    @property
    def arrays(self) -> dict[str, IntArray]:
        """The arrays by name: with ``statistic`` and ``users``, everything there is."""
        names = ("counts", "degrees", "keys", "coarse", "fine")
        return {name: getattr(self, name) for name in names}

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def same_as(self, other: "Sums") -> bool:
        """Tell whether these are the same sums: every bit."""
        return (self.statistic, self.users) == (other.statistic, other.users) and all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(self.arrays.values(), other.arrays.values(), strict=True)
        )

    def diagonal(self) -> IntArray:
        """Read the whole units of ``C_ii``: int64 [n_items], rounded up where there are parts."""
        n_items = self.statistic.n_items
        wanted = np.arange(n_items, dtype=np.int64) * (n_items + 1)
        at = np.minimum(np.searchsorted(self.keys, wanted), max(self.keys.size - 1, 0))
        out = np.zeros(n_items, np.int64)
        if self.keys.size:
            found = self.keys[at] == wanted
            out[found] = self.coarse[at[found]]
            if self.fine.size:
                out[found] += self.fine[at[found]] > 0
        return out

    def add(self, other: "Sums") -> "Sums":
        """Return the sums of both sets of rows, which must have no row in common.

        Raises
        ------
        SumsError
            They are of different statistics, or a total would not fit: nothing wraps.

        Notes
        -----
        One pass over both; O(p + q) memory.
        """
        self._require_same_statistic(other)
        for what, mine, theirs in (
            ("users", np.array([self.users]), np.array([other.users])),
            ("the users of item", self.counts, other.counts),
            ("the values of item", self.degrees, other.degrees),
            ("the squares of item", self.diagonal(), other.diagonal()),
        ):
            over = np.flatnonzero(mine + theirs >= LARGEST)  # each is below 2^61: this sum does not wrap
            if over.size:
                name = what if what == "users" else f"{what} {over[0]}"
                raise SumsError(
                    f"{name} would sum to 2^61 or more, which does not fit; scale the values down"
                )
        return self._merged(other, 1)

    def subtract(self, other: "Sums") -> "Sums":
        """Return what is left once the rows that ``other`` sums up are gone: as if they never were there.

        Raises
        ------
        SumsError
            They are of different statistics, or ``other`` has more of something than is here.
        """
        self._require_same_statistic(other)
        for what, mine, theirs in (
            ("user", np.array([self.users]), np.array([other.users])),
            ("user of item", self.counts, other.counts),
            ("value of item", self.degrees, other.degrees),
        ):
            below = np.flatnonzero(mine < theirs)
            if below.size:
                k = below[0]
                name = "users" if what == "user" else f"{what} {k}"
                raise SumsError(f"{theirs[k]} to be subtracted, {mine[k]} there ({name}): never added here")
        return self._merged(other, -1)

    def _require_same_statistic(self, other: "Sums") -> None:
        if self.statistic != other.statistic:
            raise SumsError(f"these are sums of {other.statistic}, not of {self.statistic}")

    def _merged(self, other: "Sums", sign: int) -> "Sums":
        out = _room(self.keys.size, other.keys.size, has_fine=self.statistic.has_fine)
        size = sums_kernels.merge_pairs(
            self.keys, self.coarse, self.fine, other.keys, other.coarse, other.fine, sign, *out
        )
        if size < 0:
            i, j = divmod(-1 - size, self.statistic.n_items)
            raise SumsError(f"more of items {i} and {j} is subtracted than is there: never added here")
        keys, coarse, fine = (array[:size].copy() for array in out)
        return replace(
            self,
            users=self.users + sign * other.users,
            counts=self.counts + sign * other.counts,
            degrees=self.degrees + sign * other.degrees,
            keys=keys,
            coarse=coarse,
            fine=fine,
        )

    def gram(self) -> NDArray[Any]:
        """Write C as a dense matrix [n_items, n_items]: int64 of whole numbers, else float64."""
        n_items = self.statistic.n_items
        if not self.statistic.has_fine:
            whole = np.zeros((n_items, n_items), np.int64)
            sums_kernels.whole_pairs(self.keys, self.coarse, whole)
            return whole
        out = np.zeros((n_items, n_items))
        sums_kernels.dense_pairs(self.keys, self.coarse, self.fine, self.statistic.unit, out)
        return out

    def co_occurrence(self) -> CoOccurrence:
        """Write C row by row, as ItemKNN has it: the same bits as from all rows at once."""
        length = np.zeros(self.statistic.n_items, np.int64)
        sums_kernels.count_mirrored(self.keys, length)
        start, total = np.cumsum(length) - length, int(length.sum())
        columns, coarse = np.empty(total, np.int32), np.empty(total, np.int64)
        fine = np.empty(total if self.statistic.has_fine else 0, np.int64)
        sums_kernels.mirror_pairs(self.keys, self.coarse, self.fine, start, columns, coarse, fine)
        return CoOccurrence(start, length, columns, coarse, fine, self.statistic.unit)


def sums_of(rows: Interactions, statistic: Statistic) -> Sums:
    """Sum up rows.

    Parameters
    ----------
    rows : canonical CSR [n, n_items], values > 0; not modified.
    statistic : what to sum.

    Raises
    ------
    SumsError
        The values cannot be summed exactly in this statistic, or the rows have another number of items.

    Notes
    -----
    Time O(sum_u |N(u)|^2 + m^2) with m items among the rows; memory 28 to 44 bytes for each of the pairs.

    Examples
    --------
    >>> sums = sums_of(sp.csr_matrix([[1.0, 0.0, 3.0]]), Statistic("whole", 3))
    >>> sums.users, sums.counts, sums.keys, sums.coarse
    (1, array([1, 0, 1]), array([0, 2, 8]), array([1, 3, 9]))
    """
    if rows.shape[1] != statistic.n_items:
        raise SumsError(f"the rows have {rows.shape[1]} items, the statistic {statistic.n_items}")
    weights = weigh_rows(rows, statistic)
    n_items = statistic.n_items
    counts = np.bincount(rows.indices, minlength=n_items).astype(np.int64)
    degrees = np.zeros(n_items if statistic.has_degrees else 0, np.int64)
    if statistic.has_degrees:
        degrees += np.bincount(rows.indices, _values(rows, statistic), minlength=n_items).astype(np.int64)
    items = np.flatnonzero(counts).astype(np.int64)
    place = np.zeros(n_items, np.int32)
    place[items] = np.arange(items.size)
    narrow: Interactions = sp.csr_matrix(
        (weights.data, place[weights.indices], weights.indptr), shape=(rows.shape[0], items.size)
    )
    pairs = CoOccurrence.of(narrow, 1.0 / statistic.unit)
    out = _room((int(pairs.length.sum()) + items.size + 1) // 2, has_fine=statistic.has_fine)
    size = sums_kernels.upper_pairs(*pairs.arrays[:5], items, n_items, *out)
    keys, coarse, fine = (array[:size].copy() for array in out)
    users = int(np.count_nonzero(np.diff(rows.indptr)))
    return Sums(statistic, users, counts, degrees, keys, coarse, fine)


def merge(parts: Iterable[Sums], statistic: Statistic) -> Sums:
    """Add any number of sums, in any order, to the same bits; none: the sums of nothing.

    Raises
    ------
    SumsError
        As :meth:`Sums.add`.

    Notes
    -----
    Each pair is passed over O(log parts) times, and O(log parts) sums are held (:func:`~.merging.merged`).
    """
    return merged(itertools.chain([Sums.nothing(statistic)], parts), Sums.add)


def _values(rows: Interactions, statistic: Statistic) -> NDArray[np.float64]:
    values = rows.data.astype(np.float64, copy=False)
    return np.ones_like(values) if statistic.binary else values


def weigh_rows(rows: Interactions, statistic: Statistic) -> Interactions:
    """Weigh rows as a statistic asks for; O(nnz).

    Raises
    ------
    SumsError
        The products of the weights cannot be summed without a trace.
    """
    values = _values(rows, statistic)
    counted: Interactions = sp.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)
    kind = statistic.kind
    if kind in ("whole", "normalised") and not gram_is_exact(counted):
        odd = np.flatnonzero((values != np.rint(values)) | (values > 2.0**26))
        which = f"a value is {values[odd[0]]}" if odd.size else "the squares of an item sum to 2^61 or more"
        raise SumsError(f"{which}; these sums take whole numbers up to 2^26: round or scale the values")
    if kind == "bm25" and np.any(values != 1.0):
        raise SumsError(
            f"a value is {values[values != 1.0][0]}; BM25 on values other than 1 does not separate into "
            "sums: use TF-IDF or cosine, or count every value as 1"
        )
    if kind == "whole":
        return counted
    if kind == "normalised":
        sizes = np.diff(counted.indptr)
        totals = np.asarray(counted.sum(axis=1, dtype=np.float64)).ravel()
        totals[totals == 0] = 1.0
        weights: Interactions = sp.csr_matrix(
            (values * np.repeat(totals**-statistic.user_power, sizes), rows.indices, rows.indptr),
            shape=rows.shape,
        )
    else:
        weights = weigh(counted, "cosine" if kind == "fractions" else kind)
    _require_fixed_point(weights)
    return weights


def _require_fixed_point(weights: Interactions) -> None:
    """Refuse weights of which fixed point would lose digits, or whose sums would not fit: as in ItemKNN."""
    sizes = np.abs(weights.data[weights.data != 0.0])
    if not sizes.size:
        return
    smallest, largest, rows = float(sizes.min()), float(sizes.max()), weights.shape[0]
    if smallest**2 < 2.0**-22 or largest**2 * rows > 2.0**38 or rows > 2**24:
        raise SumsError(
            f"weights from {smallest:g} to {largest:g} over {rows} rows do not fit the fixed point of "
            "the sums (products of 2^-22 and more, sums up to 2^38): scale the values, or sum fewer rows "
            "at a time"
        )


def _room(*sizes: int, has_fine: bool) -> tuple[IntArray, IntArray, IntArray]:
    """Make room for keys, coarse and fine sums, uninitialised."""
    size = sum(sizes)
    return np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size if has_fine else 0, np.int64)
