"""JSON from strangers, read strictly: bounded, UTF-8, no key twice; nothing of it in an error."""

import json
import re
from typing import Any, NoReturn

import msgspec

MAX_BYTES = 1 << 20
"""A larger event is refused: an event names one user and one item."""


class UnreadableEvent(ValueError):  # noqa: N818  the name says what it is: an event
    """A record is not a request. The reason comes from a fixed list and never repeats what is in it.

    The list is in ``docs/reference/events.md``; a test holds the two together.

    Examples
    --------
    >>> str(UnreadableEvent("not JSON"))
    'not JSON'
    """


def text_of(value: bytes | None) -> str:
    """Return a payload as text.

    Raises
    ------
    UnreadableEvent
        There is none, or it is blank, too large or not UTF-8.
    """
    if value is None:
        raise UnreadableEvent("a tombstone: no value")
    if len(value) > MAX_BYTES:
        raise UnreadableEvent(f"larger than {MAX_BYTES} bytes")
    if not value.strip():
        raise UnreadableEvent("empty")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UnreadableEvent("not UTF-8") from None


def decode(value: bytes | None) -> Any:
    """Read a payload as JSON: RFC 8259 to the letter, and no key twice in an object.

    Raises
    ------
    UnreadableEvent
        It is anything else.

    Examples
    --------
    >>> decode(b'{"user_id": 10000000000000000000000000}')
    {'user_id': 10000000000000000000000000}
    """
    if value is not None and (plain := _plain_object(value)) is not None:
        return plain
    text = text_of(value)
    try:
        document = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnreadableEvent("not valid Unicode") from None
    except UnreadableEvent:
        raise
    except RecursionError:
        raise UnreadableEvent("nested too deeply") from None
    except ValueError:
        raise UnreadableEvent("not JSON") from None
    return document


def decode_object(value: bytes | None) -> dict[str, Any]:
    """Read a payload as one JSON object, as :func:`decode`."""
    document = decode(value)
    if not isinstance(document, dict):
        raise UnreadableEvent("not a JSON object")
    return document


def _plain_object(value: bytes) -> dict[str, Any] | None:
    """Read what nearly all events are in a quarter of the time; None: it is something else, or nothing.

    A short object of ASCII without escapes, of strings, whole numbers and nulls. Its quotation marks are two
    for each key and each string: if there are no more in it, no key was there twice.
    """
    if len(value) > _PLAIN_BYTES or not value.isascii() or b"\\" in value:
        return None
    try:
        members = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return None
    if type(members) is not dict:
        return None
    marks = 2 * len(members)
    for member in members.values():
        if type(member) is str:
            marks += 2
        elif type(member) is not int and member is not None:
            return None
    return members if marks == value.count(b'"') else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise UnreadableEvent("a key is there twice")
    return members


def _no_number(name: str) -> NoReturn:
    raise UnreadableEvent("not JSON")  # NaN and the infinities: Python reads them, JSON has none


_PLAIN_BYTES = 4096  # so no whole number is longer than Python reads
_SURROGATE = re.compile(r"\\u[dD]")  # an escape that may be half of a character: then it is looked at
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
