"""A silo's way to send under masks: something in every round, and nobody sees whether it is nothing."""

from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ....engine.signing import public_pem
from ....models.sums import Sums
from ..board import Charter
from ..message import key_of
from ..sealing import Letters
from ..silo_state import Outgoing, write_state
from . import exchange
from .party import Identity
from .terms import Terms, read_terms


@dataclass(frozen=True)
class UnderMasks:
    """What a silo sends of sums, round by round; only that it leaves is a letter.

    Attributes
    ----------
    letters : of the silo.
    coordinator : whose terms it takes.
    """

    letters: Letters
    coordinator: Ed25519PublicKey

    def holds(self, charter: Charter) -> bool:
        """Tell whether there is a message already: a round takes one, and all who wait go in the next."""
        del charter
        return bool(self.letters.state.outgoing)

    def send(self, charter: Charter) -> int:
        """Say what can be said now in the open round; how many messages left by it.

        Raises
        ------
        RoundError, SumsError
            As ``exchange.take_part``: a silo that is not known here, above all.
        """
        letters, state = self.letters, self.letters.state
        left = letters.write([one for one in state.outgoing if one.kind == "leave"], charter)
        number = exchange.open_round(letters.board)
        try:
            terms = read_terms(exchange.terms_path(letters.board, number).read_bytes(), self.coordinator)
            if (terms.federation, terms.epoch, terms.statistic) != (
                charter.federation, state.epoch, charter.statistic,
            ) or state.party not in terms.parties:  # fmt: skip
                return left  # it is over, or goes on without this silo

            def contents(terms: Terms) -> tuple[str, Sums]:
                nonlocal left
                key, sums = self._contents(terms, charter)
                left += bool(key)
                return key, sums

            exchange.take_part(letters.board, letters.root, self._me(), self.coordinator, number, contents)
        except FileNotFoundError:
            if exchange.terms_path(letters.board, number).exists():
                raise  # else there is no round, or it has just ended
        return left

    def _me(self) -> Identity:
        state, key = self.letters.state, self.letters.key
        return Identity(state.party, key, {**state.peers, state.party: public_pem(key.public).decode()})

    def _contents(self, terms: Terms, charter: Charter) -> tuple[str, Sums]:
        """Return the name and the sums of what goes into a round; once it is masked, the same again."""
        one = self._brought(terms)
        if one is None:
            return "", Sums.nothing(terms.statistic)
        state = self.letters.state
        if one.round != terms.round:
            place = state.outgoing.index(one)
            one = state.outgoing[place] = msgspec.structs.replace(one, round=terms.round)
            write_state(self.letters.root, state)
        return self._key_of(one), self.letters.sums_of(one, charter)

    def _brought(self, terms: Terms) -> Outgoing | None:
        memory = exchange.read_memory(self.letters.root / exchange.MEMORY)
        for one in self.letters.state.outgoing:
            key = self._key_of(one)
            fits = one.kind == terms.what and key not in memory.spent
            if key == memory.contents if memory.vector else fits:
                return one
        return None

    def _key_of(self, one: Outgoing) -> str:
        return key_of(self.letters.state.party, self.letters.state.epoch, one.sequence)
