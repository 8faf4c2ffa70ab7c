"""The Merkle tree of RFC 9162, section 2.1: roots, and proofs over an append-only list of leaves."""

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


def consistency_proof(leaves: Sequence[bytes], older: int) -> list[bytes]:
    """Return the hashes that show what a tree's first ``older`` leaves were (RFC 9162, 2.1.4.1). O(n).

    Raises
    ------
    IndexError
        The tree never had that many leaves.
    """
    if not 0 <= older <= len(leaves):
        raise IndexError(f"a tree of {len(leaves)} leaves never had {older}")
    return _subproof(leaves, older, is_whole=True) if older else []


def _subproof(leaves: Sequence[bytes], older: int, *, is_whole: bool) -> list[bytes]:
    if older == len(leaves):
        return [] if is_whole else [root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if older <= split:
        return [*_subproof(leaves[:split], older, is_whole=is_whole), root(leaves[split:])]
    return [*_subproof(leaves[split:], older - split, is_whole=False), root(leaves[:split])]


def is_consistent(
    older: int, older_root: bytes, size: int, newer_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Check that a tree of ``size`` leaves began with those of an older root (RFC 9162, 2.1.4.2).

    Examples
    --------
    >>> leaves = [leaf_hash(bytes([k])) for k in range(7)]
    >>> is_consistent(3, root(leaves[:3]), 7, root(leaves), consistency_proof(leaves, 3))
    True
    """
    if not 0 <= older <= size:
        return False
    if older in (0, size):  # the empty tree begins every tree
        return not proof and older_root == (newer_root if older else root([]))
    nodes = list(proof) if older & (older - 1) else [older_root, *proof]
    if not nodes:
        return False
    place, last = older - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, node)
        place, last = place >> 1, last >> 1
    return (old, new, last) == (older_root, newer_root, 0)
