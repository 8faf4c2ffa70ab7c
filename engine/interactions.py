"""The system of record of what is kept: Parquet files, partitioned by a hash of the user.

An erasure rewrites only the partitions of its users. Files are never changed in place: a new file gets a
new name, the manifest of the next version lists it, and the one it replaces is purged once that version is
current. So the store and the models are always of the same version, whenever a crash comes.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from ..models.base import Interactions
from . import durable
from .id_index import ids_series
from .requests import canonical_id
from .state import StatePaths
from .version import Store, VersionError, damaged_files, file_record

_ROWS_PER_PARTITION = 250_000
_MOST_PARTITIONS = 256


def canonical_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort interactions by user and item and sum duplicates (the latest time is kept).

    Parameters
    ----------
    frame : user_id and item_id (int64 or string), value (float64), time (optional).

    Raises
    ------
    ValueError
        A column is missing, an id column is of another type, or an id is null.

    Examples
    --------
    >>> canonical_frame(pl.DataFrame({"user_id": [2, 1, 2], "item_id": [5, 5, 5], "value": [1, 1, 2]})).rows()
    [(1, 5, 1.0), (2, 5, 3.0)]
    """
    missing = {"user_id", "item_id", "value"} - set(frame.columns)
    if missing:
        raise ValueError(f"interactions lack the columns {sorted(missing)}; there are {frame.columns}")
    for column in ("user_id", "item_id"):
        if frame[column].dtype not in (pl.Int64, pl.String):
            raise ValueError(f"{column} is {frame[column].dtype}; ids are Int64 or String")
        if frame[column].null_count():
            raise ValueError(f"{column} has {frame[column].null_count()} nulls; drop those rows")
    columns = ["user_id", "item_id", pl.col("value").cast(pl.Float64)]
    if "time" in frame.columns:
        columns.append("time")
    frame = frame.select(columns).sort("user_id", "item_id")
    pair = pl.col("user_id", "item_id")
    if frame.select(pl.all_horizontal(pair == pair.shift(1)).any()).item():  # equal pairs are neighbours
        totals = [pl.col("value").sum()] + ([pl.col("time").max()] if "time" in frame.columns else [])
        frame = frame.group_by("user_id", "item_id", maintain_order=True).agg(totals)
    return frame


def to_user_items(frame: pl.DataFrame) -> tuple[Interactions, pl.Series, pl.Series]:
    """Build the matrix of interactions, users and items in ascending order of their ids.

    Returns
    -------
    user_items : CSR float64 [n_users, n_items].
    users, items : the external ids of its rows and columns.
    """
    users = frame["user_id"].unique().sort()
    items = frame["item_id"].unique().sort()
    rows = row_numbers(frame["user_id"], users).to_numpy()
    columns = row_numbers(frame["item_id"], items).to_numpy()
    user_items: Interactions = sp.csr_matrix(
        (frame["value"].to_numpy(), (rows, columns)), shape=(len(users), len(items)), dtype=np.float64
    )
    user_items.sort_indices()
    return user_items, users, items


def row_numbers(ids: pl.Series, known: pl.Series) -> pl.Series:
    """Return for each id its place among those that are known, int64; null for others.

    Examples
    --------
    >>> row_numbers(pl.Series(["b", "x"]), pl.Series(["a", "b"])).to_list()
    [1, None]
    """
    numbers = pl.DataFrame({"id": known, "row": np.arange(len(known), dtype=np.int64)})
    return ids.to_frame("id").join(numbers, on="id", how="left", maintain_order="left")["row"]


def partitions_for(rows: int) -> int:
    """Choose how many partitions a store of so many interactions has.

    Examples
    --------
    >>> partitions_for(1), partitions_for(10_000_000)
    (1, 64)
    """
    wanted = max(1, rows // _ROWS_PER_PARTITION)
    return min(_MOST_PARTITIONS, 1 << (wanted - 1).bit_length())


def write_store(paths: StatePaths, version: int, frame: pl.DataFrame) -> Store:
    """Write all interactions for a version; the number of partitions follows from how many there are.

    Parameters
    ----------
    frame : as :func:`canonical_frame` gives it.
    """
    durable.make_directory(paths.interactions)
    partitions = partitions_for(len(frame))
    homes = partition_of(frame["user_id"], partitions)
    files = {}
    for (home,), part in frame.with_columns(homes).partition_by("_home", as_dict=True).items():
        files.update(write_partition(paths, int(home), version, part.drop("_home")))
    durable.sync_directory(paths.interactions)
    return Store(dict(sorted(files.items())), partitions)


def rewrite_store(
    paths: StatePaths,
    store: Store,
    version: int,
    users: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    renamed: pl.DataFrame | None = None,
) -> Store:
    """Write anew, for a version, the partitions that hold what is to be removed; the others are shared.

    Parameters
    ----------
    users : canonical ids of accounts to remove; unknown ones are no error.
    pairs : canonical (user id, item id) of single interactions to remove.
    renamed : columns user_id and new_id, of the store's own type: users whose rows go on under another id,
        in the partition where that id belongs.
    """
    gone, arriving = list(users), dict[int, pl.DataFrame]()
    if renamed is not None and len(renamed):
        gone += [canonical_id(user) for user in renamed["user_id"].to_list()]
        arriving = _arriving(paths, store, users, pairs, renamed)
    touched = {_home(user, store.partitions) for user in [*gone, *(user for user, _ in pairs)]}
    touched.update(arriving)
    names = {int(name.partition("-")[0]): name for name in store.files}
    files = {name: store.files[name] for home, name in names.items() if home not in touched}
    for home in sorted(touched):
        frames = [arriving[home]] if home in arriving else []
        if home in names:
            frame = read_partition(paths, names[home], store)
            kept = _without(frame, gone, pairs)
            if len(kept) == len(frame) and not frames:
                files[names[home]] = store.files[names[home]]
                continue
            frames.append(kept)
        if any(map(len, frames)):
            content = pl.concat(frames).sort("user_id", "item_id") if len(frames) > 1 else frames[0]
            files.update(write_partition(paths, home, version, content))
    durable.sync_directory(paths.interactions)
    return Store(dict(sorted(files.items())), store.partitions)


def _arriving(
    paths: StatePaths,
    store: Store,
    users: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    renamed: pl.DataFrame,
) -> dict[int, pl.DataFrame]:
    """Take out the rows of users who go on under another id: the new id's partition -> rows, sorted."""
    homes = set(partition_of(renamed["user_id"], store.partitions).to_list())
    taken = []
    for name in store.files:
        if int(name.partition("-")[0]) in homes:
            frame = read_partition(paths, name, store)
            kept = _without(frame, users, pairs)
            rows = kept.join(renamed, on="user_id", how="inner")
            taken.append(rows.with_columns(user_id=pl.col("new_id")).select(frame.columns))
    if not taken:
        return {}
    moved = pl.concat(taken).sort("user_id", "item_id")
    parts = moved.with_columns(partition_of(moved["user_id"], store.partitions))
    return {
        int(home): part.drop("_home") for (home,), part in parts.partition_by("_home", as_dict=True).items()
    }


def _without(frame: pl.DataFrame, users: Sequence[str], pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    user_type, item_type = frame["user_id"].dtype, frame["item_id"].dtype
    kept = frame.filter(~pl.col("user_id").is_in(ids_series("user_id", users, user_type).implode()))
    rows = [
        (user[0], item[0])
        for user, item in (
            (ids_series("u", [user], user_type), ids_series("i", [item], item_type)) for user, item in pairs
        )
        if len(user) and len(item)
    ]
    if not rows:
        return kept
    schema = {"user_id": user_type, "item_id": item_type}
    removed = pl.DataFrame(rows, schema=schema, orient="row")
    return kept.join(removed, on=["user_id", "item_id"], how="anti", maintain_order="left")


def write_partition(paths: StatePaths, home: int, version: int, frame: pl.DataFrame) -> dict[str, Any]:
    """Write one partition's interactions for a version; the caller syncs the directory. Name -> record."""
    path = paths.interactions / f"{home:03d}-{version:06d}.parquet"
    durable.create(path, lambda file: frame.write_parquet(file, compression="zstd"))
    return {path.name: file_record(path, len(frame))}


def read_partition(paths: StatePaths, name: str, store: Store) -> pl.DataFrame:
    """Read one partition, checking its digest.

    Raises
    ------
    VersionError
        It is missing or not what was written.
    """
    damaged = damaged_files(paths.interactions, {name: store.files[name]})
    if damaged:
        raise VersionError(f"{damaged[0]}; restore it from a backup, or fit again from the original data")
    return pl.read_parquet(paths.interactions / name, glob=False)  # a bracket is part of a name


def read_store(paths: StatePaths, store: Store) -> pl.DataFrame | None:
    """Read all that is kept, in canonical order; None if nothing is.

    Raises
    ------
    VersionError
        As :func:`read_partition`.
    """
    frames = [read_partition(paths, name, store) for name in store.files]
    return pl.concat(frames).sort("user_id", "item_id") if frames else None


def partition_of(ids: pl.Series, partitions: int) -> pl.Series:
    """Return each id's partition, as a column ``_home``: CRC-32 of its text, the same for ever."""
    known = ids.unique()
    homes = [_home(canonical_id(external_id), partitions) for external_id in known.to_list()]
    table = pl.DataFrame({"id": known, "_home": pl.Series(homes, dtype=pl.Int64)})
    return ids.to_frame("id").join(table, on="id", how="left", maintain_order="left")["_home"]


def _home(text: str, partitions: int) -> int:
    return zlib.crc32(text.encode()) % partitions
