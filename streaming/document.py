"""What every wire format comes down to: documents, and where in them an event's fields are.

A format (:class:`Format`) turns a record into documents and says at which paths its fields are; the
configuration may name other paths (:class:`FormatOptions`). A path that starts with ``@`` leads into the
record itself: ``@key``, ``@coordinates``, ``@timestamp``, ``@header.NAME``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from .source import Record
from .strict_json import UnreadableEvent, decode

Document: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str, ...]

IGNORED = "ignored"
"""What a type is mapped to whose records are no deletions."""


class FormatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How records are read: the table ``[format]`` of the configuration.

    Attributes
    ----------
    name : a wire format, or ``"auto"``: CloudEvents where the headers say so, else simple JSON.
    mapping : field (``id``, ``type``, ``user_id``, ``item_id``, ``time``) -> its path in the payload, dotted
        or a list of names.
    types : type in the payload -> a type of event, or ``"ignored"``.
    type : the type of events that do not say theirs.
    time : how times are written where they are not RFC 3339.
    identity_types : OpenDSR: which identities are user ids of this platform.
    tombstones : Debezium: whether a null value is a deletion.
    """

    name: str = "auto"
    mapping: dict[str, str | list[str]] = {}
    types: dict[str, str] = {}
    type: str | None = None
    time: Literal["rfc3339", "unix_s", "unix_ms"] = "rfc3339"
    identity_types: tuple[str, ...] = ("controller_customer_id",)
    tombstones: bool = True


@dataclass(frozen=True, slots=True)
class Format:
    """A wire format.

    Attributes
    ----------
    documents : record, options -> its documents: one for each thing asked, none if nothing is.
    fields : field -> the paths at which it may be, the first that has a value counts.
    types : type in a document -> a type of event, or :data:`IGNORED`.
    """

    documents: Callable[[Record, FormatOptions], Sequence[Document]]
    fields: Mapping[str, tuple[Path, ...]]
    types: Mapping[str, str]


def look_up(path: Path, document: Document, record: Record) -> Any:
    """Return what is at a path; None where there is nothing, or something that is no object on the way.

    Examples
    --------
    >>> record = Record("users-0", 7, b"", key=b"42", timestamp_ms=1700000000000)
    >>> look_up(("account", "id"), {"account": {"id": 42}}, record), look_up(("@key",), {}, record)
    (42, '42')
    >>> look_up(("@coordinates",), {}, record)
    'users-0/7/1700000000000'
    """
    place: Any = document
    for name in path:
        if name.startswith("@") and place is document:
            place = _of_record(name, record)
        elif isinstance(place, dict):
            place = place.get(name)
        else:
            return None
    return place


def _of_record(name: str, record: Record) -> Any:
    if name == "@key":
        return None if record.key is None else key_of(record)
    if name == "@coordinates":
        return f"{record.partition}/{record.offset}/{record.timestamp_ms}"
    if name == "@timestamp":
        return None if record.timestamp_ms is None else unix_time(record.timestamp_ms, 1000)
    return {header: _header_text(value) for header, value in record.headers.items()}


ROOTS = ("@key", "@coordinates", "@timestamp", "@header")
"""Where a path into the record can start."""


def _header_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UnreadableEvent("a header is not UTF-8") from None


def key_of(record: Record) -> Any:
    """Read a record's key: text as it is, or JSON if it is an object or a string (in its schema or bare).

    A key that a serialiser other than text or JSON wrote is refused: taken for an id, the deletion would
    be carried out for nobody.

    Examples
    --------
    >>> key_of(Record("users-0", 0, None, key=b'{"schema": {}, "payload": {"user_id": 42}}'))
    {'user_id': 42}
    """
    key = record.key
    if not key:
        raise UnreadableEvent("no key")
    if key[:1] in b'{"':
        content = decode(key)
        if isinstance(content, dict) and set(content) == {"schema", "payload"}:
            content = content["payload"]
        if isinstance(content, dict | str):
            return content
        raise UnreadableEvent("the key is neither text nor JSON")
    try:
        text = key.decode()
    except UnicodeDecodeError:
        raise UnreadableEvent("the key is neither text nor JSON") from None
    if not text.isprintable() or text.startswith(("Struct{", "[")):
        raise UnreadableEvent("the key is neither text nor JSON")
    return text


def unix_time(value: Any, per_second: int) -> datetime:
    """Read a Unix time: a whole number, ``per_second`` units a second.

    Examples
    --------
    >>> unix_time(1700000000000, 1000).isoformat()
    '2023-11-14T22:13:20+00:00'
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnreadableEvent("field time is not a Unix time")
    try:
        return datetime.fromtimestamp(value / per_second, UTC)
    except (ValueError, OverflowError, OSError):
        raise UnreadableEvent("field time is not a Unix time") from None
