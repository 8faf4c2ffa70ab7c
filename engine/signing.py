"""What receipts are signed with: Ed25519 keys, DSSE 1.0 envelopes, and C2SP signed notes for checkpoints.

Only bytes are signed and checked, never JSON that was read and written again. Everything a verifier is
fed must be the one way to write what it says, so that no altered byte passes.
"""

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import durable
from .state import StateError, StatePaths, read_secret

_HASH_BYTES = 32


class ReceiptError(ValueError):
    """A receipt, checkpoint or key does not check out; the one exception that verifying lets out."""


class AnotherKeyError(ReceiptError):
    """It is signed, but not by the key that it was held against: another one may fit."""


class Signature(msgspec.Struct, frozen=True):
    """A DSSE signature: key id and base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True):
    """A DSSE envelope: base64 payload, its media type, one signature."""

    payload: str
    payloadType: str  # noqa: N815  DSSE's own name
    signatures: tuple[Signature]


class Checkpoint(msgspec.Struct, frozen=True):
    """A log's size and root hash, under the log's name."""

    origin: str
    size: int
    root: bytes


class SigningKey:
    """The Ed25519 key of a state's receipts."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key()

    @classmethod
    def create(cls, paths: StatePaths) -> "SigningKey":
        """Load the state's key, or make one: ``receipts.key`` (mode 0600) and ``receipts.pub``, both PEM.

        Raises
        ------
        ReceiptError
            One half is lost, or they do not belong together.
        """
        if not paths.receipt_key.exists():
            if paths.receipt_public_key.exists():
                raise ReceiptError(f"{paths.receipt_key} is missing; restore it from a backup")
            durable.make_directory(paths.keys)
            cls.generate(paths.receipt_key)
        key = cls.load(paths.receipt_key)
        if not paths.receipt_public_key.exists():
            durable.replace(paths.receipt_public_key, public_pem(key.public), mode=durable.SHARED)
        if paths.receipt_public_key.read_bytes() != public_pem(key.public):
            raise ReceiptError(f"{paths.receipt_public_key} is not the public half of {paths.receipt_key}")
        return key

    @classmethod
    def generate(cls, path: Path) -> "SigningKey":
        """Make a new key at ``path``: PEM, mode 0600."""
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        durable.replace(path, pem)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Load a key.

        Raises
        ------
        StateError
            It is no key, or anybody can read it.
        """
        try:
            key = serialization.load_pem_private_key(read_secret(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError(f"{path} is not a private key in PEM; restore it from a backup") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StateError(f"{path} is not an Ed25519 key; restore it from a backup")
        return cls(key)

    def signature(self, payload: bytes, payload_type: str) -> Signature:
        """Sign a payload as DSSE does."""
        signed = self._key.sign(pre_authentication(payload_type, payload))
        return Signature(key_id(self.public), encode_base64(signed))

    def envelope(self, payload: bytes, payload_type: str) -> bytes:
        """Sign a payload: the JSON of its envelope, on one line."""
        signatures = (self.signature(payload, payload_type),)
        return msgspec.json.encode(Envelope(encode_base64(payload), payload_type, signatures))

    def note(self, checkpoint: Checkpoint) -> bytes:
        """Sign a checkpoint: C2SP tlog-checkpoint, in the form of a signed note."""
        text = _note_text(checkpoint)
        signature = _note_key_id(checkpoint.origin, self.public) + self._key.sign(text)
        return text + f"\n\u2014 {checkpoint.origin} {encode_base64(signature)}\n".encode()


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that DSSE signs.

    Examples
    --------
    >>> pre_authentication("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(public: Ed25519PublicKey) -> str:
    """Return a public key's name: hex SHA-256 of its raw bytes."""
    return hashlib.sha256(_raw(public)).hexdigest()


def public_pem(public: Ed25519PublicKey) -> bytes:
    """Return a public key as PEM."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_public_key(pem: bytes) -> Ed25519PublicKey:
    """Read a public key.

    Raises
    ------
    ReceiptError
        It is not an Ed25519 public key in PEM.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ReceiptError("the public key is not in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ReceiptError("the public key is not an Ed25519 key")
    return key


def open_envelope(content: bytes, payload_type: str, public: Ed25519PublicKey) -> bytes:
    """Check an envelope and return its payload.

    Raises
    ------
    ReceiptError
        It is not an envelope of that type, or not signed by that key.
    """
    envelope = read_exactly(content, Envelope, "the envelope")
    if envelope.payloadType != payload_type:
        raise ReceiptError("the envelope is of another type")
    payload = decode_base64(envelope.payload)
    if envelope.signatures[0].keyid != key_id(public):
        raise AnotherKeyError("the envelope is signed by another key")
    _check(public, envelope.signatures[0].sig, pre_authentication(payload_type, payload))
    return payload


def open_note(content: bytes, public: Ed25519PublicKey) -> Checkpoint:
    """Check a signed checkpoint and return it.

    Raises
    ------
    ReceiptError
        It is not a checkpoint, or not signed by that key.
    """
    try:
        origin, size, root_hash, empty, signed, end = content.decode().split("\n")
        dash, name, signature = signed.split(" ")
        checkpoint = Checkpoint(origin, int(size), decode_base64(root_hash))
    except ValueError:
        raise ReceiptError("the checkpoint is not a signed note") from None
    if (dash, name, empty, end) != ("\u2014", origin, "", "") or len(checkpoint.root) != _HASH_BYTES:
        raise ReceiptError("the checkpoint is not a signed note")
    raw, text = decode_base64(signature), _note_text(checkpoint)
    if raw[:4] != _note_key_id(origin, public) or not content.startswith(text + b"\n"):
        raise AnotherKeyError("the checkpoint is signed by another key")
    _check(public, encode_base64(raw[4:]), text)
    return checkpoint


def read_exactly(content: bytes, kind: Any, what: str) -> Any:
    """Decode JSON that must be the one way to write what it says.

    Raises
    ------
    ReceiptError
        It is anything else.
    """
    try:
        decoded = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ReceiptError(f"{what} cannot be read") from None
    if msgspec.json.encode(decoded) != content:
        raise ReceiptError(f"{what} is not written as it was signed")
    return decoded


def _note_text(checkpoint: Checkpoint) -> bytes:
    return f"{checkpoint.origin}\n{checkpoint.size}\n{encode_base64(checkpoint.root)}\n".encode()


def _note_key_id(name: str, public: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n\x01" + _raw(public)).digest()[:4]


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _check(public: Ed25519PublicKey, signature: str, signed: bytes) -> None:
    try:
        public.verify(decode_base64(signature), signed)
    except InvalidSignature:
        raise ReceiptError("the signature is not right: the content was altered") from None


def encode_base64(content: bytes) -> str:
    """Encode bytes as base64."""
    return base64.b64encode(content).decode()


def decode_base64(text: str) -> bytes:
    """Decode base64 that is written in the one right way.

    Raises
    ------
    ReceiptError
        It is anything else.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ReceiptError("a field is not base64") from None
    if encode_base64(content) != text:
        raise ReceiptError("a field is not canonical base64")
    return content
