"""A silo's side of a solve by rounds: multiplies what it is asked with its rows, which stay.

An answer is a function of the rows and the question: killed and started again, a silo answers what is asked
now, and there is nothing to remember.
"""

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from ....engine import durable
from ....engine.signing import SigningKey, public_pem
from ....models.base import Interactions
from ....models.rounds import RowProducts
from ..board import Board
from ..message import digest_of
from ..said import name_of, sign
from .places import PATIENCE, read_if_there, silo_folder, solve_folder, until
from .terms import (
    MOST_COLUMNS,
    AlteredError,
    Answer,
    End,
    Opening,
    Question,
    SolveError,
    Terms,
    read,
    read_numbers,
    read_terms,
    write_numbers,
)


@dataclass(frozen=True)
class Member:
    """Who a silo is, and whose questions it answers: the coordinator's public key."""

    name: str
    key: SigningKey
    coordinator: Ed25519PublicKey


def take_part(board: Board, me: Member, number: int, rows: Interactions, patience: float = PATIENCE) -> int:
    """Answer until the coordinator ends the solve; how many questions were answered here.

    Parameters
    ----------
    board : the shared directory. number : of the solve, which may not have begun yet.
    rows : as :class:`Part`.
    patience : seconds to wait for the coordinator, each time.

    Raises
    ------
    SolveError
        The coordinator is away; or as :class:`Part`.
    """
    content = until(lambda: read_if_there(solve_folder(board, number) / "terms.json"), patience)
    if content is None:
        raise SolveError(f"solve {number} has not begun for {patience:g} s; ask the coordinator")
    part = Part(board, me, read_terms(content, me.coordinator), rows)
    answered = part.stay(patience)
    if not part.is_over():
        raise SolveError(f"nothing was asked in solve {number} for {patience:g} s; ask the coordinator")
    shutil.rmtree(silo_folder(board, me.name, number), ignore_errors=True)
    return answered


def has_opened(board: Board, me: Member, terms: Terms, as_of: int) -> bool:
    """Tell whether a silo's opening of its rows as of a message is in its place."""
    content = read_if_there(silo_folder(board, me.name, terms.solve) / "opening.json")
    if content is None:
        return False
    try:
        opening = read(content, Opening, me.key.public, f"silo {me.name}")
    except AlteredError:
        return False
    return (opening.terms, opening.as_of) == (name_of(terms), as_of)


class Part:
    """A silo's part in one solve: opened when made, then :meth:`stay`.

    Parameters
    ----------
    board, me, terms : where, who, and the terms of the solve.
    rows : canonical CSR [n, n_items] over the catalogue's columns: of who is here, nobody who is to be
        forgotten.
    as_of : the last of the silo's messages that these rows are what is left by.

    Raises
    ------
    SolveError
        The silo is not in this solve.
    SumsError
        The rows do not fit what is solved: :class:`~recunlearn.models.rounds.RowProducts`.
    """

    def __init__(self, board: Board, me: Member, terms: Terms, rows: Interactions, as_of: int = 0) -> None:
        if terms.parties.get(me.name) != public_pem(me.key.public).decode():
            raise SolveError(f"silo {me.name} is not in solve {terms.solve}, or with another key")
        self._me, self._terms, self._digest = me, terms, name_of(terms)
        self._folder = solve_folder(board, terms.solve)
        self._mine = silo_folder(board, me.name, terms.solve)
        self._products, self._as_of = RowProducts(rows, terms.statistic), as_of
        self._opening = self._open()

    def stay(self, patience: float) -> int:
        """Answer until the solve is over, or nothing is asked for so many seconds; how many were answered.

        Raises
        ------
        SolveError
            The coordinator asks what it should not.
        """
        answered = 0
        while isinstance(question := until(self._asked, patience), Question):
            answered += self._answer(question)
        return answered

    def is_over(self) -> bool:
        """Tell whether no more is asked."""
        return isinstance(self._asked(), End)

    def _open(self) -> str:
        """Say the margins, unless just that is said; returns the name of what is."""
        margins = self._products.margins
        numbers = write_numbers(np.stack([margins.counts, margins.degrees]))
        opening = Opening(
            self._digest, self._me.name, self._as_of, margins.users, margins.longest, digest_of(numbers)
        )
        for earlier in set(self._mine.parent.glob("solve-*")) - {self._mine}:
            shutil.rmtree(earlier, ignore_errors=True)
        signed = sign(opening, self._me.key)
        if read_if_there(self._mine / "opening.json") != signed:
            durable.make_directory(self._mine, durable.SHARED_FOLDER)
            (self._mine / "opening.json").unlink(missing_ok=True)  # of other rows: it has no numbers now
            self._say("opening", numbers, signed)
        return name_of(opening)

    def _asked(self) -> Question | End | None:
        """Read what is asked now; None if it is answered, or nothing is."""
        ended = read_if_there(self._folder / "end.json")
        if ended is not None:
            return read(ended, End, self._me.coordinator, "the coordinator")
        if not (self._folder / "terms.json").exists():  # it was cut off, and is gone
            return End(self._digest, 0)
        signed = read_if_there(self._folder / "question.json")
        if signed is None:
            if not (self._mine / "opening.json").exists():  # it was lost on its way
                self._open()
            return None
        question = read(signed, Question, self._me.coordinator, "the coordinator")
        if question.terms != self._digest:
            raise SolveError(f"the question is of another solve than {self._terms.solve}")
        is_answered = (self._mine / f"{question.step:06d}.json").exists()
        is_open = (self._folder / f"{question.step:06d}.block").exists()
        return question if is_open and not is_answered else None

    def _answer(self, question: Question) -> bool:
        """Multiply, unless the coordinator has gone on meanwhile; whether it was still asked."""
        block = self._block(question)
        if block is None:
            return False
        numbers = write_numbers(self._products.times(block))
        said = Answer(question.terms, self._me.name, self._opening, name_of(question), digest_of(numbers))
        return self._say(f"{question.step:06d}", numbers, sign(said, self._me.key))

    def _block(self, question: Question) -> NDArray[Any] | None:
        if not 1 <= question.columns <= MOST_COLUMNS:
            raise SolveError(
                f"question {question.step} has {question.columns} columns; 1 to {MOST_COLUMNS} are answered"
            )
        content = read_if_there(self._folder / f"{question.step:06d}.block")
        if content is None:
            return None
        shape = self._terms.statistic.n_items, question.columns
        block = read_numbers(content, question.digest, shape, question.dtype, "the coordinator")
        if not np.isfinite(block).all():
            raise SolveError(f"question {question.step} has a number that is not finite")
        return block

    def _say(self, what: str, numbers: bytes, signed: bytes) -> bool:
        """Write the numbers, then what is signed: whoever sees that finds both; whether there was a place."""
        place = self._mine / what
        try:
            durable.replace(place.with_suffix(".numbers"), numbers, durable.SHARED)
            durable.replace(place.with_suffix(".json"), signed, durable.SHARED)
        except FileNotFoundError:  # the solve is over, and the coordinator has just removed the directory
            return False
        return True
