"""What a coordinator has committed to, in one file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ...engine import durable
from ...engine.signing import SigningKey
from ...engine.state import StatePaths
from ...models.summed import statistic_of
from .board import Receipt
from .message import FORMAT, FederationError, Header

DEFAULT_BATCH: Final = 100
"""See docs/explanation/federated.md: what differences of totals say of somebody, by the size of the batch."""

STATE: Final = "state.json"


class Party(msgspec.Struct):
    """A silo, as the coordinator knows it: its key, its last message, the file of its sums ("": none yet)."""

    public: str
    sequence: int = 0
    sums: str = ""
    users: int = 0


class Taken(msgspec.Struct, frozen=True):
    """A message that counts and has no receipt yet."""

    header: Header
    message: str


class CoordinatorState(msgspec.Struct):
    """What the coordinator has committed to.

    Attributes
    ----------
    board : the shared directory.
    settings : of the model; lambda as the first version chose it.
    opened : when the epoch began, Unix time.
    version : the last one published; begun : one of this epoch is; dirty : the sums are not those of it.
    patience : seconds after which an epoch's first version is published without silos that are away; None:
        it waits for all.
    unanswered : messages that count, and are in no version yet. receipts : key -> of this epoch.
    departed : silos that left in this epoch: nobody takes their names in it, or their messages would count.
    """

    format: int
    federation: str
    board: str
    model: str
    settings: dict[str, Any]
    fractions: bool
    batch: int
    patience: float | None
    epoch: int
    opened: float
    version: int
    begun: bool
    dirty: bool
    items: list[str]
    parties: dict[str, Party]
    unanswered: list[Taken]
    receipts: dict[str, Receipt]
    departed: list[str]


def found_federation(
    root: Path,
    board: Path,
    federation: str,
    items: Sequence[str],
    model: str,
    settings: dict[str, Any],
    *,
    batch: int = DEFAULT_BATCH,
    patience: float | None = None,
    fractions: bool = False,
) -> None:
    """Make a coordinator's directory: its key, and the state that a first epoch begins with.

    Raises
    ------
    FederationError
        There is one already, or an item is named twice.
    ValueError
        The model, with these settings, is not a function of sums.
    """
    paths = StatePaths(root)
    if (root / STATE).exists():
        raise FederationError(f"{root} has a coordinator already; use another directory")
    if len(set(items)) != len(items):
        raise FederationError("an item is named twice in the catalogue; name each once")
    statistic_of(model, settings, len(items), fractions=fractions)
    if batch < 1:
        raise FederationError(f"batch is {batch}; a deletion has at least one user")
    durable.make_directory(paths.keys)
    SigningKey.create(paths)
    state = CoordinatorState(
        FORMAT, federation, str(board.resolve()), model, settings, fractions, batch, patience,
        epoch=1, opened=time.time(), version=0, begun=False, dirty=False, items=list(items), parties={},
        unanswered=[], receipts={}, departed=[],
    )  # fmt: skip
    write_state(root, state)


def write_state(root: Path, state: CoordinatorState) -> None:
    """Commit."""
    durable.replace(root / STATE, msgspec.json.encode(state))


def read_state(root: Path) -> CoordinatorState:
    """Read what was committed to.

    Raises
    ------
    FederationError
        There is no coordinator here, or its state cannot be read.
    """
    path = root / STATE
    try:
        return msgspec.json.decode(path.read_bytes(), type=CoordinatorState)
    except FileNotFoundError:
        raise FederationError(
            f"{root} has no coordinator; make one with: recunlearn coordinator init"
        ) from None
    except msgspec.DecodeError as error:
        raise FederationError(f"{path} cannot be read ({error}); restore it from a backup") from None
