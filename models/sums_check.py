"""Sums that came from elsewhere, checked before anything is added to them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import sums_kernels
from .statistics import IntArray
from .sums import LARGEST, Statistic, Sums, SumsError


def read_sums(statistic: Statistic, users: int, arrays: Mapping[str, Any]) -> Sums:
    """Make sums of arrays that came from elsewhere; whatever cannot be is refused.

    Parameters
    ----------
    statistic : what they should be sums of.
    users : how many rows they say they sum up.
    arrays : as :attr:`Sums.arrays`.

    Raises
    ------
    SumsError
        An array is missing or strange, of another dtype or shape; a number is out of range; pairs repeat, are
        not in the upper triangle, or have a sum where nobody has the items; a sum is larger than the squares
        of its two items allow. The message names the first such thing.

    Notes
    -----
    One pass over the arrays. What consistent lies say (users who do not exist) cannot be seen in sums.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from recunlearn.models.sums import sums_of
    >>> gram = Statistic("whole", 2)
    >>> sums = sums_of(sp.csr_matrix([[1.0, 1.0]]), gram)
    >>> read_sums(gram, 1, sums.arrays).same_as(sums)
    True
    >>> read_sums(gram, 1, {**sums.arrays, "coarse": np.array([1, 9, 1])})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    recunlearn.models.sums_statistic.SumsError: items 0 and 1 have the sum 9: more than ...
    """
    sums = Sums(statistic, _checked_users(users), **_checked_shapes(statistic, arrays))
    for what, values, below in (
        ("counts", sums.counts, sums.users + 1),
        ("degrees", sums.degrees, LARGEST),
        ("coarse", sums.coarse, LARGEST),
        ("fine", sums.fine, 2**sums_kernels.FINE_BITS),
    ):
        if (k := sums_kernels.first_outside(values, below)) >= 0:
            raise SumsError(f"{what}[{k}] is {values[k]}; it must be in 0 .. {below - 1}")
    _check_pairs(sums)
    return sums


def _checked_users(users: int) -> int:
    if isinstance(users, bool) or not isinstance(users, int) or not 0 <= users < LARGEST:
        raise SumsError(f"the number of users is {users!r}; it must be a whole number from 0 to 2^61")
    return users


def _checked_shapes(statistic: Statistic, arrays: Mapping[str, Any]) -> dict[str, IntArray]:
    expected = Sums.nothing(statistic).arrays
    if set(arrays) != set(expected):
        raise SumsError(f"the arrays are {', '.join(sorted(arrays))}; they must be {', '.join(expected)}")
    out = {}
    for name in expected:
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.ndim != 1:
            found = (
                f"{array.dtype} {list(array.shape)}"
                if isinstance(array, np.ndarray)
                else type(array).__name__
            )
            raise SumsError(f"{name} is {found}; it must be a vector of int64")
        out[name] = np.ascontiguousarray(array)
    pairs = out["keys"].size
    sizes = {
        "counts": statistic.n_items,
        "degrees": expected["degrees"].size,
        "coarse": pairs,
        "fine": pairs if statistic.has_fine else 0,
    }
    for name, size in sizes.items():
        if out[name].size != size:
            raise SumsError(f"{name} has {out[name].size} entries; it must have {size}")
    return out


def _check_pairs(sums: Sums) -> None:
    n_items, keys = sums.statistic.n_items, sums.keys
    if (k := sums_kernels.first_below_diagonal(keys, max(n_items, 1))) >= 0:
        raise SumsError(f"keys[{k}] is {keys[k]}: no pair of items i <= j of {n_items}")
    if (k := sums_kernels.first_disorder(keys)) >= 0:
        raise SumsError(f"keys[{k}] is {keys[k]} after {keys[k - 1]}: pairs must ascend, none twice")
    if (k := sums_kernels.first_zero_sum(sums.coarse, sums.fine)) >= 0:
        raise SumsError(f"items {_pair(sums, k)} have a sum of zero: such pairs are left out")
    diagonal = sums.diagonal()
    strange = np.flatnonzero((diagonal > 0) & (sums.counts == 0))
    if strange.size:
        raise SumsError(f"item {strange[0]} has a sum of squares, but no users")
    if sums.statistic.kind == "whole":
        lacking = np.flatnonzero(diagonal < sums.counts)
        if lacking.size:
            i = lacking[0]
            raise SumsError(f"item {i} has {sums.counts[i]} users, but squares that sum to {diagonal[i]}")
    if sums.statistic.has_degrees and np.any(sums.degrees < sums.counts):
        i = int(np.flatnonzero(sums.degrees < sums.counts)[0])
        raise SumsError(f"item {i} has {sums.counts[i]} users, but values that sum to {sums.degrees[i]}")
    roots = np.sqrt(diagonal.astype(np.float64))
    if (k := sums_kernels.first_unbounded(keys, sums.coarse, roots, 1e-9)) >= 0:
        raise SumsError(
            f"items {_pair(sums, k)} have the sum {sums.coarse[k]}: more than the squares of both allow"
        )


def _pair(sums: Sums, k: int) -> str:
    i, j = divmod(int(sums.keys[k]), sums.statistic.n_items)
    return f"{i} and {j}"
