"""The intake: records are read as requests while those before them are made durable and their users fenced.

One portion is recorded at a time, on a thread of its own, and one more is read meanwhile, no further ahead. A
portion is looked up and recorded after the one before it, so a repetition is told whichever of them it is in;
and it is committed to its source after it is durable.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..engine.ledger import DeadLetter, Ledger, Received
from .dead_letters import REUSED
from .formats import Read
from .source import EventSource, Record, SourceAwayError, SourceError
from .strict_json import UnreadableEvent

POLL_SECONDS = 0.2
POLL_LIMIT = 20_000  # of one transaction: each writes anew every page of the fence that it touches
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Portion:
    """What was polled at once, read.

    Attributes
    ----------
    records : as they were polled.
    received : what they ask for. owners : of each of these, the record that asks for it.
    letters : records that cannot be read, and why.
    positions : partition -> the offset after the last of its records.
    """

    records: Sequence[Record]
    received: Sequence[Received]
    owners: Sequence[Record]
    letters: Sequence[tuple[Record, str]]
    positions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a portion came to: records, requests that were new, records that were set aside."""

    records: Sequence[Record]
    recorded: int
    dead_letters: int


def interpret(records: Sequence[Record], read: Read) -> Portion:
    """Read records as requests, as far as they can be read. O(records).

    Parameters
    ----------
    read : record -> what it asks for: a :class:`~.formats.Reader`.
    """
    received: list[Received] = []
    owners: list[Record] = []
    letters: list[tuple[Record, str]] = []
    positions: dict[str, int] = {}
    for record in records:
        partition, offset = record.partition, record.offset
        if offset >= positions.get(partition, 0):
            positions[partition] = offset + 1
        if record.damage is not None:
            letters.append((record, record.damage))
            continue
        try:
            requests = read(record)
        except UnreadableEvent as error:
            letters.append((record, str(error)))
            continue
        for request in requests:
            received.append(Received(request, partition, offset))
            owners.append(record)
    return Portion(records, received, owners, letters, positions)


def record_portion(portion: Portion, source: EventSource, name: str, ledger: Ledger) -> Taken:
    """Set aside what cannot be read, then record the rest and the positions, durably.

    Raises
    ------
    SourceAwayError
        A record cannot be set aside at present: nothing is recorded, all of it is to be read again.
    """
    checked = ledger.check(portion.received)
    reused = {id(owner): owner for owner in (portion.owners[place] for place in sorted(checked.conflicts))}
    letters = [*portion.letters, *((record, REUSED) for record in reused.values())]
    if letters:
        source.dead_letters(letters)
    for record, reason in letters:
        _log.error("a record was set aside: %s %d: %s", record.partition, record.offset, reason)
    recorded = ledger.record(
        checked,
        source=name,
        positions=portion.positions,
        dead_letters=[DeadLetter(record.partition, record.offset, reason) for record, reason in letters],
    )
    return Taken(portion.records, recorded, len(letters))


def take_in(source: EventSource, name: str, ledger: Ledger, records: Sequence[Record], read: Read) -> Taken:
    """Record what was polled, durably, then commit it: the order that loses nothing.

    Parameters
    ----------
    name : of the source, under which the ledger keeps its positions.
    read : record -> what it asks for: a :class:`~.formats.Reader`.

    Raises
    ------
    SourceAwayError
        As :func:`record_portion`.
    """
    portion = interpret(records, read)
    taken = record_portion(portion, source, name, ledger)
    source.commit(portion.positions)
    return taken


def resume(source: EventSource, name: str, ledger: Ledger, on_lost: str = "stop") -> None:
    """Continue where the ledger says, and commit that: after a crash the source may not know yet.

    Raises
    ------
    SourceError
        The source is another one than the ledger's positions belong to, and ``on_lost`` is not
        ``"continue"``: then it is read from its start.
    """
    identity = source.identity
    if identity is not None and identity != (known := ledger.source_identity(name)):
        if known is not None:
            what = f"{name} is not what was read before: it is {identity}, it was {known}"
            if on_lost != "continue":
                raise SourceError(
                    f"{what}. Deletions that the old one held and nobody read are lost: have them sent "
                    "again, then read the new one from its start with --on-lost continue"
                )
            _log.error("%s; reading the new one from its start", what)
        ledger.note_source(name, identity)
    positions = ledger.positions(name)
    source.seek(positions)
    source.commit(positions)


class Intake:
    """Takes a source in, one portion ahead of the ledger; for one thread, within a ``with`` block.

    At the end of the block nothing is under way any more: what was begun is durable, or not recorded at all.

    Parameters
    ----------
    source, name, read : as for :func:`take_in`. ``source`` is used on the thread of the block, but for
        :meth:`~.source.EventSource.dead_letters`.
    ledger : nobody else's meanwhile; two threads use it, never at once.
    taken : is told, on the thread that records, of each portion that is durable.
    """

    def __init__(
        self, source: EventSource, name: str, ledger: Ledger, read: Read, taken: Callable[[Taken], None]
    ) -> None:
        self._source, self._name, self._ledger, self._read, self._taken = source, name, ledger, read, taken
        self._under_way: tuple[Portion, Future[None]] | None = None
        self._begun: queue.SimpleQueue[tuple[Portion, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._record_all, name="recording", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread that records."""
        self._thread.start()
        return self

    def poll(self) -> bool:
        """Poll once, and begin to record what came as soon as what came before is durable.

        Returns
        -------
        False if nothing is under way, and nothing came.

        Raises
        ------
        Exception
            What the source or the recording raised. A record that cannot be set aside at present is none:
            then all that is not recorded is read again.
        """
        records = self._source.poll(POLL_SECONDS if self._under_way is None else 0.0, POLL_LIMIT)
        portion = interpret(records, self._read)
        if not self._settle():
            return True
        if records:
            self._under_way = (portion, Future())
            self._begun.put(self._under_way)
        return bool(records)

    def _settle(self) -> bool:
        """Wait for what is under way, and commit it; False if it is to be read again."""
        if self._under_way is None:
            return True
        (portion, done), self._under_way = self._under_way, None
        try:
            done.result()
        except SourceAwayError as error:
            _log.warning("%s; what was read and not recorded is read again", error)
            self._source.seek(self._ledger.positions(self._name))
            return False
        self._source.commit(portion.positions)
        return True

    def _record_all(self) -> None:
        """Record portions as they come: the thread's main function."""
        while (begun := self._begun.get()) is not None:
            portion, done = begun
            try:
                taken = record_portion(portion, self._source, self._name, self._ledger)
                self._taken(taken)
            except BaseException as error:  # noqa: BLE001  handed to the thread that waits
                done.set_exception(error)
            else:
                done.set_result(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way; its error is raised, or logged if the block ends by another one."""
        try:
            if error is None:
                self._settle()
            elif self._under_way is not None and (another := self._under_way[1].exception()) is not None:
                _log.error("what was read last is not recorded: %s: %s", type(another).__name__, another)
        finally:
            self._begun.put(None)
            self._thread.join()
