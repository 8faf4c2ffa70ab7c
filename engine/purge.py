"""What is done after a version is published: nothing but it stays, and no byte of the erased is left.

Purging needs nobody's id: whatever the published version does not name goes. So it can be done again at
every start, and is (as LevelDB does with obsolete files).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import polars as pl

from . import durable
from .id_index import ids_series
from .reading import may_be_read, reading
from .requests import is_distinctive
from .state import StatePaths
from .version import Manifest
from .written_forms import NOISE, forms_of, is_short_number

_CHUNK = 1 << 24
_TAIL = 1 << 20

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What Polars ends with over a file that is not what it seems; a panic is no Exception."""


class ScanResult(msgspec.Struct, frozen=True):
    """What a scan of the files under a state directory found.

    Attributes
    ----------
    files, bytes : how many were scanned.
    found : where something of an erased user is, paths below the state directory; empty is as it must be.
    """

    files: int
    bytes: int
    found: list[str]


def purge(paths: StatePaths, manifest: Manifest) -> int:
    """Remove what the published version does not name: other versions, old partitions, temporary files.

    Returns
    -------
    How many files and directories went.
    """
    obsolete = list(obsolete_files(paths, manifest))
    for path in obsolete:
        durable.remove(path)
    return len(obsolete)


def obsolete_files(paths: StatePaths, manifest: Manifest) -> Iterator[Path]:
    """Yield what the published version does not name."""
    current = paths.version(manifest.version)
    yield from (path for path in _entries(paths.versions) if path != current)
    yield from (path for path in _entries(paths.interactions) if path.name not in manifest.interactions)
    for directory in (paths.root, paths.keys, paths.receipts):
        yield from (path for path in _entries(directory) if durable.is_temporary(path))
    if current.is_dir():
        named = {current / name for name in manifest.files} | {current / "manifest.json"}
        yield from (path for path in current.rglob("*") if path.is_file() and path not in named)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def scan_for_ids(paths: StatePaths, users: Iterable[str]) -> ScanResult:
    """Look for the ids of users who were just erased, while they are still known, in every file.

    Ids that tell somebody apart (:func:`~.requests.is_distinctive`) are looked for as bytes, in the forms of
    :mod:`.written_forms`; all ids are looked for among the decoded user ids. Parquet and Arrow, told by their
    first bytes, are decoded; the arrays of numbers, which hold no ids, are not read again. Of the receipt
    log, which is only appended to, the last MiB is searched: so a cycle does not take longer with each
    receipt that was ever given. ``recunlearn verify`` searches all of it.

    Parameters
    ----------
    users : canonical ids.
    """
    wanted = sorted(set(users))
    needles = Needles.of([text for text in wanted if is_distinctive(text)])
    return search(paths, lambda path: _holds_one(path, wanted, needles, path == paths.receipt_log))


@dataclass(frozen=True, slots=True)
class Needles:
    """What to look for in bytes, as Latin-1: what is found for certain, and numbers that chance finds too."""

    certain: list[str]
    doubtful: list[str]

    @classmethod
    def of(cls, ids: Sequence[str]) -> Self:
        """Write ids in all their forms."""
        forms = {text: [form.decode("latin-1") for form in forms_of(text)] for text in ids}
        return cls(
            [form for text in ids if not is_short_number(text) for form in forms[text]],
            [form for text in ids if is_short_number(text) for form in forms[text]],
        )

    @property
    def longest(self) -> int:
        """Length of the longest; 0 if there is none."""
        return max(map(len, [*self.certain, *self.doubtful]), default=0)

    def are_in(self, content: bytes) -> bool:
        """Tell whether one of them is in ``content``: one pass for each kind (Aho-Corasick)."""
        if _contains(content, self.certain):
            return True
        return _contains(content, self.doubtful) and _contains(NOISE.sub(b" ", content), self.doubtful)


def _contains(content: bytes, patterns: list[str]) -> bool:
    return bool(patterns) and bool(pl.Series([content.decode("latin-1")]).str.contains_any(patterns).item())


def search(paths: StatePaths, holds: Callable[[Path], bool]) -> ScanResult:
    """Ask ``holds`` of every file under a state directory; one that vanishes meanwhile holds nothing."""
    found: list[str] = []
    count = size = 0
    for path in sorted(path for path in paths.root.rglob("*") if path.is_file() and may_be_read(path)):
        try:
            length, hit = path.stat().st_size, holds(path)
        except FileNotFoundError:  # SQLite, say, has removed its log since it was listed
            continue
        count, size = count + 1, size + length
        if hit:
            found.append(str(path.relative_to(paths.root)))
    return ScanResult(count, size, found)


def table_format(path: Path) -> str:
    """Tell by its first bytes, not its name, whether a file is ``"parquet"`` or ``"arrow"``; else ``""``."""
    with reading(path) as file:
        start = file.read(6)
    return "parquet" if start[:4] == b"PAR1" else "arrow" if start == b"ARROW1" else ""


def column_names(path: Path, kind: str) -> list[str]:
    """Return the columns of a file of that format."""
    return list(pl.read_parquet_schema(path) if kind == "parquet" else pl.read_ipc_schema(path))


def read_columns(path: Path, kind: str, names: list[str]) -> pl.DataFrame:
    """Read some columns of a file of that format."""
    read = pl.read_parquet if kind == "parquet" else pl.read_ipc
    return read(path, columns=names)


def _holds_one(path: Path, wanted: list[str], needles: Needles, only_tail: bool) -> bool:
    try:
        if kind := table_format(path):
            return _decoded_hit(path, kind, wanted)
    except UNREADABLE:
        pass  # a damaged file, or one that only begins like a table, is searched as bytes
    return needles.longest > 0 and _bytes_hit(path, needles, only_tail)


def _decoded_hit(path: Path, kind: str, wanted: list[str]) -> bool:
    if "user_id" not in column_names(path, kind):
        return False
    ids = read_columns(path, kind, ["user_id"])["user_id"]
    return bool(ids.is_in(ids_series("user_id", wanted, ids.dtype).implode()).any())


def _bytes_hit(path: Path, needles: Needles, only_tail: bool) -> bool:
    """Search a file, or its last MiB, in chunks that overlap."""
    overlap = needles.longest - 1
    tail = b""
    with reading(path) as file:
        if only_tail:
            file.seek(max(0, path.stat().st_size - _TAIL))
        while chunk := file.read(_CHUNK):
            if needles.are_in(tail + chunk):
                return True
            tail = chunk[-overlap:] if overlap else b""
    return False
