"""Fuzzed records: no crash, and each is a request, no deletion at all, or refused for a listed reason."""

import collections
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.streaming.document import FormatOptions
from recunlearn.streaming.formats import FORMATS, Reader
from recunlearn.streaming.source import Record
from recunlearn.streaming.strict_json import MAX_BYTES, UnreadableEvent

from .mutations import mutations
from .payloads import GOOD, reasons

COUNT = int(os.environ.get("RECUNLEARN_FUZZ", "10000"))
PASSES_OVER = {"debezium", "tombstone"}
LISTED = reasons()


def outcome(read, one):
    """Read a record; returns its requests, or the reason for which it is refused."""
    try:
        return read(one)
    except UnreadableEvent as error:
        assert LISTED.fullmatch(str(error)), str(error)  # noqa: PT017  either outcome is allowed
        assert error.__cause__ is None  # noqa: PT017
        return str(error)


def texts_in(one):
    """Return every text that a record holds, found without the code under test."""
    found = {one.key.decode("utf-8", "replace")} if one.key else set()
    found |= {value.decode("utf-8", "replace") for value in one.headers.values()}
    for raw in (one.value, one.key):
        try:
            waiting = [json.loads(raw)] if raw else []
        except (ValueError, RecursionError):
            continue
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict | list):
                waiting += part.values() if isinstance(part, dict) else part
            else:
                found.add(str(part))
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_mutated_records_are_each_accounted_for(name):
    """No crash; a user who comes out was in the record; the same record gives the same requests again."""
    read = Reader(FormatOptions(name))
    counted = collections.Counter()
    for one in mutations(GOOD[name], 20261125, COUNT):
        result = outcome(read, one)
        if isinstance(result, str):
            counted["refused"] += 1
            continue
        counted["read" if result else "passed over"] += 1
        assert result or name in PASSES_OVER
        for request in result:
            assert isinstance(request, AccountDeletion | InteractionRemoval)
            assert request.user_id in texts_in(one)
        assert read(one) == result
    assert sum(counted.values()) == COUNT
    assert counted["read"] > COUNT / 100
    assert counted["refused"] > COUNT / 100


@pytest.mark.parametrize("name", FORMATS)
@given(
    value=st.none() | st.binary(max_size=200),
    key=st.none() | st.binary(max_size=30),
    headers=st.dictionaries(
        st.sampled_from(["ce_specversion", "ce_id", "ce_type", "ce_source", "content-type"]),
        st.sampled_from([b"1.0", b"account.deleted", b"application/cloudevents+json"])
        | st.binary(max_size=20),
    ),
)
def test_no_bytes_anywhere_in_a_record_raise_anything_else(name, value, key, headers):
    """Value, key and headers are arbitrary bytes to whoever wants to do harm."""
    outcome(Reader(FormatOptions(name)), Record("users-0", 0, value, key, headers))


@pytest.mark.parametrize("name", FORMATS)
def test_large_records_and_deep_ones_are_refused_at_once(name):
    """10 MB, a hundred thousand brackets, a number of a million digits: a reason each, and no delay."""
    read = Reader(FormatOptions(name))
    headers = GOOD[name].headers
    for value in (
        b'{"id": "' + b"x" * 10_000_000 + b'"}',
        b'{"op":' + b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"id": ' + b"9" * (MAX_BYTES - 10) + b"}",
    ):
        result = outcome(read, Record("users-0", 0, value, headers=headers))
        assert isinstance(result, str) or name in PASSES_OVER
    large = Record("users-0", 0, None, key=b'{"user_id": "' + b"x" * 10_000_000 + b'"}')
    assert not isinstance(outcome(read, large), list) or name not in PASSES_OVER
