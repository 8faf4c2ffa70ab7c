"""JSON from strangers, read strictly: bounded, UTF-8, no key twice; nothing of it in an error."""

import json
import re
from typing import Any, NoReturn

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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise UnreadableEvent("a key is there twice")
    return members


def _no_number(name: str) -> NoReturn:
    raise UnreadableEvent("not JSON")  # NaN and the infinities: Python reads them, JSON has none


_SURROGATE = re.compile(r"\\u[dD]")  # an escape that may be half of a character: then it is looked at
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
