"""Wire formats to removal requests: strict, so that nothing is guessed; nothing of a payload in an error.

A format is a function from a record to a request and one row in :data:`FORMATS`.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec

from ..engine.requests import AccountDeletion, ExternalId, InteractionRemoval, Request, canonical_id
from .source import Record

MAX_BYTES = 1 << 20
"""A larger event is refused: an event names one user and one item."""

_FIELDS = ("user_id", "item_id", "type", "time", "id")


class UnreadableEvent(ValueError):  # noqa: N818  the name says what it is: an event
    """A record is not a request. The reason comes from a fixed list and never repeats what is in it.

    Examples
    --------
    >>> str(UnreadableEvent("not JSON"))
    'not JSON'
    """


_Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class _AccountDeleted(msgspec.Struct, tag_field="type", tag="account.deleted"):
    id: ExternalId
    user_id: ExternalId
    time: _Time | None = None

    def request(self) -> Request:
        return AccountDeletion(canonical_id(self.id), canonical_id(self.user_id), self.time)


class _InteractionRemoved(msgspec.Struct, tag_field="type", tag="interaction.removed"):
    id: ExternalId
    user_id: ExternalId
    item_id: ExternalId
    time: _Time | None = None

    def request(self) -> Request:
        return InteractionRemoval(
            canonical_id(self.id), canonical_id(self.user_id), canonical_id(self.item_id), self.time
        )


def parse_simple_json(record: Record) -> Request:
    """Read a simple JSON event: one UTF-8 object with ``id``, ``type``, ``user_id`` and so on.

    Ids are strings or integers, times RFC 3339 with an offset. Further fields are allowed, unknown types
    and duplicate keys are not.

    Raises
    ------
    UnreadableEvent
        The record is anything else; the reason names the field, never its value.

    Examples
    --------
    >>> value = b'{"id": "e-1", "type": "interaction.removed", "user_id": 42, "item_id": "7"}'
    >>> parse_simple_json(Record("journal", 0, value))
    InteractionRemoval(request_id='e-1', user_id='42', item_id='7', requested_at=None)
    """
    value = record.value
    if value is None:
        raise UnreadableEvent("a tombstone: no value")
    if not value.strip():
        raise UnreadableEvent("empty")
    if len(value) > MAX_BYTES:
        raise UnreadableEvent(f"larger than {MAX_BYTES} bytes")
    try:
        event = msgspec.json.decode(value, type=_AccountDeleted | _InteractionRemoved)
        json.loads(value, object_pairs_hook=_refuse_duplicates)
        return event.request()
    except UnreadableEvent:
        raise
    except msgspec.ValidationError as error:
        raise UnreadableEvent(_what_is_wrong(str(error))) from None
    except msgspec.DecodeError:
        raise UnreadableEvent("not JSON") from None
    except UnicodeDecodeError:
        raise UnreadableEvent("not UTF-8") from None
    except RecursionError:
        raise UnreadableEvent("nested too deeply") from None
    except ValueError:
        raise UnreadableEvent("an id is empty or not valid Unicode") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise UnreadableEvent("a key is there twice")


def _what_is_wrong(message: str) -> str:
    """Name the field that a validation error is about, and nothing that the payload says."""
    field = next((name for name in _FIELDS if f"$.{name}`" in message or f"field `{name}`" in message), None)
    if field is None:
        return "not a JSON object of a known event"
    if "missing" in message:
        return f"field {field} is missing"
    if field == "type":
        return "unknown type"
    if field == "time":
        return "field time is not an RFC 3339 time with an offset"
    return f"field {field} is neither a string nor an integer"


FORMATS: Mapping[str, Callable[[Record], Request]] = {"json": parse_simple_json}
"""Name of a format -> the function that reads it."""
