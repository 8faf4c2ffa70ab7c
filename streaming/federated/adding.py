"""How what silos send becomes one model: of sums, apart, each silo's in the open, as here; or otherwise.

:class:`Apart` keeps the sums of each silo, so that a silo can subtract only what it added. The other ways are
``secure.adding.Together``, under masks, and ``rounds.adding.ByProducts``, without sums.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...engine import durable
from ...models.summed import Published, published_from_sums
from ...models.sums import LARGEST, Statistic, Sums, SumsError, merge
from ...models.sums_check import read_sums
from .board import Board
from .coordinator_state import CoordinatorState
from .message import FederationError, Header, digest_of
from .sums_file import read_arrow, write_arrow

SUMS: Final = "sums"
"""The directory, in the coordinator's own, of the files that its state names."""


@dataclass(frozen=True)
class Made:
    """A model to be published, of how many users, and the silos that they are of."""

    published: Published
    users: int
    parties: list[str]


class Adding(Protocol):
    """What a coordinator needs of a way to add up; ``state`` says the rest, and is committed by it."""

    def take(self, header: Header) -> None:
        """Let a message of rows that come or go count, in memory.

        Raises
        ------
        SumsError
            It cannot be so; nothing has changed.
        """
        ...

    def look(self) -> None:
        """Go on with what is not in messages of one silo; what counts by it is committed to."""
        ...

    def drop(self, name: str) -> None:
        """Do without a silo, and with nothing of it."""
        ...

    def begin_epoch(self) -> None:
        """Begin with the sums of nothing."""
        ...

    def is_fixed(self) -> bool:
        """Tell whether this epoch's silos are fixed: who comes or goes begins another."""
        ...

    def is_stuck(self) -> bool:
        """Tell whether only another epoch helps."""
        ...

    def is_due(self) -> bool:
        """Tell whether there is something new, and all that it takes to publish it."""
        ...

    def make(self) -> Made | None:
        """Make the model of all; None: silos went away meanwhile, and it is to be tried again.

        Raises
        ------
        ValueError
            There is no such model.
        """
        ...

    def settle(self) -> None:
        """Note that what was made is published."""
        ...

    def counts(self, header: Header) -> bool:
        """Tell whether a message that was taken in is in what was published last."""
        ...

    def keep(self) -> None:
        """Make the sums last that the state is about to name."""
        ...

    def tidy(self) -> None:
        """Remove what the state does not name any more."""
        ...


class Apart:
    """The sums of each silo in a file of their own: what is added can be held to whoever added it."""

    def __init__(self, root: Path, board: Board, state: CoordinatorState) -> None:
        """Begin with what the state names."""
        self._folder, self._board, self._state = root / SUMS, board, state
        self._sums: dict[str, Sums] = {}
        self._room: dict[str, NDArray[np.float64]] = {}

    def take(self, header: Header) -> None:
        """Add or subtract what a silo sent.

        Raises
        ------
        SumsError
            It cannot be so: not sums of rows, more than the silo has, or the total of all would not fit.
        FederationError
            The sums are missing, or not those that were signed.
        """
        name, party = header.party, self._state.parties[header.party]
        before = self.sums_of(name)
        if header.kind == "rows":
            after = before.add(self._read(header))
        else:
            after = before.subtract(self._read(header))
            read_sums(after.statistic, after.users, after.arrays)  # what is left must be sums of rows too
        self._make_room(header, before, after)
        self._sums[name] = after
        party.users, party.sums = after.users, f"{name}-{header.epoch:06d}-{header.sequence:06d}.arrow"

    def look(self) -> None:
        """Nothing: every message is one silo's."""

    def drop(self, name: str) -> None:
        """Forget the sums of a silo."""
        self._sums.pop(name, None)
        self._room.clear()

    def begin_epoch(self) -> None:
        """Forget all sums."""
        for party in self._state.parties.values():
            party.sums, party.users = "", 0
        self._sums.clear()
        self._room.clear()

    def is_fixed(self) -> bool:
        """Tell that they are not: sums of a silo come and go by themselves."""
        return False

    def is_stuck(self) -> bool:
        """Tell that it is not: each message counts by itself."""
        return False

    def is_due(self) -> bool:
        """Tell whether sums are new and all silos are in, or the patience with some has ended.

        Only an epoch's first version waits; who comes later is added to what is there.
        """
        state = self._state
        away = sum(not party.sums for party in state.parties.values())
        is_ready = state.begun or not away or (state.is_out_of_patience() and away < len(state.parties))
        return state.dirty and is_ready

    def make(self) -> Made:
        """Make the model of the total."""
        return made_of_sums(self._state, *self.total())

    def settle(self) -> None:
        """Nothing: the state names the sums, published or not."""

    def counts(self, header: Header) -> bool:
        """Tell that it is: all sums are in every version."""
        del header
        return True

    def total(self) -> tuple[Sums, list[str]]:
        """Add up."""
        parties = self._state.parties
        total = merge((self.sums_of(name) for name in parties), self._state.statistic)
        return total, [name for name, party in parties.items() if party.sums]

    def keep(self) -> None:
        """Write the sums that changed, each to a new file."""
        for name, party in self._state.parties.items():
            path = self._folder / party.sums
            if party.sums and not path.exists():
                durable.create_bytes(path, write_arrow(self._sums[name]))

    def tidy(self) -> None:
        """Remove old sums."""
        remove_others(self._folder, {party.sums for party in self._state.parties.values()})

    def sums_of(self, name: str) -> Sums:
        """Return a silo's sums as they stand, from disk the first time."""
        if name not in self._sums:
            party, statistic = self._state.parties[name], self._state.statistic
            self._sums[name] = read_kept(self._folder, party.sums, party.users, statistic)
        return self._sums[name]

    def _read(self, header: Header) -> Sums:
        """Read the sums that a header names."""
        path = self._board.envelope(header.party, header.epoch, header.sequence).with_suffix(".arrow")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise FederationError(f"the sums of {header.key} are missing") from None
        if digest_of(content) != header.digest:
            raise FederationError(f"the sums of {header.key} are not those that were signed")
        return read_arrow(content, header.statistic, header.users)

    def _make_room(self, header: Header, before: Sums, after: Sums) -> None:
        """Refuse sums with which the total of all silos would not fit; O(items), once all sums are read.

        The totals are float64: what rounding can add is far below the hundredth that is kept free.
        """
        if header.kind == "rows" and not self._room:
            parts = [_bounded(self.sums_of(name)) for name in self._state.parties]
            self._room = {what: np.sum([part[what] for part in parts], axis=0) for what in parts[0]}
        old, new = _bounded(before), _bounded(after)
        room = {what: total - old[what] + new[what] for what, total in self._room.items()}
        if header.kind == "rows":
            for what, total in room.items():
                if (over := np.flatnonzero(total >= 0.99 * LARGEST)).size:
                    raise SumsError(
                        f"the {what} of item {over[0]} of all silos would sum to 2^61, which does not fit"
                    )
        self._room = room


def made_of_sums(state: CoordinatorState, total: Sums, parties: list[str]) -> Made:
    """Make the model of a total: whose sums are in it, is the caller's to say.

    Raises
    ------
    ValueError
        There is no such model.
    """
    return Made(published_from_sums(state.model, state.settings, total), total.users, parties)


def read_kept(folder: Path, file: str, users: int, statistic: Statistic) -> Sums:
    """Read sums that a state names; "": the sums of nothing.

    Raises
    ------
    SumsError
        The file is not what was written.
    """
    return read_arrow((folder / file).read_bytes(), statistic, users) if file else Sums.nothing(statistic)


def remove_others(folder: Path, named: set[str]) -> None:
    """Remove the files of a directory that nothing names any more."""
    for path in folder.iterdir():
        if path.name not in named:
            durable.remove(path)


def _bounded(sums: Sums) -> dict[str, NDArray[np.float64]]:
    arrays = {"counts": sums.counts, "degrees": sums.degrees, "squares": sums.diagonal()}
    return {what: values.astype(np.float64) for what, values in arrays.items()}
