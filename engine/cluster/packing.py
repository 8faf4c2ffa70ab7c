"""Results as bytes, to go from one process to another where it is not Python's own queues that carry them."""

import io
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...models.rounds import Margins
from ...models.sums import Statistic, Sums

Packed: TypeAlias = Sums | Margins | pl.Series | NDArray[Any]
_STATISTIC: Final = "statistic"
_BLOCK: Final = "block"


def pack(result: Packed) -> bytes:
    """Write sums, margins or a block as NumPy's archive without pickles, or a column as Arrow IPC.

    Examples
    --------
    >>> unpack(pack(pl.Series("item_id", ["a", "b"]))).to_list()
    ['a', 'b']
    >>> unpack(pack(np.eye(2)))
    array([[1., 0.],
           [0., 1.]])
    """
    file = io.BytesIO()
    if isinstance(result, pl.Series):
        result.to_frame().write_ipc(file)
    else:
        np.savez(file, allow_pickle=False, **_arrays(result))
    return file.getvalue()


def unpack(content: bytes) -> Packed:
    """Read what :func:`pack` wrote."""
    if not content.startswith(b"PK"):
        return pl.read_ipc(io.BytesIO(content)).to_series()
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = dict(archive)
    if _BLOCK in arrays:
        return np.asarray(arrays[_BLOCK])
    statistic = msgspec.json.decode(arrays.pop(_STATISTIC).tobytes(), type=Statistic)
    users = int(arrays.pop("users"))
    if "longest" in arrays:
        return Margins(statistic, users, arrays["counts"], arrays["degrees"], int(arrays["longest"]))
    return Sums(statistic, users, **arrays)


def _arrays(result: Sums | Margins | NDArray[Any]) -> dict[str, Any]:
    if isinstance(result, np.ndarray):
        return {_BLOCK: result}
    about = np.frombuffer(msgspec.json.encode(result.statistic), dtype=np.uint8)
    named = {_STATISTIC: about, "users": np.array(result.users)}
    if isinstance(result, Sums):
        return {**named, **result.arrays}
    return {
        **named,
        "counts": result.counts,
        "degrees": result.degrees,
        "longest": np.array(result.longest),
    }
