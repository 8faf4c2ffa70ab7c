"""Deletes in a database, as Debezium writes them, and null values on a compacted topic.

A change record with ``op: d`` is a deletion of the row in ``before``, other changes are passed over. A null
value is one too, of the user in the key: compaction may leave nothing else of a deletion. So the pair that
Debezium writes by default, change record and null, makes two requests for a user; the second finds nothing.

Neither has an id: a record's coordinates are the request's.
"""

from collections.abc import Sequence
from typing import Any

from .document import IGNORED, Document, Format, FormatOptions, key_of, unix_time
from .source import Record
from .strict_json import UnreadableEvent, decode_object


def debezium_documents(record: Record, options: FormatOptions) -> Sequence[Document]:
    """Read one change record, in its schema or bare; a null value unless ``options.tombstones`` is off."""
    if record.value is None:
        return [{"op": "d", "key": _named_key(record)}] if options.tombstones else []
    change = decode_object(record.value)
    if "payload" in change and set(change) <= {"schema", "payload"}:
        change = change["payload"]
        if change is None:
            return debezium_documents(_without_value(record), options)
        if not isinstance(change, dict):
            raise UnreadableEvent("not a Debezium change record")
    if not isinstance(change.get("op"), str):
        raise UnreadableEvent("not a Debezium change record")
    if change["op"] == "t":
        raise UnreadableEvent("a truncate: it names nobody")
    return [_deletion(change, record)] if change["op"] == "d" else [{"op": change["op"]}]


def _deletion(change: dict[str, Any], record: Record) -> Document:
    source = change.get("source")
    at = source.get("ts_ms") if isinstance(source, dict) else None
    at = change.get("ts_ms") if at is None else at
    return {
        **change,
        "key": _row_key(record),
        "time": None if at is None else unix_time(at, 1000),
    }


def _without_value(record: Record) -> Record:
    return Record(record.partition, record.offset, None, record.key, record.headers, record.timestamp_ms)


def _row_key(record: Record) -> Any:
    """Return the key if it names its columns; a bare one may be any column's."""
    key = key_of(record) if record.key else None
    return key if isinstance(key, dict) else None


def _named_key(record: Record) -> Any:
    key = key_of(record)
    return key if isinstance(key, dict) else {"user_id": key}


def tombstone_documents(record: Record, options: FormatOptions) -> Sequence[Document]:
    """Read a null value as the deletion of the user in the key; any other value is somebody's state."""
    return [{"op": "d", "key": _named_key(record)}] if record.value is None else []


_DELETION = {"d": "account.deleted"}

DEBEZIUM = Format(
    debezium_documents,
    fields={
        "id": (("@coordinates",),),
        "type": (("op",),),
        "user_id": (("before", "user_id"), ("key", "user_id")),
        "item_id": (("before", "item_id"), ("key", "item_id")),
        "time": (("time",),),
    },
    types={**_DELETION, **dict.fromkeys("curm", IGNORED)},
)

TOMBSTONES = Format(
    tombstone_documents,
    fields={
        "id": (("@coordinates",),),
        "type": (("op",),),
        "user_id": (("key", "user_id"),),
        "item_id": (("key", "item_id"),),
        "time": (("@timestamp",),),
    },
    types=_DELETION,
)
