"""The kernels of ranked lists: the best of a row of scores, and the neighbours of every item."""

from typing import Any

import numba
import numpy as np

from .kernels import STRIPES, kernel, parallel_kernel
from .pair_kernels import sum_of


@kernel
def top_n(scores: Any, usable: Any, n: int) -> Any:
    """Return the ids of the ``n`` largest ``scores`` among ``usable``; ties go to the lower id.

    scores float64 [m], usable bool [m]; int64 [at most n], best first. NaN is never returned.
    O(m + n log n log m) expected, by a heap of n.
    """
    ids = np.empty(n, dtype=np.int64)
    best = np.empty(n)
    size = 0
    for i in range(scores.size):
        if usable[i] and scores[i] == scores[i]:
            size = _offer(ids, best, size, i, scores[i])
    out = np.empty(size, dtype=np.int64)
    for place in range(size - 1, -1, -1):
        out[place] = ids[0]
        _replace_worst(ids, best, place, ids[place], best[place])
    return out


@kernel
def _offer(ids: Any, scores: Any, size: int, item: int, score: float) -> int:
    """Offer an item to a heap of the best: its root is the worst (lowest score, then highest id)."""
    if size < ids.size:
        at = size
        while at > 0:
            parent = (at - 1) // 2
            if not _is_worse(score, item, scores[parent], ids[parent]):
                break
            ids[at], scores[at] = ids[parent], scores[parent]
            at = parent
        ids[at], scores[at] = item, score
        return size + 1
    if size and _is_worse(scores[0], ids[0], score, item):
        _replace_worst(ids, scores, size, item, score)
    return size


@kernel
def _is_worse(score: float, item: int, other_score: float, other: int) -> bool:
    """Tell whether an item ranks behind another: a lower score, or the same and a higher id."""
    return score < other_score or (score == other_score and item > other)


@kernel
def _replace_worst(ids: Any, scores: Any, size: int, item: int, score: float) -> None:
    """Put an item in the place of the root of a heap of ``size`` and let it sink."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _is_worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not _is_worse(scores[child], ids[child], score, item):
            break
        ids[at], scores[at] = ids[child], scores[child]
        at = child
    if size:
        ids[at], scores[at] = item, score


@parallel_kernel
def rank_rows(
    items: Any,
    start: Any,
    length: Any,
    columns: Any,
    coarse: Any,
    fine: Any,
    unit: float,
    factor: Any,
    ids: Any,
    scores: Any,
    counts: Any,
) -> None:
    """Rank the neighbours of ``items`` afresh: the K largest ``C_ij factor_i factor_j``.

    Row i of ids int32 [n_items, K] (ascending), scores float64 [n_items, K] and counts int64 [n_items]
    comes as the old list, or with a count of 0, and is written; places that are not used become -1 and 0.
    Ties go to the lower id; zeros are no neighbours.
    """
    for stripe in numba.prange(STRIPES):
        heap_ids, heap_scores = np.empty(ids.shape[1], dtype=np.int64), np.empty(ids.shape[1])
        room = np.empty(factor.size)
        for place in range(stripe, items.size, STRIPES):
            i = items[place]
            row = columns[start[i] : start[i] + length[i]]
            _score_row(coarse, fine, unit, start[i], row, factor, factor[i], room)
            counts[i] = _rank_row(row, room, heap_ids, heap_scores, ids[i], scores[i], counts[i])


@kernel
def _score_row(
    coarse: Any, fine: Any, unit: float, first: int, row: Any, factor: Any, own: float, room: Any
) -> None:
    """Write the scores ``C_ij own factor_j`` of a row of sums, stored from ``first``, to ``room``."""
    for k in range(row.size):
        room[k] = sum_of(coarse, fine, unit, first + k) * (own * factor[row[k]])


@kernel
def _rank_row(row: Any, room: Any, heap_ids: Any, heap_scores: Any, ids: Any, scores: Any, count: int) -> int:
    """Write the best of the scores in ``room`` to a list that holds the old one; return how many."""
    size, least = 0, _reached(ids, count, row, room)
    for k in range(row.size):
        if room[k] >= least and (size < ids.size or room[k] > least):
            size = _offer(heap_ids, heap_scores, size, row[k], room[k])
            if size == ids.size:  # from now on an equal score has a higher id: it ranks behind
                least = heap_scores[0]
    _sort_by_id(heap_ids, heap_scores, size)
    ids[:size] = heap_ids[:size]
    scores[:size] = heap_scores[:size]
    ids[size:] = -1
    scores[size:] = 0.0
    return size


@kernel
def neighbour_scores(
    row_items: Any, row_values: Any, indptr: Any, indices: Any, data: Any, scores: Any, found: Any
) -> None:
    """Score items by the neighbours of a row's items: ``scores_j = sum_i x_i S_ij``; S in CSR.

    ``scores`` float64 [n_items] and ``found`` bool [n_items] come as zeros and False.
    """
    for e in range(row_items.size):
        for k in range(indptr[row_items[e]], indptr[row_items[e] + 1]):
            scores[indices[k]] += row_values[e] * data[k]
            found[indices[k]] = True


@kernel
def _reached(ids: Any, count: int, row: Any, scores: Any) -> float:
    """Return a score that the K best reach for certain: the lowest that the K of the old list have now.

    The smallest positive number where the old list is not full, or has lost one.
    """
    least = np.inf if count == ids.size else 0.0
    for item in ids[: count if least else 0]:
        at = np.searchsorted(row, item)
        least = min(least, scores[at]) if at < row.size and row[at] == item else 0.0
    return max(least, 5e-324)


@kernel
def _sort_by_id(ids: Any, scores: Any, size: int) -> None:
    """Sort the first ``size`` by id, in place: by insertion if they are few."""
    if size > 64:
        order = np.argsort(ids[:size])
        ids[:size] = ids[:size][order]
        scores[:size] = scores[:size][order]
        return
    for k in range(1, size):
        item, score = ids[k], scores[k]
        at = k
        while at > 0 and ids[at - 1] > item:
            ids[at], scores[at] = ids[at - 1], scores[at - 1]
            at -= 1
        ids[at], scores[at] = item, score


@parallel_kernel
def rank_touched(
    items: Any,
    is_touched: Any,
    start: Any,
    length: Any,
    columns: Any,
    coarse: Any,
    fine: Any,
    unit: float,
    factor: Any,
    old_factor: Any,
    ids: Any,
    scores: Any,
    counts: Any,
    is_stale: Any,
) -> Any:
    """Rank the touched ``items`` afresh and find which other lists they may enter or leave.

    Only the factors of the touched items changed, and the sums between two of them; ``old_factor`` is from
    before. If the score of a touched item in an untouched list grew, the new list is the best K of the old
    list and the touched items: what may be among them is returned. If it fell, one from outside the list may
    be better now: ``is_stale`` bool [n_items] is set where such an item may have been in the list. Lists come
    and go as in :func:`rank_rows`, the untouched ones unchanged.

    Returns
    -------
    first, sizes : int64 [k]: what item k offers lies at ``first[k] : first[k] + sizes[k]`` of the others.
    to : int32, an untouched list. offers : float64, the score of the item in it.
    """
    worst = np.full(factor.size, np.inf)  # nothing is offered to a touched list
    for i in numba.prange(factor.size):
        if not is_touched[i]:
            worst[i] = _worst(scores[i], counts[i])
    first, sizes = np.cumsum(length[items]) - length[items], np.zeros(items.size, dtype=np.int64)
    to, offers = np.empty(length[items].sum(), dtype=np.int32), np.empty(length[items].sum())
    for stripe in numba.prange(STRIPES):
        heap_ids, heap_scores = np.empty(ids.shape[1], dtype=np.int64), np.empty(ids.shape[1])
        room = np.empty(factor.size)
        for place in range(stripe, items.size, STRIPES):
            j = items[place]
            row = columns[start[j] : start[j] + length[j]]
            _score_row(coarse, fine, unit, start[j], row, factor, factor[j], room)
            counts[j] = _rank_row(row, room, heap_ids, heap_scores, ids[j], scores[j], counts[j])
            falls = factor[j] < old_factor[j]
            if falls:
                _score_row(coarse, fine, unit, start[j], row, factor, old_factor[j], room)
            at = first[place]
            for k in range(row.size):
                i = row[k]
                if room[k] < worst[i] or room[k] == 0.0:
                    continue
                if falls and (counts[i] == ids.shape[1] or factor[j] == 0.0):
                    is_stale[i] = True
                else:
                    to[at] = i
                    offers[at] = sum_of(coarse, fine, unit, start[j] + k) * (factor[j] * factor[i])
                    at += 1
            sizes[place] = at - first[place]
    return first, sizes, to, offers


@kernel
def put_offers(
    items: Any, first: Any, sizes: Any, to: Any, offers: Any, ids: Any, scores: Any, counts: Any
) -> None:
    """Put what :func:`rank_touched` returned into the lists, in place."""
    for place in range(items.size):
        for at in range(first[place], first[place] + sizes[place]):
            i = to[at]
            _put(ids[i], scores[i], counts, i, items[place], offers[at])


@kernel
def _worst(scores: Any, count: int) -> float:
    """Return the lowest score of a full list; 0 for one with room."""
    return float(scores.min()) if count == scores.size else 0.0


@kernel
def _put(ids: Any, scores: Any, counts: Any, i: int, item: int, score: float) -> None:
    """Put an item into list i (ids ascending), or its new score; the worst gives way if the list is full."""
    size = counts[i]
    at = np.searchsorted(ids[:size], item)
    if at < size and ids[at] == item:
        scores[at] = score
        return
    if size == ids.size:
        out = 0
        for k in range(1, size):
            if scores[k] <= scores[out]:  # of equals the highest id goes
                out = k
        if not _is_worse(scores[out], ids[out], score, item):
            return
        size -= 1
        for k in range(out, size):
            ids[k], scores[k] = ids[k + 1], scores[k + 1]
        if out < at:
            at -= 1
    for k in range(size, at, -1):
        ids[k], scores[k] = ids[k - 1], scores[k - 1]
    ids[at], scores[at] = item, score
    counts[i] = size + 1


@kernel
def unpack_lists(indptr: Any, indices: Any, data: Any, ids: Any, scores: Any, counts: Any) -> None:
    """Spread CSR lists over rows of ``ids`` [n, K] (-1 where unused) and ``scores`` (0)."""
    for i in range(counts.size):
        size = indptr[i + 1] - indptr[i]
        counts[i] = size
        ids[i, :size] = indices[indptr[i] : indptr[i + 1]]
        scores[i, :size] = data[indptr[i] : indptr[i + 1]]
        ids[i, size:] = -1
        scores[i, size:] = 0.0


@kernel
def pack_lists(ids: Any, scores: Any, counts: Any, indptr: Any, indices: Any, data: Any) -> None:
    """Collect lists into CSR; ``indptr`` [n + 1] is given, ``indices`` and ``data`` are written."""
    for i in range(counts.size):
        indices[indptr[i] : indptr[i + 1]] = ids[i, : counts[i]]
        data[indptr[i] : indptr[i + 1]] = scores[i, : counts[i]]
