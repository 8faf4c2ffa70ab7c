"""What the parties of a federation say to each other in steps: signed, and named, in one way."""

from typing import ClassVar, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ...engine.signing import SigningKey, open_envelope, read_exactly
from .message import digest_of


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is said; ``protocol``: in which exchange, so that it counts in no other."""

    protocol: ClassVar[str]


S = TypeVar("S", bound=Said)


def payload_type(kind: type[Said]) -> str:
    """Name the type of an envelope."""
    return f"application/vnd.recunlearn.{kind.protocol}-{kind.__name__.lower()}.v1+json"


def name_of(said: Said) -> str:
    """Name what was said: hex SHA-256."""
    return digest_of(msgspec.json.encode(said))


def sign(said: Said, key: SigningKey) -> bytes:
    """Sign what is said: the JSON of its DSSE envelope."""
    return key.envelope(msgspec.json.encode(said), payload_type(type(said)))


def open_said(content: bytes, kind: type[S], public: Ed25519PublicKey) -> S:
    """Read what somebody said.

    Raises
    ------
    ReceiptError
        It is not signed with that key, or is something else.
    """
    payload = open_envelope(content, payload_type(kind), public)
    said: S = read_exactly(payload, kind, f"the {kind.__name__.lower()}")
    return said
