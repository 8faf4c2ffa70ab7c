"""Where what is said in a solve lies in the shared directory, and how it is waited for.

::

    solves/000003/terms.json question.json 000007.block end.json      the coordinator's
    inbox/NAME/solve-000003/opening.json .numbers 000007.json .numbers    silo NAME's
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

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
