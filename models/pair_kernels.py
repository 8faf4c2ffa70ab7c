"""The kernels of sums over pairs of items: Grams and co-occurrences, in whole numbers and fixed point."""

from typing import Any

import numba
import numpy as np

from .kernels import STRIPES, kernel, parallel_kernel
from .sums_statistic import COARSE_BITS as COARSE_BITS

_FINE_BITS = 38
_FINE_UNITS = float(2**_FINE_BITS)
_FINE_MASK = 2**_FINE_BITS - 1
_MERGED = 2  # up to so many changed rows are merged into a row of sums one by one


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
    for stripe in numba.prange(STRIPES):
        for r in range(stripe, out.shape[0], STRIPES):
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
    for stripe in numba.prange(STRIPES):
        for r in range(stripe, coarse.shape[0], STRIPES):
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
    for stripe in numba.prange(STRIPES):
        whole = np.zeros(n_items, dtype=np.int64)
        parts = np.zeros(n_items if has_fine else 0, dtype=np.int64)
        for place in range(stripe, items.size, STRIPES):
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
    for stripe in numba.prange(STRIPES):
        for i in range(stripe, start.size, STRIPES):
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
