"""The coordinator's way to make SpectralMF by products: solve after solve, with whoever has rows.

Silos say in letters how many users come and go; the rows stay, and so do sums. A solve begins when a letter
came in, or a silo is back; it is asked for products once every silo has opened as of its last letter. So a
version is of just the rows that the letters before it speak of.
"""

import logging
import time
from pathlib import Path

import numpy as np

from ....engine.signing import SigningKey
from ....models.rounds import Margins, published_by_rounds
from ....models.sums import LARGEST, SumsError
from ..adding import Made
from ..board import Board
from ..coordinator_state import CoordinatorState, Solves, write_state
from ..message import Header
from .places import PATIENCE, is_spent, remove_other_solves, silo_folder
from .solve import Solve
from .terms import FORMAT, CutOffError, SolveError, Terms

_log = logging.getLogger(__name__)


def terms_of(state: CoordinatorState, solves: Solves) -> Terms:
    """Return the terms of the open solve: a function of the state."""
    parties = {name: state.parties[name].public for name in solves.asked}
    return Terms(FORMAT, state.federation, state.epoch, solves.number, state.statistic, parties)


def waits_for(board: Board, state: CoordinatorState) -> list[str]:
    """Name the silos that have not opened in the open solve."""
    if state.solves is None:
        return []
    number, asked = state.solves.number, state.solves.asked
    return [name for name in asked if not (silo_folder(board, name, number) / "opening.json").exists()]


class ByProducts:
    """The solve that is open, and who is in the last one that was published."""

    def __init__(self, root: Path, board: Board, state: CoordinatorState, key: SigningKey) -> None:
        """Begin with what the state names."""
        assert state.solves is not None  # noqa: S101  for the type checkers
        self._root, self._board, self._key = root, board, key
        self._state, self._solves = state, state.solves
        self._solve: Solve | None = None

    def take(self, header: Header) -> None:
        """Note how many users come or go.

        Raises
        ------
        SumsError
            There are sums with it, or more users go than the silo has.
        """
        party = self._state.parties[header.party]
        after = party.users + (header.users if header.kind == "rows" else -header.users)
        if header.digest:
            raise SumsError(
                f"{header.key} has sums, and this federation takes none: rows are multiplied at their silos"
            )
        if header.users < 0 or not 0 <= after < LARGEST:
            raise SumsError(f"{header.key} is of {header.users} users; the silo has {party.users}")
        party.users = after

    def look(self) -> None:
        """Begin a solve, go on with the open one, or begin it anew without who is away."""
        solves, state = self._solves, self._state
        wanted = [name for name, party in sorted(state.parties.items()) if party.sequence]
        if not solves.asked or {*solves.asked, *solves.away} != {*wanted}:
            self._begin_if_due(wanted)
        elif is_spent(self._board, solves.number):  # cut off on the way
            self._begin(solves.asked, solves.away)
        self._open()
        if self._solve is not None and state.dirty and state.is_out_of_patience():
            self._leave_out_who_is_away(self._opened(self._solve))
            self._open()

    def drop(self, name: str) -> None:
        """Do without a silo: what is published is not of those who are left."""
        self._state.dirty |= name in self._solves.members

    def begin_epoch(self) -> None:
        """Begin with nobody; an open solve is given up."""
        solves = self._solves
        solves.asked, solves.away, solves.members = [], [], []
        for party in self._state.parties.values():
            party.users = 0

    def is_fixed(self) -> bool:
        """Tell that they are not: each solve has silos of its own."""
        return False

    def is_stuck(self) -> bool:
        """Tell that it is not: another solve helps."""
        return False

    def is_due(self) -> bool:
        """Tell whether all silos of the open solve have opened as of their last letter, or nobody is left.

        Raises
        ------
        SolveError
            A silo opens with another number of users than its letters say.
        """
        state = self._state
        if self._solve is None:
            return state.dirty and state.begun and not any(one.sequence for one in state.parties.values())
        return {*self._solves.asked} == self._opened(self._solve)

    def make(self) -> Made | None:
        """Ask for products until SpectralMF is solved and certified; None: a silo went away meanwhile.

        Raises
        ------
        SolveError
            A silo answers what cannot be (named).
        """
        state, users = self._state, sum(self._state.parties[name].users for name in self._solves.asked)
        if self._solve is None:
            margins = Margins.nothing(state.statistic)
            return Made(published_by_rounds(state.settings, margins, np.zeros_like), 0, [])
        try:
            with self._solve as solve:
                published = solve.publish(state.settings)
        except CutOffError as error:
            _log.warning("solve %d is begun anew: %s", self._solves.number, error)
            return None
        return Made(published, users, list(self._solves.asked))

    def settle(self) -> None:
        """Note who is in what is published; the solve is over."""
        solves = self._solves
        solves.members, solves.asked, solves.away = solves.asked, [], []
        self._solve = None

    def counts(self, header: Header) -> bool:
        """Tell whether a message is in what is published: rows of a silo that was away are not, yet."""
        is_away = header.party in self._state.parties and header.party not in self._solves.members
        return header.kind != "rows" or not is_away

    def keep(self) -> None:
        """Nothing: there are no sums."""

    def tidy(self) -> None:
        """Remove what was said in solves that are over."""
        remove_other_solves(self._board, self._solves.number if self._solves.asked else 0)

    def _opened(self, solve: Solve) -> set[str]:
        """Name who has opened as of its last letter."""
        opened = set()
        for name, opening in solve.openings().items():
            party = self._state.parties[name]
            if opening.as_of != party.sequence:
                continue
            if opening.users != party.users:
                raise SolveError(
                    f"silo {name} opens with {opening.users} users, and its messages leave {party.users}; "
                    "look into it, then: recunlearn coordinator extend --again"
                )
            opened.add(name)
        return opened

    def _begin_if_due(self, wanted: list[str]) -> None:
        """Begin a solve with everybody, if anything is new; an epoch's first waits for all, with patience."""
        state, solves = self._state, self._solves
        is_new = state.dirty or {*wanted} != {*solves.members}
        is_ready = (
            state.begun or solves.asked or len(wanted) == len(state.parties) or state.is_out_of_patience()
        )
        if wanted and is_new and is_ready:
            self._begin(wanted, [])
        elif solves.asked:
            solves.asked, solves.away = [], []
            write_state(self._root, state)

    def _begin(self, asked: list[str], away: list[str]) -> None:
        """Commit to a solve before anybody hears of it: its number is used once."""
        solves = self._solves
        solves.number, solves.asked, solves.away = solves.number + 1, list(asked), list(away)
        solves.since = time.time()
        write_state(self._root, self._state)

    def _leave_out_who_is_away(self, present: set[str]) -> None:
        """Begin again without who has not opened."""
        missing = {*self._solves.asked} - present
        if missing and present:
            _log.warning("solve %d goes on without %s", self._solves.number, ", ".join(sorted(missing)))
            self._begin(sorted(present), sorted({*missing, *self._solves.away}))

    def _open(self) -> None:
        """Publish the terms of the open solve, and nothing of earlier ones."""
        solves, state = self._solves, self._state
        if self._solve is not None and (not solves.asked or self._solve.terms.solve != solves.number):
            self._solve = None
        if solves.asked and self._solve is None:
            remove_other_solves(self._board, solves.number)
            patience = PATIENCE if state.patience is None else min(PATIENCE, state.patience)
            self._solve = Solve(self._board, terms_of(state, solves), self._key, patience)
