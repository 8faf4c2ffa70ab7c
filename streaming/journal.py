"""The embedded event source: an append-only journal in the state directory, with the semantics of a topic.

Segments are files ``<offset of the first line>.log`` of lines; a line is one record. Lines that this
module appends are framed, ``J1 <CRC-32> <Unix ms> <payload>``; a bare line is a payload that somebody else
appended (``echo '{"id": ...}' >> <the last segment>``). Appenders and the consumer exclude each other with
a file lock. What is committed is purged from disk at once: the ledger has it by then.
"""

import fcntl
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..engine import durable
from .dead_letters import LetterFiles
from .source import Record

PARTITION = "journal"
"""The one partition of a journal."""

_MAGIC = b"J1 "
_SEGMENT_BYTES = 1 << 20
_POLL_SECONDS = 0.02
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a journal: how many records, and when the oldest was appended (Unix seconds)."""

    records: int
    oldest: float | None


def append(directory: Path, payloads: Sequence[bytes]) -> None:
    """Append payloads to the journal in ``directory``, durably, all in one go; any process may.

    Raises
    ------
    ValueError
        A payload has a line break; nothing is appended.
    """
    now = time.time_ns() // 1_000_000
    for payload in payloads:
        if b"\n" in payload or b"\r" in payload:
            raise ValueError("a payload has a line break; write each event on one line")
    lines = b"".join(_frame(payload, now) for payload in payloads)
    durable.make_directory(directory)
    with _locked(directory):
        segment = _open_segment(directory)
        start = b"" if is_terminated(segment) else b"\n"  # what a crash tore off becomes a line of its own
        durable.append(segment, start + lines, mode=0o600)


def backlog(directory: Path, position: int) -> Backlog:
    """Count the records from ``position`` on."""
    try:
        return _count(directory, position)
    except FileNotFoundError:  # a consumer purged a segment meanwhile
        return _count(directory, position)


def _count(directory: Path, position: int) -> Backlog:
    count, oldest = 0, None
    for offset, line in _lines(directory, position):
        record = _record(offset, line)
        if record is not None:
            count += 1
            if record.timestamp_ms is not None:
                at = record.timestamp_ms / 1000
                oldest = at if oldest is None else min(at, oldest)
    return Backlog(count, oldest)


class Journal:
    """The consumer's side of a journal: an :class:`~.source.EventSource`. One at a time.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     append(Path(directory), [b"first", b"second"])
    ...     journal = Journal(Path(directory))
    ...     [record.value for record in journal.poll(timeout=1, limit=10)]
    [b'first', b'second']
    """

    def __init__(self, directory: Path) -> None:
        durable.make_directory(directory)
        self._directory = directory
        with _locked(directory):
            for leftover in filter(durable.is_temporary, directory.rglob("*")):
                durable.remove(leftover)  # of a step that a crash cut off: it holds ids
            _open_segment(directory)
        self._next = _segments(directory)[0][0]

    def poll(self, timeout: float, limit: int) -> Sequence[Record]:
        """Return up to ``limit`` records after the last ones returned, waiting up to ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            records = self._read(limit)
            remaining = deadline - time.monotonic()
            if records or remaining <= 0:
                return records
            time.sleep(min(_POLL_SECONDS, remaining))

    def _read(self, limit: int) -> list[Record]:
        self._terminate_torn_line()
        records = []
        for offset, line in _lines(self._directory, self._next):
            record = _record(offset, line)
            self._next = offset + 1
            if record is not None:
                records.append(record)
                if len(records) == limit:
                    break
        return records

    def _terminate_torn_line(self) -> None:
        """Make a line of what an appender that crashed, or forgot the line break, left at the end."""
        if is_terminated(_segments(self._directory)[-1][1]):
            return
        with _locked(self._directory):  # no appender is at work now
            segment = _segments(self._directory)[-1][1]
            if not is_terminated(segment):
                durable.append(segment, b"\n")

    @property
    def identity(self) -> str | None:
        """None: a journal that began anew is shorter than what was read of it, and is read from the first."""
        return None

    def is_exhausted(self) -> bool:
        """Tell whether everything was read: always, when :meth:`poll` returned nothing."""
        return True

    def lag(self) -> dict[str, int]:
        """Return how many records wait unread."""
        return {PARTITION: max(0, self._end() - self._next)}

    def commit(self, positions: Mapping[str, int]) -> None:
        """Purge the records before ``positions["journal"]`` from disk, but none that was not returned."""
        position = min(positions.get(PARTITION, 0), self._next)
        with _locked(self._directory):
            segments = _segments(self._directory)
            for base, path in segments:
                if base >= position:
                    continue
                remaining = path.read_bytes().split(b"\n")[position - base :]
                if path == segments[-1][1] or remaining[:-1]:
                    _create_segment(self._directory, position, b"\n".join(remaining))
                durable.remove(path)

    def seek(self, positions: Mapping[str, int]) -> None:
        """Continue from ``positions["journal"]``; from the beginning if the journal is not that long.

        A journal that is shorter than what was read from it was lost and began anew: its records are read
        from the first, and repetitions are told by their request ids.
        """
        first, end = _segments(self._directory)[0][0], self._end()
        position = positions.get(PARTITION, first)
        if position > end:
            _log.warning("the journal ends at %d, but was read up to %d: reading all of it", end, position)
            position = first
        self._next = max(position, first)

    def _end(self) -> int:
        base, path = _segments(self._directory)[-1]
        return base + path.read_bytes().count(b"\n")

    def dead_letters(self, letters: Sequence[tuple[Record, str]]) -> None:
        """Set each record aside in a file of its own, below ``dead-letters/``."""
        for record, reason in letters:
            letter_files(self._directory).put(record, reason)

    def close(self) -> None:
        """Nothing is held between calls."""


def letter_files(directory: Path) -> LetterFiles:
    """Return the dead letters of the journal in ``directory``."""
    return LetterFiles(directory / "dead-letters")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _segments(directory: Path) -> list[tuple[int, Path]]:
    """Return (offset of the first line, path) of each segment, in order."""
    return sorted((int(path.stem), path) for path in directory.glob("*.log") if path.stem.isdigit())


def _create_segment(directory: Path, base: int, content: bytes) -> Path:
    """Create a segment, or leave the one that an earlier attempt at the same finished."""
    path = directory / f"{base:020d}.log"
    if not path.exists():
        durable.replace(path, content, mode=0o600)
    return path


def _open_segment(directory: Path) -> Path:
    """Return the segment to append to: the last one, or a new one if that is full."""
    segments = _segments(directory)
    if not segments:
        return _create_segment(directory, 0, b"")
    base, path = segments[-1]
    if path.stat().st_size < _SEGMENT_BYTES:
        return path
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        durable.append(path, b"\n")
        content += b"\n"
    return _create_segment(directory, base + content.count(b"\n"), b"")


def is_terminated(path: Path) -> bool:
    """Tell whether a file is empty or ends with a line break: whether its last line is whole."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines(directory: Path, position: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of each complete line from ``position`` on."""
    segments = _segments(directory)
    ends = [*(base for base, _ in segments[1:]), None][: len(segments)]
    for (base, path), end in zip(segments, ends, strict=True):
        if end is not None and end <= position:
            continue
        # Two segments overlap where a commit was cut off: the later one has it.
        for index, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
            offset = base + index
            if offset >= position and (end is None or offset < end):
                yield offset, line


def _frame(payload: bytes, at_ms: int) -> bytes:
    body = b"%d %s" % (at_ms, payload)
    return b"%s%08x %s\n" % (_MAGIC, zlib.crc32(body), body)


def _record(offset: int, line: bytes) -> Record | None:
    """Take a line apart; None for a blank one. A frame with a wrong checksum stays a line, unreadable."""
    line = line.rstrip(b"\r")
    if not line.strip():
        return None
    if line.startswith(_MAGIC):
        checksum, _, body = line[len(_MAGIC) :].partition(b" ")
        if checksum == b"%08x" % zlib.crc32(body):
            at, _, payload = body.partition(b" ")
            return Record(PARTITION, offset, payload, timestamp_ms=int(at))
    return Record(PARTITION, offset, line)
