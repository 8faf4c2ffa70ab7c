"""Simple JSON events: read strictly, refused without repeating anything of them."""

import json
import random
import secrets
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.streaming import strict_json
from recunlearn.streaming.events import parse_simple_json
from recunlearn.streaming.formats import Reader
from recunlearn.streaming.source import Record
from recunlearn.streaming.strict_json import MAX_BYTES, UnreadableEvent, decode


def read(value):
    """Parse a payload."""
    return parse_simple_json(Record("journal", 0, value))


def test_both_events_of_the_contract_are_read():
    """The examples of the format give the requests they describe."""
    at = datetime(2026, 11, 24, 10, tzinfo=UTC)
    account = b'{"id": "e-1", "type": "account.deleted", "user_id": "42", "time": "2026-11-24T10:00:00Z"}'
    single = b'{"id": 7, "type": "interaction.removed", "user_id": 42, "item_id": 7, "more": {"x": [1]}}'
    assert read(account) == AccountDeletion("e-1", "42", at)
    assert read(single) == InteractionRemoval("7", "42", "7", None)
    assert Reader()(Record("journal", 0, account)) == [read(account)]


SUBJECT = "SECRET-subject-id"
HOSTILE = [
    (None, "tombstone"),
    (b"", "empty"),
    (b"  \r\n", "empty"),
    (b"\xff\xfe{", "not"),
    (b"{", "not JSON"),
    (b"[1]", "not a JSON object"),
    (b'"SECRET-subject-id"', "not a JSON object"),
    (b"NaN", "not JSON"),
    (b'{"id": "SECRET-subject-id", "user_id": NaN, "type": "account.deleted"}', "not JSON"),
    (b'{"id": 1, "type": "SECRET-subject-id", "user_id": 1}', "unknown type"),
    (b'{"id": 1, "user_id": "SECRET-subject-id"}', "type is missing"),
    (b'{"type": "account.deleted", "user_id": "SECRET-subject-id"}', "id is missing"),
    (b'{"id": "SECRET-subject-id", "type": "account.deleted"}', "user_id is missing"),
    (b'{"id": 1, "type": "interaction.removed", "user_id": "SECRET-subject-id"}', "item_id is missing"),
    (b'{"id": 1, "type": "account.deleted", "user_id": 4.5}', "user_id is neither"),
    (b'{"id": 1, "type": "account.deleted", "user_id": true}', "user_id is neither"),
    (b'{"id": 1, "type": "account.deleted", "user_id": null}', "user_id is neither"),
    (b'{"id": 1, "type": "account.deleted", "user_id": ["SECRET-subject-id"]}', "user_id is neither"),
    (b'{"id": 1, "type": "account.deleted", "user_id": ""}', "empty"),
    (b'{"id": 1, "type": "account.deleted", "user_id": 1, "time": "yesterday, SECRET-subject-id"}', "time"),
    (b'{"id": 1, "type": "account.deleted", "user_id": 1, "time": "2026-11-24T10:00:00"}', "time"),
    (b'{"id": 1, "type": "account.deleted", "user_id": 1, "user_id": "SECRET-subject-id"}', "twice"),
    (b'{"id": 1, "type": "account.deleted", "user_id": 1, "x": {"a": 1, "a": 2}}', "twice"),
    (b'{"id": 1, "type": "account.deleted", "user_id": "\\ud800"}', "not"),
    (
        b'{"id": 1, "type": "account.deleted", "user_id": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "nested",
    ),
    (b"[" * 100_000, "n"),
    (b'{"id": "' + b"x" * 10_000_000 + b'"}', "larger"),
    (b'\xef\xbb\xbf{"id": 1, "type": "account.deleted", "user_id": 1}', "not JSON"),
]


@pytest.mark.parametrize(("value", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_not_an_event_is_refused_without_repeating_it(value, reason):
    """Each kind of poison gets a short reason from a fixed list, and nothing of the payload is in it."""
    with pytest.raises(UnreadableEvent, match=reason) as refused:
        read(value)
    assert SUBJECT not in str(refused.value)
    assert len(str(refused.value)) < 80
    assert refused.value.__cause__ is None


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(value):
    """Whatever comes, it is a request or an UnreadableEvent."""
    try:
        read(value)
    except UnreadableEvent as error:
        assert len(str(error)) < 80  # noqa: PT017  either outcome is allowed


SHORT = (
    b'{"id": "e-1", "type": "account.deleted", "user_id": 42, "time": null}',
    b' {"a" : 123456789012345678901234567890, "b":-0}\n',
    b'{"a":"","a":""}',
    b'{"a":1,"b":"a\\":1","":-1}',
)
MARKS = b'{}[]":,0123456789-+.eE \t\n\r\x00\x0b\x1c\xa0/\\truefalsn'


def changed(value, chance):
    """Insert, drop, replace or repeat a few bytes."""
    for _ in range(chance.randrange(4)):
        at, to = sorted(chance.randrange(len(value) + 1) for _ in range(2))
        mark = bytes([chance.choice(MARKS)])
        before, after = value[:at], value[at + 1 :]
        ways = (before + mark + value[at:], before + after, before + mark + after, value[:to] + value[at:])
        value = chance.choice(ways)
    return value


def test_the_short_way_to_read_an_event_reads_what_the_long_way_reads(monkeypatch):
    """Twenty thousand events gone wrong: whatever the short way takes, the long one takes, for the same."""
    chance = random.Random(8)  # noqa: S311  a seed, not a secret
    values = [changed(chance.choice(SHORT), chance) for _ in range(20_000)]
    short = [(value, strict_json._plain_object(value)) for value in values]
    taken = [(value, members) for value, members in short if members is not None]
    assert len(values) > len(taken) > len(values) / 10
    monkeypatch.setattr(strict_json, "_plain_object", lambda _: None)
    for value, members in taken:
        again = decode(value)
        assert list(again.items()) == list(members.items()), value
        assert [type(one) for one in again.values()] == [type(one) for one in members.values()], value


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {
            "id": json_values,
            "type": st.sampled_from(["account.deleted", "interaction.removed", "other"]),
            "user_id": json_values,
        },
        optional={"item_id": json_values, "time": json_values},
    )
)
def test_an_event_is_read_only_if_its_ids_are_strings_or_integers(event):
    """A request comes out exactly when the contract's types are kept, and with the ids that went in."""

    def is_id(value):
        return isinstance(value, str | int) and not isinstance(value, bool) and value != ""

    try:
        request = read(json.dumps(event).encode())
    except UnreadableEvent:
        return
    assert is_id(event["id"])
    assert is_id(event["user_id"])
    assert request.user_id == str(event["user_id"])
    assert event["type"] != "interaction.removed" or request.item_id == str(event["item_id"])


@given(st.integers(0, 2**40))
def test_long_ids_are_kept_whole(number):
    """Neither long strings nor large integers are cut or rounded."""
    large = 10**25 + number
    token = secrets.token_hex(200)
    assert read(json.dumps({"id": 1, "type": "account.deleted", "user_id": token}).encode()).user_id == token
    try:
        assert read(b'{"id": 1, "type": "account.deleted", "user_id": %d}' % large).user_id == str(large)
    except UnreadableEvent as error:
        assert "user_id" in str(error)  # noqa: PT017  refused, but never rounded
    assert len(token) < MAX_BYTES
