"""Which keys may sign what: one key after the other, each rotation an entry of the receipt log itself.

A rotation is signed by both keys. So whoever trusts either one can follow to the other, and the log's
checkpoint commits to where one ended and the next began: a key that was given up signs nothing later.
"""

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import durable
from .signing import (
    AnotherKeyError,
    Checkpoint,
    ReceiptError,
    Signature,
    SigningKey,
    decode_base64,
    encode_base64,
    key_id,
    open_envelope,
    open_note,
    pre_authentication,
    public_pem,
    read_exactly,
)
from .state import StatePaths

ROTATION_TYPE = "application/vnd.recunlearn.key-rotation.v1+json"
"""Media type of a rotation in the log."""

_MARK = f'"payloadType":"{ROTATION_TYPE}"'.encode()
T = TypeVar("T")


class Rotation(msgspec.Struct, frozen=True):
    """One key gave way to the next at place ``index`` of the log; keys are raw, in base64."""

    index: int
    at: str
    old: str
    new: str


class RotationEnvelope(msgspec.Struct, frozen=True):
    """A DSSE envelope with the signatures of the old key and the new one."""

    payload: str
    payloadType: str  # noqa: N815  DSSE's own name
    signatures: tuple[Signature, Signature]


def rotation_line(index: int, old: SigningKey, new: SigningKey) -> bytes:
    """Write the entry of the log by which ``new`` takes over from ``old``."""
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    rotation = Rotation(
        index, at, encode_base64(old.public.public_bytes_raw()), encode_base64(new.public.public_bytes_raw())
    )
    payload = msgspec.json.encode(rotation)
    signatures = (old.signature(payload, ROTATION_TYPE), new.signature(payload, ROTATION_TYPE))
    return msgspec.json.encode(RotationEnvelope(encode_base64(payload), ROTATION_TYPE, signatures))


def is_rotation(line: bytes) -> bool:
    """Tell whether a line of the log is a rotation, by what it says it is."""
    return _MARK in line


def open_rotation(line: bytes) -> Rotation:
    """Check a rotation by the two keys that it names; whether either is to be trusted is another question.

    Raises
    ------
    ReceiptError
        It is not a rotation, or not signed by both.
    """
    envelope: RotationEnvelope = read_exactly(line, RotationEnvelope, "the rotation")
    payload = decode_base64(envelope.payload)
    rotation: Rotation = read_exactly(payload, Rotation, "the rotation")
    signed = pre_authentication(ROTATION_TYPE, payload)
    if envelope.payloadType != ROTATION_TYPE:
        raise ReceiptError("the rotation is of another type")
    for raw, signature in zip((rotation.old, rotation.new), envelope.signatures, strict=True):
        public = _public(raw)
        if signature.keyid != key_id(public):
            raise AnotherKeyError("the rotation is signed by another key")
        try:
            public.verify(decode_base64(signature.sig), signed)
        except InvalidSignature:
            raise ReceiptError("the rotation was altered") from None
    return rotation


class KeyRing:
    """The keys that are trusted, each for the part of the log that it signed.

    Examples
    --------
    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> old, new = (SigningKey(Ed25519PrivateKey.generate()) for _ in range(2))
    >>> ring = KeyRing([new.public], [rotation_line(7, old, new)])
    >>> [ring.may_sign(old.public, index) for index in (6, 8)]
    [True, False]
    """

    def __init__(self, trusted: Iterable[Ed25519PublicKey], rotations: Iterable[bytes] = ()) -> None:
        """Trust some keys, and those that rotations lead to from them.

        Raises
        ------
        ReceiptError
            A rotation is not signed by both of its keys.
        """
        self._keys = {key_id(key): key for key in trusted}
        self._since: dict[str, int] = {}
        self._until: dict[str, int] = {}
        self._follow([open_rotation(line) for line in rotations])

    @classmethod
    def of(cls, public: "Ed25519PublicKey | KeyRing") -> "KeyRing":
        """Return a ring of one key, or the ring itself."""
        return public if isinstance(public, KeyRing) else cls([public])

    def _follow(self, rotations: list[Rotation]) -> None:
        waiting = rotations
        while waiting:
            led = [
                one
                for one in waiting
                if any(key_id(_public(raw)) in self._keys for raw in (one.old, one.new))
            ]
            if not led:
                return
            for one in led:
                old, new = _public(one.old), _public(one.new)
                self._keys |= {key_id(old): old, key_id(new): new}
                self._until[key_id(old)], self._since[key_id(new)] = one.index, one.index
            waiting = [one for one in waiting if one not in led]

    def extended(self, rotations: Iterable[bytes]) -> "KeyRing":
        """Return a ring that follows further rotations.

        Raises
        ------
        ReceiptError
            As the constructor.
        """
        wider = KeyRing(self._keys.values())
        wider._since, wider._until = dict(self._since), dict(self._until)
        wider._follow([open_rotation(line) for line in rotations])
        return wider

    def origins(self) -> set[str]:
        """Return the names that a log begun with one of the keys can have."""
        return {origin_of(key) for key in self._keys.values()}

    def may_sign(self, key: Ed25519PublicKey, index: int) -> bool:
        """Tell whether entry ``index`` of the log is one that ``key`` may have signed."""
        name = key_id(key)
        return self._since.get(name, -1) < index < self._until.get(name, 1 << 62)

    def open_envelope(self, line: bytes, payload_type: str, index: int | None = None) -> bytes:
        """Check an envelope and return its payload.

        Raises
        ------
        ReceiptError
            No trusted key signed it, or one that was not valid at place ``index`` of the log.
        """
        payload, key = self._by_any(lambda key: open_envelope(line, payload_type, key))
        if index is not None and not self.may_sign(key, index):
            raise ReceiptError("the envelope is signed by a key that was not valid at its place in the log")
        return payload

    def open_checkpoint(self, content: bytes) -> Checkpoint:
        """Check a signed checkpoint and return it.

        Raises
        ------
        ReceiptError
            No trusted key signed it, or one that was not valid for a log of its size, or of another log.
        """
        checkpoint, key = self._by_any(lambda key: open_note(content, key))
        if checkpoint.origin not in self.origins():
            raise ReceiptError("the checkpoint is of another log")
        # A rotation is in the log once the new key has signed for it: what has this size ends before it.
        if not self._since.get(key_id(key), -1) < checkpoint.size <= self._until.get(key_id(key), 1 << 62):
            raise ReceiptError("the checkpoint is signed by a key that was not valid for a log of its size")
        return checkpoint

    def _by_any(self, check: Callable[[Ed25519PublicKey], T]) -> tuple[T, Ed25519PublicKey]:
        errors = []
        for key in self._keys.values():
            try:
                return check(key), key
            except ReceiptError as error:
                errors.append(error)
        # A damage is told from a key that is not the one: whoever reads it does not look for another key.
        raise min(errors, key=lambda error: isinstance(error, AnotherKeyError))


def origin_of(public: Ed25519PublicKey) -> str:
    """Return the name of a log that was begun with ``public``; it stays the log's when the key is rotated."""
    return f"recunlearn-receipts/{key_id(public)[:16]}"


def finish_rotation(paths: StatePaths) -> None:
    """Put a new key in the old one's place if the log has it already, or forget it: at every start.

    The checkpoint decides: once it is signed by the new key, the rotation has happened. The old public key
    is kept in a file of its own, with what it is good for.
    """
    if not paths.next_receipt_key.exists():
        return
    new = SigningKey.load(paths.next_receipt_key)
    try:
        checkpoint = open_note(paths.checkpoint.read_bytes(), new.public)
    except (FileNotFoundError, ReceiptError):
        durable.remove(paths.next_receipt_key)
        return
    old_pem, new_pem = paths.receipt_public_key.read_bytes(), public_pem(new.public)
    if old_pem != new_pem:
        kept = paths.keys / f"receipts-{hashlib.sha256(old_pem).hexdigest()[:16]}.pub"
        said = f"Signed the receipt log up to place {checkpoint.size - 1}; until {_now()}.\n"
        durable.replace(kept, said.encode() + old_pem, mode=durable.SHARED)
        durable.replace(paths.receipt_key, paths.next_receipt_key.read_bytes())
        durable.replace(paths.receipt_public_key, new_pem, mode=durable.SHARED)
    durable.remove(paths.next_receipt_key)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _public(raw: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(decode_base64(raw))
    except ValueError:
        raise ReceiptError("the rotation names something that is no key") from None
