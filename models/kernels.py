"""Every Numba kernel: arrays in, arrays out, no objects.

Each kernel is decorated with :func:`kernel` (serial) or :func:`parallel_kernel`; both release the GIL,
cache what they compile on disk, keep IEEE arithmetic (no fastmath) and compile at the first call, never
at import. Each has a slow twin in the tests, written from the definition.

Code that may run in several threads at once (serving) calls serial kernels only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile ``function`` for one thread, without the GIL, with strict IEEE arithmetic."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False)(function))


def parallel_kernel(function: F) -> F:
    """Compile ``function`` with its ``numba.prange`` loops spread over the threads."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, parallel=True)(function))


_OPERATIONS_PER_THREAD = 2**18


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Run parallel kernels on as many threads as the work pays for.

    Waking a thread costs microseconds on an idle machine and a scheduler's slice on a busy one: small work
    stays on the calling thread. The results of these kernels do not depend on the number of threads.

    Examples
    --------
    >>> with threads_for(10):
    ...     numba.get_num_threads()
    1
    """
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(before, int(operations) // _OPERATIONS_PER_THREAD)))
    try:
        yield
    finally:
        numba.set_num_threads(before)


COARSE_BITS = 24
"""A unit of the coarse counter is 2^-24 of a contribution; of the fine one, 2^-38 of that."""

_FINE_BITS = 38
_FINE_UNITS = float(2**_FINE_BITS)
_FINE_MASK = 2**_FINE_BITS - 1
_STRIPES = 8
_LINE = 8  # float64 in a line of the cache
_MERGED = 2  # up to so many changed rows are merged into a row of sums one by one
_TILE = 192  # rows and columns: a tile and its factors stay in a core's own cache


@kernel
def sum_rows_of(row_items: Any, row_values: Any, matrix: Any, out: Any) -> None:
    """Write ``sum_e row_values[e] * matrix[row_items[e], :]`` to ``out``; float64 [n]."""
    out[:] = 0.0
    for e in range(row_items.size):
        value = row_values[e]
        row = matrix[row_items[e]]
        for j in range(out.size):
            out[j] += value * row[j]


@parallel_kernel
def sparse_times_dense(indptr: Any, indices: Any, data: Any, matrix: Any, out: Any) -> None:
    """Write ``R M`` to ``out`` [k, n]; R in CSR [k, m], M [m, n], both float64.

    In blocks of columns, so that a block of M is read from memory once and then from the cache.
    """
    width = 256
    n = matrix.shape[1]
    for block in numba.prange((n + width - 1) // width):
        low, high = block * width, min(n, (block + 1) * width)
        for r in range(out.shape[0]):
            target = out[r, low:high]
            target[:] = 0.0
            last = indptr[r + 1]
            for e in range(indptr[r], last - 1, 2):  # two terms at a time: half the stores
                first, second = matrix[indices[e], low:high], matrix[indices[e + 1], low:high]
                for j in range(target.size):
                    target[j] += data[e] * first[j] + data[e + 1] * second[j]
            if (last - indptr[r]) % 2:
                first = matrix[indices[last - 1], low:high]
                for j in range(target.size):
                    target[j] += data[last - 1] * first[j]


@parallel_kernel
def add_symmetric_low_rank(matrix: Any, rows: Any, signs: Any, probe: Any, products: Any) -> None:
    """Add ``rows' diag(signs) rows`` to ``matrix`` [n, n] in place and multiply the result by ``probe``.

    rows float64 [k, n], signs float64 [k], probe float64 [n]. ``M_ij`` and ``M_ji`` get the same bits.
    ``products`` float64 [stripes, n] is written: its rows sum to the probe's product with the symmetric
    result. One pass over the matrix: eight rows at a time, measured while they are in the cache.
    """
    n, stripes, rank = matrix.shape[0], products.shape[0], rows.shape[0]
    for stripe in numba.prange(stripes):
        product = products[stripe]
        product[:] = 0.0
        first, last = stripe * n // stripes, (stripe + 1) * n // stripes
        for start in range(first, last, 8):
            stop = min(start + 8, last)
            is_fused = rank > 0 and stop == start + 8
            for i in range(start, stop):
                for r in range(rank - 1 if is_fused else rank):
                    _add_multiple(matrix[i], rows[r], signs[r] * rows[r, i])
            if is_fused:
                factors = signs[-1] * rows[-1, start:stop]
                _add_to_eight(product, matrix[start:stop], factors, rows[-1], probe[start:stop])
            else:
                for i in range(start, stop):
                    _add_multiple(product, matrix[i], probe[i])


@parallel_kernel
def add_symmetric_product(matrix: Any, left: Any, right: Any) -> None:
    """Add ``left right`` to ``matrix`` [n, n] in place, where the product is symmetric.

    left float64 [n, k], right float64 [k, n], both C-contiguous. Only tiles of the lower triangle are
    multiplied (BLAS, one thread each: the caller sets that), added, and copied across the diagonal while they
    are in the cache: ``M_ij`` and ``M_ji`` get the same bits.
    """
    n = matrix.shape[0]
    tiles = (n + _TILE - 1) // _TILE
    for stripe in numba.prange(_STRIPES):
        room = np.empty(_TILE * _TILE)
        for task in range(stripe, tiles * tiles, _STRIPES):
            first, second = _TILE * (task // tiles), _TILE * (task % tiles)
            if second > first:
                continue
            rows, columns = slice(first, min(n, first + _TILE)), slice(second, min(n, second + _TILE))
            height, width = rows.stop - first, columns.stop - second
            product = room[: height * width].reshape(height, width)
            np.dot(left[rows], np.ascontiguousarray(right[:, columns]), product)
            for i in range(height):
                _add_multiple(matrix[first + i, columns], product[i], 1.0)
            _mirror_tile(matrix, first, rows.stop, second, columns.stop)


@kernel
def _mirror_tile(matrix: Any, first: int, last: int, left: int, right: int) -> None:
    """Copy a tile of the lower triangle across the diagonal, a cache line of it at a time."""
    for start in range(first, last, _LINE):
        stop = min(last, start + _LINE)
        for j in range(left, min(right, stop)):
            row = matrix[j]
            for i in range(max(j + 1, start), stop):
                row[i] = matrix[i, j]


@kernel
def _add_multiple(target: Any, row: Any, factor: float) -> None:
    for j in range(target.size):
        target[j] += factor * row[j]


@kernel
def _add_to_eight(product: Any, rows: Any, factors: Any, row: Any, probe: Any) -> None:
    """Add multiples of ``row`` to eight rows, and multiples of the result to ``product``, in one pass."""
    a, b, c, d, e, f, g, h = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for_a, for_b, for_c, for_d = factors[0], factors[1], factors[2], factors[3]
    for_e, for_f, for_g, for_h = factors[4], factors[5], factors[6], factors[7]
    of_a, of_b, of_c, of_d = probe[0], probe[1], probe[2], probe[3]
    of_e, of_f, of_g, of_h = probe[4], probe[5], probe[6], probe[7]
    for j in range(product.size):
        x = row[j]
        new_a, new_b, new_c, new_d = a[j] + for_a * x, b[j] + for_b * x, c[j] + for_c * x, d[j] + for_d * x
        new_e, new_f, new_g, new_h = e[j] + for_e * x, f[j] + for_f * x, g[j] + for_g * x, h[j] + for_h * x
        a[j], b[j], c[j], d[j] = new_a, new_b, new_c, new_d
        e[j], f[j], g[j], h[j] = new_e, new_f, new_g, new_h
        product[j] += (
            ((of_a * new_a + of_b * new_b) + (of_c * new_c + of_d * new_d))
            + ((of_e * new_e + of_f * new_f) + (of_g * new_g + of_h * new_h))
        )  # fmt: skip


@parallel_kernel
def mirror_lower(matrix: Any) -> None:
    """Copy the lower triangle of ``matrix`` [n, n] to the upper, in place, tile by tile."""
    n = matrix.shape[0]
    for stripe in numba.prange(_STRIPES):
        for first in range(stripe * _LINE, n, _STRIPES * _LINE):
            last = min(n, first + _LINE)
            _mirror_tile(matrix, first, last, 0, last)


@parallel_kernel
def select_block(matrix: Any, items: Any, out: Any) -> None:
    """Copy the rows and columns ``items`` int64 [k] of ``matrix`` [n, n] to ``out`` [k, k]."""
    for stripe in numba.prange(_STRIPES):
        for r in range(stripe, items.size, _STRIPES):
            row, target = matrix[items[r]], out[r]
            for c in range(items.size):
                target[c] = row[items[c]]


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
def gram_rows(
    first: int,
    item_indptr: Any,
    item_users: Any,
    item_values: Any,
    user_indptr: Any,
    user_items: Any,
    user_values: Any,
    out: Any,
) -> None:
    """Write rows ``first .. first + len(out)`` of ``X'X`` to ``out``; float64 [rows, n_items].

    X by item (CSC, users ascending) and by user (CSR). Each sum runs over the users in order: the bits
    depend on X alone.
    """
    for stripe in numba.prange(_STRIPES):
        for r in range(stripe, out.shape[0], _STRIPES):
            row = out[r]
            row[:] = 0.0
            for e in range(item_indptr[first + r], item_indptr[first + r + 1]):
                user, value = item_users[e], item_values[e]
                for k in range(user_indptr[user], user_indptr[user + 1]):
                    row[user_items[k]] += value * user_values[k]


@kernel
def _coarse(scaled: float) -> int:
    """Whole units of a contribution."""
    return int(np.floor(scaled))


@kernel
def _fine(scaled: float) -> int:
    """Parts of a unit, to the nearest: the only rounding there is, and of one contribution by itself."""
    return int(np.rint((scaled - np.floor(scaled)) * _FINE_UNITS))


@parallel_kernel
def exact_gram_rows(
    first: int,
    item_indptr: Any,
    item_users: Any,
    item_values: Any,
    user_indptr: Any,
    user_items: Any,
    user_values: Any,
    units: float,
    coarse: Any,
    fine: Any,
) -> None:
    """Write rows of ``X'X`` in whole units, as :func:`gram_rows`; int64 [rows, n_items].

    ``fine`` int64 [rows, n_items] takes the parts of a unit, carried over so that 0 <= fine < 2^38;
    with no columns all products must be whole.
    """
    has_fine = fine.shape[1] > 0
    for stripe in numba.prange(_STRIPES):
        for r in range(stripe, coarse.shape[0], _STRIPES):
            whole, parts = coarse[r], fine[r]
            whole[:] = 0
            parts[:] = 0
            for e in range(item_indptr[first + r], item_indptr[first + r + 1]):
                user, value = item_users[e], item_values[e]
                for k in range(user_indptr[user], user_indptr[user + 1]):
                    scaled = value * user_values[k] * units
                    if has_fine:
                        whole[user_items[k]] += _coarse(scaled)
                        parts[user_items[k]] += _fine(scaled)
                    else:
                        whole[user_items[k]] += int(scaled)
            for j in range(parts.size):
                whole[j] += parts[j] >> _FINE_BITS
                parts[j] &= _FINE_MASK


@parallel_kernel
def add_outer_products(
    item_indptr: Any,
    item_rows: Any,
    item_values: Any,
    row_indptr: Any,
    row_items: Any,
    row_values: Any,
    sign: int,
    gram: Any,
) -> None:
    """Add ``sign * x x'`` of every row x to an int64 Gram [n, n], in place; rows by item and by row.

    The values are whole numbers.
    """
    whole_by_item, whole_by_row = item_values.astype(np.int64), row_values.astype(np.int64)
    for stripe in numba.prange(_STRIPES):
        for i in range(stripe, gram.shape[0], _STRIPES):
            target = gram[i]
            for e in range(item_indptr[i], item_indptr[i + 1]):
                value = sign * whole_by_item[e]
                row = slice(row_indptr[item_rows[e]], row_indptr[item_rows[e] + 1])
                items, values = row_items[row], whole_by_row[row]
                for k in range(items.size):
                    target[items[k]] += value * values[k]


@parallel_kernel
def count_nonzero_rows(coarse: Any, fine: Any) -> Any:
    """Count, for each row of a dense block, the sums that are not zero; int64 [rows]."""
    counts = np.zeros(coarse.shape[0], dtype=np.int64)
    has_fine = fine.shape[1] > 0
    for r in numba.prange(coarse.shape[0]):
        count = 0
        for j in range(coarse.shape[1]):
            if coarse[r, j] != 0 or (has_fine and fine[r, j] != 0):
                count += 1
        counts[r] = count
    return counts


@parallel_kernel
def compress_rows(coarse: Any, fine: Any, counts: Any) -> Any:
    """Collect the sums of a dense block that are not zero, row after row.

    Returns columns int32, coarse (of the block's dtype) and fine int64 (empty where the block has none).
    """
    ends = np.cumsum(counts)
    total = ends[-1]
    has_fine = fine.shape[1] > 0
    columns = np.empty(total, dtype=np.int32)
    whole = np.empty(total, dtype=coarse.dtype)
    parts = np.empty(total if has_fine else 0, dtype=np.int64)
    for r in numba.prange(coarse.shape[0]):
        at = ends[r] - counts[r]
        for j in range(coarse.shape[1]):
            if coarse[r, j] != 0 or (has_fine and fine[r, j] != 0):
                columns[at] = j
                whole[at] = coarse[r, j]
                if has_fine:
                    parts[at] = fine[r, j]
                at += 1
    return columns, whole, parts


@parallel_kernel
def change_rows(
    items: Any,
    signs: Any,
    item_indptr: Any,
    item_rows: Any,
    item_values: Any,
    row_indptr: Any,
    row_items: Any,
    row_values: Any,
    unit: float,
    start: Any,
    length: Any,
    columns: Any,
    coarse: Any,
    fine: Any,
) -> None:
    """Add ``signs[r] x_r x_r'`` of changed rows (by item CSC, by row CSR) to sparse sums, in place.

    Only the rows ``items`` of the sums; what falls to zero leaves the pattern, the rest moves up and the
    room behind it is cleared.
    """
    has_fine = fine.size > 0
    n_items = start.size
    for stripe in numba.prange(_STRIPES):
        whole = np.zeros(n_items, dtype=np.int64)
        parts = np.zeros(n_items if has_fine else 0, dtype=np.int64)
        for place in range(stripe, items.size, _STRIPES):
            i = items[place]
            room = slice(start[i], start[i] + length[i])
            parts_room = room if has_fine else slice(0, 0)
            rows = slice(item_indptr[i], item_indptr[i + 1])
            if rows.stop - rows.start <= _MERGED:
                first_zero = length[i]
                for e in range(rows.start, rows.stop):
                    r = item_rows[e]
                    row = slice(row_indptr[r], row_indptr[r + 1])
                    first_zero = min(
                        first_zero,
                        _merge_row(
                            columns[room], coarse[room], fine[parts_room],
                            row_items[row], row_values[row], item_values[e] / unit, signs[r],
                        ),
                    )  # fmt: skip
                length[i] = _drop_zeros(columns[room], coarse[room], fine[parts_room], first_zero)
                continue
            for e in range(rows.start, rows.stop):
                r, value = item_rows[e], item_values[e]
                for k in range(row_indptr[r], row_indptr[r + 1]):
                    scaled = value * row_values[k] / unit
                    whole[row_items[k]] += signs[r] * _coarse(scaled)
                    if has_fine:
                        parts[row_items[k]] += signs[r] * _fine(scaled)
            _add_row(columns[room], coarse[room], fine[parts_room], whole, parts)
            length[i] = _drop_zeros(columns[room], coarse[room], fine[parts_room], 0)
            for e in range(rows.start, rows.stop):
                for k in range(row_indptr[item_rows[e]], row_indptr[item_rows[e] + 1]):
                    whole[row_items[k]] = 0
                    if has_fine:
                        parts[row_items[k]] = 0


@kernel
def _merge_row(
    columns: Any, coarse: Any, fine: Any, items: Any, values: Any, factor: float, sign: int
) -> int:
    """Add ``sign * factor * values`` at ``items`` to a row of sparse sums; the first zero made, or its size.

    Both are ascending; all items are among the columns unless their value is zero.
    """
    at, first_zero = 0, int(columns.size)
    for k in range(items.size):
        while at < columns.size and columns[at] < items[k]:
            at += 1
        if at == columns.size or columns[at] != items[k]:
            continue
        scaled = factor * values[k]
        coarse[at] += sign * _coarse(scaled)
        if fine.size:
            parts = fine[at] + sign * _fine(scaled)
            coarse[at] += parts >> _FINE_BITS
            fine[at] = parts & _FINE_MASK
        if coarse[at] == 0 and not (fine.size and fine[at] != 0):
            first_zero = min(first_zero, at)
    return first_zero


@kernel
def _add_row(columns: Any, coarse: Any, fine: Any, whole: Any, parts: Any) -> None:
    """Add dense changes to one row of sparse sums, in place."""
    for at in range(columns.size):
        coarse[at] += whole[columns[at]]
    for at in range(fine.size):
        carried = fine[at] + parts[columns[at]]
        coarse[at] += carried >> _FINE_BITS
        fine[at] = carried & _FINE_MASK


@kernel
def _drop_zeros(columns: Any, coarse: Any, fine: Any, first: int) -> int:
    """Move the sums from ``first`` on that are not zero up, and clear the room behind; how many there are."""
    to = first
    for at in range(first, columns.size):
        if coarse[at] != 0 or (fine.size and fine[at] != 0):
            columns[to], coarse[to] = columns[at], coarse[at]
            if fine.size:
                fine[to] = fine[at]
            to += 1
    columns[to:] = 0
    coarse[to:] = 0
    fine[to:] = 0  # as long as the others, or empty
    return to


@parallel_kernel
def renumber_columns(start: Any, length: Any, place: Any, columns: Any) -> None:
    """Replace every column j in the rows of sparse sums by ``place[j]``, in place."""
    for stripe in numba.prange(_STRIPES):
        for i in range(stripe, start.size, _STRIPES):
            for at in range(start[i], start[i] + length[i]):
                columns[at] = place[columns[at]]


@kernel
def sum_of(coarse: Any, fine: Any, unit: float, at: int) -> float:
    """Read one sparse sum as a float64."""
    if fine.size > 0:
        return float(coarse[at] * unit + fine[at] * (unit / _FINE_UNITS))
    return float(coarse[at] * unit)


@kernel
def diagonal_sums(
    items: Any, start: Any, length: Any, columns: Any, coarse: Any, fine: Any, unit: float
) -> Any:
    """Read ``C_ii`` of ``items`` from sparse sums; float64 [k], 0 where it is not stored."""
    out = np.zeros(items.size)
    for k in range(items.size):
        i = items[k]
        end = start[i] + length[i]
        at = start[i] + np.searchsorted(columns[start[i] : end], i)
        if at < end and columns[at] == i:
            out[k] = sum_of(coarse, fine, unit, at)
    return out


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
    for stripe in numba.prange(_STRIPES):
        heap_ids = np.empty(ids.shape[1], dtype=np.int64)
        heap_scores = np.empty(ids.shape[1])
        room = np.empty(factor.size)
        for place in range(stripe, items.size, _STRIPES):
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
    width = (n_items + _STRIPES - 1) // _STRIPES
    for stripe in numba.prange(_STRIPES):
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
