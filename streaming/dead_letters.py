"""Dead letters: records that could not be read, kept with their bytes until somebody fulfils the duty.

A letter is a file of its own: one line of JSON (coordinates, reason, sizes), then key, headers and value as
they came. As they came, so that the search for remains of erased users finds an id in them; a file each, so
that to discard one leaves no byte of it.

The ledger says which letters are open. A file that it does not know is left of a crash and goes.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from ..engine import durable
from ..engine.ledger import DeadLetter, Ledger, Received
from ..engine.ledger_letters import Coordinates
from ..engine.state import StateError
from .formats import Read
from .source import Record
from .strict_json import UnreadableEvent

REUSED = "the request id was used for another subject before"
"""Why a record that can be read is set aside."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that was set aside: why, and when (Unix seconds)."""

    record: Record
    reason: str
    at: float

    @property
    def coordinates(self) -> Coordinates:
        """Partition and offset."""
        return self.record.partition, self.record.offset


class LetterStore(Protocol):
    """Where the bytes of dead letters are: a directory, a topic."""

    def letters(self) -> Iterator[Letter]:
        """Yield the letters; one that was set aside twice may come twice."""
        ...

    def discard(self, coordinates: Collection[Coordinates]) -> None:
        """Remove the bytes of letters that are done, durably; a letter that is not there is no error."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class _Head(msgspec.Struct):
    partition: str
    offset: int
    timestamp_ms: int | None
    reason: str
    at: float
    key: int | None
    headers: dict[str, int]
    value: int | None
    damage: str | None = None


class LetterFiles:
    """Dead letters in a directory, for one source; made when there is one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     files = LetterFiles(Path(directory))
    ...     files.put(Record("journal", 7, b"{"), "not JSON")
    ...     [(letter.coordinates, letter.record.value, letter.reason) for letter in files.letters()]
    [(('journal', 7), b'{', 'not JSON')]
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, record: Record, reason: str) -> None:
        """Keep a record, durably; the same one again takes the place of the first."""
        durable.make_directory(self._directory)
        parts = [record.key, *record.headers.values(), record.value]
        head = _Head(
            record.partition,
            record.offset,
            record.timestamp_ms,
            reason,
            time.time(),
            _size(record.key),
            {name: len(value) for name, value in record.headers.items()},
            _size(record.value),
            record.damage,
        )
        content = msgspec.json.encode(head) + b"\n" + b"\n".join(part or b"" for part in parts)
        durable.replace(self._path(record.partition, record.offset), content)

    def letters(self) -> Iterator[Letter]:
        """Yield the letters in the order of their coordinates.

        Raises
        ------
        StateError
            One is damaged; the message names the file.
        """
        if self._directory.is_dir():
            for path in sorted(self._directory.glob("*.letter")):
                yield _read(path)

    def discard(self, coordinates: Collection[Coordinates]) -> None:
        """Remove letters, durably."""
        for partition, offset in coordinates:
            path = self._path(partition, offset)
            if path.exists():
                durable.remove(path)

    def close(self) -> None:
        """Nothing is held between calls."""

    def keep(self, coordinates: Collection[Coordinates]) -> None:
        """Remove whatever a crash left: letters that the ledger does not know, and half-written ones."""
        if self._directory.is_dir():
            known = {self._path(*one) for one in coordinates}
            for path in sorted(self._directory.iterdir()):
                if path not in known:
                    durable.remove(path)

    def _path(self, partition: str, offset: int) -> Path:
        return self._directory / f"{partition}.{offset:020d}.letter"


def _size(content: bytes | None) -> int | None:
    return None if content is None else len(content)


def _read(path: Path) -> Letter:
    line, _, rest = path.read_bytes().partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=_Head)
    except msgspec.MsgspecError:
        raise StateError(f"{path} is damaged; restore it from a backup, or discard it") from None
    parts: list[bytes | None] = []
    place = 0
    for size in (head.key, *head.headers.values(), head.value):
        parts.append(None if size is None else rest[place : place + size])
        place += (size or 0) + 1
    headers = {name: part or b"" for name, part in zip(head.headers, parts[1:-1], strict=True)}
    record = Record(head.partition, head.offset, parts[-1], parts[0], headers, head.timestamp_ms, head.damage)
    return Letter(record, head.reason, head.at)


@dataclass
class Replay:
    """What became of dead letters that were read again.

    Attributes
    ----------
    recorded : requests that are new in the ledger.
    read : letters that could be read now, among them repetitions and records that ask for nothing.
    remaining : letters that still cannot be read, with the reason of today.
    lost : letters whose bytes are nowhere: their duties cannot be fulfilled from here.
    """

    recorded: int = 0
    read: int = 0
    remaining: Mapping[Coordinates, str] = field(default_factory=dict)
    lost: Collection[Coordinates] = ()


def replay(store: LetterStore, source: str, ledger: Ledger, read: Read) -> Replay:
    """Read the dead letters of a source again, with today's format and mapping.

    What can be read now is recorded, its users are fenced and the letters closed in one transaction; then
    their bytes go. Cut off anywhere, and repeated, it comes to the same. A worker may run beside it. Of a
    letter that asks for several things, one of them under an id that was used, the others are recorded.

    Parameters
    ----------
    source : the name under which the ledger knows the source.

    Raises
    ------
    LedgerError
        Another process has used the id of a request for something else meanwhile: nothing is recorded, no
        letter closed; repeated, it says which.
    """
    positions = ledger.positions(source)  # read first: a worker puts a letter before it notes it
    waiting = ledger.open_letters(source)
    received: list[Received] = []
    owners: list[Coordinates] = []
    seen: set[Coordinates] = set()
    remaining: dict[Coordinates, str] = {}
    for letter in store.letters():
        if letter.coordinates in seen:
            continue
        seen.add(letter.coordinates)
        if letter.coordinates not in waiting:
            if letter.record.offset < positions.get(letter.record.partition, 0):
                store.discard([letter.coordinates])  # closed already: only its bytes are left
            continue
        if letter.record.damage is not None:
            remaining[letter.coordinates] = letter.record.damage  # nobody can vouch for what is in it
            continue
        try:
            requests = read(letter.record)
        except UnreadableEvent as error:
            remaining[letter.coordinates] = str(error)
            continue
        received += [Received(request, *letter.coordinates) for request in requests]
        owners += [letter.coordinates] * len(requests)
    checked = ledger.check(received)
    for place in checked.conflicts:
        remaining[owners[place]] = REUSED
    closed = [one for one in waiting if one in seen and one not in remaining]
    recorded = ledger.record(
        checked,
        source=source,
        dead_letters=[DeadLetter(*coordinates, reason) for coordinates, reason in remaining.items()],
        read_at_last=closed,
    )
    store.discard(closed)
    return Replay(recorded, len(closed), remaining, [one for one in waiting if one not in seen])


def discard(store: LetterStore, source: str, ledger: Ledger, coordinates: Collection[Coordinates]) -> int:
    """Close letters that somebody looked at and found to ask for nothing; their bytes go.

    Returns
    -------
    How many of them were open.
    """
    count = ledger.close_letters(source, coordinates)
    store.discard(coordinates)
    return count
