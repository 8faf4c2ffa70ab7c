"""The file of a message's sums: Arrow IPC, written by one silo and read with suspicion by the coordinator."""

import io
from typing import Any

import numpy as np
import polars as pl

from ...engine.purge import UNREADABLE
from ...models.sums import Statistic, Sums, SumsError
from ...models.sums_check import read_sums


def write_arrow(sums: Sums) -> bytes:
    """Write the arrays of sums as Arrow IPC, compressed; keys as steps from one to the next.

    Equal sums give equal bytes (with one release of Polars).
    """
    arrays: dict[str, Any] = dict(sums.arrays)
    arrays["keys"] = np.diff(sums.keys, prepend=np.int64(0))
    columns = [
        pl.Series(name, array).implode().alias(name)
        if array.size
        else pl.Series(name, [[]], dtype=pl.List(pl.Int64))
        for name, array in arrays.items()
    ]
    file = io.BytesIO()
    pl.DataFrame(columns).write_ipc(file, compression="zstd")
    return file.getvalue()


def read_arrow(content: bytes, statistic: Statistic, users: int) -> Sums:
    """Read what :func:`write_arrow` wrote, by whomever; whatever cannot be is refused.

    Raises
    ------
    SumsError
        It is no such file, or as ``sums_check.read_sums``.
    """
    expected = list(Sums.nothing(statistic).arrays)
    try:
        frame = pl.read_ipc(io.BytesIO(content))
    except UNREADABLE as error:
        raise SumsError(f"the sums are not readable Arrow ({type(error).__name__})") from None
    if frame.columns != expected or frame.height != 1 or set(frame.dtypes) != {pl.List(pl.Int64)}:
        raise SumsError(
            f"the sums are {frame.height} rows of {dict(frame.schema)}; one row of int64 lists is wanted: "
            f"{', '.join(expected)}"
        )
    if any(frame[name].null_count() or frame[name][0].null_count() for name in expected):
        raise SumsError("the sums have a number that is missing")
    arrays = {name: frame[name][0].to_numpy() for name in expected}
    steps = arrays["keys"]
    if np.any(steps < 0):
        raise SumsError("the steps between pairs are negative: pairs must ascend, none twice")
    arrays["keys"] = np.cumsum(steps)  # where it wraps, the pairs no longer ascend
    return read_sums(statistic, users, arrays)
