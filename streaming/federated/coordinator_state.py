"""What a coordinator has committed to, in one file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ...engine import durable
from ...engine.signing import SigningKey
from ...engine.state import StatePaths
from ...models.sums_statistic import Statistic
from .message import FORMAT, FederationError, Header, read_form
from .secure.terms import What

DEFAULT_BATCH: Final = 100
"""See docs/explanation/federated.md: what differences of totals say of somebody, by the size of the batch."""

DEFAULT_ROUND_EVERY: Final = 86_400.0
"""Seconds: a day, of the month that the law gives; a round costs each silo 8 bytes for a pair of items."""

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


class Rounds(msgspec.Struct):
    """Where a federation of secure sums stands.

    Attributes
    ----------
    every : seconds from the end of one round to the beginning of the next.
    number : of the last round that was begun, in any epoch; never used again.
    what, asked : the open round: rows or deletions, and of which silos; [], none is open.
    since : when the open round began, or the last one ended, Unix time.
    sums, users, members : the file of this epoch's total ("": there is none yet), its users, its silos.
    """

    every: float
    number: int = 0
    what: What = "rows"
    asked: list[str] = []
    since: float = 0.0
    sums: str = ""
    users: int = 0
    members: list[str] = []


class Solves(msgspec.Struct):
    """Where a federation of products stands.

    Attributes
    ----------
    number : of the last solve that was begun, in any epoch; never used again.
    asked : the silos of the open solve; []: none is open.
    away : silos that it goes on without.
    since : when it began, Unix time.
    members : the silos in what is published.
    """

    number: int = 0
    asked: list[str] = []
    away: list[str] = []
    since: float = 0.0
    members: list[str] = []


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
    unanswered : messages that count, and are in no version yet.
    departed : silos that left in this epoch: nobody takes their names in it, or their messages would count.
    answered : keys of those that the last version answered; their receipts are kept, if not posted yet.
    rounds : of secure sums; None: each silo's sums are added in the open.
    solves : of products; None: silos send sums.
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
    departed: list[str]
    answered: list[str] = []
    rounds: Rounds | None = None
    solves: Solves | None = None

    @property
    def statistic(self) -> Statistic:
        """What is summed."""
        from ...models.summed import statistic_of

        return statistic_of(self.model, self.settings, len(self.items), fractions=self.fractions)

    def is_out_of_patience(self, times: int = 1) -> bool:
        """Tell whether who is away was waited for: since the epoch began, or the open round or solve did."""
        since = self.rounds.since if self.rounds is not None else self.opened
        if self.solves is not None:
            since = max(since, self.solves.since)
        return self.patience is not None and time.time() - since >= times * self.patience


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
    round_every: float | None = None,
    products: bool = False,
) -> None:
    """Make a coordinator's directory: its key, and the state that a first epoch begins with.

    Parameters
    ----------
    round_every : add sums under masks, with a round of deletions every so many seconds; None: in the open.
    products : SpectralMF by rounds of products with rows: no sums are sent.

    Raises
    ------
    FederationError
        There is one already, or an item is named twice.
    ValueError
        The model, with these settings, is not a function of sums.
    """
    from ...models.summed import statistic_of

    paths = StatePaths(root)
    if (root / STATE).exists():
        raise FederationError(f"{root} has a coordinator already; use another directory")
    if len(set(items)) != len(items):
        raise FederationError("an item is named twice in the catalogue; name each once")
    statistic_of(model, settings, len(items), fractions=fractions)
    if products:
        _require_products(model, is_masked=round_every is not None)
    if batch < 1:
        raise FederationError(f"batch is {batch}; a deletion has at least one user")
    durable.make_directory(paths.keys)
    SigningKey.create(paths)
    state = CoordinatorState(
        FORMAT, federation, str(board.resolve()), model, settings, fractions, batch, patience,
        epoch=1, opened=time.time(), version=0, begun=False, dirty=False, items=list(items), parties={},
        unanswered=[], answered=[], departed=[],
        rounds=None if round_every is None else Rounds(round_every),
        solves=Solves() if products else None,
    )  # fmt: skip
    write_state(root, state)


def _require_products(model: str, *, is_masked: bool) -> None:
    from ...models.spectral_mf import SpectralMF

    if model != SpectralMF.name:
        raise ValueError(
            f"{model} is made of sums that are sent once; products are for {SpectralMF.name}: for both "
            "models, make two federations, each with a board of its own"
        )
    if is_masked:
        raise ValueError(
            "products are no whole numbers, and cannot be masked; choose masked sums or products"
        )


def write_state(root: Path, state: CoordinatorState) -> None:
    """Commit."""
    durable.replace(root / STATE, msgspec.json.encode(state))


def read_state(root: Path) -> CoordinatorState:
    """Read what was committed to.

    Raises
    ------
    FederationError
        There is no coordinator here, or its state cannot be read or has another format.
    """
    try:
        return read_form(root / STATE, CoordinatorState)
    except FileNotFoundError:
        raise FederationError(
            f"{root} has no coordinator; make one with: recunlearn coordinator init"
        ) from None
