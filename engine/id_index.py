"""External ids in row order, and the way back from an id to its row."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .requests import ExternalId, canonical_id


class IdIndex:
    """External ids in ascending order, looked up by bisection: nothing to build when a version is loaded.

    Strings stay in Arrow's memory: as Python's they would take the interpreter's lock for 25 ms to make and 7
    to drop, for half a million users, in which a server answers nobody.

    Attributes
    ----------
    series : int64 or string, ascending, unique.

    Examples
    --------
    >>> index = IdIndex(pl.Series([7, 42]))
    >>> index.row("42"), index.row(42), index.row("042"), index.external(np.array([0])).tolist()
    (1, 1, None, [7])
    """

    def __init__(self, series: pl.Series) -> None:
        self.series = series.rechunk()
        self._integers: NDArray[np.int64] | None = series.to_numpy() if series.dtype == pl.Int64 else None

    def __len__(self) -> int:
        return len(self.series)

    def row(self, external_id: ExternalId) -> int | None:
        """Find the row of an id, in either form; None if there is none. O(log n)."""
        try:
            text = canonical_id(external_id)
        except (TypeError, ValueError):
            return None
        if self._integers is None:
            at = bisect_left(self.series, text)
            return at if at < len(self.series) and self.series[at] == text else None
        if not is_canonical_integer(text):
            return None
        key = np.int64(int(text))
        at = int(np.searchsorted(self._integers, key))
        return at if at < len(self._integers) and self._integers[at] == key else None

    def external(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the ids of rows: int64, or objects that are strings."""
        if self._integers is not None:
            return self._integers[np.asarray(rows, dtype=np.int64)]
        ids: NDArray[Any] = np.empty(len(rows), dtype=object)
        ids[:] = [self.series[int(row)] for row in rows]
        return ids


def is_canonical_integer(text: str) -> bool:
    """Tell whether ``text`` is how a 64-bit integer is written.

    Examples
    --------
    >>> [is_canonical_integer(text) for text in ("42", "-7", "042", "4.2", "9" * 30)]
    [True, True, False, False, False]
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 19:
        return False
    value = int(text)
    return str(value) == text and -(2**63) <= value < 2**63


def ids_series(name: str, texts: Iterable[str], dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
    """Turn canonical texts into ids of a state's own type; those that cannot be such ids are left out.

    Examples
    --------
    >>> ids_series("user_id", ["7", "x"], pl.Int64).to_list()
    [7]
    """
    if dtype == pl.Int64:
        return pl.Series(name, [int(text) for text in texts if is_canonical_integer(text)], dtype=pl.Int64)
    return pl.Series(name, list(texts), dtype=pl.String)
