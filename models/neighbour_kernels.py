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
        heap_ids = np.empty(ids.shape[1], dtype=np.int64)
        heap_scores = np.empty(ids.shape[1])
        room = np.empty(factor.size)
        for place in range(stripe, items.size, STRIPES):
            i = items[place]
            row = columns[start[i] : start[i] + length[i]]
            for k in range(row.size):
                room[k] = sum_of(coarse, fine, unit, start[i] + k) * (factor[i] * factor[row[k]])
            size, least = 0, _reached(ids[i], counts[i], row, room)
            for k in range(row.size):
                if room[k] >= least and (size < ids.shape[1] or room[k] > least):
                    size = _offer(heap_ids, heap_scores, size, row[k], room[k])
                    if size == ids.shape[1]:  # from now on an equal score has a higher id: it ranks behind
                        least = heap_scores[0]
            _sort_by_id(heap_ids, heap_scores, size)
            ids[i, :size] = heap_ids[:size]
            scores[i, :size] = heap_scores[:size]
            ids[i, size:] = -1
            scores[i, size:] = 0.0
            counts[i] = size


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
def update_neighbours(
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
) -> None:
    """Offer the touched ``items`` with their new factors to the lists of all others, in place.

    A list that ``is_touched`` is left alone. The sums C_ij of all others did not change, so that the score
    of a touched item in it moves with that item's factor. If it grew, the new list is the best K of the old
    list and the touched items; if it fell, one from outside the list may be better now: ``is_stale`` bool
    [n_items] is set where such an item may have been in the list. Lists come and go as in
    :func:`rank_rows`. Every thread takes a range of the lists and scans all ``items``.
    """
    n_items, size_max = ids.shape
    width = (n_items + STRIPES - 1) // STRIPES
    for stripe in numba.prange(STRIPES):
        low, high = min(n_items, stripe * width), min(n_items, (stripe + 1) * width)
        worst = np.full(high - low, np.inf)  # nothing is offered to a touched list, or to a stale one
        for i in range(low, high):
            if not is_touched[i]:
                worst[i - low] = _worst(scores[i], counts[i])
        for place in range(items.size):
            j = items[place]
            falls = factor[j] < old_factor[j]
            reference = old_factor[j] if falls else factor[j]
            row = columns[start[j] : start[j] + length[j]]
            for k in range(np.searchsorted(row, low), np.searchsorted(row, high)):
                i = row[k]
                weight = sum_of(coarse, fine, unit, start[j] + k)
                reach = weight * (factor[i] * reference)
                if reach == 0.0 or reach < worst[i - low]:
                    continue
                if falls and (counts[i] == size_max or factor[j] == 0.0):
                    is_stale[i] = True
                    worst[i - low] = np.inf
                else:
                    _put(ids[i], scores[i], counts, i, j, weight * (factor[i] * factor[j]))
                    worst[i - low] = _worst(scores[i], counts[i])


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
