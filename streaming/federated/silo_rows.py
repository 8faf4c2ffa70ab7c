"""The rows that a silo keeps at home: their file, and the matrix that they make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from ...engine import durable
from ...models.base import Interactions, canonical_interactions
from .message import FederationError


def write_rows(path: Path, frame: pl.DataFrame) -> None:
    """Write rows durably; a file that is there is what a crash left of the same."""
    path.unlink(missing_ok=True)
    durable.create(path, lambda file: frame.write_parquet(file))
    durable.sync_directory(path.parent)


def read_rows(path: Path) -> pl.DataFrame:
    """Read rows: ``user_id``, ``item_id`` (strings) and ``value``."""
    return pl.read_parquet(path, memory_map=False)


def matrix_of(frame: pl.DataFrame, items: Sequence[str]) -> Interactions:
    """Put rows into a matrix with the columns of the catalogue, users ascending.

    Raises
    ------
    FederationError
        An item is not in the catalogue.
    """
    known = pl.DataFrame(
        {"item_id": items, "column": np.arange(len(items))}, schema_overrides={"item_id": pl.String}
    )
    placed: Any = frame.join(known, on="item_id", how="left", maintain_order="left")
    missing = placed.filter(pl.col("column").is_null())["item_id"].unique().sort()
    if missing.len():
        raise FederationError(
            f"{missing.len()} items are not in the catalogue, the first is {missing[0]!r}; have them added: "
            "recunlearn coordinator extend"
        )
    users = placed["user_id"].unique().sort()
    row = np.searchsorted(users.to_numpy(), placed["user_id"].to_numpy())
    triples = (placed["value"].to_numpy(), (row, placed["column"].to_numpy()))
    matrix = sp.csr_matrix(triples, shape=(users.len(), len(items)), dtype=np.float64)
    return canonical_interactions(matrix)
