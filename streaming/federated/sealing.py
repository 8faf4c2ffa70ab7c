"""How a silo's messages leave it: in letters, their sums in the open, as here; or otherwise.

The other ways are ``secure.sealing.UnderMasks``, in rounds, and ``rounds.sealing.ByProducts``, without sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...engine import durable
from ...engine.signing import SigningKey
from ...models.base import Interactions
from ...models.sums import Sums, sums_of
from .board import Board, Charter
from .message import FORMAT, Header, digest_of, key_of, round_key, seal
from .silo_rows import matrix_of, read_rows
from .silo_state import Outgoing, SiloState
from .sums_file import write_arrow


class Sealing(Protocol):
    """What a silo needs of a way to send."""

    def holds(self, charter: Charter) -> bool:
        """Tell whether no deletion can be made now: who asks waits for the next."""
        ...

    def send(self, charter: Charter) -> int:
        """Send every message that is neither on its way nor answered; how many."""
        ...


@dataclass(frozen=True)
class Letters:
    """A silo's inbox at the coordinator: a signed header for each message, its sums beside it.

    Attributes
    ----------
    root, board, state, key : of the silo, and where it writes.
    """

    root: Path
    board: Board
    state: SiloState
    key: SigningKey

    def holds(self, charter: Charter) -> bool:
        """Tell that any deletion can: each is a letter of its own."""
        del charter
        return False

    def send(self, charter: Charter) -> int:
        """Write the messages that are missing; how many."""
        return self.write(self.state.outgoing, charter)

    def write(self, messages: Sequence[Outgoing], charter: Charter) -> int:
        """Write those of some messages that are missing; how many."""
        written = 0
        for one in messages:
            envelope = self.board.envelope(self.state.party, self.state.epoch, one.sequence)
            if not envelope.exists() and not self.board.receipt_of(answered_as(self.state, one)).exists():
                self._write(envelope, one, charter)
                written += 1
        return written

    def sums_of(self, one: Outgoing, charter: Charter) -> Sums:
        """Sum up the rows of a message: the same sums each time."""
        return sums_of(self._rows_of(one, charter), charter.statistic)

    def _rows_of(self, one: Outgoing, charter: Charter) -> Interactions:
        return matrix_of(read_rows(self.root / one.rows), self.board.read_catalogue(charter))

    def _users_of(self, one: Outgoing, charter: Charter) -> int:
        return int((np.diff(self._rows_of(one, charter).indptr) > 0).sum())

    def _write(self, envelope: Path, one: Outgoing, charter: Charter) -> None:
        digest, users = "", 0
        if one.kind != "leave" and charter.products:
            users = self._users_of(one, charter)
        elif one.kind != "leave":
            sums = self.sums_of(one, charter)
            content, users = write_arrow(sums), sums.users
            digest = digest_of(content)
            durable.replace(envelope.with_suffix(".arrow"), content, durable.SHARED)
        party, epoch = self.state.party, self.state.epoch
        header = Header(
            FORMAT, charter.federation, party, epoch, one.sequence, key_of(party, epoch, one.sequence),
            one.kind, charter.statistic, users, digest,
        )  # fmt: skip
        durable.replace(envelope, seal(header, self.key), durable.SHARED)


def answered_as(state: SiloState, one: Outgoing) -> str:
    """Return the key of the receipt that a message gets: its own, or that of the round it was brought to."""
    if one.round:
        return round_key(state.party, state.epoch, one.round)
    return key_of(state.party, state.epoch, one.sequence)
