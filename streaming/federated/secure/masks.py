"""Masks: numbers that nobody can tell from chance, which two silos share and which cancel in the total.

Key agreement X25519, key derivation HKDF-SHA-256, and ChaCha20 for the numbers (RFC 7748, 5869, 8439), all
from ``cryptography``: 256 bits decide each mask.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

KEY_BYTES: Final = 32
LONGEST: Final = 2**38 // 8
"""Numbers in one mask: ChaCha20's counter counts 2^32 blocks of 64 bytes."""


def pair_key(private: X25519PrivateKey, peer: bytes, context: bytes) -> bytes:
    """Agree on a key with a peer: 32 bytes, the same on both sides, another in every context.

    Raises
    ------
    ValueError
        ``peer`` is no public key, or one with which any private key gives the same.

    Examples
    --------
    >>> one, two = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    >>> mine = pair_key(one, two.public_key().public_bytes_raw(), b"round 1")
    >>> mine == pair_key(two, one.public_key().public_bytes_raw(), b"round 1")
    True
    """
    shared = private.exchange(X25519PublicKey.from_public_bytes(peer))
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=context, info=b"recunlearn secure sums 1").derive(shared)


def stream(key: bytes, size: int) -> NDArray[np.uint64]:
    """Draw the numbers of a key: uniform on 0 .. 2^64 - 1 to whoever has not got it; for one mask only.

    Raises
    ------
    ValueError
        More than 2^35 are asked for.

    Examples
    --------
    >>> int(stream(bytes(32), 1)[0])  # RFC 8439, A.1, test vector 1
    10393729187455219830
    """
    if size > LONGEST:
        raise ValueError(f"a mask of {size} numbers is asked for; one has at most {LONGEST}: use fewer items")
    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(8 * size)), dtype="<u8").astype(np.uint64, copy=False)


def shift(values: NDArray[np.uint64], plus: Iterable[bytes], minus: Iterable[bytes]) -> NDArray[np.uint64]:
    """Add the numbers of some keys to ``values`` and subtract those of others, modulo 2^64; a new array.

    Examples
    --------
    >>> key, values = bytes(32), np.array([7, 0], np.uint64)
    >>> shift(shift(values, [key], []), [], [key])
    array([7, 0], dtype=uint64)
    """
    out = values.copy()
    for key in plus:
        out += stream(key, out.size)
    for key in minus:
        out -= stream(key, out.size)
    return out
