"""A study: which data, methods and regimes, how many draws. Written as TOML, repeated from it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from ...engine.tables import (
    InteractionFileError,
    InteractionTable,
    read_interactions,
    table_from_frame,
    to_matrix,
)
from ...models.base import Interactions, canonical_interactions
from ..attacks import ATTACKS
from ..datasets import DATASETS, DatasetError, load_dataset, read_adjacency
from ..generate import social_interactions
from .regimes import Regime, StudyError

_NAME: Final = re.compile(r"[\w%+][\w.%+ -]{0,60}")


class Generated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data drawn by :func:`recunlearn.eval.generate.social_interactions`."""

    users: int
    items: int
    interactions: int
    seed: int = 0


class DataEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where data come from: one of ``dataset``, ``file``, ``adjacency`` and ``generate``.

    Attributes
    ----------
    name : of the data in the report. dataset : a name of the registry. file : CSV, NDJSON or Parquet with
        columns user_id, item_id and maybe value. adjacency : files of lines ``user item item ...``, put
        together. generate : sizes.
    binary : set every value to 1; else they are taken as they are.
    """

    name: str
    dataset: str | None = None
    file: str | None = None
    adjacency: list[str] | None = None
    generate: Generated | None = None
    binary: bool = True

    def __post_init__(self) -> None:
        given = [s for s in (self.dataset, self.file, self.adjacency, self.generate) if s is not None]
        if len(given) != 1:
            raise ValueError(f"data {self.name!r}: give one of dataset, file, adjacency, generate")


class MethodEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method and its settings. ``method``: a name of the registry or ``file.py:Class``; else ``name``."""

    name: str
    method: str = ""
    settings: dict[str, Any] = {}

    @property
    def made_by(self) -> str:
        """What makes it."""
        return self.method or self.name


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that decides a study's figures, times apart.

    Attributes
    ----------
    name : of the study. draws : how often each cell is repeated, with other splits and other people.
    test_share : of everybody's interactions held out for ranking quality. level : of all intervals.
    attacks : names of :data:`recunlearn.eval.attacks.ATTACKS`; each fits four shadow models a cell.
    """

    name: str = "study"
    seed: int = 0
    draws: int = 3
    test_share: float = 0.2
    level: float = 0.95
    attacks: list[str] = []
    data: list[DataEntry] = []
    method: list[MethodEntry] = []
    regime: list[Regime] = []

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.test_share < 1 or not 0.5 <= self.level < 1:
            raise ValueError("draws is at least 1, test_share between 0 and 1, level from 0.5 to below 1")
        if unknown := [name for name in self.attacks if name not in ATTACKS]:
            raise ValueError(f"attack {unknown[0]!r} is not known; choose of {', '.join(ATTACKS)}")
        for what in ("data", "method", "regime"):
            names = [entry.name for entry in getattr(self, what)]
            if len(set(names)) < len(names):
                raise ValueError(f"two entries of {what} have the same name; give each its own: {names}")
            if bad := [name for name in names if not _NAME.fullmatch(name)]:
                raise ValueError(f"{what} is named {bad[0]!r}; use letters, digits and . _ % + -")


def read_study(path: Path) -> Study:
    """Read a study; paths in it are relative to its file.

    Raises
    ------
    StudyError
        The file cannot be read or is not a study; the message says where.
    """
    try:
        study = msgspec.toml.decode(path.read_bytes(), type=Study)
    except (OSError, msgspec.DecodeError) as error:
        raise StudyError(f"{path}: {error}") from error
    data = [_located(entry, path.parent) for entry in study.data]
    methods = [
        msgspec.structs.replace(entry, method=str(path.parent / entry.made_by))
        if ".py:" in entry.made_by
        else entry
        for entry in study.method
    ]
    return msgspec.structs.replace(study, data=data, method=methods)


def _located(entry: DataEntry, folder: Path) -> DataEntry:
    if entry.file is not None:
        return msgspec.structs.replace(entry, file=str(folder / entry.file))
    if entry.adjacency is not None:
        return msgspec.structs.replace(entry, adjacency=[str(folder / part) for part in entry.adjacency])
    return entry


def only(study: Study, data: Iterable[str], method: Iterable[str], regime: Iterable[str]) -> Study:
    """Keep the entries that are named, all of a kind of which none is.

    Raises
    ------
    StudyError
        There is no entry of that name.
    """
    kept: dict[str, list[Any]] = {}
    for what, names in (("data", list(data)), ("method", list(method)), ("regime", list(regime))):
        entries = {entry.name: entry for entry in getattr(study, what)}
        if unknown := [name for name in names if name not in entries]:
            raise StudyError(f"the study has no {what} {unknown[0]!r}; it has {', '.join(entries)}")
        kept[what] = [entries[name] for name in names] if names else list(entries.values())
        if not kept[what]:
            raise StudyError(f"the study names no {what}; add a [[{what}]] table, or --{what}")
    return msgspec.structs.replace(study, **kept)


def load_data(entry: DataEntry) -> tuple[Interactions, str]:
    """Load the data of an entry: canonical CSR, and what is to be said of where they are from.

    Raises
    ------
    StudyError
        They cannot be had.
    """
    notices: list[str] = []
    try:
        matrix = _matrix(entry, notices)
    except (DatasetError, InteractionFileError, OSError) as error:
        raise StudyError(f"data {entry.name!r}: {error}") from error
    if entry.binary:
        matrix.data[:] = 1.0
    return matrix, " ".join(notices)


def _matrix(entry: DataEntry, notices: list[str]) -> Interactions:
    if entry.generate is not None:
        g = entry.generate
        return canonical_interactions(social_interactions(g.users, g.items, g.interactions, seed=g.seed))
    if entry.adjacency is not None:
        tables = [read_adjacency(path) for path in entry.adjacency]
        return to_matrix(_together(tables)).user_items
    if entry.dataset is not None:
        return to_matrix(load_dataset(entry.dataset, show_notice=notices.append).table).user_items
    return to_matrix(read_interactions(str(entry.file))).user_items


def _together(tables: list[InteractionTable]) -> InteractionTable:
    return table_from_frame(pl.concat([table.frame for table in tables]), "the adjacency files")


def entry_from_option(value: str) -> DataEntry:
    """Read ``--data``: the name of a data set, or a file.

    Examples
    --------
    >>> entry_from_option("movielens-100k").dataset, entry_from_option("a/b.csv").name
    ('movielens-100k', 'b')
    """
    if value in DATASETS:
        return DataEntry(name=value, dataset=value)
    return DataEntry(name=Path(value).stem, file=value)


def regime_from_option(value: str) -> Regime:
    """Read ``--regime``: ``who:how many``, a share with %, optionally ``:stream``.

    Raises
    ------
    StudyError
        It is none.

    Examples
    --------
    >>> regime_from_option("core:5%").share, regime_from_option("random:100:stream").batch
    (0.05, 1)
    """
    match = re.fullmatch(r"(random|core|edge):(\d+(?:\.\d+)?)(%?)(:stream)?", value)
    if match is None or (not match[3] and "." in match[2]):
        raise StudyError(
            f"regime {value!r} is not one; write random:1%, core:50, edge:5% or random:200:stream"
        )
    amount: dict[str, Any] = {"share": float(match[2]) / 100} if match[3] else {"users": int(match[2])}
    stream: dict[str, Any] = {"batch": 1, "checkpoints": 5} if match[4] else {}
    try:
        return msgspec.convert({"name": value.replace(":", " "), "who": match[1], **amount, **stream}, Regime)
    except msgspec.ValidationError as error:
        raise StudyError(f"regime {value!r}: {error}") from error


def digest_of(matrix: Interactions) -> str:
    """SHA-256 of a matrix: its shape, pattern and values."""
    digest = hashlib.sha256(repr(matrix.shape).encode())
    for array in (matrix.indptr, matrix.indices, matrix.data):
        kind = np.float64 if array.dtype.kind == "f" else np.int64
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return digest.hexdigest()


def digest_of_record(record: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-ready record, whatever the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(record, order="sorted")).hexdigest()
