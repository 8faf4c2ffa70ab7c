"""What a silo sends: sums in Arrow, under a signed header that names them by their digest.

A message is two files (or two values of one record): the sums as Arrow IPC, one row with a list for each
array, and a DSSE envelope whose header says who sends what for which epoch, in which place. The envelope is
checked first, then the digest, and only then is the Arrow file read.
"""

import hashlib
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ...engine.signing import SigningKey, open_envelope, read_exactly
from ...engine.state import StateError
from ...models.sums_statistic import Statistic

FORMAT: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.recunlearn.federated-sums.v1+json"

Kind: TypeAlias = Literal["rows", "deletion", "leave"]


S = TypeVar("S")


class FederationError(StateError):
    """A federation cannot go on as it is: a message, a directory or a key is not what it should be."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed of a message.

    Attributes
    ----------
    format : version of the message's form.
    federation, party : which federation, and which silo of it sends this.
    epoch : in which the sums count; in another they say nothing.
    sequence : 1, 2, ... of this silo in this epoch: the order in which its messages count.
    key : idempotency key: one message, however often it comes.
    kind : "rows": sums to add. "deletion": sums of users who leave, to subtract. "leave": the silo goes, with
        all its sums.
    statistic : what is summed.
    users : how many users are summed up.
    digest : hex SHA-256 of the Arrow file; "" where there is none.
    """

    format: int
    federation: str
    party: str
    epoch: int
    sequence: int
    key: str
    kind: Kind
    statistic: Statistic
    users: int
    digest: str


def key_of(party: str, epoch: int, sequence: int) -> str:
    """Name a message: the same for every copy of it.

    Examples
    --------
    >>> key_of("north", 2, 7)
    'north/2/7'
    """
    return f"{party}/{epoch}/{sequence}"


def round_key(party: str, epoch: int, number: int) -> str:
    """Name what a silo says in a round of secure sums.

    Examples
    --------
    >>> round_key("north", 2, 7)
    'north/2/round-7'
    """
    return f"{party}/{epoch}/round-{number}"


class _Form(msgspec.Struct):
    format: int


def read_form(path: Path, kind: type[S]) -> S:
    """Read a state in JSON, its format first.

    Raises
    ------
    FederationError
        It is of another format, or cannot be read.
    FileNotFoundError
        It is not there.
    """
    content = path.read_bytes()
    try:
        found = msgspec.json.decode(content, type=_Form).format
        if found != FORMAT:
            raise FederationError(
                f"{path} has format {found}; this release reads {FORMAT}: use the release that wrote it"
            )
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise FederationError(f"{path} cannot be read ({error}); restore it from a backup") from None


def digest_of(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def seal(header: Header, key: SigningKey) -> bytes:
    """Sign a header: the JSON of its DSSE envelope."""
    return key.envelope(msgspec.json.encode(header), PAYLOAD_TYPE)


def open_header(content: bytes, public: Ed25519PublicKey) -> Header:
    """Check who signed a header and read it.

    Raises
    ------
    engine.signing.ReceiptError
        It is not an envelope, not signed by that key, or not a header.
    """
    header: Header = read_exactly(open_envelope(content, PAYLOAD_TYPE, public), Header, "the header")
    return header
