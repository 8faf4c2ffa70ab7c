"""Interactions from files: read, judged row by row, duplicates summed, in an order of their own.

The result does not depend on the order of the rows in the file: users ascend, a user's items ascend, and
the values of a repeated pair are summed from the smallest up. A row that cannot be used is counted and
named by its line and the reason, never by what it holds: it may hold somebody's id.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from ..models.base import Interactions
from .formats import BAD_FIELD, Columns, InteractionFileError, RawTable, format_of, read_raw

SAMPLE: Final = 100
"""How many rejected rows are kept with their lines; all are counted."""

LARGEST: Final = 3.4e38
SMALLEST: Final = 1.2e-38
"""Values beyond these would be infinite or zero in the models' float32."""

_WITHIN_INT64: Final = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)

_REASONS: Final = {
    "no user": "the user id is missing",
    "no item": "the item id is missing",
    "no value": "the value is missing",
    "not a number": BAD_FIELD["value"],
    "nan": "the value is NaN",
    "infinite": "the value is infinite",
    "negative": "the value is negative",
    "zero": "the value is zero: zero is no interaction",
    "too large": f"the value is above {LARGEST:g}",
    "too small": f"the value is below {SMALLEST:g}",
    "time": BAD_FIELD["time"],
}


class RejectedRow(NamedTuple):
    """A row that was not used.

    Attributes
    ----------
    line : 1-based physical line on which it begins; for Parquet and frames, the row's number.
    reason : why, without the row's content.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class Rejections:
    """All rows that were not used.

    Attributes
    ----------
    counts : reason -> rows.
    sample : the first of them by line, at most ``SAMPLE``.
    """

    counts: Mapping[str, int]
    sample: tuple[RejectedRow, ...]

    @property
    def total(self) -> int:
        """How many rows were not used."""
        return sum(self.counts.values())

    def add(self, later: "Rejections") -> "Rejections":
        """Return these and those of later lines together."""
        counts = Counter(self.counts)
        counts.update(later.counts)
        return Rejections(_ordered(counts), (self.sample + later.sample)[:SAMPLE])

    def summary(self) -> str:
        """Describe them in one line: each reason with its count and its first lines.

        Examples
        --------
        >>> Rejections({"the value is NaN": 2}, (RejectedRow(3, "the value is NaN"),)).summary()
        '2 rows rejected: the value is NaN (2; line 3, …)'
        """
        if not self.total:
            return "no rows rejected"
        parts = []
        for reason, count in self.counts.items():
            lines = [str(row.line) for row in self.sample if row.reason == reason][:5]
            more = ", …" if len(lines) < count else ""
            where = f"; line{'s' if len(lines) > 1 else ''} {', '.join(lines)}{more}" if lines else ""
            parts.append(f"{reason} ({count:,}{where})")
        return f"{self.total:,} row{'s' if self.total > 1 else ''} rejected: {'; '.join(parts)}"


@dataclass(frozen=True)
class InteractionTable:
    """Interactions with the platform's ids, one row for each pair.

    Attributes
    ----------
    frame : ``user_id`` and ``item_id``, each Int64 or String; ``value`` Float64, positive and finite;
        ``time`` Datetime[us, UTC], nullable, if times were asked for. Sorted by user, then item (integers
        by size, strings by code point); no pair twice.
    rejected : the rows that were not used.
    duplicates : how many usable rows were summed into a row of the same pair.
    """

    frame: pl.DataFrame
    rejected: Rejections
    duplicates: int

    @property
    def user_id_type(self) -> Literal["integer", "string"]:
        """Integer if every user id is a canonical decimal of 64 bits (``"042"`` is not), else string."""
        return "integer" if self.frame.schema["user_id"] == pl.Int64 else "string"

    @property
    def item_id_type(self) -> Literal["integer", "string"]:
        """The same for items."""
        return "integer" if self.frame.schema["item_id"] == pl.Int64 else "string"


class IndexedMatrix(NamedTuple):
    """A user-item matrix and the platform's ids of its rows and columns.

    Attributes
    ----------
    user_items : canonical CSR [n_users, n_items].
    user_ids : Series [n_users], ascending: ``user_ids[row]`` is the platform's id of a dense row.
    item_ids : Series [n_items], ascending.
    """

    user_items: Interactions
    user_ids: pl.Series
    item_ids: pl.Series


def read_interactions(
    path: str | PathLike[str],
    *,
    user_col: str = "user_id",
    item_col: str = "item_id",
    value_col: str | None = None,
    time_col: str | None = None,
    format: str | None = None,  # noqa: A002 - the name the contract fixes
) -> InteractionTable:
    r"""Read interactions from a CSV, TSV, NDJSON or Parquet file.

    Ids are read as strings; a column whose every id is a canonical 64-bit decimal becomes Int64. Repeated
    pairs are summed, the latest time kept. A row that cannot be used is counted and named in ``rejected``,
    and the others go on: a missing id, a value that is not a positive finite number, a time that cannot be
    read, a line with too few or too many fields, a quote that does not close, broken JSON or UTF-8. Blank
    lines are no rows.

    Parameters
    ----------
    path : the file. CSV and TSV have a header, RFC 4180 quotes, LF or CRLF; text is UTF-8, a byte-order
        mark is skipped.
    user_col, item_col : names of the id columns.
    value_col : name of the value column; None: every value is 1.
    time_col : name of the time column; None: no times. RFC 3339 or ISO 8601 (UTC where no offset is
        given), dates, or Unix time: seconds below 1e11, milliseconds below 1e14, microseconds below 1e17.
        An empty time is null.
    format : ``"csv"``, ``"tsv"``, ``"ndjson"`` or ``"parquet"``; None: by the file's ending.

    Raises
    ------
    InteractionFileError
        The file cannot be read, is not in this format, lacks a column or has no row that can be used.

    Notes
    -----
    O(rows log rows) time; the file and its columns are held in memory at once. CSV and Parquet take a
    few hundred nanoseconds a row, NDJSON about a microsecond.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "plays.csv")
    ...     _ = file.write_text("user_id,item_id,plays\n7,a,2\n7,a,1\n8,b,none\n6,b,1\n")
    ...     table = read_interactions(file, value_col="plays")
    >>> table.frame.rows()
    [(6, 'b', 1.0), (7, 'a', 3.0)]
    >>> table.duplicates, table.rejected.sample
    (1, (RejectedRow(line=4, reason='the value is not a number'),))
    """
    file = Path(path)
    columns = Columns(user_col, item_col, value_col, time_col)
    return _tabulate(read_raw(file, columns, format_of(file, format)), str(file))


def table_from_frame(frame: pl.DataFrame, origin: str = "the frame") -> InteractionTable:
    """Judge and order interactions that are in memory already, as :func:`read_interactions` does.

    Parameters
    ----------
    frame : ``user_id`` and ``item_id`` (strings or integers), optionally ``value``, ``time`` and ``line``:
        the number by which ``rejected`` names a row, else rows are counted from 1.
    origin : what to call the frame in errors.

    Raises
    ------
    InteractionFileError
        A column is missing, or no row can be used.

    Examples
    --------
    >>> table_from_frame(pl.DataFrame({"user_id": ["b", "a"], "item_id": [1, 2]})).frame.rows()
    [('a', 2, 1.0), ('b', 1, 1.0)]
    """
    missing = [name for name in ("user_id", "item_id") if name not in frame.columns]
    if missing:
        raise InteractionFileError(f"{origin} has no columns {missing}; it has {frame.columns}: rename them")
    names = {"user_id": "user", "item_id": "item", "value": "value", "time": "time"}
    counted = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line")
    raw = frame.select(
        pl.col("line").cast(pl.Int64) if "line" in frame.columns else counted,
        *(pl.col(name).alias(field) for name, field in names.items() if name in frame.columns),
    )
    return _tabulate(RawTable(raw, _no_rejections()), origin)


def to_matrix(table: InteractionTable, dtype: DTypeLike = np.float64) -> IndexedMatrix:
    """Put the values into a matrix, its rows and columns in ascending order of the ids.

    Parameters
    ----------
    table : interactions.
    dtype : float64 or float32.

    Raises
    ------
    ValueError
        ``dtype`` is another, or a summed value is too large for it.

    Notes
    -----
    O(rows + items log items).

    Examples
    --------
    >>> table = table_from_frame(pl.DataFrame({"user_id": [9, 4], "item_id": ["x", "x"]}))
    >>> matrix = to_matrix(table)
    >>> matrix.user_items.toarray().tolist(), matrix.user_ids.to_list(), matrix.item_ids.to_list()
    ([[1.0], [1.0]], [4, 9], ['x'])
    """
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype {np.dtype(dtype)} is not supported; pass float32 or float64")
    frame = table.frame
    user_ids, users = _index(frame["user_id"])
    item_ids, items = _index(frame["item_id"])
    with np.errstate(over="ignore"):  # named below
        values = frame["value"].to_numpy().astype(dtype)
    if not np.isfinite(values).all():
        worst = float(frame["value"].to_numpy().max())
        raise ValueError(f"a summed value is {worst:g}, too large for {np.dtype(dtype)}; use float64")
    index_type = np.int32 if frame.height < 2**31 else np.int64
    starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids)))])
    matrix: Interactions = sp.csr_matrix(
        (values, items.astype(index_type), starts.astype(index_type)), shape=(len(user_ids), len(item_ids))
    )
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return IndexedMatrix(matrix, user_ids, item_ids)


def _index(ids: pl.Series) -> tuple[pl.Series, NDArray[np.int64]]:
    """Distinct ids, ascending, and the position of each id among them: Series [k], int64 [n]."""
    if ids.dtype == pl.Int64 and (dense := _index_dense(ids.to_numpy())) is not None:
        return pl.Series(dense[0]), dense[1]
    distinct = ids.unique().sort()
    numbered = pl.DataFrame({"id": distinct}).with_row_index("position")
    found = ids.to_frame("id").join(numbered, on="id", how="left", maintain_order="left")
    return distinct, found["position"].to_numpy().astype(np.int64)


def _index_dense(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Do the same by a table over the range of the ids; None where that is much longer than ``ids``."""
    low, high = int(ids.min()), int(ids.max())
    if high - low > 4 * ids.size + 1024:
        return None
    present = np.zeros(high - low + 1, dtype=np.bool_)
    present[ids - low] = True
    distinct = np.flatnonzero(present) + low
    return distinct, (np.cumsum(present) - 1)[ids - low]


def _no_rejections() -> pl.DataFrame:
    return pl.DataFrame(schema={"line": pl.Int64, "reason": pl.String})


def _tabulate(raw: RawTable, origin: str) -> InteractionTable:
    """Judge the rows of a raw table and bring what is good into canonical form."""
    frame, rejected = judge_rows(raw)
    if not frame.height:
        raise no_usable_row(origin, rejected)
    summed = sum_duplicates(frame)
    return InteractionTable(summed, rejected, frame.height - summed.height)


def judge_rows(raw: RawTable) -> tuple[pl.DataFrame, Rejections]:
    """Tell the rows that can be used from the others.

    Returns
    -------
    The usable rows, in their order, repeated pairs and all: ``user_id`` and ``item_id``, each Int64 if every
    usable id is a canonical decimal, else String; ``value``; ``time`` if it was asked for.
    The rows that are not used.
    """
    judged = _judge(raw.frame.with_columns(_as_ids(raw.frame[field]) for field in ("user", "item")))
    refused = judged.filter(pl.col("reason").is_not_null()).select("line", "reason")
    rejected = _rejections(pl.concat([raw.rejected, refused]))
    good = judged.filter(pl.col("reason").is_null()) if refused.height else judged
    wanted = {"user": "user_id", "item": "item_id", "value": "value"} | (
        {"time": "time"} if "time" in good.columns else {}
    )
    frame = good.select(pl.col(field).alias(name) for field, name in wanted.items())
    return frame.with_columns(_as_ids(frame["user_id"]), _as_ids(frame["item_id"])), rejected


def no_usable_row(origin: str, rejected: Rejections) -> InteractionFileError:
    """Say that nothing can be used, and why."""
    why = f"{rejected.total:,} rows, {rejected.summary()}" if rejected.total else "it has no rows"
    return InteractionFileError(f"{origin} has no usable interaction: {why}; check the columns and the file")


def _rejections(rows: pl.DataFrame) -> Rejections:
    rows = rows.sort("line")
    counts = Counter(dict(rows["reason"].value_counts().rows()))
    sample = tuple(RejectedRow(*row) for row in rows.head(SAMPLE).rows())
    return Rejections(_ordered(counts), sample)


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """Put the most frequent reason first."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


# -- judging rows ------------------------------------------------------------------------------------


def _judge(raw: pl.DataFrame) -> pl.DataFrame:
    """Convert the fields and add ``reason``: null where the row is good."""
    frame = raw.with_columns(_plain_text(raw, field) for field in raw.columns if field != "line")
    found = [(_lacks_id(frame, field), f"no {field}") for field in ("user", "item")]
    if "value" in raw.columns:
        frame = frame.with_columns(_number(frame["value"]).alias("number"))
        found += _value_flaws(frame)
    else:
        frame = frame.with_columns(pl.lit(1.0).alias("number"))
    if "time" in raw.columns:
        frame = frame.with_columns(_instant(frame["time"]).alias("instant"))
        given = pl.col("time").is_not_null()
        if frame.schema["time"] == pl.String:
            given &= pl.col("time").str.strip_chars() != ""
        found.append((given & pl.col("instant").is_null(), "time"))
    reason = pl.coalesce(*(pl.when(flaw).then(pl.lit(_REASONS[name])) for flaw, name in found))
    columns = [pl.col("line", "user", "item"), pl.col("number").alias("value"), reason.alias("reason")]
    if "time" in raw.columns:
        columns.append(pl.col("instant").alias("time"))
    return frame.select(columns)


def _plain_text(frame: pl.DataFrame, field: str) -> pl.Expr:
    """Read categories and nulls of no type as text, and integers too big for Int64 as decimals."""
    dtype = frame.schema[field]
    if isinstance(dtype, pl.Categorical | pl.Enum | pl.Null):
        return pl.col(field).cast(pl.String)
    if field in ("user", "item") and dtype.is_integer():
        return pl.col(field).cast(pl.Int64 if dtype in _WITHIN_INT64 else pl.String)
    if field in ("user", "item") and dtype != pl.String:
        raise InteractionFileError(f"the {field} ids are {dtype}; cast them to strings or integers")
    return pl.col(field)


def _lacks_id(frame: pl.DataFrame, field: str) -> pl.Expr:
    missing = pl.col(field).is_null()
    if frame.schema[field] == pl.String:
        return missing | (pl.col(field).str.strip_chars() == "")
    return missing


def _number(values: pl.Series) -> pl.Series:
    numbers = values.cast(pl.Float64, strict=False)
    if values.dtype == pl.String and numbers.null_count():
        return values.str.strip_chars().cast(pl.Float64, strict=False)
    return numbers


def _value_flaws(frame: pl.DataFrame) -> list[tuple[pl.Expr, str]]:
    number = pl.col("number")
    missing = pl.col("value").is_null()
    if frame.schema["value"] == pl.String:
        missing |= pl.col("value").str.strip_chars() == ""
    usable = number.is_not_null() & number.is_finite() & (number >= SMALLEST) & (number <= LARGEST)
    if frame.select(usable.all()).item():
        return []
    return [
        (missing, "no value"),
        (number.is_null(), "not a number"),
        (number.is_nan(), "nan"),
        (number.is_infinite() & (number > 0), "infinite"),
        (number < 0, "negative"),
        (number == 0, "zero"),
        (number > LARGEST, "too large"),
        (number < SMALLEST, "too small"),
    ]


def _instant(times: pl.Series) -> pl.Series:
    """Convert times to Datetime[us, UTC]; null where there is none or it cannot be read."""
    utc = pl.Datetime("us", "UTC")
    if isinstance(times.dtype, pl.Date):
        return times.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if isinstance(times.dtype, pl.Datetime):
        zoned = times if times.dtype.time_zone else times.dt.replace_time_zone("UTC")
        return zoned.dt.convert_time_zone("UTC").cast(utc)
    text = times.cast(pl.String).str.strip_chars()
    unix = _unix_microseconds(text.cast(pl.Float64, strict=False))
    if unix.null_count() == times.null_count():
        return unix.cast(utc)
    read = pl.coalesce(pl.col("unix").cast(utc), _iso_instant(pl.col("text")))
    return pl.DataFrame({"unix": unix, "text": text}).select(read.alias("time"))["time"]


def _unix_microseconds(number: pl.Series) -> pl.Series:
    """Unix times, read as seconds, milliseconds or microseconds by their size, as Int64 microseconds."""
    size = pl.col("number").abs()
    scale = pl.when(size < 1e11).then(1e6).when(size < 1e14).then(1e3).when(size < 1e17).then(1.0)
    scaled = (pl.col("number") * scale).round().cast(pl.Int64, strict=False)
    return number.to_frame("number").select(scaled)["number"]


def _iso_instant(text: pl.Expr) -> pl.Expr:
    """ISO 8601 dates and times, UTC where they give no offset."""
    full = (
        pl.when(text.str.contains(r"^\d{4}-\d{2}-\d{2}$"))
        .then(text + "T00:00:00Z")
        .when(text.str.contains(r"\d:\d{2}(:\d{2}(\.\d+)?)?$") & ~text.str.contains(r"[+-]\d{2}:\d{2}$"))
        .then(text + "Z")
        .otherwise(text)
    )
    with_seconds = full.str.replace(r"([T ]\d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})$", "${1}:00${2}")
    return with_seconds.str.replace(" ", "T").str.to_datetime(
        "%+", time_unit="us", time_zone="UTC", strict=False
    )


# -- canonical form ----------------------------------------------------------------------------------


def _as_ids(ids: pl.Series) -> pl.Series:
    """Int64 if every id is a canonical decimal of 64 bits, else as they are: nothing is lost."""
    if ids.dtype != pl.String:
        return ids
    numbers = ids.cast(pl.Int64, strict=False)
    if numbers.null_count() == 0 and bool((numbers.cast(pl.String) == ids).all()):
        return numbers
    return ids


def sum_duplicates(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort by user, then item; one row for each pair, with the sum of values and the latest time.

    Parameters
    ----------
    frame : one row or more, as :func:`judge_rows` gives them.
    """
    user_ids, users = _index(frame["user_id"])
    item_ids, items = _index(frame["item_id"])
    keys = users * len(item_ids) + items
    order = pl.Series(keys).arg_sort().to_numpy().astype(np.int64)
    ordered = keys[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    if first.all():
        return frame[order]
    starts = np.flatnonzero(first)
    values = frame["value"].to_numpy()
    order = _smallest_first(order, starts, keys, values)
    summed: dict[str, Any] = {
        "user_id": user_ids.gather(ordered[starts] // len(item_ids)),
        "item_id": item_ids.gather(ordered[starts] % len(item_ids)),
        "value": np.add.reduceat(values[order], starts),
    }
    if "time" in frame.columns:
        summed["time"] = _latest(frame["time"], order, starts)
    return pl.DataFrame(summed)


def _smallest_first(
    order: NDArray[np.int64], starts: NDArray[np.int64], keys: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Order the rows of each repeated pair by value, so that their sum depends on nothing else."""
    lengths = np.diff(np.append(starts, order.size))
    repeated = np.flatnonzero(np.repeat(lengths > 1, lengths))
    rows = order[repeated]
    order = order.copy()
    order[repeated] = rows[np.lexsort((values[rows], keys[rows]))]
    return order


def _latest(times: pl.Series, order: NDArray[np.int64], starts: NDArray[np.int64]) -> pl.Series:
    none = np.iinfo(np.int64).min
    instants = times.cast(pl.Int64).fill_null(none).to_numpy()
    latest = np.maximum.reduceat(instants[order], starts)
    return pl.Series(pl.Series(latest).replace(none, None)).cast(times.dtype)


__all__ = [
    "IndexedMatrix",
    "InteractionFileError",
    "InteractionTable",
    "RejectedRow",
    "Rejections",
    "read_interactions",
    "table_from_frame",
    "to_matrix",
]
