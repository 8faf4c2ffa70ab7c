"""The forms an id may be written in: looked for by its bytes while it is known, read out of bytes after.

Text in UTF-8 and UTF-16, both byte orders, and as JSON escapes it; base64 and hexadecimal digits of text; and
an integer of 8 bytes, either order, where the id is one. Short numbers are in everything by chance, once some
thousands of ids are looked for: in pages after runs of zeros, in digests, in fractions of seconds. So numbers
of less than nine digits are looked for as text only, and not where digits mean nothing (:data:`NOISE`).
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np

from .requests import is_distinctive

_DIGITS = 9
SHORTEST_INTEGER = 10 ** (_DIGITS - 1)
"""The smallest number that is looked for as an integer of 8 bytes."""
LARGEST_BESIDE_HASHES = 1 << 53
"""Up to where integers are read out of a file of hashes, whose random bytes are any larger number."""

NOISE = re.compile(rb"[0-9a-f]{32,}|[0-9]\.[0-9]+|[A-Za-z0-9+/]{64,}")
"""Digests, fractions and base64: where digits in a row are nobody's id."""

_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
_BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_DEPTH = 3
_WORD = re.compile(rb"[^\x00-\x20\x7f\"',:;={}\[\]()<>\\]{3,}")
_WIDE_WORD = re.compile(r"[^\x00-\x20\x7f\"',:;={}\[\]()<>\\\u2000-\U0010ffff]{3,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}")
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2}){3,}")
_ESCAPES = re.compile(rb"(?:\\u[0-9A-Fa-f]{4})+")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def forms_of(text: str) -> list[bytes]:
    """Return the bytes that a known id can be written as.

    Examples
    --------
    >>> b"user-1" in forms_of("user-1"), b"757365722d31" in forms_of("user-1")
    (True, True)
    >>> any(form in base64.b64encode(b'{"id": "user-000001"}') for form in forms_of("user-000001"))
    True
    """
    content = text.encode()
    forms = [text.encode(encoding) for encoding in _ENCODINGS]
    if is_short_number(text):
        return forms
    if not text.isascii():
        forms.append(json.dumps(text)[1:-1].encode())
    forms += [content.hex().encode(), content.hex().upper().encode()]
    forms += [form for form in map(_within_base64, [content] * 3, range(3)) if len(form) >= 6]
    if text.lstrip("-").isdecimal() and SHORTEST_INTEGER <= abs(int(text)) < 1 << 63:
        forms += [int(text).to_bytes(8, order, signed=True) for order in _BYTE_ORDERS]
    return forms


def is_short_number(text: str) -> bool:
    """Tell whether an id is a number that is found by chance."""
    return text.isdecimal() and len(text) < _DIGITS


def _within_base64(content: bytes, before: int) -> bytes:
    """Return what base64 makes of ``content`` after 0 to 2 bytes, without what its neighbours change."""
    encoded = base64.b64encode(bytes(before) + content)
    last = (before + len(content)) * 8 // 6
    return encoded[-(-before * 8 // 6) : last]


def words_in(content: bytes) -> Iterator[str]:
    """Yield the distinct words that could tell somebody apart, in whatever form they are written.

    Base64 and hexadecimal digits are decoded, also within one another. UTF-16 is read of the scripts up to
    U+1FFF, at even and odd places; beyond them, any two letters of plain text would be a character.
    """
    yield from _words(content, set(), _DEPTH)
    yield from _wide_words(content)


def _words(content: bytes, seen: set[bytes], depth: int) -> Iterator[str]:
    for word in _WORD.findall(content):
        if word in seen:
            continue
        seen.add(word)
        try:
            text = word.decode()
        except UnicodeDecodeError:
            continue
        if is_distinctive(text):
            yield text
        if depth:
            for decoded in _decoded(word):
                yield from _words(decoded, seen, depth - 1)
    if b"\\u" in content:
        yield from _words(_ESCAPES.sub(_unescaped, content).replace(b"\\u", b""), seen, 0)


def _unescaped(escapes: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escapes[0].replace(b"\\u", b"").decode()).decode("utf-16-be", "replace").encode()


def _wide_words(content: bytes) -> Iterator[str]:
    if b"\0" not in content and content.isascii():
        return
    found: set[str] = set()
    for encoding in _ENCODINGS[1:]:
        for start in (0, 1):
            found.update(_WIDE_WORD.findall(content[start:].decode(encoding, "replace")))
    yield from filter(is_distinctive, found)


def _decoded(word: bytes) -> Iterator[bytes]:
    if _HEX.fullmatch(word):
        yield bytes.fromhex(word.decode())
    if _BASE64.fullmatch(word):
        whole = word[: len(word) - (len(word) % 4 == 1)].translate(_TO_STANDARD)
        yield base64.b64decode(whole + b"=" * (-len(whole) % 4))


def integers_in(content: bytes, below: int = 1 << 63) -> Iterator[str]:
    """Yield the distinct integers of 8 bytes, at any place and in either order; no text is taken for one.

    Parameters
    ----------
    below : the largest that is looked for is smaller.

    Examples
    --------
    >>> "123456789" in integers_in(b"x" + (123456789).to_bytes(8, "big"))
    True
    """
    for start in range(min(8, max(0, len(content) - 7))):
        windows = np.frombuffer(content, "<u8", (len(content) - start) // 8, start)
        letters = windows.view(np.uint8).reshape(-1, 8)
        binary = windows[((letters < 0x20) | (letters > 0x7E)).any(axis=1)]
        for values in (binary, binary.byteswap()):
            found = values[(values >= SHORTEST_INTEGER) & (values < below)]
            yield from map(str, np.unique(found).tolist())
