"""Arrays as Arrow IPC files that are mapped into memory, not read.

Any Arrow reader gets a column: numbers for a vector, a fixed-size list for each row of a matrix, with the
external id of the row beside it where it has one. Polars writes the file, uncompressed and in one record
batch, so the array is one run of bytes; this module finds it (Arrow columnar format 1.4, "IPC file
format") and maps it. Mapping 110 MB takes 0.3 ms; reading it takes 45 ms and the memory.
"""

import io
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from . import durable

_MAGIC = b"ARROW1"
_HEAD = 8  # the magic, padded
_CONTINUED = b"\xff\xff\xff\xff"  # before the length of each message
_MAPPABLE = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f4", "f8"}


class ArrayRecord(msgspec.Struct, frozen=True):
    """What the manifest says about one array: enough to map it.

    Attributes
    ----------
    file : its name in the version's directory.
    dtype : NumPy's name of its little-endian type, as ``"f4"``.
    shape : of the array.
    offset : where its first byte is in the file; -1 where it has none.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def write_array(path: Path, array: NDArray[Any], name: str, ids: pl.Series | None = None) -> ArrayRecord:
    """Write an array durably as a column ``name`` of an Arrow IPC file.

    Parameters
    ----------
    path : must not exist; the caller syncs the directory.
    array : [n] or [n, ...], integers, float32/float64, or booleans (stored as uint8).
    ids : [n], written as a second column for other readers of the file.

    Raises
    ------
    TypeError
        The dtype has no Arrow equivalent that can be mapped.
    """
    stored = np.ascontiguousarray(array.astype(np.uint8) if array.dtype == np.bool_ else array)
    kind = stored.dtype.str[1:]
    if kind not in _MAPPABLE or stored.ndim == 0:
        raise TypeError(
            f"array {name!r} has dtype {array.dtype} and {array.ndim} dimensions; publish vectors or "
            "matrices of integers, float32 or float64"
        )
    stored = stored.astype(f"<{kind}", copy=False)
    if stored.size:
        column = pl.Series(name, stored.reshape(stored.shape[0], -1) if stored.ndim > 1 else stored)
    else:  # Arrow readers know no lists of width 0: such an array is its shape alone
        column, ids = pl.Series(name, [], dtype=pl.UInt8), None
    frame = pl.DataFrame([column] if ids is None else [column, ids])
    durable.create(path, lambda file: write_frame(file, frame), durable.SHARED)
    offset = _first_byte(path) if stored.size else -1
    record = ArrayRecord(path.name, "b1" if array.dtype == np.bool_ else kind, stored.shape, offset)
    if not np.array_equal(_bits(map_array(path, record)), _bits(stored)):
        raise OSError(f"{path} does not hold what was written to it; check the disk")
    return record


def write_frame(file: Any, frame: pl.DataFrame) -> None:
    """Write ``frame`` to an open binary file as uncompressed Arrow IPC, in one record batch.

    Strings are copied first: a column that was filtered still points into the buffer of all its former
    strings, and Polars would write that buffer whole, with the ids of erased users in it.
    """
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    frame = frame.with_columns(pl.Series(name, frame[name].to_list(), dtype=pl.String) for name in texts)
    frame.write_ipc(file, compression="uncompressed", record_batch_size=max(frame.height, 1))


def write_ids(path: Path, ids: pl.DataFrame) -> None:
    """Write a column of external ids durably; ``path`` must not exist, and the caller syncs the directory."""
    durable.create(path, lambda file: write_frame(file, ids), durable.SHARED)


def map_array(path: Path, record: ArrayRecord) -> NDArray[Any]:
    """Map the array of a file into memory, read-only, without reading it.

    Raises
    ------
    OSError, ValueError
        The file is missing or shorter than ``record`` says.
    """
    dtype = np.dtype(f"<{record.dtype}")
    if record.offset < 0:
        empty = np.empty(record.shape, dtype)
        empty.flags.writeable = False
        return empty
    mapped = np.memmap(path, mode="r", dtype=dtype, shape=record.shape, offset=record.offset)
    return mapped.view(np.ndarray)


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same bits as unsigned integers: NaN equals itself, and 0 is not -0."""
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


def read_column(path: Path, name: str) -> pl.Series:
    """Read a column of a file that :func:`write_frame` wrote, on this thread alone.

    Polars reads files on a thread pool, and in a process that was forked off it would wait for that pool for
    ever. It reads streams on the calling thread, and a file is a stream between a magic and a footer; but of
    the first message, the schema, Polars leaves out the length, which a stream needs.

    Raises
    ------
    OSError
        It is missing, or no such file.
    """
    content, (offset, _) = path.read_bytes(), _only_batch(path)
    schema = content[_HEAD:offset]
    length = b"" if schema.startswith(_CONTINUED) else _CONTINUED + len(schema).to_bytes(4, "little")
    return pl.read_ipc_stream(io.BytesIO(b"".join((length, content[_HEAD:]))))[name]


def _first_byte(path: Path) -> int:
    """Find where the body of the only record batch starts: there lies the first column's only buffer."""
    return sum(_only_batch(path))


def _only_batch(path: Path) -> tuple[int, int]:
    """Find the only record batch: where its message starts, and how long it is before the body.

    The footer is a flatbuffer ``Footer {version, schema, dictionaries, recordBatches: [Block]}``;
    ``Block {offset: long, metaDataLength: int, bodyLength: long}`` is 24 bytes.
    """
    with path.open("rb") as file:
        file.seek(-10, io.SEEK_END)
        size, magic = struct.unpack("<i6s", file.read(10))
        if magic != _MAGIC:
            raise OSError(f"{path} does not end as an Arrow file")
        file.seek(-10 - size, io.SEEK_END)
        footer = file.read(size)
    (table,) = struct.unpack_from("<I", footer, 0)
    (to_vtable,) = struct.unpack_from("<i", footer, table)
    (slot,) = struct.unpack_from("<H", footer, table - to_vtable + 4 + 2 * 3)
    at = table + slot
    at += struct.unpack_from("<I", footer, at)[0]
    (count,) = struct.unpack_from("<I", footer, at)
    if count != 1:
        raise OSError(f"{path} has {count} record batches, not one")
    offset, metadata, _ = struct.unpack_from("<qi4xq", footer, at + 4)
    return int(offset), int(metadata)
