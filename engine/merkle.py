"""The Merkle tree of RFC 9162, section 2.1: roots and inclusion proofs over an append-only list of leaves."""

import hashlib
from collections.abc import Sequence


def leaf_hash(content: bytes) -> bytes:
    """Hash a leaf: SHA-256 of 0x00 and its bytes."""
    return hashlib.sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node: SHA-256 of 0x01 and both children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The perfect subtrees that make up a growing tree: enough for its root, O(log n) memory.

    Examples
    --------
    >>> frontier = Frontier()
    >>> for leaf in (b"a", b"b", b"c"):
    ...     frontier.add(leaf_hash(leaf))
    >>> frontier.size, frontier.root() == root([leaf_hash(leaf) for leaf in (b"a", b"b", b"c")])
    (3, True)
    """

    def __init__(self) -> None:
        self.size = 0
        self._subtrees: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Append a leaf's hash. Amortised O(1)."""
        size, node = self.size, leaf
        while size & 1:
            node = node_hash(self._subtrees.pop(), node)
            size >>= 1
        self._subtrees.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the root hash of the leaves so far. O(log n)."""
        if not self._subtrees:
            return hashlib.sha256().digest()
        node = self._subtrees[-1]
        for subtree in reversed(self._subtrees[:-1]):
            node = node_hash(subtree, node)
        return node


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes; SHA-256 of nothing for none (RFC 9162, 2.1.1). O(n)."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from leaf ``index`` to the root (RFC 9162, 2.1.3.1). O(n).

    Raises
    ------
    IndexError
        There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*inclusion_proof(leaves[:split], index), root(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), root(leaves[:split])]


def root_from_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that a proof leads to (RFC 9162, 2.1.3.2); None if it cannot be a proof of that leaf.

    Examples
    --------
    >>> leaves = [leaf_hash(bytes([k])) for k in range(5)]
    >>> root_from_proof(leaves[3], 3, 5, inclusion_proof(leaves, 3)) == root(leaves)
    True
    """
    if not 0 <= index < size:
        return None
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return None
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        place >>= 1
        last >>= 1
    return node if last == 0 else None
