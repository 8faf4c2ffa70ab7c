"""Reading interactions: every format, every kind of bad row, against slow twins."""

import csv
import io
import itertools
import json
import math
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recunlearn.engine import csv_records
from recunlearn.engine.tables import (
    SAMPLE,
    InteractionFileError,
    read_interactions,
    table_from_frame,
    to_matrix,
)


def examples(count):
    """Set how many examples a property gets; they may share a folder, each writes its files anew."""
    fine = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, suppress_health_check=fine)


# -- slow twins --------------------------------------------------------------------------------------

BAD_VALUES = {
    "": "the value is missing",
    " ": "the value is missing",
    "five": "the value is not a number",
    "1,5": "the value is not a number",
    "0x10": "the value is not a number",
    "NaN": "the value is NaN",
    "inf": "the value is infinite",
    "1e999": "the value is infinite",
    "-1": "the value is negative",
    "-inf": "the value is negative",
    "0": "the value is zero: zero is no interaction",
    "-0.0": "the value is zero: zero is no interaction",
    "1e39": "the value is above 3.4e+38",
    "1e-39": "the value is below 1.2e-38",
}


def blank(key):
    """Say whether an id is nothing but Unicode white space (which str.strip takes more widely)."""
    return not re.sub("[\x1c-\x1f]", "x", key).strip()


def judge_slowly(user, item, value):
    """Say what is wrong with a row, one rule after the other; None if nothing is."""
    if blank(user):
        return "the user id is missing"
    if blank(item):
        return "the item id is missing"
    return BAD_VALUES.get(value)


def tabulate_slowly(rows):
    """Give the sorted (user, item, value) rows of good rows, the value summed exactly, then rounded."""
    sums: dict[tuple[str, str], Fraction] = {}
    for user, item, value in rows:
        sums[user, item] = sums.get((user, item), Fraction(0)) + Fraction(float(value))
    users = typed_slowly([user for user, _ in sums])
    items = typed_slowly([item for _, item in sums])
    return sorted((users[user], items[item], float(value)) for (user, item), value in sums.items())


def typed_slowly(ids):
    """Map ids to integers if all of them are canonical decimals of 64 bits, else to themselves."""
    canonical = all(re.fullmatch(r"0|-?[1-9][0-9]*", k) and -(2**63) <= int(k) < 2**63 for k in ids)
    return {k: int(k) if canonical else k for k in ids}


FIELD = re.compile(rb'"(?:[^"]|"")*"(?=,|\r?(?:\n|\Z))|(?!")[^,\n]*')


def find_records_slowly(data):
    """Split CSV by the grammar of RFC 4180, one regular expression a field; (line, fields, broken)."""
    found, at, line = [], 0, 1
    while at < len(data):
        start, fields, broken = at, 0, False
        while True:
            field = FIELD.match(data, at)
            broken = field is None or field[0].count(b"\n") > csv_records.QUOTED_LINES
            if broken:
                break
            fields, at = fields + 1, field.end()
            if data[at : at + 1] != b",":
                break
            at += 1
        end = data.find(b"\n", start if broken else at)
        at = len(data) if end < 0 else end + 1
        record = data[start:at]
        if broken:
            found.append((line, None))
        elif record.removesuffix(b"\n") not in (b"", b"\r"):
            found.append((line, fields))
        line += record.count(b"\n")
    return found


# -- CSV ---------------------------------------------------------------------------------------------

hostile_bytes = st.lists(
    st.sampled_from([b"a", b"1", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b'"\n', b',"', b"\xc3\xa9"]),
    max_size=40,
).map(b"".join)


@examples(400)
@given(hostile_bytes)
@example(b'1,"a\n2,3\n')
@example(b'"a""\n"b"\n')
@example(b'a,"b"\rc\n"\r')
def test_records_are_those_of_the_grammar(data):
    """Whatever the bytes, records, their lines and field counts are those the CSV grammar gives."""
    records = csv_records.find_records(data)
    broken = records.kinds == csv_records.BROKEN
    kept = records.kinds != csv_records.BLANK
    found = [
        (line, None if bad else fields)
        for line, fields, bad in zip(
            records.lines[kept].tolist(), records.fields[kept].tolist(), broken[kept].tolist(), strict=True
        )
    ]
    assert found == find_records_slowly(data)
    assert b"".join(records.bytes_of(k) for k in range(records.kinds.size)) == data


@examples(200)
@given(hostile_bytes)
@example(b'1,5" pipe,"x"\n')
@example(b"1,2,3\r")
def test_parsed_records_are_those_of_the_csv_module(data):
    """What is sound is parsed as Python's csv module parses it, at its own line; the rest is named."""
    records = csv_records.find_records(b"user,item,more\n" + data)
    frame, rejected = csv_records.parse_records(records, [2, 0])
    expected = []
    for k in range(1, records.kinds.size):
        if records.fields[k] == 3 and records.kinds[k] not in (csv_records.BROKEN, csv_records.BLANK):
            text = records.bytes_of(k).decode().removesuffix("\n").removesuffix("\r")
            # the module takes a lone return for a line end: hide it
            (fields,) = csv.reader(io.StringIO(text.replace("\r", "\1"), newline=""))
            expected.append((int(records.lines[k]), *(fields[n].replace("\1", "\r") for n in (2, 0))))
    assert sorted(frame.rows()) == expected
    blank = int((records.kinds == csv_records.BLANK).sum())
    assert frame.height + rejected.height + blank + 1 == records.kinds.size


ids = st.one_of(
    st.integers(-3, 12).map(str),
    st.sampled_from(["", " ", "042", "-0", "+1", "9223372036854775807", "9223372036854775808", "1.0", "x"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6),
)
values = st.one_of(
    st.integers(1, 9).map(str), st.floats(1e-6, 1e6).map(repr), st.sampled_from(sorted(BAD_VALUES))
)
raw_rows = st.lists(st.tuples(ids, ids, values), min_size=1, max_size=25)


@examples(150)
@given(
    raw_rows,
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_csv_equals_the_slow_reader(tmp_path, rows, line_end, bom, quoting):
    """Ids, sums, reasons and line numbers are those of a reader that goes row by row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end, quoting=quoting)
    writer.writerow(["value", "user_id", "title", "item_id"])
    lines = []
    for user, item, value in rows:
        lines.append(text.getvalue().count("\n") + 1)
        writer.writerow([value, user, 'a "quoted", title', item])
    file = tmp_path / "rows.csv"
    file.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode())

    reasons = [judge_slowly(*row) for row in rows]
    good = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    bad = [(line, reason) for line, reason in zip(lines, reasons, strict=True) if reason]
    if not good:
        with pytest.raises(InteractionFileError, match="no usable interaction"):
            read_interactions(file, value_col="value")
        return
    table = read_interactions(file, value_col="value")
    expected = tabulate_slowly(good)
    assert [row[:2] for row in table.frame.rows()] == [row[:2] for row in expected]
    assert table.frame["value"].to_list() == pytest.approx([row[2] for row in expected], rel=1e-14)
    assert table.duplicates == len(good) - len(expected)
    assert list(table.rejected.sample) == bad
    assert table.rejected.counts == Counter(reason for _, reason in bad)


BROKEN_LINES = {
    b"1": "fewer fields than the header",
    b"1,2": "fewer fields than the header",
    b"1,2,3,4": "more fields than the header",
    b"1,2,3,": "more fields than the header",
    b'1,"two,3': "a quoted field is not closed",
    b'1,"t"wo,3': "a quoted field is not closed",
    b"\xff,2,3": "not valid UTF-8",
    b'"\xe9","2","3"': "not valid UTF-8",
    b",2,3": "the user id is missing",
    b"1,,3": "the item id is missing",
    b"1,2,": "the value is missing",
    b"1,2,x": "the value is not a number",
}
GOOD_LINES = [
    b"u,i,1",
    b'"u",i,1',
    b'"u","i",1',
    b"u\xc3\xa9,i,1",
    b'5" pipe,i,1',
    b'"a ""b""",i,1',
    b'"a,b",i,1',
]


@examples(80)
@given(st.lists(st.sampled_from(GOOD_LINES + list(BROKEN_LINES) + [b"", b"\r"]), max_size=20), st.booleans())
def test_good_lines_survive_beside_broken_ones(tmp_path, lines, ends):
    """Every good line is kept and every broken one is named by its line, whatever stands beside it."""
    file = tmp_path / "mixed.csv"
    body = [b"user_id,item_id,value", b"always,there,1", *lines]
    file.write_bytes(b"\n".join(body) + (b"\n" if ends else b""))
    table = read_interactions(file, value_col="value")
    kept = sum(line in GOOD_LINES for line in lines)
    assert table.frame["value"].sum() == kept + 1
    expected = [(k, BROKEN_LINES[line]) for k, line in enumerate(lines, start=3) if line in BROKEN_LINES]
    assert list(table.rejected.sample) == expected


def test_a_line_break_in_quotes_counts_as_a_line(tmp_path):
    """After a field that spans lines, the line numbers are still those of a text editor."""
    file = tmp_path / "rows.csv"
    file.write_bytes(b'user_id,item_id,note\n1,2,"two\r\nlines\n\n"\n3,4\n5,6,x\n')
    table = read_interactions(file)
    assert table.frame.rows() == [(1, 2, 1.0), (5, 6, 1.0)]
    assert table.rejected.sample == ((6, "fewer fields than the header"),)


def test_an_unclosed_quote_costs_one_line(tmp_path):
    """A quote that nobody closes takes its own line and no other, however far the next quote is."""
    rows = [f"{k},{k}," for k in range(3000)]
    rows[5] += '"open'
    rows[2500] += 'closed"'
    file = tmp_path / "rows.csv"
    file.write_text("user_id,item_id,note\n" + "\n".join(rows))
    table = read_interactions(file)
    assert table.frame.height == 2999
    assert table.rejected.sample == ((7, "a quoted field is not closed"),)


def test_all_rejections_are_counted_and_the_first_are_named(tmp_path):
    """The sample is bounded and by line; the counts are complete, the most frequent reason first."""
    file = tmp_path / "rows.csv"
    file.write_text("user_id,item_id,value\n1,1,1\n" + "1,1,x\n" * 500 + "1,1\n" * 20)
    rejected = read_interactions(file, value_col="value").rejected
    assert rejected.total == 520
    assert list(rejected.counts.items()) == [
        ("the value is not a number", 500),
        ("fewer fields than the header", 20),
    ]
    assert [row.line for row in rejected.sample] == list(range(3, 3 + SAMPLE))
    assert rejected.summary() == (
        "520 rows rejected: the value is not a number (500; lines 3, 4, 5, 6, 7, …); "
        "fewer fields than the header (20)"
    )


def test_reasons_never_repeat_what_a_row_holds(tmp_path):
    """A rejected row may hold somebody's id in any field: no message repeats it."""
    address = "alice@example.org"
    csv_file, json_file = tmp_path / "rows.csv", tmp_path / "rows.ndjson"
    csv_file.write_text(f"user_id,item_id,value,time\n1,1,{address},\n1,1,1,{address}\n{address}\n")
    json_file.write_text(f'{{"user_id":1,"item_id":1,"value":"{address}","time":null}}\n{{"{address}": \n')
    for file in (csv_file, json_file):
        with pytest.raises(InteractionFileError) as caught:
            read_interactions(file, value_col="value", time_col="time")
        assert address not in str(caught.value)


def test_tabs_separate_a_tsv_file(tmp_path):
    """A .tsv file is read with tabs; commas in it are text."""
    file = tmp_path / "rows.tsv"
    file.write_text("user_id\titem_id\n1\ta,b\n")
    assert read_interactions(file).frame.rows() == [(1, "a,b", 1.0)]


# -- ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_ids", "expected"),
    [
        (["2", "10", "-1"], [-1, 2, 10]),
        (["2", "10", "x"], ["10", "2", "x"]),
        (["42", "042"], ["042", "42"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["0", "-0"], ["-0", "0"]),
        (["1", "+1"], ["+1", "1"]),
        (["1", " 1"], [" 1", "1"]),
        (["9223372036854775807", "-9223372036854775808"], [-(2**63), 2**63 - 1]),
        (["9223372036854775808", "1"], ["1", "9223372036854775808"]),
        (["é", "z", "😀"], ["z", "é", "😀"]),
    ],
)
def test_ids_are_integers_only_if_all_of_them_are(tmp_path, given_ids, expected):
    """A column is integer if every id is a canonical 64-bit decimal; else every id stays as it is."""
    file = tmp_path / "rows.csv"
    file.write_text("user_id,item_id\n" + "".join(f"{k},7\n" for k in given_ids), encoding="utf-8")
    table = read_interactions(file)
    assert table.frame["user_id"].to_list() == expected
    assert table.user_id_type == ("integer" if isinstance(expected[0], int) else "string")
    assert table.item_id_type == "integer"


def test_a_rejected_row_does_not_change_the_id_type(tmp_path):
    """Only rows that are used decide whether ids are integers."""
    file = tmp_path / "rows.csv"
    file.write_text("user_id,item_id,value\n7,8,1\ntotal,,1\n")
    assert read_interactions(file, value_col="value").frame.rows() == [(7, 8, 1.0)]


# -- NDJSON ------------------------------------------------------------------------------------------

json_ids = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.text(max_size=4), st.booleans(), st.floats(), st.none()
)
json_values = st.one_of(st.floats(), st.integers(-2, 5), st.text(max_size=3), st.none())
json_lines = st.one_of(
    st.fixed_dictionaries({"user_id": json_ids, "item_id": json_ids, "value": json_values}).map(json.dumps),
    st.sampled_from(
        ["", " ", "{", "[]", "null", '{"user_id": 1}', '{"user_id":1,"item_id":2,"value":3} x', "\ud7ff"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=8),
)


def judge_json_slowly(line):
    """Say whether a line is a usable interaction: (user, item, value) or None; ValueError if not JSON."""

    def refuse(constant):
        raise ValueError(constant)

    row = json.loads(line, parse_constant=refuse)
    if not isinstance(row, dict):
        return None
    user, item, value = row.get("user_id"), row.get("item_id"), row.get("value")
    for key in (user, item):
        if isinstance(key, bool) or not isinstance(key, str | int) or blank(str(key)):
            return None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 1.2e-38 <= value <= 3.4e38
    return (str(user), str(item), repr(float(value))) if usable else None


@examples(150)
@given(st.lists(json_lines, max_size=15))
def test_ndjson_equals_the_slow_reader(tmp_path, lines):
    """A line is used if and only if it is one JSON object with fit members; all others are named."""
    lines = ['{"user_id": "u", "item_id": 0, "value": 1}', *lines]
    file = tmp_path / "rows.ndjson"
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    good, bad = [], []
    for number, line in enumerate(lines, start=1):
        if not line.encode().strip(b" \t\n\r\x0b\x0c"):
            continue
        try:
            row = judge_json_slowly(line)
        except ValueError:
            row = None
        if row is None:
            bad.append(number)
        else:
            good.append(row)
    table = read_interactions(file, value_col="value")
    expected = tabulate_slowly(good)
    assert [row[:2] for row in table.frame.rows()] == [row[:2] for row in expected]
    assert table.frame["value"].to_list() == pytest.approx([row[2] for row in expected], rel=1e-14)
    assert [row.line for row in table.rejected.sample] == bad


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            '{"user_id": 1.5, "item_id": 1, "value": 1, "at": 1}',
            "the user id is neither a string nor an integer",
        ),
        (
            '{"user_id": 1, "item_id": [1], "value": 1, "at": 1}',
            "the item id is neither a string nor an integer",
        ),
        ('{"user_id": 1, "item_id": 1, "value": "1", "at": 1}', "the value is not a number"),
        ('{"user_id": 1, "item_id": 1, "value": 1, "at": {}}', "the time cannot be read"),
        ('{"user_id": 1, "item_id": 1, "value": 1, "at": "soon"}', "the time cannot be read"),
        ('{"item_id": 1, "value": 1, "at": 1}', "the user id is missing"),
        ('{"user_id": 1, "item_id": 1, "value": NaN, "at": 1}', "not a JSON object"),
        ('{"user_id": "\\ud800", "item_id": 1, "value": 1}', "not a JSON object"),
        ('{"user_id": 1, "item_id": 1, "value": 1e999}', "the value is not a number"),
        ('{"user_id": 1, "item_id": 1} {"user_id": 1, "item_id": 1}', "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"deep": ' + "[" * 100_000, "not a JSON object"),
    ],
)
def test_a_bad_json_line_is_named_with_its_reason(tmp_path, line, reason):
    """Each way in which a JSON line can be unfit has its own reason; the lines around it are kept."""
    good = '{"user_id": 1, "item_id": 1, "value": 1, "at": 1}'
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{good}\n\n{line}\r\n{good}\n")
    table = read_interactions(file, value_col="value", time_col="at")
    assert table.frame["value"].to_list() == [2.0]
    assert table.rejected.sample == ((3, reason),)


def test_an_object_is_one_line_and_a_line_one_object(tmp_path):
    """Two objects on a line and one object on two lines are bad lines, also where their numbers match."""
    file = tmp_path / "rows.ndjson"
    one = '{"user_id": 1, "item_id": 1}'
    file.write_text(f'{one}\n{one} {one}\n{{"user_id": 1,\n"item_id": 1}}\n')
    table = read_interactions(file)
    assert table.frame["value"].to_list() == [1.0]
    assert [row.line for row in table.rejected.sample] == [2, 3, 4]


def test_json_integers_beyond_64_bits_stay_whole(tmp_path):
    """An id too large for 64 bits is kept digit by digit: the column becomes text."""
    file = tmp_path / "rows.ndjson"
    file.write_text('{"user_id": 1234567890123456789012, "item_id": 1}\n{"user_id": 5, "item_id": 1}\n')
    assert read_interactions(file).frame["user_id"].to_list() == ["1234567890123456789012", "5"]


def test_json_ids_are_one_kind_of_thing(tmp_path):
    """42 and "42" are the same id, in NDJSON as everywhere."""
    file = tmp_path / "rows.ndjson"
    file.write_text('{"user_id": 42, "item_id": "a"}\n{"user_id": "42", "item_id": "a"}\n')
    assert read_interactions(file).frame.rows() == [(42, "a", 2.0)]


def test_chunks_of_lines_join_without_a_seam(tmp_path, monkeypatch):
    """Line numbers and rows are right however the lines fall into chunks."""
    monkeypatch.setattr("recunlearn.engine.formats._CHUNK_LINES", 3)
    lines = [f'{{"user_id": {k}, "item_id": 0}}' for k in range(20)]
    lines[4] = lines[11] = "{"
    lines[5] = ""
    file = tmp_path / "rows.ndjson"
    file.write_text("\n".join(lines))
    table = read_interactions(file)
    assert table.frame["user_id"].to_list() == [k for k in range(20) if k not in (4, 5, 11)]
    assert [row.line for row in table.rejected.sample] == [5, 12]


# -- Parquet and frames ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [pl.Int16, pl.UInt64, pl.Int64, pl.String, pl.Categorical, pl.Enum(["7", "8", "9"])]
)
def test_parquet_id_types_mean_the_same(tmp_path, dtype):
    """The same ids in any integer or text type give the same table."""
    frame = pl.DataFrame({"u": ["9", "7", None], "i": ["8", "8", "8"]})
    file = tmp_path / "rows[1].parquet"
    frame.with_columns(pl.col("u", "i").cast(dtype)).write_parquet(file)
    table = read_interactions(file, user_col="u", item_col="i")
    assert table.frame.rows() == [(7, 8, 1.0), (9, 8, 1.0)]
    assert table.rejected.sample == ((3, "the user id is missing"),)


def test_parquet_integers_beyond_64_bits_stay_whole(tmp_path):
    """An unsigned id above 2^63 is not wrapped: the column becomes text."""
    file = tmp_path / "rows.parquet"
    pl.DataFrame(
        {"user_id": [2**64 - 1, 5], "item_id": [1, 1]}, schema_overrides={"user_id": pl.UInt64}
    ).write_parquet(file)
    assert read_interactions(file).frame["user_id"].to_list() == ["18446744073709551615", "5"]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"user_id": [1.5], "item_id": [1]}, "column 'user_id' holds Float64, but strings or integers"),
        ({"user_id": [True], "item_id": [1]}, "column 'user_id' holds Boolean"),
        ({"user_id": [1], "item_id": [[1]]}, "column 'item_id' holds List"),
        (
            {"user_id": [1], "item_id": [1], "value": [date(2020, 1, 1)]},
            "column 'value' holds Date, but numbers",
        ),
        ({"user_id": [1], "item_id": [1], "time": [True]}, "column 'time' holds Boolean, but times"),
    ],
)
def test_parquet_types_that_mean_nothing_are_refused(tmp_path, columns, complaint):
    """A column whose type cannot hold what it should is refused by name, with its type."""
    file = tmp_path / "rows.parquet"
    pl.DataFrame(columns).write_parquet(file)
    with pytest.raises(InteractionFileError, match=re.escape(complaint)):
        read_interactions(
            file,
            value_col="value" if "value" in columns else None,
            time_col="time" if "time" in columns else None,
        )


def test_a_damaged_parquet_file_is_an_error_of_its_own(tmp_path):
    """A Parquet file that was cut off is named as damaged."""
    file = tmp_path / "rows.parquet"
    pl.DataFrame({"user_id": [1] * 100, "item_id": [1] * 100}).write_parquet(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InteractionFileError, match="damaged Parquet file"):
        read_interactions(file)


@examples(40)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0.01, 1e9)), min_size=1), st.randoms()
)
def test_the_order_of_rows_changes_nothing(rows, random):
    """Any permutation of the rows gives the same table, bit for bit."""
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "value": pl.Float64}
    shuffled = random.sample(rows, len(rows))
    one = table_from_frame(pl.DataFrame(rows, schema=schema, orient="row"))
    other = table_from_frame(pl.DataFrame(shuffled, schema=schema, orient="row"))
    assert one.frame["value"].to_numpy().tobytes() == other.frame["value"].to_numpy().tobytes()
    assert one.frame.equals(other.frame)


def test_a_sum_is_the_same_in_any_order():
    """Floats whose sum depends on the order of addition still give one sum, bit for bit."""
    orders = list(itertools.permutations([0.1, 0.2, 0.3, 1e9, 7e-9]))
    assert len({sum(values) for values in orders}) > 1
    frames = [pl.DataFrame({"user_id": [1] * 5, "item_id": [1] * 5, "value": values}) for values in orders]
    assert len({table_from_frame(frame).frame["value"].item() for frame in frames}) == 1


@examples(60)
@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", "30"]), st.integers(0, 3), st.integers(1, 9)), min_size=1)
)
def test_all_formats_give_the_same_table(tmp_path, rows):
    """CSV, TSV, NDJSON, Parquet and a frame in memory are the same data."""
    frame = pl.DataFrame(
        rows, schema={"user_id": pl.String, "item_id": pl.Int64, "value": pl.Int64}, orient="row"
    )
    frame.write_csv(tmp_path / "a.csv")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    frame.write_ndjson(tmp_path / "a.ndjson")
    frame.write_parquet(tmp_path / "a.parquet")
    expected = table_from_frame(frame)
    for ending in ("csv", "tsv", "ndjson", "parquet"):
        table = read_interactions(tmp_path / f"a.{ending}", value_col="value")
        assert table.frame.equals(expected.frame)
        assert table.duplicates == expected.duplicates


def test_a_frame_lacking_ids_is_refused():
    """A frame without the two id columns is refused with the columns it has."""
    with pytest.raises(InteractionFileError, match=r"no columns \['item_id'\]; it has \['user_id', 'item'\]"):
        table_from_frame(pl.DataFrame({"user_id": [1], "item": [1]}))


# -- times -------------------------------------------------------------------------------------------

MOMENT = datetime(2009, 12, 14, 2, 52, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1260759144", MOMENT),
        ("1260759144.5", MOMENT + timedelta(seconds=0.5)),
        ("1260759144000", MOMENT),
        ("1260759144000001", MOMENT + timedelta(microseconds=1)),
        ("-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2009-12-14T02:52:24Z", MOMENT),
        ("2009-12-14T02:52:24", MOMENT),
        ("2009-12-14 02:52:24", MOMENT),
        (" 2009-12-14T02:52:24.25 ", MOMENT + timedelta(seconds=0.25)),
        ("2009-12-14T04:52:24+02:00", MOMENT),
        ("2009-12-13T22:22:24-0430", MOMENT),
        ("2009-12-14T02:52Z", MOMENT.replace(second=0)),
        ("2009-12-14 02:52", MOMENT.replace(second=0)),
        ("2009-12-14", MOMENT.replace(hour=0, minute=0, second=0)),
        ("", None),
    ],
)
def test_times_are_read_in_utc(tmp_path, text, expected):
    """Unix and ISO 8601 times in their usual spellings give the same instants; an empty one is none."""
    file = tmp_path / "rows.csv"
    file.write_text(f"user_id,item_id,at\n1,2,{text}\n")
    table = read_interactions(file, time_col="at")
    assert table.frame.schema["time"] == pl.Datetime("us", "UTC")
    assert table.frame["time"].to_list() == [expected]


@pytest.mark.parametrize(
    "text", ["soon", "2009-13-14", "2009-02-30T00:00:00Z", "1e30", "nan", "inf", "12:30"]
)
def test_times_that_cannot_be_read_are_rejected(tmp_path, text):
    """A row with a time that is none is named, and the others keep theirs."""
    file = tmp_path / "rows.csv"
    file.write_text(f"user_id,item_id,at\n1,2,{text}\n1,3,2009-12-14T02:52:24Z\n1,4,1260759144\n")
    table = read_interactions(file, time_col="at")
    assert table.frame.rows() == [(1, 3, 1.0, MOMENT), (1, 4, 1.0, MOMENT)]
    assert table.rejected.sample == ((2, "the time cannot be read"),)


@examples(60)
@given(
    st.datetimes(
        datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone(timedelta(hours=5.5)))
    )
)
def test_times_round_trip_through_every_format(tmp_path, moment):
    """An instant is the same from text, from Parquet with any zone, and from Unix microseconds."""
    (tmp_path / "a.csv").write_text(f"user_id,item_id,at\n1,2,{moment.isoformat()}\n")
    (tmp_path / "a.ndjson").write_text(json.dumps({"user_id": 1, "item_id": 2, "at": moment.isoformat()}))
    pl.DataFrame({"user_id": [1], "item_id": [2], "at": [moment]}).with_columns(
        pl.col("at").dt.convert_time_zone("Asia/Kolkata")
    ).write_parquet(tmp_path / "a.parquet")
    for ending in ("csv", "ndjson", "parquet"):
        table = read_interactions(tmp_path / f"a.{ending}", time_col="at")
        assert table.frame["time"].to_list() == [moment]


@pytest.mark.parametrize("values", [[MOMENT.replace(tzinfo=None)], [MOMENT.date()], [1260748800]])
def test_parquet_times_without_a_zone_are_utc(tmp_path, values):
    """Naive timestamps, dates and Unix seconds in Parquet are read as UTC."""
    file = tmp_path / "rows.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [2], "at": values}).write_parquet(file)
    (moment,) = read_interactions(file, time_col="at").frame["time"].to_list()
    assert moment.date() == MOMENT.date()
    assert moment.tzinfo is not None


def test_the_latest_time_of_a_repeated_pair_is_kept():
    """Times of a repeated pair: the latest stays; none only if none has one."""
    frame = pl.DataFrame({"user_id": [1, 1, 1, 2, 2], "item_id": [1] * 5, "time": [5, None, 9, None, None]})
    times = table_from_frame(frame).frame["time"].to_list()
    assert times == [datetime(1970, 1, 1, 0, 0, 9, tzinfo=UTC), None]


# -- files that cannot be used -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b"", "is empty (0 bytes)"),
        ("a.csv", b"\n \n", "has only blank lines"),
        ("a.csv", b"user_id,item_id\n", "no usable interaction: it has no rows"),
        ("a.csv", b"user_id,item_id\n,1\n\n2,\n", "no usable interaction: 2 rows, 2 rows rejected"),
        ("a.csv", b"user,item\n1,2\n", "has no columns 'user_id', 'item_id'; it has 'user', 'item'"),
        ("a.csv", b"user_id, item_id\n1,2\n", "has no column 'item_id'; it has 'user_id', ' item_id'"),
        ("a.csv", b"user_id;item_id\n1;2\n", "its header has semicolons"),
        ("a.csv", b"user_id\titem_id\n1\t2\n", "use format='tsv'"),
        ("a.csv", b"user_id,item_id\r1,2\r", "ends its lines with CR alone"),
        ("a.csv", b"user_id,item_id,user_id\n1,2,3\n", "has 2 columns 'user_id'"),
        ("a.csv", b'user_id,"item_id\n1,2\n', "line 1: a quote in the header does not close"),
        ("a.csv", b"user_id,item_id,\xff\n1,2,3\n", "the header is not UTF-8"),
        ("a.csv", "user_id,item_id\n1,2\n".encode("utf-16"), "should be csv, but holds UTF-16 text"),
        ("a.csv", b"PAR1....PAR1", "should be csv, but holds Parquet; pass format='parquet'"),
        ("a.csv", b'{"user_id": 1, "item_id": 2}\n', "should be csv, but holds NDJSON; pass format='ndjson'"),
        ("a.csv", b"PK\x03\x04rest", "holds a zip archive or an Excel workbook"),
        ("a.csv", b"user\0id,item_id\n", "holds binary data"),
        ("a.parquet", b"user_id,item_id\n1,2\n", "should be parquet, but holds text; pass format='csv'"),
        ("a.parquet", b"\1\0\2\0", "should be parquet, but holds binary data; unpack or convert it"),
        ("a.parquet", b"\x1f\x8bxx", "should be parquet, but holds gzip-compressed data; unpack"),
        ("a.ndjson", b"user_id,item_id\n1,2\n", "should be ndjson, but holds no line with a JSON object"),
        ("a.json", b'[{"user_id": 1, "item_id": 2}]', "holds a JSON array; write one object a line"),
        ("a.ndjson", b'{"user": 1, "item_id": 2}\n', "has no column 'user_id'; it has 'item_id', 'user'"),
        ("a.csv.gz", b"\x1f\x8bxx", "ends in '.gz', which is no known format; unpack it"),
        ("a", b"user_id,item_id\n1,2\n", "ends in '', which is no known format"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_way_out(tmp_path, name, content, complaint):
    """Each unusable file gives one error that names the file and what was found in it."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InteractionFileError) as caught:
        read_interactions(file)
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_path_that_is_no_file_is_named(tmp_path):
    """A missing file and a folder are errors of the same class, named."""
    for path, complaint in ((tmp_path / "no.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InteractionFileError, match=complaint) as caught:
            read_interactions(path, format="csv")
        assert str(path) in str(caught.value)


def test_the_format_given_wins_over_the_ending(tmp_path):
    """``format`` says what a file is, whatever its name; an unknown one is refused."""
    file = tmp_path / "plays.txt"
    file.write_text("user_id,item_id\n1,2\n")
    assert read_interactions(file, format="csv").frame.height == 1
    with pytest.raises(InteractionFileError, match="format 'xml' is not known; choose one of csv"):
        read_interactions(file, format="xml")


def test_one_column_cannot_be_two_things(tmp_path):
    """Asking for the same column twice is refused."""
    with pytest.raises(InteractionFileError, match="each must be a column of its own"):
        read_interactions(tmp_path / "a.csv", user_col="id", item_col="id")


def test_missing_value_and_time_columns_are_errors(tmp_path):
    """A value or time column that was asked for must be there, in every format."""
    frame = pl.DataFrame({"user_id": [1], "item_id": [2]})
    frame.write_csv(tmp_path / "a.csv")
    frame.write_ndjson(tmp_path / "a.ndjson")
    frame.write_parquet(tmp_path / "a.parquet")
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(InteractionFileError, match="no columns 'stars', 'at'; it has '"):
            read_interactions(file, value_col="stars", time_col="at")


@examples(200)
@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "ndjson", "parquet"]), st.booleans())
def test_no_bytes_crash_the_reader(tmp_path, data, ending, headed):
    """Any bytes give a table or an InteractionFileError, and never anything else."""
    file = tmp_path / f"any.{ending}"
    head = {"csv": b"user_id,item_id\n", "tsv": b"user_id\titem_id\n", "ndjson": b"{}\n", "parquet": b"PAR1"}
    file.write_bytes((head[ending] if headed else b"") + data)
    try:
        table = read_interactions(file)
    except InteractionFileError:
        return
    assert table.frame.height > 0


# -- the matrix --------------------------------------------------------------------------------------


@examples(60)
@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-9, 10**15), st.integers(1, 5)), min_size=1),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_matrix_holds_each_pair_at_its_place(rows, dtype):
    """Row and column numbers are the ranks of the ids; the entries are the sums; the form is canonical."""
    frame = pl.DataFrame(
        rows, schema={"user_id": pl.String, "item_id": pl.Int64, "value": pl.Int64}, orient="row"
    )
    matrix, user_ids, item_ids = to_matrix(table_from_frame(frame), dtype)
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    assert (user_ids.to_list(), item_ids.to_list()) == (users, items)
    expected = np.zeros((len(users), len(items)), dtype=dtype)
    for user, item, value in rows:
        expected[users.index(user), items.index(item)] += value
    assert matrix.dtype == dtype
    assert np.array_equal(matrix.toarray(), expected)
    assert sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr)).has_canonical_format
    assert matrix.indices.dtype == np.int32


def test_a_sum_too_large_for_float32_is_refused():
    """Values that fit alone but not together are an error in float32, not an infinity."""
    table = table_from_frame(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 1], "value": [3e38, 3e38]}))
    assert math.isclose(to_matrix(table).user_items[0, 0], 6e38)
    with pytest.raises(ValueError, match=r"a summed value is 6e\+38, too large for float32"):
        to_matrix(table, np.float32)
    with pytest.raises(ValueError, match="dtype int64 is not supported"):
        to_matrix(table, np.int64)


def test_ids_far_apart_need_no_table_of_their_range(tmp_path: Path):
    """Integer ids over the whole 64-bit range are indexed without a table as long as the range."""
    ids = [-(2**63), 0, 2**63 - 1]
    table = table_from_frame(pl.DataFrame({"user_id": ids, "item_id": ids[::-1]}))
    assert to_matrix(table).user_items.toarray().tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
