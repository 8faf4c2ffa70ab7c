"""The cache of data sets: a folder for each, whole or not at all, checked on every load."""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import platformdirs
import polars as pl

from .description import Contents, Description

logger = logging.getLogger(__name__)

CACHE_VARIABLE: Final = "RECUNLEARN_CACHE_DIR"
_STALE_SECONDS: Final = 3600.0
_FILES: Final = ("ratings.parquet", "titles.parquet")


def cache_dir() -> Path:
    """Return where data sets are kept: ``RECUNLEARN_CACHE_DIR``, else the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("recunlearn"))


def read_cached(folder: Path, described: Description) -> tuple[Contents, str] | None:
    """Read a cached data set and where it came from; None if there is none or it is damaged."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=dict[str, str])
        for file in _FILES:
            if file_digest(folder / file) != manifest[file]:
                logger.warning("%s is damaged and is fetched again", folder / file)
                return None
        frame = pl.read_parquet(folder / "ratings.parquet")
        titles = dict(pl.read_parquet(folder / "titles.parquet").rows())
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, msgspec.DecodeError, pl.exceptions.PolarsError) as error:
        logger.warning("%s cannot be read and is fetched again: %s", folder, error)
        return None
    if described.sha256 is not None and frame_digest(frame) != described.sha256:
        logger.warning("%s holds other data than the registry names and is fetched again", folder)
        return None
    return Contents(frame, titles), manifest.get("source", "unknown")


def store(folder: Path, contents: Contents, source: str) -> None:
    """Put a data set into the cache; if that fails, say so and go on without."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _write(partial, contents, source)
            if folder.exists():  # damaged: out of the way first, a folder cannot be renamed over another
                folder.rename(partial / "replaced")
                shutil.rmtree(partial / "replaced")
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s), so the next load fetches again; set %s to a folder that can",
            folder,
            error.strerror or error,
            CACHE_VARIABLE,
        )


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def frame_digest(frame: pl.DataFrame) -> str:
    """Hash interactions as tab-separated lines without a header."""
    return hashlib.sha256(frame.write_csv(include_header=False, separator="\t").encode()).hexdigest()


def trusted_digest(file_name: str) -> str | None:
    """Return the SHA-256 of the first copy of a file that was fetched into this cache; None before it was."""
    return _trusted().get(file_name)


def trust(file_name: str, digest: str) -> None:
    """Write down the SHA-256 of a first copy; where the cache cannot be written, nothing is."""
    with contextlib.suppress(OSError):
        path = cache_dir() / "trusted.json"
        written = path.with_name(f".trusted-{os.getpid()}.json")
        written.write_bytes(msgspec.json.format(msgspec.json.encode(_trusted() | {file_name: digest})))
        written.replace(path)


def _trusted() -> dict[str, str]:
    try:
        return msgspec.json.decode((cache_dir() / "trusted.json").read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(partial: Path, contents: Contents, source: str) -> None:
    """Write the files of a data set and, last, the manifest with their checksums."""
    contents.frame.write_parquet(partial / "ratings.parquet")
    by_item = pl.DataFrame({"item_id": list(contents.titles), "title": list(contents.titles.values())})
    by_item.write_parquet(partial / "titles.parquet")
    manifest = {name: file_digest(partial / name) for name in _FILES}
    (partial / "manifest.json").write_bytes(msgspec.json.encode(manifest | {"source": source}))


def _remove_stale(cache: Path) -> None:
    """Remove what a killed process left half-written."""
    for partial in cache.glob(".partial-*"):
        with contextlib.suppress(FileNotFoundError):  # another process may clear it away too
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)
