"""What a silo has committed to, in one file, and the rows that it keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp

from ...engine import durable
from ...models.base import Interactions, canonical_interactions
from .message import FederationError, Kind, read_form

STATE: Final = "silo.json"

DONE_KEPT: Final = 1000
"""Answered messages that a silo remembers; of older ones the receipts are on the board."""


class Pending(msgspec.Struct, frozen=True):
    """A user to be forgotten, who is in no message yet; since when, Unix time."""

    user: str
    since: float


class Outgoing(msgspec.Struct, frozen=True):
    """A message without an answer.

    Attributes
    ----------
    sequence, kind : its place, and what it says.
    rows : the Parquet file of the rows that it sums up; "" where it has none. Kept until there is an answer,
        so that a message that is lost can be written again: the same bytes.
    erases : how many users are out once it counts.
    round : the last round of secure sums that it was brought to; 0: none.
    """

    sequence: int
    kind: Kind
    rows: str
    erases: int
    round: int = 0


class Done(msgspec.Struct, frozen=True):
    """A message that counts: in which version, of which epoch, and how many users are out by it."""

    key: str
    kind: Kind
    erased: int
    epoch: int
    version: int


class SiloState(msgspec.Struct):
    """What a silo has committed to.

    Attributes
    ----------
    board, party : the shared directory, and the silo's name in the federation.
    coordinator : the coordinator's public key, PEM, as it was given when the silo joined.
    epoch, sequence : of the last message made; epoch 0: none.
    rows : the Parquet file of what is kept.
    pending : who is to be forgotten and in no message yet: nobody serves them any more.
    outgoing, done : messages without and with an answer; of these the last thousand.
    items, catalogue : how many lines of the catalogue were seen, and their SHA-256: they must stay.
    patience : seconds after which a deletion goes out although its batch is small.
    left : the silo is no part of the federation any more.
    secure : nothing but masked sums leaves this silo.
    peers : silo -> its public key, PEM, as that silo gave it: with whom sums are masked.
    """

    format: int
    board: str
    party: str
    coordinator: str
    patience: float
    epoch: int
    sequence: int
    rows: str
    pending: list[Pending]
    outgoing: list[Outgoing]
    done: list[Done]
    items: int
    catalogue: str
    left: bool
    secure: bool = False
    peers: dict[str, str] = {}


def write_state(root: Path, state: SiloState) -> None:
    """Commit."""
    durable.replace(root / STATE, msgspec.json.encode(state))


def read_state(root: Path) -> SiloState:
    """Read what was committed to.

    Raises
    ------
    FederationError
        There is no silo here, or its state cannot be read or has another format.
    """
    try:
        return read_form(root / STATE, SiloState)
    except FileNotFoundError:
        raise FederationError(f"{root} has no silo; make one with: recunlearn silo join") from None


def write_rows(path: Path, frame: pl.DataFrame) -> None:
    """Write rows durably; a file that is there is what a crash left of the same."""
    path.unlink(missing_ok=True)
    durable.create(path, lambda file: frame.write_parquet(file))
    durable.sync_directory(path.parent)


def read_rows(path: Path) -> pl.DataFrame:
    """Read rows: ``user_id``, ``item_id`` (strings) and ``value``."""
    return pl.read_parquet(path, memory_map=False)


def matrix_of(frame: pl.DataFrame, items: Sequence[str]) -> Interactions:
    """Put rows into a matrix with the columns of the catalogue, users ascending.

    Raises
    ------
    FederationError
        An item is not in the catalogue.
    """
    known = pl.DataFrame(
        {"item_id": items, "column": np.arange(len(items))}, schema_overrides={"item_id": pl.String}
    )
    placed: Any = frame.join(known, on="item_id", how="left", maintain_order="left")
    missing = placed.filter(pl.col("column").is_null())["item_id"].unique().sort()
    if missing.len():
        raise FederationError(
            f"{missing.len()} items are not in the catalogue, the first is {missing[0]!r}; have them added: "
            "recunlearn coordinator extend"
        )
    users = placed["user_id"].unique().sort()
    row = np.searchsorted(users.to_numpy(), placed["user_id"].to_numpy())
    triples = (placed["value"].to_numpy(), (row, placed["column"].to_numpy()))
    matrix = sp.csr_matrix(triples, shape=(users.len(), len(items)), dtype=np.float64)
    return canonical_interactions(matrix)
