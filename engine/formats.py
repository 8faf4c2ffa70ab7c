"""The file formats interactions come in: each read into one raw table, with what could not be read beside it.

Nothing is judged here but whether a record can be read; what its fields mean is for :mod:`.tables`.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from .csv_records import BROKEN, Records, find_records, parse_record, parse_records

ENDINGS: Final = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""File ending -> format."""

NOT_JSON: Final = "not a JSON object"
BAD_FIELD: Final = {
    "user": "the user id is neither a string nor an integer",
    "item": "the item id is neither a string nor an integer",
    "value": "the value is not a number",
    "time": "the time cannot be read",
}

_MAGIC: Final = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow IPC"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)
_CHUNK_LINES: Final = 1 << 16
_Members = dict[str, msgspec.Raw]
_UNFIT: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class InteractionFileError(ValueError):
    """A file of interactions cannot be used; the message names the file, what was found and the way out."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None where there is none.

    Attributes
    ----------
    user, item : required.
    value, time : optional.
    """

    user: str
    item: str
    value: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        """Refuse a column that is asked for twice."""
        names = list(self.wanted().values())
        if len(set(names)) != len(names):
            raise InteractionFileError(f"the columns asked for are {names}; each must be a column of its own")

    def wanted(self) -> dict[str, str]:
        """Field -> column name, for those to be read."""
        pairs = {"user": self.user, "item": self.item, "value": self.value, "time": self.time}
        return {field: column for field, column in pairs.items() if column is not None}


@dataclass(frozen=True)
class RawTable:
    """What a file holds, before its values are judged.

    Attributes
    ----------
    frame : ``line`` Int64 (1-based; rows for Parquet), ``user``, ``item`` and, if asked for, ``value`` and
        ``time``, as strings or as the file's own types; an absent field is empty or null.
    rejected : ``line`` Int64, ``reason`` String: records that could not be read at all.
    """

    frame: pl.DataFrame
    rejected: pl.DataFrame


def format_of(path: Path, given: str | None) -> str:
    """Name the format of a file: as given, else by its ending.

    Raises
    ------
    InteractionFileError
        The ending or the name is none that is known.

    Examples
    --------
    >>> format_of(Path("plays.jsonl"), None)
    'ndjson'
    """
    known = ", ".join(sorted(set(ENDINGS.values())))
    if given is not None:
        if given not in _READERS:
            raise InteractionFileError(f"format {given!r} is not known; choose one of {known}")
        return given
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InteractionFileError(
            f"{path} ends in {ending!r}, which is no known format; unpack it if it is compressed, "
            f"or say what it is: format= one of {known}"
        )
    return ENDINGS[ending]


def read_raw(path: Path, columns: Columns, format_name: str) -> RawTable:
    """Read the wanted columns of a file.

    Parameters
    ----------
    path : the file.
    columns : which columns.
    format_name : as :func:`format_of` names it.

    Raises
    ------
    InteractionFileError
        The file cannot be opened, is empty, holds another format or lacks a column.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            found = _found(head)
            if not head:
                raise InteractionFileError(f"{path} is empty (0 bytes); pass a file with interactions")
            if format_name == "parquet":
                if found != "Parquet":
                    text = "binary data" if b"\0" in head else "text"
                    raise _wrong_format(path, format_name, found or text)
                return _read_parquet(path, columns)
            if found is not None:
                raise _wrong_format(path, format_name, found)
            data = head + file.read()
    except OSError as error:
        raise InteractionFileError(
            f"{path} cannot be read: {error.strerror or error}; pass a file that exists and may be read"
        ) from error
    return _READERS[format_name](path, data, columns)


def _found(head: bytes) -> str | None:
    """Name what the first bytes of a file show it to be; None for text."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def _wrong_format(path: Path, expected: str, found: str) -> InteractionFileError:
    way_out = {
        "Parquet": "pass format='parquet' or rename the file",
        "NDJSON": "pass format='ndjson' or rename the file",
        "a JSON array": "write one object a line instead, e.g. with `jq -c '.[]'`",
        "text": "pass format='csv' or format='ndjson', or rename the file",
        "UTF-16 text": "save it as UTF-8",
    }.get(found, f"unpack or convert it to {expected} first")
    return InteractionFileError(f"{path} should be {expected}, but holds {found}; {way_out}")


def _lacking(
    path: str | Path, missing: Sequence[str], present: Sequence[str], hint: str = ""
) -> InteractionFileError:
    what = "column" if len(missing) == 1 else "columns"
    names = ", ".join(repr(name) for name in missing)
    return InteractionFileError(
        f"{path} has no {what} {names}; it has {', '.join(repr(name) for name in present) or 'none'}: "
        f"name the right ones{hint}"
    )


# -- CSV ---------------------------------------------------------------------------------------------


def _read_csv(path: Path, data: bytes, columns: Columns) -> RawTable:
    return _read_separated(path, data, columns, ",")


def _read_tsv(path: Path, data: bytes, columns: Columns) -> RawTable:
    return _read_separated(path, data, columns, "\t")


def _read_separated(path: Path, data: bytes, columns: Columns, separator: str) -> RawTable:
    wanted = columns.wanted()
    records = _without_leading_blanks(find_records(data, separator))
    header = _header(path, records, separator)
    missing = [name for name in wanted.values() if name not in header]
    if missing:
        if _is_object(records.bytes_of(0)):
            raise _wrong_format(path, "tsv" if separator == "\t" else "csv", "NDJSON")
        raise _lacking(path, missing, header, _separator_hint(header))
    for name in wanted.values():
        if header.count(name) > 1:
            raise InteractionFileError(
                f"{path} has {header.count(name)} columns {name!r}; rename all but one"
            )
    frame, rejected = parse_records(records, [header.index(name) for name in wanted.values()], separator)
    return RawTable(frame.rename({str(k): field for k, field in enumerate(wanted)}), rejected)


def _without_leading_blanks(records: Records) -> Records:
    first = 0
    while first < records.kinds.size and not records.bytes_of(first).strip():
        first += 1
    return Records(
        records.data,
        records.starts[first:],
        records.lines[first:],
        records.fields[first:],
        records.kinds[first:],
    )


def _header(path: Path, records: Records, separator: str) -> list[str]:
    if not records.kinds.size:
        raise InteractionFileError(f"{path} has only blank lines; pass a file with a header and rows")
    if b"\0" in records.bytes_of(0):
        raise _wrong_format(path, "csv", "binary data")
    if records.kinds[0] == BROKEN:
        raise InteractionFileError(
            f"{path}, line {records.lines[0]}: a quote in the header does not close; mend the header"
        )
    if records.fields.size == 1 and b"\r" in records.bytes_of(0).rstrip(b"\r\n"):
        raise InteractionFileError(f"{path} ends its lines with CR alone; save it with LF or CRLF line ends")
    try:
        return parse_record(records.bytes_of(0), separator)
    except UnicodeDecodeError as error:
        raise InteractionFileError(f"{path}: the header is not UTF-8; save the file as UTF-8") from error


def _separator_hint(header: Sequence[str]) -> str:
    if len(header) > 1:
        return ""
    for mark, name, way_out in (("\t", "tabs", "format='tsv'"), (";", "semicolons", "commas instead")):
        if mark in header[0]:
            return f" (its header has {name}: use {way_out})"
    return ""


# -- NDJSON ------------------------------------------------------------------------------------------


def _read_ndjson(path: Path, data: bytes, columns: Columns) -> RawTable:
    body = data.removeprefix(b"\xef\xbb\xbf")
    if body.lstrip().startswith(b"["):
        raise _wrong_format(path, "ndjson", "a JSON array")
    wanted = columns.wanted()
    decoder = msgspec.json.Decoder(_row_type(wanted))
    rejected: list[tuple[int, str]] = []
    texts = body.split(b"\n")
    chunks = [
        _chunk(decoder, texts[first : first + _CHUNK_LINES], first + 1, rejected)
        for first in range(0, len(texts), _CHUNK_LINES)
    ]
    frame = pl.concat(chunks)
    _check_members(path, texts, [name for field, name in wanted.items() if frame[field].is_null().all()])
    refused = pl.DataFrame(rejected, schema={"line": pl.Int64, "reason": pl.String}, orient="row")
    return RawTable(frame, refused)


def _chunk(
    decoder: msgspec.json.Decoder[Any], texts: list[bytes], first: int, rejected: list[tuple[int, str]]
) -> pl.DataFrame:
    """Decode lines ``first``, ``first + 1``, ...; lines that are no fit object go to ``rejected``."""
    numbers, rows = _decode(decoder, texts, first, rejected)
    columns = [pl.Series("line", numbers, dtype=pl.Int64)]
    for field in decoder.type.__struct_fields__:
        values = [getattr(row, field) for row in rows]
        columns.append(pl.Series(field, values, pl.Float64) if field == "value" else _texts(field, values))
    return pl.DataFrame(columns)


def _texts(field: str, values: list[Any]) -> pl.Series:
    """Strings and numbers as a String column; all integers, the usual case, without a Python loop."""
    try:
        return pl.Series(field, values, pl.Int64, strict=True).cast(pl.String)
    except (TypeError, OverflowError):
        texts = [value if value is None else str(value) for value in values]
        return pl.Series(field, texts, pl.String)


def _row_type(wanted: dict[str, str]) -> type[msgspec.Struct]:
    """Build the type of one line: the wanted members only, strictly typed, all optional."""
    types: dict[str, Any] = {
        "user": str | int | None,
        "item": str | int | None,
        "value": float | None,
        "time": str | int | float | None,
    }
    return msgspec.defstruct(
        "Row", [(field, types[field], None) for field in wanted], rename=wanted, gc=False, frozen=True
    )


def _decode(
    decoder: msgspec.json.Decoder[Any], texts: list[bytes], first: int, rejected: list[tuple[int, str]]
) -> tuple[list[int], list[Any]]:
    """Decode line by line: in one sweep if all are good, else with an eye on each."""
    numbers = [first + k for k, text in enumerate(texts) if text and not text.isspace()]
    present = [texts[number - first] for number in numbers]
    # not decode_lines: it takes two objects on a line, and one object on two lines
    with contextlib.suppress(*_UNFIT):
        return numbers, list(map(decoder.decode, present))
    good: list[int] = []
    rows: list[Any] = []
    for number, text in zip(numbers, present, strict=True):
        try:
            rows.append(decoder.decode(text))
        except _UNFIT as error:
            rejected.append((number, _json_reason(error, decoder.type)))
        else:
            good.append(number)
    return good, rows


def _json_reason(error: Exception, row_type: Any) -> str:
    """Say why a line was refused, without repeating what it holds."""
    if isinstance(error, msgspec.ValidationError):
        for name, field in zip(row_type.__struct_encode_fields__, row_type.__struct_fields__, strict=True):
            if str(error).endswith(f"`$.{name}`"):
                return BAD_FIELD[field]
    return NOT_JSON


def _check_members(path: Path, texts: Sequence[bytes], absent: Sequence[str]) -> None:
    """Tell a member that no line has (a wrong name) from one that some lines lack (bad rows)."""
    if not absent:
        return
    objects = list(islice((text for text in texts if _is_object(text)), _CHUNK_LINES))
    if not objects:
        raise _wrong_format(path, "ndjson", "no line with a JSON object")
    names = sorted({name for text in objects for name in msgspec.json.decode(text, type=_Members)})
    missing = [name for name in absent if name not in names]
    if missing:
        raise _lacking(path, missing, names)


def _is_object(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=_Members)
    except _UNFIT:
        return False
    return True


# -- Parquet -----------------------------------------------------------------------------------------


def scan_parquet(source: str | Path, columns: Columns, *, several: bool = False) -> pl.LazyFrame:
    """Name the wanted columns of Parquet rows ``user``, ``item`` and so on, and read none of the rows.

    Parameters
    ----------
    several : ``source`` may be a folder (all its ``.parquet`` files, at any depth), a pattern, or an address
        that Polars knows (``s3://``, ``file://``).

    Raises
    ------
    InteractionFileError
        A column is missing, or of a type that cannot mean what it should.
    OSError, pl.exceptions.PolarsError
        It cannot be read, or is no Parquet.
    """
    wanted = columns.wanted()
    if several and Path(source).is_dir():
        files = sorted(Path(source).rglob("*.parquet"))
        if not files:
            raise InteractionFileError(f"{source} is a folder without a .parquet file; name another one")
        rows = pl.scan_parquet(files, glob=False, hive_partitioning=False)
    else:
        is_pattern = several and not Path(source).exists()
        rows = pl.scan_parquet(source, glob=is_pattern, hive_partitioning=False)
    schema = rows.collect_schema()
    missing = [name for name in wanted.values() if name not in schema]
    if missing:
        raise _lacking(source, missing, list(schema))
    for field, name in wanted.items():
        _check_type(source, field, name, schema[name])
    return rows.select(pl.col(name).alias(field) for field, name in wanted.items())


def numbered(frame: pl.DataFrame, first: int = 1) -> RawTable:
    """Give Parquet rows their numbers, from ``first``; none of them is unreadable.

    Examples
    --------
    >>> numbered(pl.DataFrame({"user": ["a"], "item": ["x"]}), 8).frame.rows()
    [(8, 'a', 'x')]
    """
    lines = pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias("line")
    return RawTable(
        frame.select(lines, pl.all()), pl.DataFrame(schema={"line": pl.Int64, "reason": pl.String})
    )


def _read_parquet(path: Path, columns: Columns) -> RawTable:
    try:
        return numbered(scan_parquet(path, columns).collect())
    except pl.exceptions.PolarsError as error:
        raise InteractionFileError(
            f"{path} is a damaged Parquet file ({str(error).splitlines()[0]}); write or fetch it again"
        ) from error


def _check_type(path: str | Path, field: str, name: str, dtype: pl.DataType) -> None:
    """Refuse a column whose type cannot mean what it should."""
    text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Null)
    fits, wanted = {
        "value": (text or dtype.is_numeric() or dtype == pl.Boolean, "numbers"),
        "time": (text or dtype.is_numeric() or isinstance(dtype, pl.Datetime | pl.Date), "times"),
    }.get(field, (text or dtype.is_integer(), "strings or integers"))
    if not fits:
        raise InteractionFileError(
            f"{path}: column {name!r} holds {dtype}, but {wanted} are needed; cast it when writing the file"
        )


_READERS: Final[dict[str, Callable[[Path, bytes, Columns], RawTable]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "ndjson": _read_ndjson,
    "parquet": lambda path, _, columns: _read_parquet(path, columns),
}
