"""Data sets by name: fetched once, checked, kept in the user's cache directory, never without their notice.

Nothing here is shipped with the package. A data set comes from the first of its sources that answers.
"""

import contextlib
import gzip
import logging
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl

from ...engine.tables import InteractionFileError, table_from_frame
from .cache import (
    CACHE_VARIABLE,
    cache_dir,
    file_digest,
    frame_digest,
    read_cached,
    store,
    trust,
    trusted_digest,
)
from .description import Contents, DatasetError, Description, NamedDataset, Source

logger = logging.getLogger(__name__)

_UNREADABLE = (
    zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError,
    KeyError, ValueError, SyntaxError, pl.exceptions.PolarsError,
)  # fmt: skip


def load_described(
    name: str, described: Description, *, show_notice: Callable[[str], None] | None = None
) -> NamedDataset:
    """Load a data set, from the cache if it is there; see :func:`recunlearn.eval.datasets.load_dataset`."""
    folder = cache_dir() / name
    loaded = read_cached(folder, described)
    if loaded is None:
        loaded = _obtain(name, described)
        store(folder, *loaded)
    (show_notice or logger.warning)(described.notice)
    contents, source = loaded
    try:
        table = table_from_frame(contents.frame, name)
    except InteractionFileError as error:
        raise DatasetError(str(error)) from error
    return NamedDataset(name, table, contents.titles, described.notice, source)


def _obtain(name: str, described: Description) -> tuple[Contents, str]:
    """Get the contents from a file supplied by hand or from the first source that answers."""
    failures = []
    for source in described.sources:
        supplied = cache_dir() / source.file_name
        origin = f"{supplied}" if supplied.exists() else source.name
        try:
            if supplied.exists():
                return _open(source, supplied, described), origin
            return _fetch(source, described), origin
        except (OSError, DatasetError) as error:
            failures.append(f"  {origin}: {error}")
    files = " or ".join(dict.fromkeys(source.file_name for source in described.sources))
    where = f" (get it at {described.sources[0].name})" if described.is_by_hand else ""
    raise DatasetError(
        f"data set {name!r} could not be fetched:\n" + "\n".join(failures) + f"\nPut {files} into "
        f"{cache_dir()} by hand{where}, or set {CACHE_VARIABLE} to a folder that has it"
    )


def _fetch(source: Source, described: Description) -> Contents:
    """Download an archive and read it; what was fetched when that breaks off is kept for the next time."""
    with _claimed(source.file_name) as partial:
        source.fetch(partial)
        try:
            return _open(source, partial, described)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _claimed(file_name: str) -> Iterator[Path]:
    """Give a path to fetch to, that no other process has, with what was left of an earlier attempt.

    What is there when the block is left is put back for the next one; where the cache cannot be written, the
    path is in a temporary folder.
    """
    downloads = cache_dir() / ".downloads"
    left = downloads / f"{file_name}.part"
    with tempfile.TemporaryDirectory() as elsewhere:
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            mine = Path(tempfile.mkdtemp(dir=downloads)) / file_name
        except OSError:
            yield Path(elsewhere) / file_name
            return
        with contextlib.suppress(FileNotFoundError):
            left.rename(mine)
        try:
            yield mine
        finally:
            with contextlib.suppress(OSError):
                if mine.exists():
                    mine.rename(left)
                for folder in (mine.parent, downloads, downloads.parent):
                    folder.rmdir()  # stops at the first that is not empty


def _open(source: Source, archive: Path, described: Description) -> Contents:
    """Check an archive, read it and check what was read."""
    digest = _check(source, archive)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            contents = source.read(archive, Path(scratch))
    except _UNREADABLE as error:
        raise DatasetError(f"{source.file_name} cannot be unpacked: {error}") from error
    if described.sha256 is not None and (found := frame_digest(contents.frame)) != described.sha256:
        raise DatasetError(f"SHA-256 of the interactions is {found}, not {described.sha256}")
    if described.is_titled:
        _check_titles(contents.frame["item_id"], contents.titles)
    if source.checksum is None and trusted_digest(source.file_name) is None:
        trust(source.file_name, digest)
    return contents


def _check(source: Source, archive: Path) -> str:
    """Hold an archive to its pinned checksum, or to that of the first copy; returns its hash."""
    if source.checksum is not None:
        algorithm, _, expected = source.checksum.partition(":")
        if (found := file_digest(archive, algorithm)) != expected:
            names = {"sha256": "SHA-256", "md5": "MD5"}
            raise DatasetError(f"{names[algorithm]} of {source.file_name} is {found}, not {expected}")
        return found
    found, first = file_digest(archive), trusted_digest(source.file_name)
    if first is None:
        logger.warning(
            "%s has no published checksum: this copy is trusted, its SHA-256 is %s", source.file_name, found
        )
    elif found != first:
        raise DatasetError(
            f"SHA-256 of {source.file_name} is {found}, but the first copy fetched here had {first}; if its "
            f"publisher has renewed it, remove its line from {cache_dir() / 'trusted.json'}"
        )
    return found


def _check_titles(items: pl.Series, titles: Mapping[int | str, str]) -> None:
    if untitled := set(items) - set(titles):
        raise DatasetError(f"{len(untitled)} items have no title, among them item {min(untitled)}")
