"""Simple JSON events to requests: strict, so that nothing is guessed; nothing of a payload in an error.

Other wire formats (:mod:`.formats`) come down to the same fields, and end here too (:func:`request_of`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec

from ..engine.requests import (
    AccountDeletion,
    Anonymisation,
    ExternalId,
    InteractionRemoval,
    Readmission,
    Request,
    canonical_id,
)
from .source import Record
from .strict_json import UnreadableEvent, decode_object

FIELDS = ("user_id", "item_id", "type", "time", "id")
"""What an event can say; every wire format says it in its own way."""

_Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class _AccountDeleted(msgspec.Struct):
    id: ExternalId
    user_id: ExternalId
    time: _Time | None = None

    def request(self) -> Request:
        return AccountDeletion(canonical_id(self.id), canonical_id(self.user_id), self.time)


class _AccountAnonymised(_AccountDeleted):
    def request(self) -> Request:
        return Anonymisation(canonical_id(self.id), canonical_id(self.user_id), self.time)


class _AccountReadmitted(_AccountDeleted):
    def request(self) -> Request:
        return Readmission(canonical_id(self.id), canonical_id(self.user_id), self.time)


class _InteractionRemoved(msgspec.Struct):
    id: ExternalId
    user_id: ExternalId
    item_id: ExternalId
    time: _Time | None = None

    def request(self) -> Request:
        return InteractionRemoval(
            canonical_id(self.id), canonical_id(self.user_id), canonical_id(self.item_id), self.time
        )


_EVENTS: Mapping[str, type[_AccountDeleted | _InteractionRemoved]] = {
    "account.deleted": _AccountDeleted,
    "account.anonymised": _AccountAnonymised,
    "account.readmitted": _AccountReadmitted,
    "interaction.removed": _InteractionRemoved,
}

TYPES = tuple(_EVENTS)
"""The types of event there are."""


def request_of(fields: Mapping[str, Any]) -> Request:
    """Make a request of an event's fields: ``id``, ``type``, ``user_id`` and so on.

    Ids are strings or integers, times RFC 3339 with an offset (or already a datetime). Further fields are
    allowed, unknown types are not.

    Raises
    ------
    UnreadableEvent
        They are anything else; the reason names the field, never its value.

    Examples
    --------
    >>> request_of({"id": "e-1", "type": "account.deleted", "user_id": 42})
    AccountDeletion(request_id='e-1', user_id='42', requested_at=None)
    """
    kind = fields.get("type")
    if kind is None:
        raise UnreadableEvent("field type is missing")
    event = _EVENTS.get(kind) if isinstance(kind, str) else None
    if event is None:
        raise UnreadableEvent("unknown type")
    try:
        return msgspec.convert(fields, event).request()
    except msgspec.ValidationError as error:
        raise UnreadableEvent(_what_is_wrong(str(error))) from None
    except ValueError:
        raise UnreadableEvent("an id is empty or not valid Unicode") from None


def parse_simple_json(record: Record) -> Request:
    """Read a simple JSON event: one UTF-8 object with the fields of :func:`request_of`, no key twice.

    Raises
    ------
    UnreadableEvent
        The record is anything else.

    Examples
    --------
    >>> value = b'{"id": "e-1", "type": "interaction.removed", "user_id": 42, "item_id": "7"}'
    >>> parse_simple_json(Record("journal", 0, value))
    InteractionRemoval(request_id='e-1', user_id='42', item_id='7', requested_at=None)
    """
    return request_of(decode_object(record.value))


def _what_is_wrong(message: str) -> str:
    """Name the field that a validation error is about, and nothing that the payload says."""
    field = next((name for name in FIELDS if f"$.{name}`" in message or f"field `{name}`" in message), None)
    if field is None:
        return "not a JSON object of a known event"
    if "missing" in message:
        return f"field {field} is missing"
    if field == "time":
        return "field time is not an RFC 3339 time with an offset"
    return f"field {field} is neither a string nor an integer"
