"""What a named data set is: where it comes from, how it is read and checked, what it may be used for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ...engine.tables import InteractionTable


class DatasetError(RuntimeError):
    """A data set cannot be had; the message says what was tried, why each failed, and the way out."""


@dataclass(frozen=True)
class NamedDataset:
    """A data set with what is needed to show it to people.

    Attributes
    ----------
    name : as in the registry.
    table : the interactions.
    titles : item id -> title. Empty where the publisher has none, or the id is one.
    notice : licence and citation, to be shown.
    source : where it came from.
    """

    name: str
    table: InteractionTable
    titles: Mapping[int | str, str]
    notice: str
    source: str


@dataclass(frozen=True)
class Contents:
    """What was read of an archive.

    Attributes
    ----------
    frame : ``user_id``, ``item_id``, ``value`` and, where the publisher has it, ``time``; in the publisher's
        own order, not judged yet.
    titles : item id -> title.
    """

    frame: pl.DataFrame
    titles: Mapping[int | str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One place a data set can come from: an archive, or a file, and how it is read.

    Attributes
    ----------
    name : what to call it in messages: its address.
    file_name : the archive's name, also when it is supplied by hand.
    checksum : of the archive, ``"sha256:..."`` or ``"md5:..."`` where that is what its publisher gives. None:
        the first copy that is fetched is trusted, its SHA-256 written down, and later ones are held to it.
    fetch : writes the archive to a path that may hold the beginning of it; raises OSError or DatasetError.
    read : (archive, an empty folder for what must be unpacked) -> contents; raises KeyError, ValueError or an
        error of zipfile, tarfile or Polars where the archive is not as expected.
    """

    name: str
    file_name: str
    checksum: str | None
    fetch: Callable[[Path], None]
    read: Callable[[Path, Path], Contents]


@dataclass(frozen=True)
class Description:
    """One row of the registry.

    Attributes
    ----------
    title : one line: what it is, and how large.
    notice : licence and citation.
    sources : in the order they are tried.
    sha256 : of the interactions, tab-separated as they stand in ``Contents.frame``; None where only the
        archive is pinned.
    is_titled : every item has a title.
    """

    title: str
    notice: str
    sources: tuple[Source, ...]
    sha256: str | None = None
    is_titled: bool = False

    @property
    def is_by_hand(self) -> bool:
        """Whether its terms have to be accepted in person, so that it is never fetched."""
        return all(source.fetch is refused for source in self.sources)


def refused(path: Path) -> None:
    """Stand for a download that its publisher only gives to who accepts the terms.

    Raises
    ------
    DatasetError
        Always.
    """
    raise DatasetError(f"{path.name} is given to those only who accept its terms in person")
