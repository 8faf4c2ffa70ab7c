"""The coordinator's way to add up under masks: round after round, the total of all silos and nothing else.

An epoch's first round adds the rows of its silos, who stay the same until another begins; each later round
subtracts whom they forget. Silos say nothing of their own accord, so that a round does not show who asked.
"""

import logging
import time
from pathlib import Path
from typing import Final

from ....engine import durable
from ....engine.signing import SigningKey
from ....models.sums import Sums, SumsError
from ....models.sums_check import read_sums
from ..adding import SUMS, Made, made_of_sums, read_kept, remove_others
from ..board import Board
from ..coordinator_state import CoordinatorState, Rounds, Taken, write_state
from ..message import FORMAT, FederationError, Header, digest_of, round_key
from ..sums_file import write_arrow
from . import exchange
from .terms import FEWEST, Masked, Terms, What, read_all
from .terms import FORMAT as TERMS_FORMAT

_log = logging.getLogger(__name__)

ROUND_ASKED: Final = "round-asked"


def ask_for_round(root: Path) -> None:
    """Record durably that a round of deletions should begin before its time; any process may ask."""
    durable.replace(root / ROUND_ASKED, b"")


def terms_of(state: CoordinatorState, rounds: Rounds) -> Terms:
    """Return the terms of the open round: a function of the state."""
    parties = {name: state.parties[name].public for name in rounds.asked}
    return Terms(
        TERMS_FORMAT, state.federation, state.epoch, rounds.number, rounds.what, state.statistic, parties
    )


def waits_for(board: Board, state: CoordinatorState) -> tuple[str, list[str]]:
    """Name what the open round waits for, and of whom; ("", []): none is open."""
    if state.rounds is None or not state.rounds.asked:
        return "", []
    return exchange.waited_for(board, terms_of(state, state.rounds))


class Together:
    """The total of an epoch, and the round that is open."""

    def __init__(self, root: Path, board: Board, state: CoordinatorState, key: SigningKey) -> None:
        """Begin with what the state names."""
        assert state.rounds is not None  # noqa: S101  for the type checkers
        self._root, self._folder, self._board = root, root / SUMS, board
        self._state, self._rounds, self._key = state, state.rounds, key
        self._total: Sums | None = None

    def take(self, header: Header) -> None:
        """Refuse the sums of one silo in the open.

        Raises
        ------
        SumsError
            Always.
        """
        raise SumsError(
            f"{header.key} has sums that are not masked, and this federation takes none: have the silo join "
            "again, with: recunlearn silo join --secure"
        )

    def look(self) -> None:
        """Begin a round if it is time, take the open one as far as it goes, and let its total count.

        Raises
        ------
        FederationError
            The total cannot be: a silo has sent what is not its sums.
        """
        if not self._rounds.asked:
            self._begin_if_due()
        if not self._rounds.asked:
            return
        terms = terms_of(self._state, self._rounds)
        exchange.begin(self._board, terms, self._key)
        try:
            total = exchange.collect(self._board, terms)
        except (FileNotFoundError, FederationError, SumsError) as error:
            raise _wrong(terms, error) from None
        if total is not None:
            self._count(terms, total)
        elif self._state.is_out_of_patience():
            self._leave_out_who_is_away(terms)

    def drop(self, name: str) -> None:
        """Do without a silo: its sums cannot be told from the others', so the epoch ends."""

    def begin_epoch(self) -> None:
        """Begin with the sums of nothing; an open round is given up."""
        rounds = self._rounds
        rounds.asked, rounds.sums, rounds.users, rounds.members = [], "", 0, []
        self._total = None

    def is_fixed(self) -> bool:
        """Tell whether a round of this epoch has begun."""
        return bool(self._rounds.asked or self._rounds.sums)

    def is_stuck(self) -> bool:
        """Tell whether somebody is away for good who should agree to a total that others have agreed to."""
        if not self._state.is_out_of_patience(2):
            return False
        what, missing = waits_for(self._board, self._state)
        return bool(missing) and what == "confirmation"

    def is_due(self) -> bool:
        """Tell whether there is a new total, or too few silos for one: then an empty model is published."""
        state = self._state
        is_ready = bool(self._rounds.sums) or (state.version > 0 and len(state.parties) < FEWEST)
        return state.dirty and is_ready

    def make(self) -> Made:
        """Make the model of the total."""
        return made_of_sums(self._state, *self.total())

    def settle(self) -> None:
        """Nothing: the state names the total, published or not."""

    def counts(self, header: Header) -> bool:
        """Tell that it is: what a round said counts once its total does."""
        del header
        return True

    def total(self) -> tuple[Sums, list[str]]:
        """Return the total, from disk the first time."""
        if self._total is None:
            rounds = self._rounds
            self._total = read_kept(self._folder, rounds.sums, rounds.users, self._state.statistic)
        return self._total, list(self._rounds.members)

    def keep(self) -> None:
        """Write the total, if it changed."""
        path = self._folder / self._rounds.sums
        if self._rounds.sums and not path.exists():
            durable.create_bytes(path, write_arrow(self.total()[0]))

    def tidy(self) -> None:
        """Remove old totals, and what was said in rounds that are over."""
        remove_others(self._folder, {self._rounds.sums})
        exchange.remove_other_rounds(self._board, self._rounds.number if self._rounds.asked else 0)

    def _begin_if_due(self) -> None:
        """Begin a round: of rows, while the epoch has no total; else of deletions, when it is time."""
        state, rounds = self._state, self._rounds
        if not rounds.sums:
            if len(state.parties) >= FEWEST:
                self._begin("rows", sorted(state.parties))
            return
        is_time = (self._root / ROUND_ASKED).exists() or time.time() - rounds.since >= rounds.every
        if is_time and not state.dirty and not state.unanswered:
            self._begin("deletion", rounds.members)

    def _begin(self, what: What, parties: list[str]) -> None:
        """Commit to a round before anybody hears of it: its number is used once."""
        rounds = self._rounds
        rounds.number, rounds.what, rounds.asked, rounds.since = rounds.number + 1, what, parties, time.time()
        write_state(self._root, self._state)
        durable.remove(self._root / ROUND_ASKED)

    def _leave_out_who_is_away(self, terms: Terms) -> None:
        """Begin again without who has not answered; once some may have agreed, all are waited for."""
        what, missing = exchange.waited_for(self._board, terms)
        present = [name for name in self._rounds.asked if name not in missing]
        if missing and what != "confirmation" and len(present) >= FEWEST:
            _log.warning("round %d goes on without %s: no %s", terms.round, ", ".join(missing), what)
            self._begin(terms.what, present)

    def _count(self, terms: Terms, total: Sums) -> None:
        """Let the total of a round count, and commit to that."""
        state, rounds = self._state, self._rounds
        held, _ = self.total()
        try:
            after = held.add(total) if terms.what == "rows" else held.subtract(total)
            read_sums(after.statistic, after.users, after.arrays)  # what is left must be sums of rows too
        except SumsError as error:
            raise _wrong(terms, error) from None
        state.unanswered += self._taken(terms, total)
        rounds.asked, rounds.since = [], time.time()
        if total.users or total.keys.size or not rounds.sums:
            self._total, state.dirty = after, True
            rounds.sums, rounds.users = f"total-{terms.epoch:06d}-{terms.round:06d}.arrow", after.users
        if terms.what == "rows":
            rounds.members = sorted(terms.parties)
        self.keep()
        write_state(self._root, state)

    def _taken(self, terms: Terms, total: Sums) -> list[Taken]:
        """Note whom to answer: everybody, for nobody else knows who had something."""
        headers = exchange.shown(self._board, terms)
        taken = []
        for name, masked in read_all(terms, Masked, headers).items():
            key = round_key(name, terms.epoch, terms.round)
            header = Header(
                FORMAT, terms.federation, name, terms.epoch, terms.round, key, terms.what, terms.statistic,
                total.users, masked.vector,
            )  # fmt: skip
            taken.append(Taken(header, digest_of(headers[name])))
        return taken


def _wrong(terms: Terms, error: Exception) -> FederationError:
    return FederationError(
        f"round {terms.round} has no total that counts: {error}; a silo has sent what is not its sums, and "
        "masks do not show which: look into it, then: recunlearn coordinator extend --again"
    )
