"""A silo's side of a round, without any I/O: what it must remember, and what it says.

Three rules keep one silo's sums from being worked out, whatever a coordinator asks for: a round's keys mask
one vector only; the key of its own mask is given once, and only for masked sums that everybody signed; what
has been confirmed is never masked again.
"""

import secrets as randomness
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from ....engine.signing import SigningKey
from ....models.sums import Sums
from ..message import digest_of
from ..said import name_of, sign
from .masks import KEY_BYTES, pair_key, shift
from .terms import (
    Confirmation,
    Masked,
    Opening,
    RoundError,
    Terms,
    digest_of_all,
    read_all,
    require_enough,
)
from .vector import write_vector


@dataclass(frozen=True)
class Identity:
    """Who a silo is, and whom it takes for a silo.

    Attributes
    ----------
    name, key : the silo's.
    peers : silo -> public key, PEM, itself included: as each silo gave it, not the coordinator, who might
        invent silos to be alone with one.
    """

    name: str
    key: SigningKey
    peers: Mapping[str, str]


class Memory(msgspec.Struct, frozen=True):
    """What a silo remembers of a round: kept before anything is sent, for the owner alone.

    Attributes
    ----------
    round, terms : which round; 0: none.
    epoch : of the round: what was confirmed in an earlier one says nothing in it.
    private : the X25519 key that masks are agreed on with; empty once the silo has agreed to a total.
    seed : the key of the silo's own mask.
    openings, vector, contents : digests of the openings and of the masked numbers, and the name of what is in
        them; "" before.
    everybody : digest of the masked sums for which ``seed`` was given; "" before.
    spent : names of what has been confirmed in this epoch.
    """

    round: int = 0
    epoch: int = 0
    terms: str = ""
    private: bytes = b""
    seed: bytes = b""
    openings: str = ""
    vector: str = ""
    contents: str = ""
    everybody: str = ""
    spent: tuple[str, ...] = ()


def enter(me: Identity, memory: Memory, terms: Terms) -> Memory:
    """Take part in a round, with fresh keys; the keys of an earlier round are gone by that.

    Raises
    ------
    RoundError
        The round is over, its terms have changed, or somebody in it is not known here.
    """
    digest = name_of(terms)
    if (terms.round, digest) == (memory.round, memory.terms):
        return memory
    if terms.round <= memory.round:
        raise RoundError(
            f"{me.name} was in round {memory.round} already, with other terms or later than {terms.round}; a "
            "number is used once: begin a round with a higher one"
        )
    if terms.epoch < memory.epoch:
        raise RoundError(
            f"{me.name} was in epoch {memory.epoch} already; round {terms.round} is of epoch {terms.epoch}, "
            "which is over"
        )
    require_enough(terms)
    if me.name not in terms.parties:
        raise RoundError(f"silo {me.name} is not in round {terms.round}")
    for party, public in terms.parties.items():
        if me.peers.get(party) != public:
            raise RoundError(
                f"silo {party} of round {terms.round} is not known to {me.name} with this key; ask {party} "
                "which key is its own"
            )
    private = X25519PrivateKey.generate().private_bytes_raw()
    seed, spent = randomness.token_bytes(KEY_BYTES), memory.spent if terms.epoch == memory.epoch else ()
    return Memory(terms.round, terms.epoch, digest, private, seed, spent=spent)


def opening(me: Identity, memory: Memory) -> bytes:
    """Say with which key masks are agreed on."""
    public = X25519PrivateKey.from_private_bytes(memory.private).public_key().public_bytes_raw()
    return sign(Opening(memory.terms, me.name, public), me.key)


def mask(
    me: Identity, memory: Memory, terms: Terms, openings: Mapping[str, bytes], sums: Sums, contents: str
) -> tuple[Memory, NDArray[np.uint64]]:
    """Mask sums: what only the total of all silos undoes.

    Parameters
    ----------
    me, memory, terms : of the round that was entered.
    openings : silo -> its signed opening.
    sums : what to add or, in a round of deletions, to subtract.
    contents : the idempotency key of what is summed up; "" for sums of nothing.

    Returns
    -------
    memory : to be kept before the numbers are sent.
    masked : uint64 [vector.size_of(statistic)].

    Raises
    ------
    RoundError
        An opening is missing or false; these contents have been in a total; other numbers were masked
        already.
    SumsError
        The sums are of another statistic, or too large for their total.

    Notes
    -----
    Time O(n^2) for each silo in the round.
    """
    _require_round(me, memory, terms)
    if sums.statistic != terms.statistic:
        raise RoundError(f"these are sums of {sums.statistic}; round {terms.round} adds {terms.statistic}")
    if contents in memory.spent or (not contents and sums.users):
        raise RoundError(
            f"{contents or 'what has no name'} has been in a total, or cannot be told from what has: a "
            "second total with other silos would give this one away; it counts in the next epoch"
        )
    opened = read_all(terms, Opening, openings)
    keys, context = _pair_keys(me, memory, opened)
    values = write_vector(sums, len(terms.parties))
    if terms.what == "deletion":
        values = np.uint64(0) - values
    later = [key for name, key in keys.items() if name > me.name]
    earlier = [key for name, key in keys.items() if name < me.name]
    masked = shift(values, [memory.seed, *later], earlier)
    vector = digest_of(masked.tobytes())
    kept = msgspec.structs.replace(memory, openings=context, vector=vector, contents=contents)
    if memory.openings and kept != memory:
        raise RoundError(
            f"{me.name} has masked other numbers, or for other keys, in round {terms.round}; two of them "
            "would give the masks away: begin another round"
        )
    return kept, masked


def _require_round(me: Identity, memory: Memory, terms: Terms) -> None:
    if memory.terms != name_of(terms):
        raise RoundError(f"{me.name} is in another round than {terms.round}, or in one with other terms")


def _pair_keys(me: Identity, memory: Memory, opened: Mapping[str, Opening]) -> tuple[dict[str, bytes], str]:
    context = digest_of_all(opened)
    if not memory.private:
        raise RoundError(f"{me.name} has no key for round {memory.round} any more: it has agreed to a total")
    private = X25519PrivateKey.from_private_bytes(memory.private)
    if opened[me.name].public != private.public_key().public_bytes_raw():
        raise RoundError(f"the opening of {me.name} is not the one that it made in round {memory.round}")
    keys = {}
    for name, one in opened.items():
        if name != me.name:
            try:
                keys[name] = pair_key(private, one.public, context.encode())
            except ValueError:
                raise RoundError(f"the opening of silo {name} has no usable key; leave it out") from None
    return keys, context


def masked_header(me: Identity, memory: Memory) -> bytes:
    """Say what the masked numbers are."""
    return sign(Masked(memory.terms, me.name, memory.openings, memory.vector), me.key)


def confirm(me: Identity, memory: Memory, terms: Terms, headers: Mapping[str, bytes]) -> Memory:
    """Agree to a total: everybody's masked sums are there, under the same keys.

    Raises
    ------
    RoundError
        Somebody's are missing or for other keys, this silo's are not its own, or it agreed to others.
    """
    _require_round(me, memory, terms)
    masked = read_all(terms, Masked, headers)
    for party, one in masked.items():
        if one.openings != memory.openings:
            raise RoundError(f"silo {party} masked for other keys than {me.name}: begin another round")
    if masked[me.name].vector != memory.vector:
        raise RoundError(f"the masked sums of {me.name} are not those that it sent in round {terms.round}")
    everybody = digest_of_all(masked)
    if memory.everybody not in ("", everybody):
        raise RoundError(f"{me.name} has agreed to other masked sums in round {terms.round}; once is enough")
    spent = memory.spent
    if memory.contents and memory.contents not in spent:
        spent = (*spent, memory.contents)
    return msgspec.structs.replace(memory, private=b"", everybody=everybody, spent=spent)


def confirmation(me: Identity, memory: Memory) -> bytes:
    """Give the key of the silo's own mask.

    Raises
    ------
    RoundError
        Nothing has been agreed to.
    """
    if not memory.everybody:
        raise RoundError(f"{me.name} has not agreed to a total in round {memory.round}")
    return sign(Confirmation(memory.terms, me.name, memory.everybody, memory.seed), me.key)
