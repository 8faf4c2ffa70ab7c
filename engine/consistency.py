"""That the receipt log only grew: a proof from a checkpoint that an auditor kept to the one of today."""

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import merkle
from .key_ring import KeyRing, is_rotation
from .receipts import read_lines, state_ring
from .signing import ReceiptError, decode_base64, encode_base64, read_exactly
from .state import StatePaths


class Consistency(msgspec.Struct, frozen=True, omit_defaults=True):
    """A checkpoint, the hashes that lead to it from an older one, and the rotations of keys (all base64)."""

    checkpoint: str
    proof: list[str]
    rotations: list[str] = []


def make_consistency(paths: StatePaths, older: bytes) -> bytes:
    """Put together what an auditor needs to check that the log only grew since ``older``: JSON.

    Parameters
    ----------
    older : a signed checkpoint, as ``receipts checkpoint`` gave it.

    Raises
    ------
    ReceiptError
        ``older`` is not a checkpoint of this log, or the log is not what it then was.
    """
    ring, newest = state_ring(paths), paths.checkpoint.read_text(encoding="utf-8")
    size, lines = ring.open_checkpoint(older).size, read_lines(paths)
    leaves = [merkle.leaf_hash(line) for line in lines[: ring.open_checkpoint(newest.encode()).size]]
    if size > len(leaves):
        raise ReceiptError(f"the log has {len(leaves)} entries, at the older checkpoint it had {size}")
    content = msgspec.json.encode(
        Consistency(
            newest,
            [encode_base64(node) for node in merkle.consistency_proof(leaves, size)],
            [encode_base64(line) for line in lines if is_rotation(line)],
        )
    )
    verify_consistency(content, older, ring)
    return content


def verify_consistency(content: bytes, older: bytes, public: Ed25519PublicKey | KeyRing) -> tuple[int, int]:
    """Check a proof with nothing but a public key and the checkpoint that was kept.

    Returns
    -------
    size then, size now : of the log; its first entries are what they were.

    Raises
    ------
    ReceiptError
        Whatever is wrong: no other exception is raised, whatever is given.
    """
    said: Consistency = read_exactly(content.rstrip(b"\n"), Consistency, "the proof")
    ring = KeyRing.of(public).extended(decode_base64(line) for line in said.rotations)
    before, now = ring.open_checkpoint(older), ring.open_checkpoint(said.checkpoint.encode())
    if before.origin != now.origin:
        raise ReceiptError("the two checkpoints are of different logs")
    proof = [decode_base64(node) for node in said.proof]
    if not merkle.is_consistent(before.size, before.root, now.size, now.root, proof):
        raise ReceiptError(
            f"the log of {now.size} entries does not begin with the {before.size} of the older checkpoint: "
            "entries were altered or removed"
        )
    return before.size, now.size
