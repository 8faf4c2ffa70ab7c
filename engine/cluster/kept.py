"""The rows that a fit keeps, written by partition, and mapped from disk as one matrix."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from ...models.base import Interactions, IntVector
from .. import durable
from ..fitted import LetIn
from ..interactions import row_numbers, write_partition
from ..refusal import Admit
from ..state import StatePaths
from ..version import Store
from .partitions import Partitions
from .rows import Dealt

_ROWS_OF_A_TASK: Final = 2_500_000
_TASKS: Final = 8
"""Or more, where there are more rows, or fewer, where there are fewer partitions."""
_MOST_WHOLE: Final = 2.0**26


@dataclass(frozen=True)
class Part:
    """One partition: its file, its users ascending, and how many rows each of them has."""

    file: Path
    users: pl.Series
    lengths: IntVector


@dataclass(frozen=True)
class Kept:
    """What is kept of the rows, durably written, and not in memory.

    Attributes
    ----------
    store : for the version to come.
    parts : partition -> what is in it.
    items : ids of all items, ascending.
    are_whole : every value is a whole number, small enough for exact sums.
    let_in : how many interactions there were and are, and what was kept out.
    """

    store: Store
    parts: dict[int, Part]
    items: pl.Series
    are_whole: bool
    let_in: LetIn

    @property
    def partitions(self) -> Partitions:
        """Where they are."""
        files = {home: part.file.absolute() for home, part in self.parts.items()}
        few_enough = _ROWS_OF_A_TASK * len(files) // max(1, self.let_in.kept)
        return Partitions(files, self.store.partitions, max(1, min(few_enough, len(files) // _TASKS)))


def keep(paths: StatePaths, version: int, dealt: Dealt, admit: Admit) -> Kept:
    """Write the interaction store of a version, a partition at a time.

    Returns
    -------
    Kept, without a part where nothing may be kept.
    """
    durable.make_directory(paths.interactions)
    files: dict[str, Any] = {}
    parts: dict[int, Part] = {}
    items, given, refused_users, are_whole = pl.Series("item_id", []), 0, 0, True
    for home, frame in dealt.frames:
        kept, refused = admit(frame)
        given, refused_users = given + len(frame), refused_users + refused
        if not len(kept):
            continue
        record = write_partition(paths, home, version, kept)
        files |= record
        users = kept["user_id"].rle().struct.unnest()
        own = paths.interactions / next(iter(record))
        parts[home] = Part(own, users["value"].alias("user_id"), users["len"].to_numpy().astype(np.int64))
        here = kept["item_id"].unique()
        items = (pl.concat([items, here]).unique() if len(items) else here).sort()
        values = kept["value"].to_numpy()
        are_whole = are_whole and bool((values == np.rint(values)).all() and values.max() <= _MOST_WHOLE)
    durable.sync_directory(paths.interactions)
    store = Store(dict(sorted(files.items())), dealt.count)
    parts = dict(sorted(parts.items()))
    interactions = sum(int(part.lengths.sum()) for part in parts.values())
    let_in = LetIn(given, interactions, refused_users, dealt.rejected)
    return Kept(store, parts, items, are_whole, let_in)


def mapped_matrix(kept: Kept, folder: Path) -> tuple[Interactions, pl.Series]:
    """Put the rows together as the matrix that one machine fits: in files without a name, not in memory.

    Parameters
    ----------
    folder : where there is room for 12 bytes an interaction; a file without a name ends with the process.

    Returns
    -------
    CSR float64 [n_users, n_items], canonical; and the ids of its rows, ascending.

    Raises
    ------
    OSError
        There is no room.

    Notes
    -----
    O(rows + users log users); in memory a partition and 24 bytes a user. The kernel may write the pages out
    and drop them.
    """
    parts = list(kept.parts.values())
    owners = pl.concat([part.users for part in parts])
    order = owners.arg_sort().to_numpy()
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    lengths = np.concatenate([part.lengths for part in parts])[order]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    size, shape = int(indptr[-1]), (order.size, len(kept.items))
    index_type = np.int32 if max(size, *shape) < 2**31 else np.int64
    indices, data = _unnamed(size, index_type, folder), _unnamed(size, np.float64, folder)
    for part, own in zip(parts, np.split(rank, np.cumsum([len(p.users) for p in parts])[:-1]), strict=True):
        frame = pl.read_parquet(part.file, columns=["item_id", "value"], glob=False)
        before = np.cumsum(part.lengths) - part.lengths
        to = np.repeat(indptr[own] - before, part.lengths) + np.arange(len(frame))
        columns = row_numbers(frame["item_id"], kept.items)
        indices[to], data[to] = columns.to_numpy(), frame["value"].to_numpy()
    matrix: Interactions = sp.csr_matrix(shape, dtype=np.float64)
    row_starts: Any = indptr.astype(index_type)
    matrix.indptr, matrix.indices, matrix.data = row_starts, indices, data
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix, owners.gather(order).alias("user_id")


def _unnamed(size: int, dtype: Any, folder: Path) -> NDArray[Any]:
    """Map an array of a file that has a place on the disk, and no name."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size * np.dtype(dtype).itemsize)  # else a full disk is a signal
        return np.memmap(file, dtype=dtype, mode="r+", shape=(size,)).view(np.ndarray)
