"""A silo's side of a solve by rounds: multiplies what it is asked with its rows, which stay.

An answer is a function of the rows and the question: killed and started again, a silo answers what is asked
now, and there is nothing to remember.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
    rows : canonical CSR [n, n_items] over the catalogue's columns: of who is here, nobody who is to be
        forgotten.
    patience : seconds to wait for the coordinator, each time.

    Raises
    ------
    SolveError
        The coordinator is away, asks what it should not, or the rows are not those that the solve began with.
    SumsError
        The rows do not fit what is solved: :class:`~recunlearn.models.rounds.RowProducts`.
    """
    folder = solve_folder(board, number)
    content = until(lambda: read_if_there(folder / "terms.json"), patience)
    if content is None:
        raise SolveError(f"solve {number} has not begun for {patience:g} s; ask the coordinator")
    terms = read_terms(content, me.coordinator)
    if terms.parties.get(me.name) != public_pem(me.key.public).decode():
        raise SolveError(f"silo {me.name} is not in solve {number}, or with another key")
    products, mine = RowProducts(rows, terms.statistic), silo_folder(board, me.name, number)
    _open(mine, me, terms, products)
    answered = last = 0
    while True:
        question = until(partial(_asked, folder, me, terms, last), patience)
        if question is None:
            raise SolveError(f"nothing was asked in solve {number} for {patience:g} s; ask the coordinator")
        if isinstance(question, End):
            shutil.rmtree(mine, ignore_errors=True)
            return answered
        _answer(folder, mine, me, question, products, terms)
        answered, last = answered + 1, question.step


def _open(mine: Path, me: Member, terms: Terms, products: RowProducts) -> None:
    """Say the margins, or see that they are those that were said before."""
    margins = products.margins
    numbers = write_numbers(np.stack([margins.counts, margins.degrees]))
    opening = Opening(name_of(terms), me.name, margins.users, margins.longest, digest_of(numbers))
    for earlier in set(mine.parent.glob("solve-*")) - {mine}:
        shutil.rmtree(earlier, ignore_errors=True)
    before = read_if_there(mine / "opening.json")
    if before is None:
        durable.make_directory(mine, durable.SHARED_FOLDER)
        _say(mine / "opening", numbers, sign(opening, me.key))
    elif read(before, Opening, me.key.public, me.name).digest != opening.digest:
        raise SolveError(
            f"the rows of {me.name} have changed since solve {terms.solve} began; have another one begun"
        )


def _asked(folder: Path, me: Member, terms: Terms, last: int) -> Question | End | None:
    """Read what is asked now; None if it was answered already."""
    signed = read_if_there(folder / "question.json")
    if signed is not None:
        question = read(signed, Question, me.coordinator, "the coordinator")
        if question.terms != name_of(terms):
            raise SolveError(f"the question is of another solve than {terms.solve}")
        if question.step > last and (folder / f"{question.step:06d}.block").exists():
            return question
    ended = read_if_there(folder / "end.json")
    return None if ended is None else read(ended, End, me.coordinator, "the coordinator")


def _answer(
    folder: Path, mine: Path, me: Member, question: Question, products: RowProducts, terms: Terms
) -> None:
    block = _block(folder, question, terms)
    if block is None:  # answered by somebody who is this silo too
        return
    numbers = write_numbers(products.times(block))
    said = Answer(question.terms, me.name, name_of(question), digest_of(numbers))
    _say(mine / f"{question.step:06d}", numbers, sign(said, me.key))


def _block(folder: Path, question: Question, terms: Terms) -> NDArray[Any] | None:
    if not 1 <= question.columns <= MOST_COLUMNS:
        raise SolveError(
            f"question {question.step} has {question.columns} columns; 1 to {MOST_COLUMNS} are answered"
        )
    content = read_if_there(folder / f"{question.step:06d}.block")
    if content is None:
        return None
    shape = terms.statistic.n_items, question.columns
    block = read_numbers(content, question.digest, shape, question.dtype, "the coordinator")
    if not np.isfinite(block).all():
        raise SolveError(f"question {question.step} has a number that is not finite")
    return block


def _say(place: Path, numbers: bytes, signed: bytes) -> None:
    """Write the numbers, then what is signed: whoever sees that finds both."""
    durable.replace(place.with_suffix(".numbers"), numbers, durable.SHARED)
    durable.replace(place.with_suffix(".json"), signed, durable.SHARED)
