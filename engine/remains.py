"""The search for what is left of erased users, by keyed hashes: their ids are known to nobody any more."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from .fence import FenceKey
from .purge import UNREADABLE, ScanResult, column_names, read_columns, search, table_format
from .reading import reading
from .requests import is_distinctive
from .state import StatePaths
from .written_forms import LARGEST_BESIDE_HASHES, integers_in, words_in


class Erased:
    """Who and what is erased, as keyed hashes."""

    def __init__(self, key: FenceKey, users: set[bytes], pairs: set[bytes], owners: set[bytes]) -> None:
        self._key, self._users, self._pairs, self._owners = key, users, pairs, owners

    def has_user(self, ids: Iterable[Any]) -> bool:
        """Tell whether one of ``ids`` is an erased user's."""
        return bool(self._users) and any(
            self._key.user(text) in self._users for text in ids if text is not None and text != ""
        )

    def has_pair(self, frame: pl.DataFrame) -> bool:
        """Tell whether an interaction of ``frame`` is an erased one."""
        if not self._pairs:
            return False
        users = frame["user_id"].unique()
        owners = users.filter(pl.Series([self._key.user(u) in self._owners for u in users], dtype=pl.Boolean))
        rows = frame.filter(pl.col("user_id").is_in(owners.implode())).select("user_id", "item_id")
        return any(self._key.pair(user, item) in self._pairs for user, item in rows.iter_rows())


def scan_for_erased(
    paths: StatePaths, erased: Erased, ledger_texts: Iterable[str], published: Collection[Path] = ()
) -> ScanResult:
    """Search every file under a state directory for users and interactions that are erased.

    Parquet and Arrow, told by their first bytes, are decoded: of a table that is published, the user ids and
    pairs (its other columns are numbers of ours); of any other, every column of texts or integers. All other
    files are searched for words and integers, in the forms of :mod:`.written_forms`. Short numbers are looked
    for only where ids are: elsewhere they are everywhere.

    Parameters
    ----------
    published : the files that the manifest names.
    """
    hashes = {path for path in paths.root.iterdir() if path.name.startswith(paths.ledger.name)}

    def holds(path: Path) -> bool:
        try:
            kind = table_format(path)
            if kind:
                return _table_holds(path, kind, erased, path in published)
        except UNREADABLE:
            pass  # not what its first bytes say: then it is searched as bytes
        below = LARGEST_BESIDE_HASHES if path in hashes else 1 << 63
        with reading(path) as file:
            hit = erased.has_user(_ids_in_bytes(file.read(), below))
        return hit or (path == paths.ledger and erased.has_user(ledger_texts))

    return search(paths, holds)


def _table_holds(path: Path, kind: str, erased: Erased, is_published: bool) -> bool:
    names = column_names(path, kind)
    wanted = [name for name in names if name in ("user_id", "item_id") or not is_published]
    if is_published and "user_id" not in names:
        return False
    frame = read_columns(path, kind, wanted)
    if "user_id" in wanted and erased.has_user(frame["user_id"].unique()):
        return True
    if {"user_id", "item_id"} <= set(wanted) and erased.has_pair(frame):
        return True
    return not is_published and any(erased.has_user(_ids_in_column(column)) for column in frame)


def _ids_in_column(column: pl.Series) -> Iterator[str]:
    """Yield what could be ids in a column of a table that is none of ours."""
    if column.dtype.is_integer():
        yield from filter(is_distinctive, map(str, column.drop_nulls().unique()))
    elif column.dtype in (pl.String, pl.Categorical, pl.Binary):
        texts = column.drop_nulls().unique()
        if column.dtype != pl.Binary:
            texts = texts.cast(pl.String)
            yield from filter(is_distinctive, texts)
            texts = texts.cast(pl.Binary)
        yield from words_in(b"\n".join(texts))


def _ids_in_bytes(content: bytes, below: int) -> Iterator[str]:
    yield from words_in(content)
    yield from integers_in(content, below)
