"""The protocol of an event source: a topic, the embedded journal, or whatever comes next.

A source hands over raw records in order and remembers how far it was committed. It never interprets a
payload: :mod:`.events` does. What cannot be interpreted goes back through :meth:`EventSource.dead_letters`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class SourceError(Exception):
    """A source cannot be read as it is; the message names it and the way out. What was recorded stays."""


class SourceAwayError(SourceError):
    """A source does not answer at present, and may do so again: what was not recorded is read again then."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One raw event with its coordinates.

    Attributes
    ----------
    partition : name of the ordered stream it came from, unique within the source (``"topic-0"``).
    offset : its position in that stream; the next one to read is ``offset + 1``.
    value : the payload; None is a tombstone.
    key, headers : as the source has them; empty where it has none.
    timestamp_ms : when the source took it in, Unix milliseconds; None if unknown.
    damage : why the source itself cannot vouch for the record; then the other fields may be anything.
    """

    partition: str
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: Mapping[str, bytes] = {}
    timestamp_ms: int | None = None
    damage: str | None = None


class EventSource(Protocol):
    """Where deletion events come from. One consumer at a time; thread-safe in :meth:`dead_letters` alone."""

    @property
    def identity(self) -> str | None:
        """Who the source is, so that another one of the same name is told from it; None: nobody can tell."""
        ...

    def poll(self, timeout: float, limit: int) -> Sequence[Record]:
        """Return up to ``limit`` records after the last ones returned, waiting up to ``timeout`` seconds.

        The ones before may be on their way into the ledger still; once none is returned, they are committed,
        or there is a :meth:`seek`, before this is called again.
        """
        ...

    def is_exhausted(self) -> bool:
        """Tell whether everything that is there by now was returned by :meth:`poll`."""
        ...

    def lag(self) -> Mapping[str, int]:
        """Return partition -> how many records wait unread, as far as that is known without asking."""
        ...

    def commit(self, positions: Mapping[str, int]) -> None:
        """Promise never to need records before ``positions`` (partition -> next offset) again."""
        ...

    def seek(self, positions: Mapping[str, int]) -> None:
        """Continue from ``positions`` (partition -> next offset): where the ledger says we are."""
        ...

    def dead_letters(self, letters: Sequence[tuple[Record, str]]) -> None:
        """Set records aside with their original bytes and the error class, durably.

        One call at a time, on another thread than the one that polls meanwhile.

        Raises
        ------
        SourceAwayError
            It cannot be done at present: all of them are to be read again.
        """
        ...

    def close(self) -> None:
        """Release what is held; committed positions stay."""
        ...
