"""Results as bytes, to go from one process to another where it is not Python's own queues that carry them."""

import io
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from ...models.sums import Statistic, Sums

Packed = Sums | pl.Series
_STATISTIC: Final = "statistic"


def pack(result: Packed) -> bytes:
    """Write sums as NumPy's archive without pickles, or a column as Arrow IPC.

    Examples
    --------
    >>> unpack(pack(pl.Series("item_id", ["a", "b"]))).to_list()
    ['a', 'b']
    """
    file = io.BytesIO()
    if isinstance(result, Sums):
        about = np.frombuffer(msgspec.json.encode(result.statistic), dtype=np.uint8)
        arrays: dict[str, Any] = {_STATISTIC: about, "users": np.array(result.users), **result.arrays}
        np.savez(file, allow_pickle=False, **arrays)
    else:
        result.to_frame().write_ipc(file)
    return file.getvalue()


def unpack(content: bytes) -> Packed:
    """Read what :func:`pack` wrote."""
    if not content.startswith(b"PK"):
        return pl.read_ipc(io.BytesIO(content)).to_series()
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = dict(archive)
    statistic = msgspec.json.decode(arrays.pop(_STATISTIC).tobytes(), type=Statistic)
    return Sums(statistic, int(arrays.pop("users")), **arrays)
