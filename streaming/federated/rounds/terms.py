"""What is said in a solve by rounds, and in which form it is signed.

The coordinator publishes :class:`Terms`; every silo answers with its :class:`Opening`. Then come rounds: a
:class:`Question` with a block of columns, an :class:`Answer` of each silo with its product. Numbers lie
beside what is signed, little-endian, and are named there by their digest.
"""

from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from ....engine.signing import ReceiptError
from ....models.sums import Statistic
from ..message import FederationError, digest_of
from ..said import Said, open_said

FORMAT: Final = 1
MOST_COLUMNS: Final = 4096
"""Of a block: more is no question that the solver asks."""

Precision: TypeAlias = Literal["float32", "float64"]
_NUMBERS: Final = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}


class SolveError(FederationError):
    """A solve by rounds cannot go on as it is: the message says why, and what to do."""


class AlteredError(SolveError):
    """What lies somewhere is not what its writer signed for that place: to be written again."""


class CutOffError(SolveError):
    """A solve ends before it is done: nothing of it counts, and another may begin."""


class _InSolve(Said, frozen=True):
    protocol: ClassVar[str] = "solve"


class Terms(_InSolve, frozen=True):
    """What a solve is about; the coordinator's.

    Attributes
    ----------
    format, federation, epoch : of the form; which federation; in which epoch the model counts.
    solve : 1, 2, ...; never used again.
    statistic : how rows are weighed; of kind "normalised".
    parties : silo -> its public key, PEM; all of them take part.
    """

    format: int
    federation: str
    epoch: int
    solve: int
    statistic: Statistic
    parties: dict[str, str]


class Opening(_InSolve, frozen=True):
    """The margins of a silo's rows: ``digest`` names counts and degrees, int64 [2, n_items].

    ``as_of``: the last of the silo's messages that these rows are what is left by.
    """

    terms: str
    party: str
    as_of: int
    users: int
    longest: int
    digest: str


class Question(_InSolve, frozen=True):
    """A block of columns to multiply: ``digest`` names it, [n_items, columns] of ``dtype``."""

    terms: str
    step: int
    dtype: Precision
    columns: int
    digest: str


class Answer(_InSolve, frozen=True):
    """A silo's product with the block of the question that ``question`` names, in the same form.

    ``opening`` names what the silo said of the rows: all its products in a solve are of those.
    """

    terms: str
    party: str
    opening: str
    question: str
    digest: str


class End(_InSolve, frozen=True):
    """The coordinator needs no more products."""

    terms: str
    rounds: int


S = TypeVar("S", bound=Said)


def read(content: bytes, kind: type[S], public: Ed25519PublicKey, who: str) -> S:
    """Read what somebody said.

    Raises
    ------
    AlteredError
        It is not signed with that key, or is something else.
    """
    try:
        return open_said(content, kind, public)
    except ReceiptError as error:
        raise AlteredError(f"the {kind.__name__.lower()} of {who}: {error}") from None


def read_terms(content: bytes, coordinator: Ed25519PublicKey) -> Terms:
    """Read what a solve is about.

    Raises
    ------
    SolveError
        It is not signed by the coordinator, of another format, or of other sums than SpectralMF's.
    """
    terms = read(content, Terms, coordinator, "the coordinator")
    if terms.format != FORMAT:
        raise SolveError(f"the terms have format {terms.format}; this release reads {FORMAT}")
    if terms.statistic.kind != "normalised":
        raise SolveError(f"the terms are about {terms.statistic.kind} sums; rounds are for SpectralMF's")
    return terms


def write_numbers(array: NDArray[Any]) -> bytes:
    """Write an array, row by row, little-endian."""
    return np.ascontiguousarray(array).astype(_NUMBERS[array.dtype.name], copy=False).tobytes()


def read_numbers(content: bytes, digest: str, shape: tuple[int, int], dtype: str, who: str) -> NDArray[Any]:
    """Read an array, checked against what was signed; a copy that can be written to.

    Raises
    ------
    AlteredError
        It is not what was signed.
    SolveError
        What was signed is of another size.
    """
    if digest_of(content) != digest:
        raise AlteredError(f"the numbers of {who} are not those that were signed; have them sent again")
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if len(content) != size:
        raise SolveError(f"the numbers of {who} are {len(content)} bytes; {shape} of {dtype} are {size}")
    return np.frombuffer(content, _NUMBERS[dtype]).reshape(shape).astype(dtype)
