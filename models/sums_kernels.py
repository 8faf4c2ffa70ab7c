"""The kernels of :class:`~recunlearn.models.sums.Sums`: merging, and going to and from other forms."""

from typing import Any, Final

from .kernels import kernel

FINE_BITS: Final = 38
"""A part of a unit is 2^-38 of it."""
_FINE_MASK = 2**FINE_BITS - 1


@kernel
def merge_pairs(
    keys_a: Any,
    coarse_a: Any,
    fine_a: Any,
    keys_b: Any,
    coarse_b: Any,
    fine_b: Any,
    sign: int,
    keys: Any,
    coarse: Any,
    fine: Any,
) -> int:
    """Write ``a + sign b``, keys ascending, zeros left out; how many, or ``-1 - key`` of a negative sum.

    Parameters
    ----------
    keys_a, keys_b : int64, ascending, unique.
    coarse_a, coarse_b : int64, as long as the keys.
    fine_a, fine_b, fine : int64, 0 <= fine < 2^38; all three empty where there are no parts of a unit.
    sign : 1 or -1.
    keys, coarse, fine : int64 [len a + len b], overwritten.
    """
    has_fine = fine.size > 0
    a, b, to = 0, 0, 0
    while a < keys_a.size or b < keys_b.size:
        whole, parts = 0, 0
        from_a = b == keys_b.size or (a < keys_a.size and keys_a[a] <= keys_b[b])
        key = keys_a[a] if from_a else keys_b[b]
        if a < keys_a.size and keys_a[a] == key:
            whole += coarse_a[a]
            if has_fine:
                parts += fine_a[a]
            a += 1
        if b < keys_b.size and keys_b[b] == key:
            whole += sign * coarse_b[b]
            if has_fine:
                parts += sign * fine_b[b]
            b += 1
        whole += parts >> FINE_BITS
        parts &= _FINE_MASK
        if whole < 0:
            return -1 - int(key)
        if whole != 0 or parts != 0:
            keys[to], coarse[to] = key, whole
            if has_fine:
                fine[to] = parts
            to += 1
    return to


@kernel
def upper_pairs(
    start: Any,
    length: Any,
    columns: Any,
    coarse_of: Any,
    fine_of: Any,
    items: Any,
    n_items: int,
    keys: Any,
    coarse: Any,
    fine: Any,
) -> int:
    """Collect the upper triangle of sparse symmetric sums under the keys ``items[i] n_items + items[j]``.

    Parameters
    ----------
    start, length, columns, coarse_of, fine_of : of ``statistics.CoOccurrence``.
    items : int64 ascending, what the rows and columns are called.
    keys, coarse, fine : int64, large enough, overwritten; fine empty where ``fine_of`` is.
    """
    to = 0
    for i in range(start.size):
        for at in range(start[i], start[i] + length[i]):
            if columns[at] >= i:
                keys[to] = items[i] * n_items + items[columns[at]]
                coarse[to] = coarse_of[at]
                if fine.size:
                    fine[to] = fine_of[at]
                to += 1
    return to


@kernel
def mirror_pairs(
    keys: Any, coarse_of: Any, fine_of: Any, start: Any, columns: Any, coarse: Any, fine: Any
) -> None:
    """Write symmetric sums row by row, both triangles, columns ascending: what upper_pairs collected from.

    Parameters
    ----------
    keys, coarse_of, fine_of : of the upper triangle, ascending.
    start : int64 [n_items], where each row begins.
    columns, coarse, fine : overwritten; fine empty where ``fine_of`` is.
    """
    n_items = start.size
    at = start.copy()
    for k in range(keys.size):
        i, j = keys[k] // n_items, keys[k] % n_items
        for row, column in ((i, j), (j, i)):
            to = at[row]
            columns[to], coarse[to] = column, coarse_of[k]
            if fine_of.size:
                fine[to] = fine_of[k]
            at[row] = to + 1
            if i == j:
                break


@kernel
def count_mirrored(keys: Any, length: Any) -> None:
    """Add to ``length`` [n_items] how many sums each row has once both triangles are there."""
    n_items = length.size
    for k in range(keys.size):
        i, j = keys[k] // n_items, keys[k] % n_items
        length[i] += 1
        if i != j:
            length[j] += 1


@kernel
def dense_pairs(keys: Any, coarse: Any, fine: Any, unit: float, out: Any) -> None:
    """Write symmetric sums to a dense matrix [n_items, n_items] that is zero."""
    n_items = out.shape[0]
    for k in range(keys.size):
        i, j = keys[k] // n_items, keys[k] % n_items
        value = coarse[k] * unit
        if fine.size:
            value += fine[k] * (unit / float(2**FINE_BITS))
        out[i, j] = value
        out[j, i] = value


@kernel
def whole_pairs(keys: Any, coarse: Any, out: Any) -> None:
    """Write symmetric sums of whole numbers to a dense int64 matrix [n_items, n_items] that is zero."""
    n_items = out.shape[0]
    for k in range(keys.size):
        i, j = keys[k] // n_items, keys[k] % n_items
        out[i, j] = coarse[k]
        out[j, i] = coarse[k]


@kernel
def first_disorder(keys: Any) -> int:
    """Find the first position whose key is not above the one before; -1 where they ascend."""
    for k in range(1, keys.size):
        if keys[k] <= keys[k - 1]:
            return k
    return -1


@kernel
def first_below_diagonal(keys: Any, n_items: int) -> int:
    """Find the first position whose key is no pair (i, j) with i <= j < n_items; -1 if all are."""
    for k in range(keys.size):
        if keys[k] < 0 or keys[k] // n_items >= n_items or keys[k] // n_items > keys[k] % n_items:
            return k
    return -1


@kernel
def first_unbounded(keys: Any, coarse: Any, roots: Any, slack: float) -> int:
    """Find the first sum that breaks ``C_ij <= sqrt(C_ii C_jj)`` (Cauchy and Schwarz); -1 if none does.

    Parameters
    ----------
    roots : float64 [n_items], ``sqrt(C_ii)``, of the sums rounded up to whole units.
    slack : relative, for roundings.
    """
    n_items = roots.size
    for k in range(keys.size):
        i, j = keys[k] // n_items, keys[k] % n_items
        if coarse[k] > roots[i] * roots[j] * (1.0 + slack):
            return k
    return -1


@kernel
def first_outside(values: Any, below: int) -> int:
    """Find the first value that is not in ``0 .. below - 1``; -1 if all are."""
    for k in range(values.size):
        if values[k] < 0 or values[k] >= below:
            return k
    return -1


@kernel
def first_zero_sum(coarse: Any, fine: Any) -> int:
    """Find the first sum that is zero; -1 if none is."""
    for k in range(coarse.size):
        if coarse[k] == 0 and (fine.size == 0 or fine[k] == 0):
            return k
    return -1
