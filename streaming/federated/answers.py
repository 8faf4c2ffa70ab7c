"""What the coordinator answers: receipts, of which it keeps copies, and refusals."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...engine import durable
from ...engine.signing import SigningKey
from .board import RECEIPT_TYPE, REFUSAL_TYPE, Board, Receipt, Refusal, read_signed
from .message import Header, key_of


@dataclass(frozen=True)
class Answers:
    """A coordinator's answers, on the board and at home.

    Attributes
    ----------
    root : the coordinator's directory. Under ``receipts/NAME/`` are copies of the receipts, a file each. They
        stay: they are evidence, name no user, and no file that is written again and again grows by them.
    board, key : where answers are posted, and what signs them.
    """

    root: Path
    board: Board
    key: SigningKey

    def keep(self, receipt: Receipt) -> None:
        """Sign a receipt and keep it durably; one that is there stays."""
        path = self._copy(receipt.key)
        if not path.exists():
            durable.make_directory(path.parent)
            durable.replace(path, self.key.envelope(msgspec.json.encode(receipt), RECEIPT_TYPE))

    def find(self, key: str) -> Receipt | None:
        """Return the receipt of a message; None: it has none yet."""
        return read_signed(self._copy(key), RECEIPT_TYPE, self.key.public, Receipt)

    def post(self, key: str) -> None:
        """Put a receipt that is kept on the board, unless it is there."""
        path = self.board.receipt_of(key)
        if not path.exists():
            durable.make_directory(path.parent, durable.SHARED_FOLDER)
            durable.replace(path, self._copy(key).read_bytes(), durable.SHARED)

    def refuse(self, federation: str, header: Header, message: str, code: str, why: str) -> None:
        """Say that a message does not count."""
        refusal = Refusal(federation, header.party, header.key, message, code, why)
        path = self.board.refusal(header.party, header.epoch, header.sequence)
        durable.replace(path, self.key.envelope(msgspec.json.encode(refusal), REFUSAL_TYPE), durable.SHARED)

    def remove_letter(self, header: Header) -> None:
        """Remove a message that is answered, its envelope last: while it is there, a crash leaves something.

        What was said in a round of secure sums is no letter, and goes with the round.
        """
        if header.key != key_of(header.party, header.epoch, header.sequence):
            return
        path = self.board.envelope(header.party, header.epoch, header.sequence)
        for one in (path.with_suffix(".arrow"), path):
            if one.exists():
                durable.remove(one)

    def _copy(self, key: str) -> Path:
        place = self.board.receipt_of(key)
        return self.root / "receipts" / place.parent.name / place.name
