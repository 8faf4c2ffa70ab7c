"""Wire formats: what each says is read as it means it, adapted by configuration, and refused otherwise."""

import base64
import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings.kafka import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.state import Config, StatePaths, read_config, write_config
from recunlearn.streaming.document import FormatOptions
from recunlearn.streaming.formats import AUTO, FORMATS, FormatError, Reader
from recunlearn.streaming.strict_json import UnreadableEvent

from .payloads import CHANGE, GOOD, OPENDSR, SIMPLE, STRUCTURED, record

AT = datetime(2026, 11, 24, 10, tzinfo=UTC)
COORDINATES = "users-0/7/1764064800000"


def read(name, one, **options):
    """Read a record in a format."""
    return Reader(FormatOptions(name, **options))(one)


def refusal(name, one, **options):
    """Return the reason for which a record is refused."""
    with pytest.raises(UnreadableEvent) as refused:
        read(name, one, **options)
    return str(refused.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_record_of_each_format_is_one_request(name):
    """Every format in the registry has a record in the tests, and it asks for user u-42's deletion."""
    (request,) = read(name, GOOD[name])
    assert (type(request), request.user_id) == (AccountDeletion, "u-42")
    assert request.request_id


@pytest.mark.parametrize("kind", ["account.deleted", "interaction.removed"])
@pytest.mark.parametrize("write", [to_binary, to_structured])
def test_what_the_cloudevents_sdk_writes_is_read(write, kind):
    """Events of the CNCF's own SDK, binary and structured, are known by their headers."""
    attributes = {"id": "7", "source": "/shop", "type": kind, "time": AT, "partitionkey": "u-42"}
    message = write(CloudEvent(attributes, {"user_id": "u-42", "item_id": 9}), JSONFormat())
    one = record(message.value, message.headers, message.key.encode())
    wanted = {
        "account.deleted": AccountDeletion("/shop#7", "u-42", AT),
        "interaction.removed": InteractionRemoval("/shop#7", "u-42", "9", AT),
    }[kind]
    assert read(AUTO, one) == read("cloudevents", one) == [wanted]


def test_the_subject_of_a_cloudevent_is_the_user_where_its_data_names_none():
    """Without data, or with data about something else, the subject counts; data that names a user wins."""
    binary = {"ce_specversion": b"1.0", "ce_id": b"7", "ce_source": b"/s", "ce_type": b"account.deleted"}
    named = {**binary, "ce_subject": b"u-42"}
    assert read(AUTO, record(None, named))[0].user_id == "u-42"
    assert read(AUTO, record({"reason": "asked"}, named))[0].user_id == "u-42"
    assert read(AUTO, record({"user_id": "u-43"}, named))[0].user_id == "u-43"
    assert refusal(AUTO, record(None, binary)) == "field user_id is missing"


def test_data_in_base64_is_read():
    """A structured CloudEvent may carry its data in base64; not twice, and not anything else."""
    bare = {name: value for name, value in STRUCTURED.items() if name != "data"}
    data = base64.b64encode(b'{"user_id": "u-42"}').decode()
    assert read("cloudevents", record({**bare, "data_base64": data}))[0].user_id == "u-42"
    twice = "a CloudEvent has data once, and in base64 as text"
    assert refusal("cloudevents", record({**STRUCTURED, "data_base64": data})) == twice
    assert refusal("cloudevents", record({**bare, "data_base64": 4})) == twice
    assert refusal("cloudevents", record({**bare, "data_base64": "%"})) == "data_base64 is not base64"


CLOUD_REFUSED = [
    (record({**STRUCTURED, "specversion": "0.3"}), "not CloudEvents 1.0"),
    (record({**STRUCTURED, "source": ""}), "an attribute of the CloudEvent is empty"),
    (record({**STRUCTURED, "id": 7}), "an attribute of the CloudEvent is missing or not text"),
    (record({**STRUCTURED, "type": "user.created"}), "unknown type"),
    (record(SIMPLE), "an attribute of the CloudEvent is missing or not text"),
    (
        record(b"\x00", {"content-type": b"application/cloudevents+avro"}),
        "not the JSON format of CloudEvents",
    ),
    (
        record(b"[]", {"content-type": b"application/cloudevents-batch+json"}),
        "not the JSON format of CloudEvents",
    ),
    (record(b"", {"ce_specversion": b"1.0", "ce_id": b"\xff"}), "a header is not UTF-8"),
]


@pytest.mark.parametrize(("one", "reason"), CLOUD_REFUSED, ids=range(len(CLOUD_REFUSED)))
def test_what_is_no_cloudevent_is_refused(one, reason):
    """Nothing that is missing is made up: neither an id, nor a version, nor what the data means."""
    assert refusal("cloudevents", one) == reason


def test_data_that_is_not_json_is_refused():
    """A media type other than JSON says that the data is something else."""
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": b"7",
        "ce_source": b"/s",
        "ce_type": b"account.deleted",
        "content-type": b"text/plain",
    }
    one = record({"user_id": "u-42"}, headers)
    assert refusal(AUTO, one) == "the data of the CloudEvent is not JSON"
    headers["content-type"] = b"application/vnd.shop+json; charset=utf-8"
    assert read(AUTO, one)[0].user_id == "u-42"


def identity(value, kind="controller_customer_id", form="raw"):
    """Make an identity of an OpenDSR request."""
    return {"identity_type": kind, "identity_value": value, "identity_format": form}


def test_every_accepted_identity_of_an_opendsr_request_is_a_request():
    """Further identities get ids of their own; e-mail addresses and the like are passed over."""
    people = [identity("a", "email"), identity("u-1"), identity("u-2"), identity("u-3", "shop_id")]
    one = record({**OPENDSR, "subject_identities": people, "extensions": {"shop": {"x": 1}}})
    key = OPENDSR["subject_request_id"]
    assert read("opendsr", one) == [
        AccountDeletion(key, "u-1", AT),
        AccountDeletion(f"{key}/1", "u-2", AT),
    ]
    assert [r.user_id for r in read("opendsr", one, identity_types=("shop_id",))] == ["u-3"]


ID_WRONG = "field subject_request_id is missing or not what OpenDSR says"
OPENDSR_REFUSED = [
    (
        {"subject_identities": [identity("u-1"), identity("c3ab", form="sha256")]},
        "a hashed identity: only raw ones can be matched",
    ),
    ({"subject_identities": [identity("a", "email")]}, "no identity of an accepted type"),
    ({"subject_identities": []}, "no identity of an accepted type"),
    (
        {"subject_identities": [{"identity_type": "controller_customer_id"}]},
        "field identity_value is missing or not what OpenDSR says",
    ),
    ({"subject_identities": {"u": 1}}, "field subject_identities is missing or not what OpenDSR says"),
    ({"subject_request_id": "7"}, ID_WRONG),
    ({"subject_request_id": "a7551968-d5d6-11b2-9831-815ac9017798"}, ID_WRONG),
    ({"subject_request_type": "access"}, "unknown type"),
    ({"subject_request_type": "account.deleted"}, "unknown type"),
    ({"submitted_time": "2026-11-24"}, "field submitted_time is missing or not what OpenDSR says"),
]


@pytest.mark.parametrize(("changed", "reason"), OPENDSR_REFUSED, ids=range(len(OPENDSR_REFUSED)))
def test_an_opendsr_request_that_cannot_be_carried_out_whole_is_refused(changed, reason):
    """A request for several identities is not carried out in part, and an access request is not lost."""
    assert refusal("opendsr", record({**OPENDSR, **changed})) == reason


def test_requests_of_other_types_can_be_passed_over_on_purpose():
    """A topic that carries access requests too needs it said that somebody else answers them."""
    one = record({**OPENDSR, "subject_request_type": "access"})
    assert read("opendsr", one, types={"access": "ignored"}) == []


def test_deletes_of_debezium_are_read_in_their_schema_and_bare():
    """The row that is gone names the user, when the database dropped it; the coordinates name the request."""
    wanted = [AccountDeletion(COORDINATES, "u-42", datetime.fromtimestamp(1764064800, UTC))]
    assert read("debezium", record(CHANGE)) == wanted
    assert read("debezium", record({"schema": {}, "payload": CHANGE})) == wanted
    from_key = record(
        {**CHANGE, "before": {"name": "Anna"}}, key=b'{"schema": {}, "payload": {"user_id": "u-42"}}'
    )
    assert read("debezium", from_key) == wanted


@pytest.mark.parametrize("op", ["c", "r", "u", "m"])
def test_other_changes_are_no_deletions(op):
    """Rows that are inserted, read and updated are passed over, whatever their key looks like."""
    assert read("debezium", record({**CHANGE, "op": op}, key=b"\x00\x01")) == []


def test_a_null_value_deletes_the_user_in_the_key():
    """Compaction may leave nothing but the null value, so it counts, unless it is switched off."""
    for key in (
        b"u-42",
        b'"u-42"',
        b'{"user_id": "u-42"}',
        b'{"schema": {}, "payload": {"user_id": "u-42"}}',
    ):
        for name in ("debezium", "tombstone"):
            (request,) = read(name, record(None, key=key))
            assert (request.request_id, request.user_id) == (COORDINATES, "u-42")
    assert read("debezium", record(b'{"schema": null, "payload": null}', key=b"u-42"))[0].user_id == "u-42"
    assert read("debezium", record(None, key=b"u-42"), tombstones=False) == []
    assert read("tombstone", record(b"\x00 any state", key=b"u-42")) == []


@pytest.mark.parametrize(
    "key", [b"\x00\x00\x00\x2a", b"Struct{id=42}", b"\xff", b"[42]", b'{"schema": {}, "payload": [4]}']
)
def test_a_key_that_is_no_text_is_not_taken_for_an_id(key):
    """The id of nobody would be erased, and the deletion be lost without a word."""
    assert refusal("tombstone", record(None, key=key)) == "the key is neither text nor JSON"
    assert refusal("tombstone", record(None)) == "no key"


def test_a_delete_that_names_nobody_is_refused():
    """A bare key may be any column's; a truncate removes everyone and says of nobody who it was."""
    nameless = record({**CHANGE, "before": None}, key=b"993")
    assert refusal("debezium", nameless) == "field user_id is missing"
    assert refusal("debezium", record({**CHANGE, "op": "t"})) == "a truncate: it names nobody"
    assert refusal("debezium", record({**CHANGE, "op": "x"})) == "unknown type"
    assert refusal("debezium", record({**CHANGE, "op": "account.deleted"})) == "unknown type"
    assert refusal("debezium", record(SIMPLE)) == "not a Debezium change record"


def test_deletes_of_a_table_of_interactions_are_removals():
    """The mapping says what the row's columns are called, and that a delete is of one interaction."""
    row = record({**CHANGE, "before": {"customer": 42, "article": 7}})
    options = {
        "types": {"d": "interaction.removed"},
        "mapping": {"user_id": "before.customer", "item_id": "before.article"},
    }
    (request,) = read("debezium", row, **options)
    assert (request.user_id, request.item_id) == ("42", "7")


def test_field_names_are_adapted_by_configuration():
    """Paths, types, Unix times, ids from the header and the key: all without code."""
    mapping = {"id": ["@header", "event-id"], "type": "kind", "user_id": "payload.account.id", "time": "at"}
    types = {"user.erased": "account.deleted", "user.created": "ignored"}
    read_it = Reader.of({"name": "json", "time": "unix_ms", "mapping": mapping, "types": types})
    erased = {"kind": "user.erased", "payload": {"account": {"id": 42}}, "at": 1795514400000}
    assert read_it(record(erased, {"event-id": b"e-1"})) == [AccountDeletion("e-1", "42", AT)]
    assert read_it(record({"kind": "user.created"})) == []
    for broken, reason in [
        ({**erased, "kind": "other"}, "unknown type"),
        ({**erased, "payload": [{"account": {"id": 42}}]}, "field user_id is missing"),
        ({**erased, "at": "2026-11-24T10:00:00Z"}, "field time is not a Unix time"),
        ({**erased, "at": 10**30}, "field time is not a Unix time"),
    ]:
        with pytest.raises(UnreadableEvent, match=reason):
            read_it(record(broken, {"event-id": b"e-1"}))
    with pytest.raises(UnreadableEvent, match="field id is missing"):
        read_it(record(erased))
    with pytest.raises(UnreadableEvent, match="a header is not UTF-8"):
        read_it(record(erased, {"event-id": b"\xff"}))
    by_key = Reader.of(
        {
            "name": "json",
            "type": "account.deleted",
            "mapping": {"id": "@coordinates", "user_id": "@key", "time": "@timestamp"},
        }
    )
    at = datetime.fromtimestamp(1764064800, UTC)
    assert by_key(record({}, key=b"u-42")) == [AccountDeletion(COORDINATES, "u-42", at)]


WRONG = [
    ({"name": "xml"}, "there is no format 'xml'"),
    ({"mapping": {"user_id": "a"}}, "name it"),
    ({"type": "account.deleted"}, "name it"),
    ({"name": "json", "mapping": {"user": "a"}}, "a field 'user'"),
    ({"name": "json", "mapping": {"user_id": "a..b"}}, "not a path"),
    ({"name": "json", "mapping": {"user_id": ""}}, "not a path"),
    ({"name": "json", "mapping": {"user_id": []}}, "not a path"),
    ({"name": "json", "mapping": {"user_id": "@value"}}, "after @ there may be"),
    ({"name": "json", "mapping": {"user_id": 4}}, "is wrong"),
    ({"name": "json", "types": {"x": "account.created"}}, "'x' is 'account.created'"),
    ({"name": "json", "type": "x"}, "type is 'x'"),
    ({"name": "json", "maping": {}}, "maping"),
    ({"name": "json", "time": "iso"}, "is wrong"),
]


@pytest.mark.parametrize(("table", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_setting_is_found_before_the_first_record(table, words):
    """A misspelt mapping must not turn every deletion into a dead letter."""
    with pytest.raises(FormatError, match=words):
        Reader.of(table)


def test_a_fit_keeps_the_format_that_was_configured(tmp_path):
    """Tables that are not the state's own survive when config.toml is written again."""
    paths = StatePaths(tmp_path)
    write_config(
        paths, Config({"ease": {}}, {"x": 1}, {"format": {"name": "json", "mapping": {"id": "a.b"}}})
    )
    config = read_config(paths)
    write_config(paths, config)
    assert read_config(paths) == config
    assert json.loads(json.dumps(config.tables)) == {"format": {"name": "json", "mapping": {"id": "a.b"}}}
