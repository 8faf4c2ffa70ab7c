"""The directory that silos and coordinator share: who writes what where, and in what form it is signed.

::

    charter.json             the coordinator's: model, statistic, epoch, parties and their keys
    catalogue.ndjson         item ids, one a line, only ever appended to: line k is column k
    inbox/NAME/000002-000007.json  .arrow    silo NAME's: message 7 of epoch 2, and its sums
    answers/NAME/000002-000007.json          the coordinator's: the receipt; or ...refused.json
    secure/000003/           the coordinator's, with inbox/NAME/secure-000003/: see ``secure.exchange``
    solves/000003/           the coordinator's, with inbox/NAME/solve-000003/: see ``rounds.places``
    versions/000012/ CURRENT                 the coordinator's: what is published

A silo writes into its own inbox only, the coordinator everything else. Nothing in here names a user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ...engine import durable
from ...engine.signing import ReceiptError, open_envelope, read_exactly
from ...models.sums_statistic import Statistic
from .message import FORMAT, FederationError, Kind, digest_of

CHARTER_TYPE: Final = "application/vnd.recunlearn.federation-charter.v1+json"
RECEIPT_TYPE: Final = "application/vnd.recunlearn.federation-receipt.v1+json"
REFUSAL_TYPE: Final = "application/vnd.recunlearn.federation-refusal.v1+json"

T = TypeVar("T")


class Charter(msgspec.Struct, frozen=True):
    """What a federation does now.

    Attributes
    ----------
    format, federation : version of its form; the federation's name.
    epoch : sums count within one epoch; a new one asks every silo for its sums again.
    model, settings : what is made of the sums.
    statistic : what to sum.
    catalogue : hex SHA-256 of the first ``statistic.n_items`` lines of the catalogue.
    batch : users that a deletion should have at the least.
    parties : silo -> its public key, PEM.
    secure : sums are added under masks, in rounds; nobody sends them in the open.
    products : nobody sends sums: silos multiply what they are asked with their rows.
    """

    format: int
    federation: str
    epoch: int
    model: str
    settings: dict[str, Any]
    statistic: Statistic
    catalogue: str
    batch: int
    parties: dict[str, str]
    secure: bool = False
    products: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What the coordinator states of a message that counts.

    Attributes
    ----------
    key, message : idempotency key, and hex SHA-256 of the signed header.
    kind, users : of the message; in a round of secure sums, of all silos together.
    epoch, version : the published version from which on it counts, in its epoch; for a deletion: in which the
        users are out.
    manifest : hex SHA-256 of that version's manifest.
    at : when, RFC 3339.
    """

    federation: str
    party: str
    key: str
    message: str
    kind: Kind
    users: int
    epoch: int
    version: int
    manifest: str
    at: str


class Refusal(msgspec.Struct, frozen=True):
    """What the coordinator states of a message that does not count: ``code`` for machines, why for people."""

    federation: str
    party: str
    key: str
    message: str
    code: str
    why: str


@dataclass(frozen=True)
class Board:
    """Where everything is.

    Examples
    --------
    >>> Board(Path("fed")).envelope("north", 2, 7).as_posix()
    'fed/inbox/north/000002-000007.json'
    """

    root: Path

    @property
    def charter(self) -> Path:
        """What the federation does, signed."""
        return self.root / "charter.json"

    @property
    def public_key(self) -> Path:
        """The coordinator's public key, for convenience: whom a silo believes is for the silo to say."""
        return self.root / "coordinator.pub"

    @property
    def catalogue(self) -> Path:
        """The item ids."""
        return self.root / "catalogue.ndjson"

    @property
    def current(self) -> Path:
        """Which version is published."""
        return self.root / "CURRENT"

    @property
    def versions(self) -> Path:
        """Published versions."""
        return self.root / "versions"

    def inbox(self, party: str) -> Path:
        """Return where a silo puts its messages."""
        return self.root / "inbox" / party

    def answers(self, party: str) -> Path:
        """Return where it is answered."""
        return self.root / "answers" / party

    def envelope(self, party: str, epoch: int, sequence: int) -> Path:
        """Return where the signed header of a message is; its sums lie beside it, under ``.arrow``."""
        return self.inbox(party) / f"{epoch:06d}-{sequence:06d}.json"

    def letters(self, party: str) -> list[tuple[int, int]]:
        """List (epoch, sequence) of the envelopes in a silo's inbox, ascending."""
        found = []
        for path in self.inbox(party).glob("*.json"):
            epoch, dash, sequence = path.stem.partition("-")
            if dash and epoch.isdecimal() and sequence.isdecimal():
                found.append((int(epoch), int(sequence)))
        return sorted(found)

    def missing(self, party: str, epoch: int, last: int) -> int | None:
        """Name the message after ``last`` if it is missing while a later one is here."""
        here = [sequence for e, sequence in self.letters(party) if e == epoch and sequence > last]
        return last + 1 if here and here[0] > last + 1 else None

    def receipt_of(self, key: str) -> Path:
        """Return where the receipt of a message is, by its key, or that of what a silo said in a round.

        Examples
        --------
        >>> Board(Path("fed")).receipt_of("north/2/round-7").as_posix()
        'fed/answers/north/000002-round-7.json'
        """
        party, epoch, last = key.split("/")
        return self.answers(party) / f"{int(epoch):06d}-{last.zfill(6)}.json"

    def refusal(self, party: str, epoch: int, sequence: int) -> Path:
        """Return where the refusal of a message is."""
        return self.answers(party) / f"{epoch:06d}-{sequence:06d}.refused.json"

    def version(self, number: int) -> Path:
        """Return the directory of a version."""
        return self.versions / f"{number:06d}"

    def read_charter(self, public: Ed25519PublicKey) -> Charter:
        """Read what the federation does now.

        Raises
        ------
        FederationError
            It is missing, not signed by the coordinator, or of another format.
        """
        charter = read_signed(self.charter, CHARTER_TYPE, public, Charter)
        if charter is None:
            raise FederationError(f"{self.charter} is missing: the coordinator has not run here yet")
        if charter.format != FORMAT:
            raise FederationError(f"{self.charter} has format {charter.format}; this release reads {FORMAT}")
        return charter

    def read_catalogue(self, charter: Charter) -> list[str]:
        """Read the item ids: the id of column k at place k.

        Raises
        ------
        FederationError
            They are not those of the charter.
        """
        lines = self.catalogue.read_bytes().splitlines(keepends=True)[: charter.statistic.n_items]
        if digest_of(b"".join(lines)) != charter.catalogue:
            raise FederationError(
                f"{self.catalogue} is not the catalogue of the charter; ask the coordinator"
            )
        return [msgspec.json.decode(line, type=str) for line in lines]


def catalogue_lines(items: Sequence[str]) -> bytes:
    """Write item ids, one a line."""
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


def read_signed(path: Path, payload_type: str, public: Ed25519PublicKey, kind: type[T]) -> T | None:
    """Read a document that the coordinator signed; None if it is not there.

    Raises
    ------
    FederationError
        It is not what it should be.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document: T = read_exactly(open_envelope(content, payload_type, public), kind, path.name)
    except ReceiptError as error:
        raise FederationError(f"{path}: {error}; is this the federation whose key you were given?") from None
    return document


def make_board(board: Board, parties: Mapping[str, Any]) -> None:
    """Make the directories that are missing."""
    for folder in (board.versions, *(f(name) for name in parties for f in (board.inbox, board.answers))):
        durable.make_directory(folder, durable.SHARED_FOLDER)
