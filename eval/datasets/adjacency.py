"""Interactions as lists of items, one line a user: how splits of published studies are handed on."""

from os import PathLike
from pathlib import Path
from typing import Final

import polars as pl

from ...engine.tables import InteractionFileError, InteractionTable, table_from_frame


def read_adjacency(path: str | PathLike[str]) -> InteractionTable:
    r"""Read interactions written as one line a user: ``user item item ...``, separated by blanks.

    This is how RecEraser (Chen et al. 2022), NGCF and LightGCN publish their splits. A user without items
    is reported in ``rejected``; blank lines are skipped.

    Parameters
    ----------
    path : the file, UTF-8.

    Raises
    ------
    InteractionFileError
        The file cannot be read or has no interaction.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "train.txt")
    ...     _ = file.write_text("0 5 7\n1 5\n2\n")
    ...     table = read_adjacency(file)
    >>> table.frame.rows(), table.rejected.total
    ([(0, 5, 1.0), (0, 7, 1.0), (1, 5, 1.0)], 1)
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InteractionFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InteractionFileError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    lines: list[int] = []
    users: list[str] = []
    items: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        user, *liked = line.split() or [""]
        if not user:
            continue
        liked = liked or [""]  # a user without items is a row without an item: it is reported
        lines += [number] * len(liked)
        users += [user] * len(liked)
        items += liked
    frame = pl.DataFrame({"line": lines, "user_id": users, "item_id": items}, schema_overrides=_ADJACENCY)
    return table_from_frame(frame, str(path))


_ADJACENCY: Final = {"line": pl.Int64, "user_id": pl.String, "item_id": pl.String}
