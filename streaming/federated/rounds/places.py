"""Where what is said in a solve lies in the shared directory, and how it is waited for.

::

    solves/000003/terms.json question.json 000007.block end.json      the coordinator's
    inbox/NAME/solve-000003/opening.json .numbers 000007.json .numbers    silo NAME's
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from ....engine import durable
from ..board import Board

_SHORTEST, _LONGEST = 0.002, 0.1
PATIENCE: Final = 600.0
"""Seconds that one waits for the others."""

Found = TypeVar("Found")


def solve_folder(board: Board, number: int) -> Path:
    """Return where the coordinator writes."""
    return board.root / "solves" / f"{number:06d}"


def silo_folder(board: Board, name: str, number: int) -> Path:
    """Return where a silo writes."""
    return board.inbox(name) / f"solve-{number:06d}"


def open_solve(board: Board) -> int:
    """Return the number of the last solve that has begun and has not ended; 0: there is none."""
    begun = [path.parent for path in (board.root / "solves").glob("*/terms.json")]
    return max((_number_of(folder) for folder in begun if not _has_ended(folder)), default=0)


def is_asking(board: Board, number: int) -> bool:
    """Tell whether a solve is open and past its openings: silos are asked for products."""
    folder = solve_folder(board, number)
    return (folder / "question.json").exists() and not _has_ended(folder)


def is_spent(board: Board, number: int) -> bool:
    """Tell whether something was asked in a solve, or it has ended: nobody can take it up."""
    folder = solve_folder(board, number)
    return (folder / "question.json").exists() or _has_ended(folder)


def remove_other_solves(board: Board, number: int) -> None:
    """Remove what was said in other solves than ``number``, their terms first: nobody takes part any more."""
    for folder in (*(board.root / "solves").glob("*"), *board.root.glob("inbox/*/solve-*")):
        if _number_of(folder) != number:
            with suppress(OSError):  # a silo is just writing there: next time
                (folder / "terms.json").unlink(missing_ok=True)
                durable.remove(folder)


def until(look: Callable[[], Found], patience: float) -> Found:
    """Look again and again until it is not None that is found, or patience is at its end."""
    started, pause = time.monotonic(), _SHORTEST
    while True:
        found = look()
        if found is not None or time.monotonic() - started > patience:
            return found
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST)


def read_if_there(path: Path) -> bytes | None:
    """Read a file; None if it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _has_ended(folder: Path) -> bool:
    return (folder / "end.json").exists()


def _number_of(folder: Path) -> int:
    number = folder.name.removeprefix("solve-")
    return int(number) if number.isdecimal() else 0
