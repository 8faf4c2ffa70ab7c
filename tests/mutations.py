"""Records gone wrong: seeded mutations of good ones, of their bytes and of what they say."""

import json
import random
from collections.abc import Iterator

from msgspec.structs import replace

SCRAPS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x00",
    b'"user_id":',
    b'"id":"x",',
    b'"user_id":"u-43",',
    b"{",
    b"}",
    b"[" * 3000,
    b"]",
    b'"',
    b"\\",
    b",",
    b":",
    b"null",
    b"9" * 5000,
    b"1.5",
    b"-0",
    b"\n",
    b'"op":"t"',
    b'"sha256"',
    b"Struct{",
    b"ce_",
)
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    10**40,
    1.5,
    1e308,
    "",
    " ",
    "0",
    "\ud800",
    "\x00",
    "é" * 50,
    "u-43",
    "access",
    "raw",
    "sha256",
    "t",
    "c",
    "d",
    [],
    {},
    [[]],
    {"": ""},
    {"user_id": "u-43"},
    "2026-13-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "1970-01-01T00:00:00Z",
)
HEADERS = (
    "content-type",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "Content-Type",
    "x",
)
HEADER_VALUES = (
    b"1.0",
    b"0.3",
    b"",
    b"\xff",
    b"application/cloudevents+json",
    b"application/cloudevents",
    b"application/json",
    b"text/plain; x",
    b"account.deleted",
    b"u-43",
    b"/s",
)
KEYS = (
    None,
    b"",
    b"u-43",
    b'{"user_id": 4}',
    b'{"user_id": "u-43", "user_id": 1}',
    b"\x00\x00\x00*",
    b"\xff",
    b"{",
    b'"',
    b'{"schema":{},"payload":[]}',
)


def mutations(record, seed, count) -> Iterator:
    """Yield ``count`` records that were ``record`` once."""
    draw = random.Random(seed)  # noqa: S311  to be repeated, not to be secret
    for _ in range(count):
        changed = record
        for _ in range(draw.randint(1, 3)):
            changed = draw.choice((_bytes, _bytes, _said, _said, _around))(changed, draw)
        yield changed


def _bytes(record, draw):
    """Change, cut, repeat or insert bytes of the value."""
    value = bytearray(record.value or b"")
    at, to = sorted((draw.randint(0, len(value)), draw.randint(0, len(value))))
    kind = draw.randint(0, 4)
    if kind == 0:
        value[at:at] = draw.choice(SCRAPS)
    elif kind == 1:
        del value[at : min(to, at + draw.randint(1, 20))]
    elif kind == 2:
        value[at:at] = value[at:to]
    elif kind == 3 and value:
        value[at % len(value)] = draw.randrange(256)
    else:
        value[at:to] = draw.choice(SCRAPS)
    return replace(record, value=bytes(value))


def _said(record, draw):
    """Put something else in the place of one value in the JSON, drop a member, or repeat one."""
    try:
        document = json.loads(record.value or b"null")
    except (ValueError, RecursionError):
        return _bytes(record, draw)
    places = list(_places(document))
    if not places:
        return replace(record, value=json.dumps(draw.choice(VALUES)).encode())
    holder, key = draw.choice(places)
    if draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(VALUES)
    return replace(
        record, value=json.dumps(document, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    )


def _places(document):
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _places(document[key])


def _around(record, draw):
    """Change the key, a header, or take the value away."""
    kind = draw.randint(0, 4)
    if kind == 0:
        return replace(record, key=draw.choice(KEYS))
    if kind == 1:
        return replace(record, value=draw.choice((None, b"", b" ")))
    headers = dict(record.headers)
    headers[draw.choice(HEADERS)] = draw.choice(HEADER_VALUES)
    if kind == 2 and headers:
        headers.pop(draw.choice(list(headers)))
    return replace(record, headers=headers)
