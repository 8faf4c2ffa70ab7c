"""What a fit over partitions reads: a Parquet path, or a state's own store; one partition in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from ..formats import Columns, InteractionFileError, RawTable, numbered, scan_parquet
from ..interactions import partitions_for, read_partition
from ..state import StatePaths
from ..tables import Rejections, judge_rows, no_usable_row, sum_duplicates
from ..version import Store
from .partitions import Partitions, deal, in_pieces

_NONE: Final = Rejections({}, ())


@dataclass(frozen=True)
class Dealt:
    """Rows by partition, each user's in one.

    Attributes
    ----------
    count : how many partitions there are, with or without rows.
    frames : partition, its rows in canonical order (``interactions.canonical_frame``); read when asked for.
    rejected : rows that cannot be used.
    """

    count: int
    frames: Iterable[tuple[int, pl.DataFrame]]
    rejected: Rejections = _NONE


class Rows(Protocol):
    """Rows that can be dealt out."""

    def deal(self, count: int | None, folder: Path) -> Dealt:
        """Deal them out to ``count`` partitions, None: as many as suit; ``folder``: new, for files."""
        ...


@dataclass(frozen=True)
class ParquetRows:
    """The rows of a Parquet path, judged as those of any file: ``tables.read_interactions``.

    Attributes
    ----------
    rows : ``user``, ``item``, and ``value`` and ``time`` if asked for, not read yet.
    origin : what to call them in errors.
    """

    rows: pl.LazyFrame
    origin: str

    @classmethod
    def of(cls, source: str | Path, columns: Columns) -> "ParquetRows":
        """Look at a Parquet path: a file, a folder, a pattern, or an address that Polars knows.

        Raises
        ------
        InteractionFileError
            There is nothing, no Parquet, or not these columns.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pl.DataFrame({"who": ["b", "a"], "what": [1, 2]}).write_parquet(Path(folder, "p.parquet"))
        ...     dealt = ParquetRows.of(folder, Columns("who", "what")).deal(1, Path(folder, "dealt"))
        ...     [frame.rows() for _, frame in dealt.frames]
        [[('a', 2, 1.0), ('b', 1, 1.0)]]
        """
        try:
            return cls(scan_parquet(source, columns, several=True), str(source))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InteractionFileError(
                f"{source} cannot be read as Parquet ({str(error).splitlines()[0]}); over partitions only "
                "Parquet is read: name such a file, a folder or a pattern"
            ) from error

    def deal(self, count: int | None, folder: Path) -> Dealt:
        """Deal them out; one pass, in which every row is judged.

        Raises
        ------
        InteractionFileError
            No row can be used.
        """
        count = count or partitions_for(int(self.rows.select(pl.len()).collect().item()))
        judged = _Judged()
        partitions = deal(judged.usable(self._pieces()), folder, count)
        if not partitions.files:
            raise no_usable_row(self.origin, judged.rejected)
        return Dealt(count, _read_back(partitions, judged.texts), judged.rejected)

    def _pieces(self) -> Iterator[RawTable]:
        first = 1
        for frame in in_pieces(self.rows):
            yield numbered(frame, first)
            first += frame.height


@dataclass(frozen=True)
class StoreRows:
    """What a state keeps, partitioned already."""

    paths: StatePaths
    store: Store

    def deal(self, count: int | None, folder: Path) -> Dealt:
        """Take the partitions as they are; deal anew only for another number of them.

        Raises
        ------
        VersionError
            A partition is damaged, when it is read.
        """
        count = count or partitions_for(sum(record.rows or 0 for record in self.store.files.values()))
        kept = (
            (int(n.partition("-")[0]), read_partition(self.paths, n, self.store)) for n in self.store.files
        )
        if count == self.store.partitions:
            return Dealt(count, kept)
        return Dealt(count, _read_back(deal((frame for _, frame in kept), folder, count), set()))


@dataclass
class _Judged:
    """What was learnt of rows while they went by: ids are integers only if all of them are."""

    rejected: Rejections = _NONE
    texts: set[str] = field(default_factory=set)

    def usable(self, raw: Iterable[RawTable]) -> Iterator[pl.DataFrame]:
        """Pass on the rows that can be used."""
        for piece in raw:
            frame, rejected = judge_rows(piece)
            self.rejected = self.rejected.add(rejected)
            if frame.height:
                self.texts |= {name for name in ("user_id", "item_id") if frame.schema[name] == pl.String}
                yield frame


def _read_back(partitions: Partitions, texts: set[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Read what was dealt out, a partition at a time, and remove its files."""
    as_text = [pl.col(name).cast(pl.String) for name in sorted(texts)]
    for home, folder in partitions.files.items():
        files = sorted(folder.glob("*.parquet"))
        frame = pl.concat([pl.read_parquet(file, glob=False).with_columns(as_text) for file in files])
        for file in files:
            file.unlink()
        yield home, sum_duplicates(frame)
