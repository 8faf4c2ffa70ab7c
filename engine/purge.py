"""What is done after a version is published: nothing but it stays, and no byte of the erased is left.

Purging needs nobody's id: whatever the published version does not name goes. So it can be done again at
every start, and is (as LevelDB does with obsolete files).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from . import durable
from .id_index import ids_series
from .requests import is_distinctive
from .state import StatePaths
from .version import Manifest

_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
_BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_CHUNK = 1 << 24

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

    Ids that tell somebody apart (:func:`~.requests.is_distinctive`) are looked for as bytes, in UTF-8 and
    UTF-16, and as integers of 8 bytes; all ids are looked for among the decoded user ids. Parquet and Arrow,
    told by their first bytes, are decoded; the arrays of numbers, which hold no ids, are not read again.

    Parameters
    ----------
    users : canonical ids.
    """
    wanted = sorted(set(users))
    needles = [text for text in wanted if is_distinctive(text)]
    return search(paths, lambda path: _holds_one(path, wanted, needles))


def search(paths: StatePaths, holds: Callable[[Path], bool]) -> ScanResult:
    """Ask ``holds`` of every file under a state directory; one that vanishes meanwhile holds nothing."""
    found: list[str] = []
    count = size = 0
    for path in sorted(path for path in paths.root.rglob("*") if path.is_file()):
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
    with path.open("rb") as file:
        start = file.read(6)
    return "parquet" if start[:4] == b"PAR1" else "arrow" if start == b"ARROW1" else ""


def _holds_one(path: Path, wanted: list[str], needles: list[str]) -> bool:
    try:
        if table_format(path):
            return _decoded_hit(path, wanted)
    except UNREADABLE:
        pass  # a damaged file, or one that only begins like a table, is searched as bytes
    return bool(needles) and _bytes_hit(path, needles)


def _decoded_hit(path: Path, wanted: list[str]) -> bool:
    if table_format(path) == "parquet":
        if "user_id" not in pl.read_parquet_schema(path):
            return False
        ids = pl.read_parquet(path, columns=["user_id"])["user_id"]
    else:
        if "user_id" not in pl.read_ipc_schema(path):
            return False
        ids = pl.read_ipc(path, columns=["user_id"])["user_id"]
    return bool(ids.is_in(ids_series("user_id", wanted, ids.dtype).implode()).any())


def _forms(text: str) -> list[bytes]:
    """Return the bytes that an id can be written as: text, and an integer of 8 bytes where it is one.

    Not of 4 bytes: in a megabyte of hashes one of a thousand such would be found by chance now and then.
    """
    forms = [text.encode(encoding) for encoding in _ENCODINGS]
    if text.lstrip("-").isdecimal() and -(1 << 63) <= int(text) < 1 << 63:
        forms += [int(text).to_bytes(8, order, signed=True) for order in _BYTE_ORDERS]
    return forms


def _bytes_hit(path: Path, needles: list[str]) -> bool:
    """Search a file for all needles in one pass (Aho-Corasick), in chunks that overlap."""
    patterns = [form.decode("latin-1") for text in needles for form in _forms(text)]
    overlap = max(len(pattern) for pattern in patterns) - 1
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content = pl.Series([(tail + chunk).decode("latin-1")])
            if content.str.contains_any(patterns).item():
                return True
            tail = chunk[-overlap:] if overlap else b""
    return False
