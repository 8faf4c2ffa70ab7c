"""Sums as one dense vector of integers modulo 2^64, so that no pattern shows which pairs a silo has."""

import numpy as np
from numpy.typing import NDArray

from ....models.sums import LARGEST, Statistic, Sums, SumsError
from ....models.sums_check import read_sums
from ....models.sums_kernels import FINE_BITS


def size_of(statistic: Statistic) -> int:
    """Count the numbers that sums of a statistic are, every pair of items included.

    Examples
    --------
    >>> size_of(Statistic("whole", 3))  # users, 3 counts, 6 pairs
    10
    """
    return sum(_lengths(statistic).values())


def write_vector(sums: Sums, parties: int) -> NDArray[np.uint64]:
    """Write sums with every pair of items in its place, the pairs without a sum too.

    Parameters
    ----------
    sums : of one silo; not modified.
    parties : how many silos are added up.

    Returns
    -------
    uint64 [size_of(statistic)] : users, counts, degrees, whole units and parts of the upper triangle.

    Raises
    ------
    SumsError
        A number is 2^61 / parties or more: the total of all silos might not be readable.

    Notes
    -----
    Time and memory O(n^2) whatever the sums are: that is what hides them.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from recunlearn.models.sums import sums_of
    >>> write_vector(sums_of(sp.csr_matrix([[1.0, 0.0]]), Statistic("whole", 2)), 3)
    array([1, 1, 0, 1, 0, 0], dtype=uint64)
    """
    below = LARGEST // parties
    parts = {"users": np.array([sums.users], np.int64), **sums.arrays}
    place = _place_of(parts.pop("keys"), sums.statistic.n_items)
    written = []
    for name, length in _lengths(sums.statistic).items():
        values = parts[name]
        if name != "fine" and np.any(values >= below):
            raise SumsError(
                f"{name} has {values.max()}; with {parties} silos each must stay below 2^61 / {parties} = "
                f"{below}, or the total may wrap: scale the values down"
            )
        if name in ("coarse", "fine"):
            dense = np.zeros(length, np.int64)
            if length:
                dense[place] = values
            values = dense
        written.append(values)
    return np.concatenate(written).view(np.uint64)


def read_total(total: NDArray[np.uint64], statistic: Statistic) -> Sums:
    """Read the sum of what :func:`write_vector` wrote, in the one form that sums can have.

    Raises
    ------
    SumsError
        It has another size, is negative somewhere (masks that do not cancel), or as ``sums_check.read_sums``.

    Notes
    -----
    O(n^2). Parts of a unit that add up to whole units are carried here.

    Examples
    --------
    >>> one = np.array([1, 1, 0, 1, 0, 0], np.uint64)
    >>> read_total(one + one, Statistic("whole", 2)).keys
    array([0])
    """
    lengths = _lengths(statistic)
    if total.shape != (size_of(statistic),):
        raise SumsError(f"the total has shape {total.shape}; {size_of(statistic)} numbers are wanted")
    signed = total.view(np.int64)
    if np.any(signed < 0):
        raise SumsError(
            f"number {int(np.argmin(signed >= 0))} of the total is negative: the masks do not cancel, or a "
            "silo has sent what is no sum of rows; begin another round"
        )
    ends = np.cumsum(list(lengths.values()))[:-1]
    users, counts, degrees, coarse, fine = np.split(signed, ends)
    if fine.size:
        coarse, fine = coarse + (fine >> FINE_BITS), fine & (2**FINE_BITS - 1)
    there = np.flatnonzero(coarse | fine) if fine.size else np.flatnonzero(coarse)
    arrays = {
        "counts": counts,
        "degrees": degrees,
        "keys": _keys_at(there, statistic.n_items),
        "coarse": coarse[there],
        "fine": fine[there] if fine.size else fine,
    }
    return read_sums(statistic, int(users[0]), arrays)


def _lengths(statistic: Statistic) -> dict[str, int]:
    n_items = statistic.n_items
    pairs = n_items * (n_items + 1) // 2
    return {
        "users": 1,
        "counts": n_items,
        "degrees": n_items if statistic.has_degrees else 0,
        "coarse": pairs,
        "fine": pairs if statistic.has_fine else 0,
    }


def _row_starts(rows: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
    return rows * n_items - rows * (rows - 1) // 2


def _place_of(keys: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
    rows, columns = np.divmod(keys, max(n_items, 1))
    return _row_starts(rows, n_items) + columns - rows


def _keys_at(places: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
    starts = _row_starts(np.arange(n_items, dtype=np.int64), n_items)
    rows = np.searchsorted(starts, places, side="right") - 1
    return rows * n_items + rows + places - starts[rows]
