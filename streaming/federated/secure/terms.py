"""What is said in a round of secure sums, and in which form it is signed.

A round has three answers of each silo: its public key (:class:`Opening`), its masked sums (:class:`Masked`),
and, once it has seen that everybody's are there, the key of its own mask (:class:`Confirmation`).
"""

from collections.abc import Mapping
from typing import ClassVar, Final, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ....engine.signing import ReceiptError, read_public_key
from ....models.sums_statistic import Statistic
from ..message import FederationError, digest_of
from ..said import Said, name_of, open_said

FORMAT: Final = 1
FEWEST: Final = 3
"""With two, each reads the other's sums out of the total."""

What: TypeAlias = Literal["rows", "deletion"]


class RoundError(FederationError):
    """A round of secure sums cannot go on as it is: the message says why, and what to do."""


class _InRound(Said, frozen=True):
    protocol: ClassVar[str] = "secure"


class Terms(_InRound, frozen=True):
    """What a round is about; the coordinator's.

    Attributes
    ----------
    format, federation, epoch : of the form; which federation; in which epoch the total counts.
    round : 1, 2, ...; never used again.
    what : "rows": sums to add. "deletion": sums of users who leave, to subtract.
    statistic : what is summed.
    parties : silo -> its public key, PEM; all of them take part, or there is no total.
    """

    format: int
    federation: str
    epoch: int
    round: int
    what: What
    statistic: Statistic
    parties: dict[str, str]


class Opening(_InRound, frozen=True):
    """The X25519 public key of a silo for one round, and the digest of the round's terms."""

    terms: str
    party: str
    public: bytes


class Masked(_InRound, frozen=True):
    """What a silo signs of its masked sums: the digests of terms, of all openings, and of the numbers."""

    terms: str
    party: str
    openings: str
    vector: str


class Confirmation(_InRound, frozen=True):
    """The key of a silo's own mask, given for these masked sums of everybody and for no others."""

    terms: str
    party: str
    everybody: str
    seed: bytes


A = TypeVar("A", Opening, Masked, Confirmation)


def digest_of_all(said: Mapping[str, Opening] | Mapping[str, Masked]) -> str:
    """Name what everybody said, in the order of names: hex SHA-256."""
    return digest_of(msgspec.json.encode([said[name] for name in sorted(said)]))


def read_terms(content: bytes, coordinator: Ed25519PublicKey) -> Terms:
    """Read what a round is about.

    Raises
    ------
    RoundError
        It is not signed by the coordinator, of another format, or for fewer than three silos.
    """
    try:
        terms = open_said(content, Terms, coordinator)
    except ReceiptError as error:
        raise RoundError(f"the terms of the round: {error}; is this your coordinator?") from None
    if terms.format != FORMAT:
        raise RoundError(f"the terms have format {terms.format}; this release reads {FORMAT}")
    require_enough(terms)
    return terms


def require_enough(terms: Terms) -> None:
    """Refuse a round in which a total would say what one silo has.

    Raises
    ------
    RoundError
        Fewer than three take part.
    """
    if len(terms.parties) < FEWEST:
        raise RoundError(
            f"round {terms.round} has {len(terms.parties)} silos; below {FEWEST} a total gives one of them "
            "away: wait for more"
        )


def read_all(terms: Terms, kind: type[A], envelopes: Mapping[str, bytes]) -> dict[str, A]:
    """Read what each silo of a round said, checked against the keys in the terms.

    Raises
    ------
    RoundError
        A silo is missing (named), or as :func:`read_said`.
    """
    missing = sorted(set(terms.parties) - set(envelopes))
    if missing:
        raise RoundError(
            f"round {terms.round} has no {kind.__name__.lower()} of {', '.join(missing)}: masks cancel only "
            "if all are there; wait, or begin another round without them"
        )
    return {party: read_said(terms, kind, party, envelopes[party]) for party in sorted(terms.parties)}


def read_said(terms: Terms, kind: type[A], party: str, envelope: bytes) -> A:
    """Read what a silo said in a round.

    Raises
    ------
    RoundError
        It is not signed by the silo, or for another round.
    """
    what = kind.__name__.lower()
    try:
        said = open_said(envelope, kind, read_public_key(terms.parties[party].encode()))
    except ReceiptError as error:
        raise RoundError(f"the {what} of silo {party}: {error}; have it sent again") from None
    if (said.terms, said.party) != (name_of(terms), party):
        raise RoundError(f"the {what} of silo {party} is of {said.party} or of another round")
    return said
