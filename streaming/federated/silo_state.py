"""What a silo has committed to, in one file, and what it is asked meanwhile."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from ...engine import durable
from .message import FederationError, Kind, digest_of, read_form

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
    solve : the last solve by products that this silo was in; 0: none.
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
    solve: int = 0


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


def ask(root: Path, users: Iterable[str]) -> int:
    """Record durably that users are to be forgotten, for :meth:`~.silo.Silo.step` to take up; how many.

    Any process may ask, while another runs the silo.
    """
    read_state(root)
    wanted = sorted(set(users))
    if wanted:
        name = f"{time.time_ns():020d}-{digest_of(msgspec.json.encode(wanted))[:16]}.json"
        durable.replace(root / "requests" / name, msgspec.json.encode(wanted))
    return len(wanted)
