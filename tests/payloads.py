"""Wire formats as the tests write them: a good record of each, and the reasons that the docs list."""

import json
import re
from pathlib import Path

from recunlearn.streaming.source import Record

DOCS = Path(__file__).parent.parent / "docs" / "reference" / "events.md"

SIMPLE = {"id": "e-1", "type": "account.deleted", "user_id": "u-42", "time": "2026-11-24T10:00:00Z"}
STRUCTURED = {
    "specversion": "1.0",
    "id": "7",
    "source": "/shop",
    "type": "account.deleted",
    "time": "2026-11-24T10:00:00Z",
    "data": {"user_id": "u-42"},
}
OPENDSR = {
    "regulation": "gdpr",
    "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
    "subject_request_type": "erasure",
    "submitted_time": "2026-11-24T10:00:00Z",
    "subject_identities": [
        {"identity_type": "controller_customer_id", "identity_value": "u-42", "identity_format": "raw"},
        {"identity_type": "email", "identity_value": "c3ab8ff1", "identity_format": "sha256"},
    ],
    "status_callback_urls": ["https://example.com/opendsr"],
}
CHANGE = {
    "before": {"user_id": "u-42", "name": "Anna"},
    "after": None,
    "source": {"connector": "postgresql", "table": "users", "ts_ms": 1764064800000},
    "op": "d",
    "ts_ms": 1764064800123,
}


def record(value, headers=None, key=None, offset=7):
    """Make a record; a value that is not bytes is written as JSON, None stays None."""
    if value is not None and not isinstance(value, bytes):
        value = json.dumps(value).encode()
    return Record("users-0", offset, value, key, headers or {}, 1764064800000)


GOOD = {
    "json": record(SIMPLE),
    "cloudevents": record(STRUCTURED, {"content-type": b"application/cloudevents+json; charset=utf-8"}),
    "opendsr": record(OPENDSR),
    "debezium": record({"schema": {"type": "struct"}, "payload": CHANGE}, key=b'{"user_id": "u-42"}'),
    "tombstone": record(None, key=b"u-42"),
}
"""Format -> a record that asks to delete user u-42."""


def reasons():
    """Return a pattern of every reason in the docs."""
    rows = DOCS.read_text(encoding="utf-8").partition("| reason |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = [reason for row in rows for reason in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(listed) > 20
    return re.compile("|".join(re.escape(reason).replace("FIELD", "[a-z_]+") for reason in listed))
