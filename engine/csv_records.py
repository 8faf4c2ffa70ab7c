"""CSV bytes to records with line numbers: which byte range is which record, and whether it can be read.

Polars parses CSV fast but neither says on which line a row began nor reports a ragged line, and it drops
what a stray quote swallows. So the records are found here, in one pass over the bytes; those that are
sound go to Polars, in as few pieces as possible, and the others are named by line.

Quoting follows RFC 4180: a quote opens a field only at its very beginning, is doubled inside, and closes
right before a separator or a line end. A quote elsewhere in an unquoted field is an ordinary character.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..models.kernels import kernel

Bytes: TypeAlias = NDArray[np.uint8]

QUOTED_LINES: Final = 1000
"""A quoted field over more line breaks than this is taken for a quote that nobody closed."""

PLAIN: Final = 0  # one line, no quoted field
QUOTED: Final = 1  # one line, quoted fields, no other quotes
INTRICATE: Final = (
    2  # a break in a quoted field, a lone carriage return, or stray quotes beside quoted fields
)
BLANK: Final = 3  # nothing on the line
BROKEN: Final = 4  # a quoted field that does not close

_QUOTE, _LINE_FEED, _RETURN = 0x22, 0x0A, 0x0D

BAD_QUOTES: Final = "a quoted field is not closed"
NOT_UTF8: Final = "not valid UTF-8"
SHORT: Final = "fewer fields than the header"
LONG: Final = "more fields than the header"


@dataclass(frozen=True)
class Records:
    """Where the records of a CSV file are.

    Attributes
    ----------
    data : uint8 [n_bytes], the file without its byte-order mark.
    starts : int64 [n + 1], record k is ``data[starts[k]:starts[k + 1]]``, line end included.
    lines : int64 [n], 1-based physical line on which it begins.
    fields : int64 [n], how many fields it has; of a BROKEN one, up to the quote.
    kinds : uint8 [n], PLAIN, QUOTED, INTRICATE, BLANK or BROKEN.
    """

    data: Bytes
    starts: NDArray[np.int64]
    lines: NDArray[np.int64]
    fields: NDArray[np.int64]
    kinds: NDArray[np.uint8]

    def bytes_of(self, record: int) -> bytes:
        """Return the bytes of one record, line end included."""
        return self.data[self.starts[record] : self.starts[record + 1]].tobytes()


def find_records(data: bytes, separator: str = ",") -> Records:
    r"""Split CSV bytes into records, without parsing a field.

    A record whose quoted field does not close ends at its own line end, so the lines after it are kept.

    Parameters
    ----------
    data : the file, UTF-8, LF or CRLF line ends, with or without a byte-order mark.
    separator : one ASCII character.

    Notes
    -----
    O(n_bytes), one pass; 25 bytes a record.

    Examples
    --------
    >>> found = find_records(b'user,item\n1,"a\nb"\n2,"c\n3,d\n')
    >>> found.lines.tolist(), found.fields.tolist(), found.kinds.tolist()
    ([1, 2, 4, 5], [2, 2, 2, 2], [0, 2, 4, 0])
    """
    body = np.frombuffer(data, dtype=np.uint8)[3 if data.startswith(b"\xef\xbb\xbf") else 0 :]
    size = data.count(b"\n") + 1
    starts = np.empty(size + 1, dtype=np.int64)
    lines, fields = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    kinds = np.empty(size, dtype=np.uint8)
    count = int(_scan(body, ord(separator), starts, lines, fields, kinds))
    return Records(body, starts[: count + 1], lines[:count], fields[:count], kinds[:count])


@kernel
def _scan(
    data: Bytes,
    separator: int,
    starts: NDArray[np.int64],
    lines: NDArray[np.int64],
    fields: NDArray[np.int64],
    kinds: NDArray[np.uint8],
) -> int:
    """Fill the arrays of :class:`Records`; return the number of records."""
    start, line, count = 0, 1, 0
    while start < data.size:
        at, n_fields, spanned = start, 1, 0
        opening, quoted, stray, lone, broken = True, False, False, False, False
        while at < data.size and data[at] != _LINE_FEED:
            if data[at] == _QUOTE and opening:
                stop = _after_quoted(data, at, separator)
                if stop < 0:
                    broken, spanned = True, 0
                    at = _line_end(data, start)
                    break
                quoted, opening = True, False
                for position in range(at, stop):
                    spanned += data[position] == _LINE_FEED
                at = stop
                continue
            stray |= data[at] == _QUOTE
            lone |= data[at] == _RETURN and at + 1 < data.size and data[at + 1] != _LINE_FEED
            opening = data[at] == separator
            n_fields += opening
            at += 1
        starts[count], lines[count], fields[count] = start, line, n_fields
        empty = at == start or (at == start + 1 and data[start] == _RETURN)
        if broken:
            kinds[count] = BROKEN
        elif empty:
            kinds[count] = BLANK
        elif spanned > 0 or lone or (quoted and stray):
            kinds[count] = INTRICATE
        else:
            kinds[count] = QUOTED if quoted else PLAIN
        count += 1
        line += 1 + spanned
        start = at + 1
    starts[count] = data.size
    return count


@kernel
def _after_quoted(data: Bytes, at: int, separator: int) -> int:
    """Position behind the quoted field that opens at ``at``; -1 if it does not close as it should."""
    spanned = 0
    at += 1
    while at < data.size:
        if data[at] == _LINE_FEED:
            spanned += 1
            if spanned > QUOTED_LINES:
                return -1
        elif data[at] == _QUOTE:
            at += 1
            if at == data.size or data[at] == separator or data[at] == _LINE_FEED:
                return at
            if data[at] == _RETURN and (at + 1 == data.size or data[at + 1] == _LINE_FEED):
                return at
            if data[at] != _QUOTE:
                return -1
        at += 1
    return -1


@kernel
def _line_end(data: Bytes, at: int) -> int:
    """Position of the next line feed, or the end of the data."""
    while at < data.size and data[at] != _LINE_FEED:
        at += 1
    return at


def parse_record(record: bytes, separator: str = ",") -> list[str]:
    r"""Split one sound record into its fields.

    Examples
    --------
    >>> parse_record(b'1,"two, ""or"" 2"\r\n')
    ['1', 'two, "or" 2']
    """
    # not the csv module: it takes a lone carriage return for a line end
    text = record.decode("utf-8").removesuffix("\n").removesuffix("\r")
    mark = re.escape(separator)
    fields = re.finditer(rf'(?:\A|{mark})(?:"((?:[^"]|"")*)"(?={mark}|\Z)|([^{mark}]*))', text)
    return [m[2] if m[1] is None else m[1].replace('""', '"') for m in fields]


def parse_records(
    records: Records, columns: Sequence[int], separator: str = ","
) -> tuple[pl.DataFrame, pl.DataFrame]:
    r"""Read some columns of all sound records, and say which records are not sound.

    Parameters
    ----------
    records : as found, the header first.
    columns : positions of the wanted columns in the header, distinct, at least two.
    separator : the same as for :func:`find_records`.

    Returns
    -------
    frame : ``line`` Int64 and one String column ``"0"``, ``"1"``, ... for each of ``columns``, empty
        strings where there is nothing; not in line order.
    rejected : ``line`` Int64, ``reason`` String.

    Examples
    --------
    >>> found = find_records(b'user,item\n1,"a"\n2\n')
    >>> frame, rejected = parse_records(found, [0, 1])
    >>> frame.rows(), rejected.rows()
    ([(2, '1', 'a')], [(3, 'fewer fields than the header')])
    """
    reasons = _flaws(records)
    sound = (reasons < 0) & (records.kinds != BLANK)
    sound[0] = False
    frames = [
        _parse_lines(records, sound & (records.kinds == PLAIN), columns, separator, None),
        _parse_lines(records, sound & (records.kinds == QUOTED), columns, separator, '"'),
        _parse_one_by_one(records, sound & (records.kinds == INTRICATE), columns, separator),
    ]
    flawed = np.flatnonzero(reasons >= 0)
    rejected = pl.DataFrame(
        {"line": records.lines[flawed], "reason": np.array(_FLAWS, dtype=object)[reasons[flawed]]},
        schema={"line": pl.Int64, "reason": pl.String},
    )
    return pl.concat([frame for frame in frames if frame.height] or frames[:1]), rejected


_FLAWS = (BAD_QUOTES, SHORT, LONG, NOT_UTF8)


def _flaws(records: Records) -> NDArray[np.int8]:
    """Index into ``_FLAWS`` for each record, -1 for none: int8 [n]. The header has none."""
    width = records.fields[0]
    reasons = np.full(records.kinds.size, -1, dtype=np.int8)
    reasons[records.fields < width] = 1
    reasons[records.fields > width] = 2
    reasons[records.kinds == BROKEN] = 0
    reasons[records.kinds == BLANK] = -1
    reasons[_not_utf8(records)] = 3
    reasons[0] = -1
    return reasons


def _not_utf8(records: Records) -> NDArray[np.int64]:
    """Numbers of the records that do not decode; int64, ascending."""
    whole = records.data.tobytes()
    if whole.isascii() or _decodes(whole):
        return np.zeros(0, dtype=np.int64)
    high = np.flatnonzero(records.data >= 0x80)
    suspects = np.unique(np.searchsorted(records.starts, high, side="right") - 1)
    return np.array([k for k in suspects if not _decodes(records.bytes_of(int(k)))], dtype=np.int64)


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _schema(columns: Sequence[int]) -> dict[str, pl.DataType]:
    schema: dict[str, pl.DataType] = {"line": pl.Int64()}
    return schema | {str(k): pl.String() for k in range(len(columns))}


def _parse_lines(
    records: Records, chosen: NDArray[np.bool_], columns: Sequence[int], separator: str, quote: str | None
) -> pl.DataFrame:
    """Parse the chosen records, each on one line and with the same number of fields, with Polars."""
    lines = records.lines[chosen]
    if not lines.size:
        return pl.DataFrame(schema=_schema(columns))
    in_file_order = sorted(columns)
    parsed = pl.read_csv(
        _cut(records, chosen),
        has_header=False,
        infer_schema=False,
        columns=in_file_order,
        separator=separator,
        quote_char=quote,
    )
    if parsed.height != lines.size:
        raise RuntimeError(
            f"Polars read {parsed.height} rows from {lines.size} CSV records; please report it"
        )
    wanted = [
        parsed.to_series(in_file_order.index(column)).fill_null("").rename(str(k))
        for k, column in enumerate(columns)
    ]
    return pl.DataFrame([pl.Series("line", lines), *wanted])


def _cut(records: Records, chosen: NDArray[np.bool_]) -> bytes:
    """Bytes of the chosen records, in order; one slice when they are neighbours."""
    numbers = np.flatnonzero(chosen)
    first, last = int(numbers[0]), int(numbers[-1]) + 1
    data = records.data[records.starts[first] : records.starts[last]]
    if last - first != numbers.size:
        data = data[np.repeat(chosen[first:last], np.diff(records.starts[first : last + 1]))]
    return data.tobytes().removesuffix(b"\r")  # a lone return at the very end is half a line end


def _parse_one_by_one(
    records: Records, chosen: NDArray[np.bool_], columns: Sequence[int], separator: str
) -> pl.DataFrame:
    rows: list[tuple[int | str, ...]] = []
    for k in np.flatnonzero(chosen):
        fields = parse_record(records.bytes_of(int(k)), separator)
        rows.append((int(records.lines[k]), *(fields[column] for column in columns)))
    return pl.DataFrame(rows, schema=_schema(columns), orient="row")
