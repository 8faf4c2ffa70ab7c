"""Erasure receipts: what was done for each request, signed, in an append-only log that anyone can check.

``receipts/log.ndjson`` holds one DSSE envelope a line; ``receipts/checkpoint`` is the signed size and Merkle
root of the log. A receipt is handed out as a *bundle*: the line, the proof that it is in the log, and the
checkpoint. A bundle is verified offline, with the public key alone.
"""

import base64
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import durable, merkle
from .key_ring import KeyRing, finish_rotation, is_rotation, origin_of, rotation_line
from .ledger import Ledger
from .signing import (
    Checkpoint,
    ReceiptError,
    SigningKey,
    decode_base64,
    encode_base64,
    open_note,
    public_pem,
    read_exactly,
    read_public_key,
)
from .state import StatePaths
from .statement import statement

PAYLOAD_TYPE = "application/vnd.recunlearn.erasure-receipt.v1+json"
"""Media type of what is signed."""

PROVES = (
    "The holder of the key states that this request was carried out as described, at these times.",
    "The receipt is in the log that the checkpoint commits to, at this place, and unaltered.",
    "For each store that it names: that it gave back the vectors of that version, and held none of another.",
    "For each model: that it is exact, or the proven bound on its distance to a model that never saw the "
    "subject, as the model computed it.",
)
DOES_NOT_PROVE = (
    "Who the subject is: only who has the fence key can check a guess.",
    "That no copy exists elsewhere: backups, caches and memory are neither the state directory nor a store "
    "that it names.",
    "That the software did what it states: rebuild the models from the data and compare (recunlearn verify).",
)
_log = logging.getLogger(__name__)


class Bundle(msgspec.Struct, frozen=True, omit_defaults=True):
    """A receipt with all that is needed to check it: its line (base64), its place in the log, and so on."""

    leaf: str
    index: int
    proof: list[str]
    checkpoint: str
    rotations: list[str] = []


class ReceiptLog:
    """The log as its one writer sees it.

    Raises
    ------
    ReceiptError
        The log is shorter than its checkpoint says, or not what the checkpoint commits to.
    """

    def __init__(self, paths: StatePaths) -> None:
        durable.make_directory(paths.receipts)
        self._paths = paths
        finish_rotation(paths)
        self._key = SigningKey.create(paths)
        self._origin = origin_of(self._key.public)
        self._tree = merkle.Frontier()
        self._drop_what_was_cut_off()

    def _drop_what_was_cut_off(self) -> None:
        """Cut the log back to its checkpoint: what is after it was never given out."""
        checkpoint = read_checkpoint(self._paths, self._key.public)
        size = 0 if checkpoint is None else checkpoint.size
        content = self._paths.receipt_log.read_bytes() if self._paths.receipt_log.exists() else b""
        lines = content.split(b"\n")[:size]
        kept = sum(len(line) + 1 for line in lines)
        if len(lines) < size or kept > len(content):
            raise ReceiptError(f"{self._paths.receipt_log} has {len(lines)} receipts, its checkpoint {size}")
        for line in lines:
            self._tree.add(merkle.leaf_hash(line))
        if checkpoint is not None:
            self._origin = checkpoint.origin
        if checkpoint is not None and self._tree.root() != checkpoint.root:
            raise ReceiptError(f"{self._paths.receipt_log} is not what its checkpoint commits to")
        if kept < len(content):
            durable.truncate(self._paths.receipt_log, kept)

    @property
    def size(self) -> int:
        """How many entries there are: receipts, and rotations of the key."""
        return self._tree.size

    @property
    def public(self) -> Ed25519PublicKey:
        """The key that signs now."""
        return self._key.public

    def append(self, payloads: Sequence[bytes]) -> range:
        """Sign receipts and commit to them, durably; returns their places in the log."""
        return self._append([self._key.envelope(payload, PAYLOAD_TYPE) for payload in payloads], self._key)

    def rotate_key(self) -> None:
        """Sign with a new key from here on; the old one is given up, its public half kept.

        The checkpoint that the new key signs is the moment: before it a crash leaves the old key, after it
        the next start puts the new one in its place.
        """
        new = SigningKey.generate(self._paths.next_receipt_key)
        self._append([rotation_line(self.size, self._key, new)], new)
        finish_rotation(self._paths)
        self._key = new

    def _append(self, lines: Sequence[bytes], key: SigningKey) -> range:
        """Add lines to the log, and commit to them with a key."""
        start = self.size
        durable.append(self._paths.receipt_log, b"".join(line + b"\n" for line in lines))
        for line in lines:
            self._tree.add(merkle.leaf_hash(line))
        checkpoint = Checkpoint(self._origin, self.size, self._tree.root())
        durable.replace(self._paths.checkpoint, key.note(checkpoint), durable.SHARED)
        return range(start, self.size)


def give_receipts(ledger: Ledger, log: ReceiptLog, paths: StatePaths) -> int:
    """Give each request that is done its receipt, once, whenever a crash comes; returns how many were new."""
    waiting = {request.seq: request for request in ledger.without_receipt()}
    if not waiting:
        return 0
    if unnoted := not_noted(ledger, log, paths):  # a crash came between the log and the ledger
        given = {request["seq"]: place for place, request in unnoted.items()}
        ledger.note_receipts(given)
        waiting = {seq: request for seq, request in waiting.items() if seq not in given}
    if waiting:
        numbers = {request.cycle for request in waiting.values() if request.cycle is not None}
        cycles = {number: ledger.cycle(number) for number in numbers}
        records = {number: cycle.record for number, cycle in cycles.items()}
        payloads = [statement(request, records.get(request.cycle or 0, {})) for request in waiting.values()]
        places = log.append(payloads)
        ledger.note_receipts(dict(zip(waiting, places, strict=True)))
    return len(waiting)


def not_noted(ledger: Ledger, log: ReceiptLog, paths: StatePaths) -> dict[int, dict[str, Any]]:
    """Return the receipts that the ledger does not know: place in the log -> request."""
    start = ledger.last_receipt() + 1
    if log.size <= start:
        return {}
    lines = paths.receipt_log.read_bytes().split(b"\n")[start : log.size]
    return {
        place: predicate_of(line)["request"]
        for place, line in enumerate(lines, start=start)
        if not is_rotation(line)
    }


def read_checkpoint(paths: StatePaths, public: Ed25519PublicKey) -> Checkpoint | None:
    """Read and check the checkpoint; None if there is no receipt yet.

    Raises
    ------
    ReceiptError
        It is damaged, or missing beside a log that is not empty.
    """
    path = paths.checkpoint
    try:
        return open_note(path.read_bytes(), public)
    except FileNotFoundError:
        return None
    except ReceiptError as error:
        raise ReceiptError(f"{path}: {error}") from None


def log_name(paths: StatePaths) -> str:
    """Return the log's name, 16 hexadecimal digits: its first key's, which stays when the key is rotated.

    Raises
    ------
    ReceiptError
        There is neither a checkpoint nor a key.
    """
    try:
        origin, _, _ = paths.checkpoint.read_text(encoding="utf-8", errors="replace").partition("\n")
    except FileNotFoundError:
        origin = origin_of(state_public_key(paths))
    return origin.rpartition("/")[2]


def read_lines(paths: StatePaths, size: int | None = None) -> list[bytes]:
    """Read the log's lines, the first ``size`` of them."""
    path = paths.receipt_log
    lines: list[bytes] = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return lines if size is None else lines[:size]


def predicate_of(line: bytes) -> dict[str, Any]:
    """Return what a line of our own log states, unchecked."""
    payload = base64.b64decode(msgspec.json.decode(line)["payload"])
    predicate: dict[str, Any] = msgspec.json.decode(payload)["predicate"]
    return predicate


def make_bundle(paths: StatePaths, index: int) -> bytes:
    """Put together what a third party needs to check receipt ``index``: JSON.

    Raises
    ------
    ReceiptError
        There is no such receipt, or the log does not check out.
    """
    public = state_public_key(paths)
    checkpoint = read_checkpoint(paths, public)
    size = 0 if checkpoint is None else checkpoint.size
    lines = read_lines(paths, size)
    if not 0 <= index < len(lines) or is_rotation(lines[index]):
        raise ReceiptError(f"there is no receipt {index}; there are {len(lines)}, counted from 0")
    leaves = [merkle.leaf_hash(line) for line in lines]
    bundle = Bundle(
        leaf=encode_base64(lines[index]),
        index=index,
        proof=[encode_base64(node) for node in merkle.inclusion_proof(leaves, index)],
        checkpoint=paths.checkpoint.read_text(encoding="utf-8"),
        rotations=[encode_base64(line) for line in lines if is_rotation(line)],
    )
    content = msgspec.json.encode(bundle)
    verify_bundle(content, public)
    return content


def find_receipt(paths: StatePaths, receipt: str) -> int:
    """Return the place of a receipt that is named by its place or by the id of its request.

    Raises
    ------
    ReceiptError
        There is none.
    """
    lines = read_lines(paths)
    for index, line in enumerate(lines):
        if not is_rotation(line) and predicate_of(line)["request"]["id"] == receipt:
            return index
    if receipt.isascii() and receipt.isdecimal() and int(receipt) < len(lines):
        return int(receipt)
    raise ReceiptError(f"there is no receipt {receipt!r}; list them: recunlearn receipts list")


def verify_bundle(content: bytes, public: Ed25519PublicKey | KeyRing) -> dict[str, Any]:
    """Check a bundle with nothing but a public key; returns the statement.

    Parameters
    ----------
    public : the key that signs today, or any that did: the rotations in the bundle lead to the others.

    Raises
    ------
    ReceiptError
        Whatever is wrong with it; no other exception is raised, whatever ``content`` is.
    """
    bundle: Bundle = read_exactly(content.rstrip(b"\n"), Bundle, "the bundle")
    ring = KeyRing.of(public).extended(decode_base64(line) for line in bundle.rotations)
    checkpoint = ring.open_checkpoint(bundle.checkpoint.encode())
    line = decode_base64(bundle.leaf)
    proof = [decode_base64(node) for node in bundle.proof]
    found = merkle.root_from_proof(merkle.leaf_hash(line), bundle.index, checkpoint.size, proof)
    if found != checkpoint.root:
        raise ReceiptError("the receipt is not in the log that the checkpoint commits to")
    return open_receipt(line, ring, bundle.index)


def open_receipt(line: bytes, public: Ed25519PublicKey | KeyRing, index: int | None = None) -> dict[str, Any]:
    """Check one envelope, which is at place ``index`` of the log, and return its statement.

    Raises
    ------
    ReceiptError
        As :func:`verify_bundle`.
    """
    payload = KeyRing.of(public).open_envelope(line, PAYLOAD_TYPE, index)
    said: dict[str, Any] = read_exactly(payload, dict[str, Any], "the statement")
    return said


def state_ring(paths: StatePaths) -> KeyRing:
    """Return the keys that signed the state's log, each for its part of it.

    Raises
    ------
    ReceiptError
        The public key is missing, or a rotation in the log is not signed by both of its keys.
    """
    return KeyRing([state_public_key(paths)], [line for line in read_lines(paths) if is_rotation(line)])


def state_public_key(paths: StatePaths) -> Ed25519PublicKey:
    """Read the state's public key.

    Raises
    ------
    ReceiptError
        It is missing or not a key.
    """
    path = paths.receipt_public_key
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ReceiptError(f"{path} is missing; restore it from a backup") from None
    try:
        public = read_public_key(content)
    except ReceiptError as error:
        raise ReceiptError(f"{path}: {error}") from None
    if public_pem(public) != content:  # a damage that no reader of PEM minds is one all the same
        raise ReceiptError(f"{path} is not the public key as it was written; restore it from a backup")
    return public


def check_log(paths: StatePaths, ledger: Ledger) -> tuple[int, int, list[str]]:
    """Recompute everything: each signature, the root, the checkpoint, and the ledger's view of the log.

    Returns
    -------
    count, valid, problems : receipts in the log; those that check out; what is wrong, one line each.
    """
    lines = read_lines(paths)
    done = ledger.done_count()
    if not lines and not done and not paths.checkpoint.exists():
        return 0, 0, []
    problems: list[str] = []
    try:
        ring = state_ring(paths)
        checkpoint = read_checkpoint(paths, state_public_key(paths))
    except ReceiptError as error:
        return len(lines), 0, [str(error)]
    root = merkle.root([merkle.leaf_hash(line) for line in lines])
    if checkpoint is None or (checkpoint.size, checkpoint.root) != (len(lines), root):
        problems.append("the log is not what its checkpoint commits to")
    noted, seen, valid = ledger.receipt_places(), set(), 0
    receipts = [(index, line) for index, line in enumerate(lines) if not is_rotation(line)]
    for index, line in receipts:
        try:
            request = open_receipt(line, ring, index)["predicate"]["request"]
            seq = request["seq"]
        except (ReceiptError, KeyError, TypeError) as error:
            problems.append(f"receipt {index}: {error}")
            continue
        if seq in seen or noted.get(seq) != index:
            problems.append(f"receipt {index} is not the one that the ledger knows for request {seq}")
            continue
        seen.add(seq)
        valid += 1
    if len(seen) < done:
        problems.append(f"{done - len(seen)} requests that are done have no receipt")
    return len(receipts), valid, problems
