"""Serving at home: the published model of all, and rows that never left."""

from pathlib import Path

import msgspec
import polars as pl

from ...engine.signing import read_public_key
from ...models.summed import model_at_home
from .board import Board
from .message import FederationError
from .publication import read_version
from .silo_rows import matrix_of, read_rows
from .silo_state import SiloState, read_state


def recommend(root: Path, user: str, n: int = 10) -> list[tuple[str, float]]:
    """Rank items for a user of a silo; the user's vector is made here, and goes nowhere.

    Any process may ask, while another runs the silo.

    Raises
    ------
    FederationError
        The user is not here, or is to be forgotten; nothing is published; or the silo's rows are lost.
    """
    state, row = _row_of(root, user)
    if row.is_empty():
        raise FederationError("there is no such user in this silo")
    board, coordinator = Board(Path(state.board)), read_public_key(state.coordinator.encode())
    _, published = read_version(board, coordinator)
    items = board.read_catalogue(board.read_charter(coordinator))[: published.arrays["counts"].shape[0]]
    rows = matrix_of(row.filter(pl.col("item_id").is_in(items)), items)
    if not rows.shape[0]:
        return []
    ids, scores = model_at_home(published, rows).recommend(0, None, n)
    return [(items[int(i)], float(score)) for i, score in zip(ids, scores, strict=True)]


def _row_of(root: Path, user: str) -> tuple[SiloState, pl.DataFrame]:
    """Read a user's row; nothing of whoever is to be forgotten.

    Requests before the state, the state before the rows, as the silo moves users on: nobody slips between.
    """
    while True:
        try:
            requests = [path.read_bytes() for path in (root / "requests").glob("*.json")]
        except FileNotFoundError:
            continue  # the silo has just taken one up
        state = read_state(root)
        try:
            rows = read_rows(root / state.rows).filter(pl.col("user_id") == user)
        except FileNotFoundError:
            if read_state(root).rows == state.rows:
                raise FederationError(f"{root / state.rows} is missing; restore it from a backup") from None
            continue  # the silo has just committed to other rows
        waiting = {one.user for one in state.pending}
        waiting.update(*(msgspec.json.decode(content, type=list[str]) for content in requests))
        return state, rows.clear() if user in waiting else rows
