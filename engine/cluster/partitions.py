"""Parquet files as partitions: each user is in one of them, by a hash of the id, as in a state directory."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import scipy.sparse as sp

from ...models.base import Interactions, canonical_interactions
from ...models.sums import Statistic, Sums, sums_of
from .. import durable
from ..interactions import canonical_frame, partition_of, row_numbers
from ..state import StatePaths
from ..version import read_current, read_manifest
from .map_reduce import Run, map_reduce

ROWS_AT_A_TIME: Final = 5_000_000
"""Rows that are dealt out to partitions at a time: they bound the memory."""


@dataclass(frozen=True)
class Partitions:
    """Where the rows are.

    Attributes
    ----------
    files : partition -> its Parquet file, or a folder of them; a partition without rows is left out. Columns
        user_id, item_id (Int64 or String) and value.
    count : how many partitions there are: a user is in ``crc32(id) % count``.
    together : how many a task reads at once. Sums over few rows cost nearly what they do over many, in time
        and in what is merged; more rows cost memory.
    """

    files: dict[int, Path]
    count: int
    together: int = 1

    @classmethod
    def of_state(cls, state_dir: Path) -> "Partitions":
        """Read where a state directory's current version keeps its interactions.

        Raises
        ------
        VersionError
            There is no version, or it is damaged.
        """
        paths = StatePaths(state_dir)
        manifest = read_manifest(paths, *read_current(paths))
        files = {int(name.partition("-")[0]): paths.interactions / name for name in manifest.interactions}
        return cls(files, manifest.partitions)

    @property
    def paths(self) -> list[Path]:
        """The files, by number of the partition."""
        return [self.files[home] for home in sorted(self.files)]

    @property
    def tasks(self) -> list[tuple[Path, ...]]:
        """The files that each task reads."""
        paths = self.paths
        return [tuple(paths[k : k + self.together]) for k in range(0, len(paths), self.together)]

    def of_users(self, users: pl.Series) -> list[Path]:
        """Name the files in which these users are: no other has a row of theirs."""
        homes = partition_of(users, self.count).unique().sort().to_list()
        return [self.files[home] for home in homes if home in self.files]


def partition_by_user(
    source: str | Path,
    folder: Path,
    count: int,
    *,
    user: str = "user_id",
    item: str = "item_id",
    value: str | None = "value",
) -> Partitions:
    """Deal the rows of any Parquet path out to partitions by user: once, before anything is summed.

    Parameters
    ----------
    source : as Polars takes it: a file, a folder, a pattern, an address of an object store.
    folder : new; gets a folder for each partition.
    count : of partitions. user, item, value : names of the columns; value None: every row counts as 1.

    Notes
    -----
    One pass, ``ROWS_AT_A_TIME`` rows in memory. Rows are not summed up here: a reader does that.
    """
    weight = pl.lit(1.0) if value is None else pl.col(value).cast(pl.Float64)
    rows = pl.scan_parquet(source).select(user_id=user, item_id=item, value=weight)
    return deal(in_pieces(rows), folder, count)


def in_pieces(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Read rows, ``ROWS_AT_A_TIME`` of them at a time."""
    total = int(rows.select(pl.len()).collect().item())
    for start in range(0, total, ROWS_AT_A_TIME):
        yield rows.slice(start, ROWS_AT_A_TIME).collect()


def deal(frames: Iterable[pl.DataFrame], folder: Path, count: int) -> Partitions:
    """Deal rows out to partitions by user: a folder for each, in it a file for each frame.

    Parameters
    ----------
    frames : user_id, item_id, value and whatever else a row has; taken one after the other.
    folder : new. count : of partitions.
    """
    files = dict[int, Path]()
    for number, frame in enumerate(frames):
        homes = frame.with_columns(partition_of(frame["user_id"], count))
        for (home,), part in homes.partition_by("_home", as_dict=True).items():
            own = files[int(home)] = folder / f"{int(home):04d}"
            durable.make_directory(own)
            durable.create(own / f"{number:06d}.parquet", part.drop("_home").write_parquet)
    for own in files.values():
        durable.sync_directory(own)
    return Partitions(dict(sorted(files.items())), count)


def items_of(partitions: Partitions, run: Run | None = None) -> pl.Series:
    """Collect the ids of all items, ascending: the columns that every partition's sums are over."""
    return map_reduce(partitions.tasks, _items, _union, run)


def sum_partitions(
    partitions: Partitions, items: pl.Series, statistic: Statistic, run: Run | None = None
) -> Sums:
    """Sum up all rows: the same bits however they are partitioned and run.

    Parameters
    ----------
    items : ids of the columns, as :func:`items_of` gives them. statistic : of ``len(items)`` columns.

    Raises
    ------
    SumsError
        As :func:`recunlearn.models.sums.sums_of`.
    """
    return map_reduce(partitions.tasks, SumRows(items, statistic), Sums.add, run)


def sums_of_users(
    partitions: Partitions, users: pl.Series, items: pl.Series, statistic: Statistic, run: Run | None = None
) -> Sums:
    """Sum up the rows of some users: what is to be subtracted when they are forgotten.

    Only the partitions in which they are are read.
    """
    touched = [(path,) for path in partitions.of_users(users)]
    if not touched:
        return Sums.nothing(statistic)
    return map_reduce(touched, SumRows(items, statistic, users), Sums.add, run)


def remove_users(partitions: Partitions, users: pl.Series) -> list[Path]:
    """Write the partitions of some users anew without their rows; return those that were written.

    For partitions of :func:`partition_by_user`; a state directory's are the engine's to write. Each file is
    replaced at once: cut off and repeated, this ends in the same rows.
    """
    written = []
    for path in partitions.of_users(users):
        for file in _files([path]):
            frame = pl.read_parquet(file, glob=False)
            kept = frame.filter(~pl.col("user_id").is_in(users.implode()))
            if len(kept) < len(frame):
                durable.replace(file, _parquet(kept))
                written.append(file)
    return written


@dataclass(frozen=True)
class SumRows:
    """Sums up a task's partitions; can be sent to where their files are read.

    Attributes
    ----------
    items : ids of the columns. statistic : what is summed. users : only these; None: all.
    """

    items: pl.Series
    statistic: Statistic
    users: pl.Series | None = None

    def __call__(self, paths: tuple[Path, ...]) -> Sums:
        """Read the files, build their rows and sum them up."""
        frame = read_rows(paths)
        if self.users is not None:
            frame = frame.filter(pl.col("user_id").is_in(self.users.implode()))
        return sums_of(rows_of(frame, self.items), self.statistic)


def read_rows(paths: Sequence[Path]) -> pl.DataFrame:
    """Read some partitions: user_id, item_id, value."""
    return pl.read_parquet(_files(paths), columns=["user_id", "item_id", "value"], glob=False)


def rows_of(frame: pl.DataFrame, items: pl.Series) -> Interactions:
    """Build the matrix of a partition's rows over the columns of all: canonical CSR [users here, items].

    Raises
    ------
    ValueError
        An item is not among the columns, or :func:`~recunlearn.engine.interactions.canonical_frame` refuses.
    """
    frame = canonical_frame(frame)
    columns = row_numbers(frame["item_id"], items)
    if columns.null_count():
        unknown = frame["item_id"].filter(columns.is_null())[0]
        raise ValueError(f"item {unknown} is not among the {len(items)} columns; collect the items again")
    numbers = frame["user_id"].rle_id().to_numpy()
    shape = (int(numbers[-1]) + 1 if len(frame) else 0, len(items))
    matrix: Any = sp.csr_matrix((frame["value"].to_numpy(), (numbers, columns.to_numpy())), shape=shape)
    return canonical_interactions(matrix)


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]


def _parquet(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file, compression="zstd")
    return file.getvalue()


def _items(paths: tuple[Path, ...]) -> pl.Series:
    return (
        pl.scan_parquet(_files(paths), glob=False)
        .select(pl.col("item_id").unique().sort())
        .collect()["item_id"]
    )


def _union(one: pl.Series, other: pl.Series) -> pl.Series:
    return pl.concat([one, other]).unique().sort()
