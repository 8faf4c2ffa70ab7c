"""The coordinator's side of a solve by rounds: asks, waits, checks, adds up."""

import logging
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from ....engine import durable
from ....engine.closable import Closable
from ....engine.signing import SigningKey, read_public_key
from ....models.base import Scalar
from ....models.rounds import Margins, published_by_rounds, require_product
from ....models.summed import Published
from ....models.sums import LARGEST, SumsError
from ..board import Board
from ..message import digest_of
from ..said import name_of, sign
from .places import PATIENCE, is_spent, read_if_there, silo_folder, solve_folder, until
from .terms import (
    AlteredError,
    Answer,
    CutOffError,
    End,
    Opening,
    Precision,
    Question,
    SolveError,
    Terms,
    read,
    read_numbers,
    write_numbers,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Solve(Closable):
    """One solve: begun when made, ended by :meth:`close`; a context manager.

    Until something is asked in it, it may be made again, by whoever has the key. Cut off after that, it is
    begun anew under another number: silos answer from their rows, and keep nothing of it.

    Parameters
    ----------
    board, key : the shared directory, and the coordinator's key.
    terms : of the solve.
    patience : seconds to wait for the silos in each round.

    Attributes
    ----------
    rounds : blocks that were asked about. bytes_out, bytes_in : of blocks, counted once for each silo, and of
        answers; what is signed included.

    Raises
    ------
    SolveError
        The number has been used, or nobody is to take part.
    """

    def __init__(self, board: Board, terms: Terms, key: SigningKey, patience: float = PATIENCE) -> None:
        self.terms, self.patience = terms, patience
        self.rounds = self.bytes_out = self.bytes_in = 0
        self._board, self._key, self._digest = board, key, name_of(terms)
        self._folder = solve_folder(board, terms.solve)
        self._seen: dict[str, str] = {}
        self._openings: dict[str, str] = {}
        self._why: dict[str, str] = {}
        if not terms.parties:
            raise SolveError(f"solve {terms.solve} has no silo; name one or more")
        place, content = self._folder / "terms.json", sign(terms, key)
        if is_spent(board, terms.solve) or read_if_there(place) not in (None, content):
            raise SolveError(f"solve {terms.solve} has been begun; give the next one another number")
        if not place.exists():
            durable.make_directory(self._folder, durable.SHARED_FOLDER)
            durable.replace(place, content, durable.SHARED)

    def publish(self, settings: Mapping[str, Scalar]) -> Published:
        """Solve and certify, as on one machine: :func:`~recunlearn.models.rounds.published_by_rounds`."""
        return published_by_rounds(settings, self.margins(), self.products)

    def openings(self) -> dict[str, Opening]:
        """Read who has opened so far, and as of which message; nothing is waited for.

        Who opens otherwise after that cuts the solve off.
        """
        found = {name: self._sound(name, "opening", self._opening_of) for name in sorted(self.terms.parties)}
        openings = {name: opening for name, opening in found.items() if opening is not None}
        self._seen = {name: name_of(opening) for name, opening in openings.items()}
        return openings

    def margins(self) -> Margins:
        """Wait for the margins of every silo and add them.

        Raises
        ------
        CutOffError
            A silo is away, or has opened anew (named).
        SolveError
            A silo says what cannot be.
        """
        found: list[Margins] = []
        self._gather("opening", self._margins_of, found.append)
        return reduce(Margins.add, found)

    def products(self, block: NDArray[Any]) -> NDArray[Any]:
        """Ask every silo for its product, and add them in the order of the silos' names.

        Parameters
        ----------
        block : float32 or float64 [n_items, k].

        Raises
        ------
        CutOffError
            A silo is away, or multiplies other rows than it began with (named).
        SolveError
            A silo answers what cannot be.
        """
        self.rounds += 1
        numbers, step = write_numbers(block), f"{self.rounds:06d}"
        precision: Precision = "float32" if block.dtype == np.float32 else "float64"
        question = Question(self._digest, self.rounds, precision, block.shape[1], digest_of(numbers))
        signed, place = sign(question, self._key), self._folder / f"{step}.block"
        durable.replace(place, numbers, durable.SHARED)
        durable.replace(self._folder / "question.json", signed, durable.SHARED)
        self.bytes_out += len(self.terms.parties) * (len(numbers) + len(signed))
        total = np.zeros_like(block, order="C")

        def add(product: NDArray[Any]) -> None:
            np.add(total, product, out=total)

        self._gather(step, lambda name: self._product_of(name, step, question, block), add)
        place.unlink()  # before the answers: a silo whose answer is gone finds nothing to answer
        for name in self.terms.parties:
            self._remove(name, step)
        return total

    def close(self) -> None:
        """Say that no more is asked."""
        end = sign(End(self._digest, self.rounds), self._key)
        durable.replace(self._folder / "end.json", end, durable.SHARED)
        for block in self._folder.glob("*.block"):
            block.unlink()

    def _gather(self, what: str, take: Callable[[str], T | None], use: Callable[[T], object]) -> None:
        """Use what each silo says, in the order of their names; wait for who has not said it."""
        names = sorted(self.terms.parties)

        def all_taken() -> bool | None:
            while names:
                found = self._sound(names[0], what, take)
                if found is None:
                    return None
                use(found)
                del names[0]
            return True

        if until(all_taken, self.patience) is None:
            missing = [name for name in names if not self._place(name, what).with_suffix(".json").exists()]
            why = "".join(f"; {self._why[name]}" for name in missing if name in self._why)
            raise CutOffError(
                f"{', '.join(missing or names[:1])} did not answer in solve {self.terms.solve} for "
                f"{self.patience:g} s{why}; start what is away again, or begin a solve without it"
            )

    def _sound(self, name: str, what: str, take: Callable[[str], T | None]) -> T | None:
        """Read what a silo said; what is not as it signed it goes, and the silo writes it again."""
        try:
            return take(name)
        except AlteredError as error:
            _log.warning("%s; it is taken away, to be written again", error)
            self._why[name] = str(error)
            self._remove(name, what)
            return None

    def _place(self, name: str, what: str) -> Path:
        return silo_folder(self._board, name, self.terms.solve) / what

    def _remove(self, name: str, what: str) -> None:
        for end in (".json", ".numbers"):
            self._place(name, what).with_suffix(end).unlink(missing_ok=True)

    def _numbers_of(self, name: str, what: str) -> bytes:
        numbers = read_if_there(self._place(name, what).with_suffix(".numbers"))
        if numbers is None:
            raise AlteredError(f"the numbers of silo {name} are missing; start it again")
        return numbers

    def _opening_of(self, name: str) -> Opening | None:
        signed = read_if_there(self._place(name, "opening").with_suffix(".json"))
        return None if signed is None else self._opened(name, signed)

    def _opened(self, name: str, signed: bytes) -> Opening:
        opening = read(signed, Opening, self._public_key(name), f"silo {name}")
        self._require_here(name, opening.terms, opening.party)
        return opening

    def _margins_of(self, name: str) -> Margins | None:
        signed = read_if_there(self._place(name, "opening").with_suffix(".json"))
        if signed is None:
            return None
        opening, numbers = self._opened(name, signed), self._numbers_of(name, "opening")
        statistic, who = self.terms.statistic, f"silo {name}"
        counts, degrees = read_numbers(numbers, opening.digest, (2, statistic.n_items), "int64", who)
        require_margins(name, opening, counts, degrees)
        if self._seen.get(name, name_of(opening)) != name_of(opening):
            raise CutOffError(f"silo {name} has opened anew in solve {self.terms.solve}; begin another")
        self.bytes_in += len(signed) + len(numbers)
        self._openings[name] = name_of(opening)
        return Margins(statistic, opening.users, counts, degrees, opening.longest)

    def _product_of(
        self, name: str, step: str, question: Question, block: NDArray[Any]
    ) -> NDArray[Any] | None:
        signed = read_if_there(self._place(name, step).with_suffix(".json"))
        if signed is None:
            return None
        answer = read(signed, Answer, self._public_key(name), f"silo {name}")
        self._require_here(name, answer.terms, answer.party)
        if answer.question != name_of(question):
            raise AlteredError(f"silo {name} answers another question than {question.step}")
        if answer.opening != self._openings.get(name):
            raise CutOffError(
                f"silo {name} multiplies other rows than it began solve {self.terms.solve} with; begin "
                "another"
            )
        numbers, (rows, columns) = self._numbers_of(name, step), block.shape
        product = read_numbers(numbers, answer.digest, (rows, columns), question.dtype, f"silo {name}")
        try:
            require_product(block, product)
        except SumsError as error:
            raise SolveError(f"silo {name}: {error}; leave it out until it is mended") from None
        self.bytes_in += len(signed) + len(numbers)
        return product

    def _public_key(self, name: str) -> Ed25519PublicKey:
        return read_public_key(self.terms.parties[name].encode())

    def _require_here(self, name: str, terms: str, party: str) -> None:
        if (terms, party) != (self._digest, name):
            raise AlteredError(f"what silo {name} says is of {party} or of another solve")


def require_margins(
    name: str, opening: Opening, counts: NDArray[np.int64], degrees: NDArray[np.int64]
) -> None:
    """Refuse what no rows have for margins.

    Raises
    ------
    SolveError
        Out of range, or users, counts and degrees that do not fit each other; the silo is named.
    """
    largest = max(opening.users, int(degrees.max(initial=0)))
    least = min(int(counts.min(initial=0)), int(degrees.min(initial=0)), opening.users)
    if least < 0 or largest >= LARGEST:
        raise SolveError(f"the margins of silo {name} are out of range")
    if np.any(counts > opening.users) or np.any((counts == 0) != (degrees == 0)):
        raise SolveError(f"the margins of silo {name} do not fit each other: users, counts, degrees")
    if not 0 <= opening.longest <= 2 * (opening.users + counts.size):
        raise SolveError(f"silo {name} adds in chains of {opening.longest}, which its margins do not allow")
