"""What the difference of two published versions says of items, by what is published.

Counts and sums over users where the publication gives them away (EASE's inverse, SpectralMF's scale of
items); else stored similarities, taken apart into what each item lost and what each pair lost; else how far
each item's vector moved, by its inner products with all others, which no rotation changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...models.base import IntVector
from .peeling import peel
from .served import FloatMatrix, FloatVector, Matrix, Served

_ROUNDS: Final = 30
_UNCHANGED: Final = 1e-14
"""Relative: below it a similarity has not moved, only been computed again."""


@dataclass(frozen=True)
class Evidence:
    """What two versions say about the items of those who left.

    Attributes
    ----------
    items : float64 [n_items], higher: more likely taken by somebody who left.
    is_count : whether ``items`` are numbers of people, so that one below a half clears an item.
    rows : items int64 [m] -> float64 [m, n_items]: how strongly others go with each in the difference; None
        where nothing is said of pairs.
    profiles : whole profiles that could be read, items int64 each; whose they are is not said.
    """

    items: FloatVector
    is_count: bool
    rows: Callable[[IntVector], FloatMatrix] | None
    profiles: Sequence[IntVector] = ()


def gather(before: Served, after: Served, popularity: FloatVector) -> Evidence:
    """Compare two versions item by item.

    Parameters
    ----------
    before, after : over the same items, of the same kind.
    popularity : float64 [n_items], how many have each item, roughly: what the attacker knows of the rest.

    Notes
    -----
    O(n_items^3) for an inverse, O(n_items k^2) for vectors, O(stored log stored) for similarities.

    Examples
    --------
    >>> from recunlearn.models import ItemKNN
    >>> from recunlearn.eval.attacks import served
    >>> rng = np.random.default_rng(0)
    >>> model = ItemKNN(K=20).fit(sp.csr_matrix((rng.random((300, 40)) < 0.1).astype(float)))
    >>> before, profile = served(model), model.user_items[7].indices
    >>> model.forget_users([7])
    >>> popularity = np.asarray(model.user_items.sum(axis=0)).ravel()
    >>> found = gather(before, served(model), popularity).items
    >>> np.flatnonzero(found > 0.5).tolist() == profile.tolist()
    True
    """
    rows = _row_difference(before, after)
    if before.counts is not None and after.counts is not None:
        found = Evidence(before.counts() - after.counts(), True, rows)
        if before.kind == "inverse":
            found = replace(found, profiles=_peeled(found))
    elif before.kind == "vectors":
        items = _moved_vectors(cast(FloatMatrix, before.items), cast(FloatMatrix, after.items))
        found = Evidence(items, False, rows)
    else:
        found = lost_by_similarity(sp.csr_matrix(before.items), sp.csr_matrix(after.items), popularity)
    vanished = _has_entries(before.items) & ~_has_entries(after.items)
    return replace(found, items=np.where(vanished, np.maximum(found.items, 1.0), found.items))


def _has_entries(items: Matrix) -> NDArray[np.bool_]:
    """Tell which rows have a value that is not zero: an item that nobody has any more has none."""
    return np.asarray(abs(sp.csr_matrix(items)).sum(axis=1)).ravel() > 0


def _peeled(found: Evidence) -> Sequence[IntVector]:
    """Read profiles out of a difference of whole sums: of choices, whose values are all 1."""
    if found.rows is None:
        return ()
    gram = np.rint(found.rows(np.arange(found.items.size))).astype(np.int64)
    return [profile.items for profile in peel(gram.diagonal(), gram) if np.all(profile.values == 1.0)]


def _row_difference(before: Served, after: Served) -> Callable[[IntVector], FloatMatrix] | None:
    first, second = before.sum_rows, after.sum_rows
    if first is None or second is None:
        return None
    return lambda known: first(known) - second(known)


def _moved_vectors(before: FloatMatrix, after: FloatMatrix) -> FloatVector:
    """Relative change of each item's inner products with all items: ``|q Q' - q~ Q~'| / |q Q'|``."""
    signed = np.hstack([before, -after])
    moved = np.linalg.norm(signed @ _triangle(np.hstack([before, after])).T, axis=1)
    size = np.linalg.norm(before @ _triangle(before).T, axis=1)
    return cast(FloatVector, np.divide(moved, size, out=np.zeros_like(moved), where=size > 0))


def _triangle(matrix: FloatMatrix) -> FloatMatrix:
    """R of the thin QR factorisation."""
    return cast(FloatMatrix, np.linalg.qr(matrix, mode="r"))


def lost_by_similarity(
    before: sp.csr_matrix[Any], after: sp.csr_matrix[Any], popularity: FloatVector
) -> Evidence:
    """Estimate from stored similarities how many users each item and each pair lost.

    With ``S_ij = C_ij / sqrt(d_i d_j)`` (cosine), ``log S~_ij / S_ij = g_i + g_j - h_ij``: ``g_i`` what item
    i's norm lost, ``h_ij >= 0`` what the pair lost. A similarity that has not moved clears both of its items;
    the other ``g`` are medians over the stored pairs, in rounds. Then ``d_i (1 - exp(-2 g_i))`` users left
    item i and ``C_ij (1 - exp(-h_ij))`` left the pair.
    """
    rows, columns, strength, moves = _moves(before, after)
    n_items = before.shape[0]
    lost = np.zeros(n_items)
    cleared = np.zeros(n_items, dtype=np.bool_)
    cleared[rows[moves == 0.0]] = True
    order = np.argsort(rows, kind="stable")
    rows, columns, strength, moves = rows[order], columns[order], strength[order], moves[order]
    sure = cleared[columns] | ~np.isin(rows, rows[cleared[columns]])  # beside a cleared item, g stands alone
    for _ in range(_ROUNDS):
        update = _group_medians(rows[sure], (moves - lost[columns])[sure], n_items)
        update[cleared] = 0.0
        lost = (lost + np.maximum(update, 0.0)) / 2
    size = popularity + 1.0
    people = size * -np.expm1(-2 * lost)
    together = strength * np.sqrt(size[rows] * size[columns])
    pair = together * -np.expm1(-np.maximum(lost[rows] + lost[columns] - moves, 0.0))
    pairs = sp.csr_matrix((pair, (rows, columns)), shape=before.shape) + sp.diags(people)
    return Evidence(people, False, lambda known: np.asarray(sp.csr_matrix(pairs)[known].toarray()))


def _moves(
    before: sp.csr_matrix[Any], after: sp.csr_matrix[Any]
) -> tuple[IntVector, IntVector, FloatVector, FloatVector]:
    """List pairs stored in both versions, both ways round: rows, columns, similarity, log of its move."""
    old, new = before.tocoo(), after.tocoo()
    n_items = before.shape[0]
    keys, new_keys = (np.asarray(m.row, np.int64) * n_items + m.col for m in (old, new))
    common, first, second = np.intersect1d(keys, new_keys, assume_unique=True, return_indices=True)
    rows, columns = np.divmod(common, n_items)
    usable = (rows != columns) & (old.data[first] > 0) & (new.data[second] > 0)
    left, right = old.data[first][usable].astype(np.float64), new.data[second][usable].astype(np.float64)
    moves = np.log(right / left)
    moves[np.abs(moves) < _UNCHANGED] = 0.0
    rows, columns = rows[usable], columns[usable]
    return (
        np.concatenate([rows, columns]),
        np.concatenate([columns, rows]),
        np.tile(left, 2),
        np.tile(moves, 2),
    )


def _group_medians(groups: IntVector, values: FloatVector, size: int) -> FloatVector:
    """Median of the values of each group, 0 for an empty one: float64 [size]; ``groups`` ascend."""
    order = np.lexsort((values, groups))
    starts = np.searchsorted(groups, np.arange(size + 1))
    counts = np.diff(starts)
    filled = np.flatnonzero(counts)
    medians = np.zeros(size)
    ordered = values[order]
    low = starts[filled] + (counts[filled] - 1) // 2
    medians[filled] = (ordered[low] + ordered[starts[filled] + counts[filled] // 2]) / 2
    return medians
