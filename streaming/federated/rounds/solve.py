"""The coordinator's side of a solve by rounds: asks, waits, checks, adds up."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
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
from .places import PATIENCE, read_if_there, silo_folder, solve_folder, until
from .terms import (
    Answer,
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


class Solve(Closable):
    """One solve: begun when made, ended by :meth:`close`; a context manager.

    Cut off, it is begun again under another number: silos answer from their rows, and keep nothing of it.

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
        if not terms.parties:
            raise SolveError(f"solve {terms.solve} has no silo; name one or more")
        if self._folder.exists():
            raise SolveError(f"solve {terms.solve} has been begun; give the next one another number")
        durable.make_directory(self._folder, durable.SHARED_FOLDER)
        durable.replace(self._folder / "terms.json", sign(terms, key), durable.SHARED)

    def publish(self, settings: Mapping[str, Scalar]) -> Published:
        """Solve and certify, as on one machine: :func:`~recunlearn.models.rounds.published_by_rounds`."""
        return published_by_rounds(settings, self.margins(), self.products)

    def margins(self) -> Margins:
        """Wait for the margins of every silo and add them.

        Raises
        ------
        SolveError
            A silo is away (named), or says what cannot be.
        """
        return reduce(Margins.add, (self._margins_of(name) for name in self._wait("opening")))

    def products(self, block: NDArray[Any]) -> NDArray[Any]:
        """Ask every silo for its product, and add them in the order of the silos' names.

        Parameters
        ----------
        block : float32 or float64 [n_items, k].

        Raises
        ------
        SolveError
            A silo is away (named), or answers what cannot be.
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
        for name in self._wait(step):
            total += self._answer_of(name, step, question, block)
        place.unlink()
        return total

    def close(self) -> None:
        """Say that no more is asked."""
        end = sign(End(self._digest, self.rounds), self._key)
        durable.replace(self._folder / "end.json", end, durable.SHARED)
        for block in self._folder.glob("*.block"):
            block.unlink()

    def _wait(self, what: str) -> list[str]:
        """Wait until every silo has said it; their names in order."""
        names = sorted(self.terms.parties)

        def missing() -> list[str]:
            places = {name: silo_folder(self._board, name, self.terms.solve) / what for name in names}
            return [name for name, place in places.items() if not place.with_suffix(".json").exists()]

        if until(lambda: None if missing() else names, self.patience) is None:
            raise SolveError(
                f"{', '.join(missing())} did not answer in solve {self.terms.solve} for {self.patience:g} s; "
                "start what is away again, or begin a solve without it"
            )
        return names

    def _said(self, name: str, what: str) -> tuple[bytes, bytes]:
        """Read what a silo said: what is signed, and the numbers."""
        place = silo_folder(self._board, name, self.terms.solve) / what
        signed, numbers = (read_if_there(place.with_suffix(end)) for end in (".json", ".numbers"))
        if signed is None or numbers is None:
            raise SolveError(f"the numbers of silo {name} are missing from {place.parent}; start it again")
        self.bytes_in += len(signed) + len(numbers)
        return signed, numbers

    def _margins_of(self, name: str) -> Margins:
        signed, numbers = self._said(name, "opening")
        opening = read(signed, Opening, read_public_key(self.terms.parties[name].encode()), f"silo {name}")
        self._require_here(name, opening.terms, opening.party)
        statistic = self.terms.statistic
        who = f"silo {name}"
        counts, degrees = read_numbers(numbers, opening.digest, (2, statistic.n_items), "int64", who)
        largest = max(opening.users, int(degrees.max(initial=0)))
        if (
            min(int(counts.min(initial=0)), int(degrees.min(initial=0)), opening.users) < 0
            or largest >= LARGEST
        ):
            raise SolveError(f"the margins of silo {name} are out of range")
        if np.any(counts > opening.users) or np.any((counts == 0) != (degrees == 0)):
            raise SolveError(f"the margins of silo {name} do not fit each other: users, counts, degrees")
        if not 0 <= opening.longest <= 2 * (opening.users + statistic.n_items):
            raise SolveError(
                f"silo {name} adds in chains of {opening.longest}, which its margins do not allow"
            )
        return Margins(statistic, opening.users, counts, degrees, opening.longest)

    def _answer_of(self, name: str, step: str, question: Question, block: NDArray[Any]) -> NDArray[Any]:
        signed, numbers = self._said(name, step)
        answer = read(signed, Answer, read_public_key(self.terms.parties[name].encode()), f"silo {name}")
        self._require_here(name, answer.terms, answer.party)
        if answer.question != name_of(question):
            raise SolveError(f"silo {name} answers another question than {question.step}")
        rows, columns = block.shape
        product = read_numbers(numbers, answer.digest, (rows, columns), question.dtype, f"silo {name}")
        try:
            require_product(block, product)
        except SumsError as error:
            raise SolveError(f"silo {name}: {error}; leave it out until it is mended") from None
        place = silo_folder(self._board, name, self.terms.solve) / step
        for end in (".json", ".numbers"):
            place.with_suffix(end).unlink()
        return product

    def _require_here(self, name: str, terms: str, party: str) -> None:
        if (terms, party) != (self._digest, name):
            raise SolveError(f"what silo {name} says is of {party} or of another solve")
