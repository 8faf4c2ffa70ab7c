"""The Kafka source: a consumer group's member that loses no deletion, and says so where the broker did.

Where it reads on is what the ledger says, never what the group's offsets say: they follow, so that lag can
be watched. Nothing resets a position silently: kafka-python's own reset policy is off.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from kafka import KafkaConsumer, errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata

from .kafka_connection import KafkaConnection, connect
from .kafka_damage import damaged_records, partition_name
from .kafka_letters import KafkaLetters
from .kafka_topic import NoTopicError, describe_topic
from .source import Record, SourceAwayError, SourceError

SAFE_OPTIONS: Mapping[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metadata_max_age_ms": 5_000,  # so soon it is seen that a topic was deleted and made anew
    "max_partition_fetch_bytes": 4 << 20,
    "metrics_enabled": False,
}
"""What every consumer of this package is made with, whatever else is set."""

LOST = "deleted by the broker before it was read"
"""Why an expired record is set aside."""

_NO_HEADERS: Mapping[str, bytes] = {}
_CLOSE_MS = 5000
_BACKOFF_SECONDS = 1.0
_CLAIM_SECONDS, _CLAIM_SECONDS_AT_MOST = 1.0, 60.0
_GONE_SECONDS = 10.0  # a broker that just came back may not know a topic yet
_FATAL = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.FencedInstanceIdError,
    errors.InconsistentGroupProtocolError,
    errors.UnsupportedVersionError,
)
_TRUNCATED: type[Exception] = errors.LogTruncationError  # pyright: ignore[reportAttributeAccessIssue]  old stubs
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """What to read, and how.

    Attributes
    ----------
    topic, group : the topic of deletions, and the consumer group of this state alone.
    instance : a name for this member that survives restarts (static membership): a restarted worker, or the
        one that takes over, has its partitions at once; None: a new member each time.
    dead_letter_topic : None: ``TOPIC.dead-letters``.
    on_lost : ``"stop"`` where the broker deleted records before they were read, or ``"continue"`` after
        each is counted as a dead letter.
    session_timeout, max_poll_interval : seconds; how soon a member that is dead, or stuck, is given up.
    """

    connection: KafkaConnection
    topic: str
    group: str
    instance: str | None = None
    dead_letter_topic: str | None = None
    on_lost: str = "stop"
    session_timeout: float = 45.0
    max_poll_interval: float = 300.0


def letters_of(settings: KafkaSettings) -> KafkaLetters:
    """Open the dead letters of a topic, for who reads them again.

    Raises
    ------
    SourceError
        As :class:`KafkaSource`.
    """
    return _letters(settings, describe_topic(settings.connection, settings.topic).partitions)


def _letters(settings: KafkaSettings, partitions: int) -> KafkaLetters:
    topic = settings.dead_letter_topic or f"{settings.topic}.dead-letters"
    return KafkaLetters(settings.connection, topic, settings.group, partitions)


class KafkaSource:
    """Reads a topic as an :class:`~.source.EventSource`; for one thread.

    Raises
    ------
    SourceError
        Brokers cannot be reached, refuse the credentials, or have no such topic.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings, self._topic = settings, settings.topic
        topic = describe_topic(settings.connection, settings.topic)
        self._topic_id = topic.id
        self.identity: str | None = f"cluster {topic.cluster_id}, topic {topic.id}"
        self._letters = _letters(settings, topic.partitions)
        self._positions: dict[int, int] = {}
        self._aside: Iterator[Record] = iter(())
        self._consumer: Any = None
        self._error: Exception | None = None
        self._opened_at, self._was_open = 0.0, False
        self._ends: dict[int, int] = {}
        self._known_at = 0.0
        self._claim_at, self._claim_wait = 0.0, _CLAIM_SECONDS

    # --- reading ------------------------------------------------------------------------------------

    def poll(self, timeout: float, limit: int) -> Sequence[Record]:
        """Return up to ``limit`` records after the last ones returned, waiting up to ``timeout`` seconds.

        An error of the client's is looked into at the next call: by then what was returned before it is
        committed, so that a position is moved on, or back, from there.

        Raises
        ------
        SourceError
            The topic was deleted or made anew, records expired unread, or access was withdrawn.
        """
        if self._error is not None:
            error, self._error = self._error, None
            self._recover(error)
            return []
        aside = list(islice(self._aside, limit))
        if aside:
            return aside
        if not self._is_open(timeout):
            return []
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=limit)
        except Exception as error:  # noqa: BLE001  what the client may raise is not a closed list
            self._error = error
            return []
        self._refuse_another_topic()
        self._look_for_partitions()
        return [
            record for one, messages in polled.items() for record in _records(partition_name(one), messages)
        ]

    def seek(self, positions: Mapping[str, int]) -> None:
        """Continue from ``positions``, also in partitions that are assigned later; others from the start."""
        self._aside = iter(())  # found again, where it is still ahead
        if self._error is not None:  # it is about what comes later; and this client may spin in its next poll
            self._error = None
            self._close_consumer()
        self._positions = {_number(name): offset for name, offset in positions.items()}
        if self._consumer is not None:
            for partition in self._consumer.assignment():
                self._place(partition)

    def is_exhausted(self) -> bool:
        """Tell whether every partition was read to its end; False while one is not this member's."""
        if self._consumer is None or self._error is not None:
            return False
        assigned = list(self._consumer.assignment())
        if len(assigned) < len(self._known_partitions()) or not assigned:
            return False
        try:
            ends = self._consumer.end_offsets(assigned)
            return all(self._consumer.position(one, timeout_ms=5000) >= ends[one] for one in assigned)
        except (errors.KafkaError, TypeError, AssertionError):
            return False  # assigned anew, or no broker: not known now

    def commit(self, positions: Mapping[str, int]) -> None:
        """Tell the group how far the ledger is, for partitions that are held: partition -> next offset.

        That a broker may not take it is no matter: the ledger has it.
        """
        self._positions.update({_number(name): offset for name, offset in positions.items()})
        if self._consumer is not None and positions:
            offsets = self._held(self._consumer, map(_number, positions))
            self._consumer.commit_async(offsets, callback=_committed)

    def _held(self, consumer: Any, numbers: Iterable[int]) -> dict[Any, Any]:
        """Return the offsets of those of the partitions that ``consumer`` has: partition -> next offset."""
        chosen = set(numbers) & self._positions.keys()
        return {
            one: OffsetAndMetadata(self._positions[one.partition], "", -1)
            for one in consumer.assignment()
            if one.partition in chosen
        }

    def dead_letters(self, letters: Sequence[tuple[Record, str]]) -> None:
        """Set records aside on the dead-letter topic, with their original bytes, durably."""
        self._letters.put(letters)

    @property
    def letters(self) -> KafkaLetters:
        """The dead letters of this source."""
        return self._letters

    def lag(self) -> dict[str, int]:
        """Return partition -> how many records wait on the broker, as far as fetches told.

        Of a partition that is not held at the moment too: what waits there waits for this state.
        """
        return {
            f"{self._topic}-{number}": max(0, end - self._positions.get(number, 0))
            for number, end in sorted(self._ends.items())
        }

    def _note_ends(self) -> None:
        if self._consumer is not None:
            for one in self._consumer.assignment():
                if (end := self._consumer.highwater(one)) is not None:
                    self._ends[one.partition] = end

    def close(self) -> None:
        """Commit what is held, leave, and release everything, within some seconds."""
        self._close_consumer()
        self._letters.close()

    # --- the consumer's life ------------------------------------------------------------------------

    def _is_open(self, timeout: float) -> bool:
        """Have a consumer, or wait and say no: brokers that are gone come back."""
        if self._consumer is not None:
            return True
        wait = self._opened_at + _BACKOFF_SECONDS - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, timeout))
            return False
        self._opened_at = time.monotonic()
        try:
            self._consumer = self._open()
        except SourceAwayError as error:
            if not self._was_open:
                raise
            _log.warning("%s", error)
            return False
        self._was_open = True
        return True

    def _open(self) -> Any:
        settings = self._settings
        session = int(settings.session_timeout * 1000)
        consumer: Any = connect(
            KafkaConsumer,
            settings.connection,
            group_id=settings.group,
            group_instance_id=settings.instance,
            session_timeout_ms=session,
            heartbeat_interval_ms=min(3000, session // 4),
            max_poll_interval_ms=int(settings.max_poll_interval * 1000),
            **SAFE_OPTIONS,
        )
        consumer.subscribe([self._topic], listener=_Placing(self._place_all))
        return consumer

    def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            if offsets := self._held(consumer, self._positions):
                consumer.commit(offsets, timeout_ms=_CLOSE_MS)
        except errors.KafkaError as error:
            _log.warning("the group's offsets stay behind the ledger's: %s", type(error).__name__)
        with suppress(errors.KafkaError):  # it has let go of what it had
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)

    def _place_all(self, assigned: Iterable[Any]) -> None:
        """Put newly assigned partitions where the ledger is; on the client's own thread: no waiting."""
        assigned = list(assigned)
        for partition in assigned:
            self._place(partition)
        _log.info("reading partitions %s of %s", sorted(one.partition for one in assigned), self._topic)

    def _known_partitions(self) -> Collection[int]:
        """Return the topic's partitions as far as the client knows; asking it by its public way may wait."""
        return self._consumer._cluster.partitions_for_topic(self._topic) or ()

    def _look_for_partitions(self) -> None:
        """See to it that every partition is this member's; a topic that is gone has none."""
        known, held = self._known_partitions(), self._consumer.assignment()
        now = time.monotonic()
        self._note_ends()
        if known or not self._known_at:
            self._known_at = now
        elif now - self._known_at > _GONE_SECONDS:
            self._known_at = now
            self._refuse_no_topic()
        if len(held) >= len(known):
            self._claim_at, self._claim_wait = now + _CLAIM_SECONDS, _CLAIM_SECONDS
        elif now >= self._claim_at:
            self._claim_missing(len(known) - len(held), len(known))

    def _refuse_no_topic(self) -> None:
        try:
            describe_topic(self._settings.connection, self._topic)
        except NoTopicError:
            unread = sum(self.lag().values())
            raise SourceError(
                f"topic {self._topic} was deleted while it was read; {unread:,} of its records, or more, "
                "were not read: have the deletions among them sent again"
            ) from None
        except SourceAwayError as error:
            _log.warning("%s", error)

    def _claim_missing(self, missing: int, known: int) -> None:
        """Join again, ever more rarely, while partitions of the topic are not this member's.

        A static member that comes back gets the assignment it had, although the topic grew meanwhile; one
        that joins before its client knows the topic gets none, and kafka-python 3.0.12 leaves it at that.
        """
        if self._claim_wait > _CLAIM_SECONDS and missing == known:
            _log.warning(
                "no partition of %s is this worker's yet: group %s is being formed, or has other members",
                self._topic, self._settings.group,
            )  # fmt: skip
        elif self._claim_wait > _CLAIM_SECONDS:  # asking once was not enough
            _log.error(
                "%d of %d partitions of %s are another member's of group %s: what they hold does not reach "
                "this state; give each state a group of its own",
                missing, known, self._topic, self._settings.group,
            )  # fmt: skip
        self._claim_wait = min(2 * self._claim_wait, _CLAIM_SECONDS_AT_MOST)
        self._claim_at = time.monotonic() + self._claim_wait
        self._consumer._coordinator.request_rejoin()  # there is no public way

    def _place(self, partition: Any) -> None:
        position = self._positions.get(partition.partition)
        if position is None:
            self._consumer.seek_to_beginning(partition)
        else:
            self._consumer.seek(partition, position)

    # --- what goes wrong ----------------------------------------------------------------------------

    def _recover(self, error: Exception) -> None:
        """Go on after an error of the client's where nothing is lost by it; raise where something is."""
        try:
            self._go_on_after(error)
        except (SourceAwayError, errors.KafkaError, AssertionError) as another:
            # While it was looked into. A new consumer meets the first error again, if it is still there.
            _log.warning("reading %s again: %s", self._topic, type(another).__name__)
            self._close_consumer()

    def _go_on_after(self, error: Exception) -> None:
        if isinstance(error, errors.OffsetOutOfRangeError):
            self._refuse_another_topic()
            for partition, offset in error.args[0].items():
                self._out_of_range(partition, offset)
        elif isinstance(error, _TRUNCATED):
            self._read_from_start(_partitions_of(error) or self._consumer.assignment())
        elif isinstance(error, _FATAL):
            raise SourceError(f"{self._topic} cannot be read any more: {type(error).__name__}") from error
        elif isinstance(error, errors.UnsupportedCodecError):
            raise SourceError(f"{self._topic} is compressed: {error}; install that library") from error
        elif isinstance(error, errors.CorruptRecordError) or not isinstance(error, errors.KafkaError):
            self._set_damaged_aside(error)
        else:
            _log.warning("reading %s again: %s", self._topic, type(error).__name__)
            self._close_consumer()

    def _out_of_range(self, partition: Any, offset: int) -> None:
        start = self._consumer.beginning_offsets([partition])[partition]
        if offset > start:
            self._read_from_start([partition])
            return
        lost, name = range(offset, start), partition_name(partition)
        what = (
            f"{name}: {len(lost):,} records, offsets {offset} to {start - 1}, were {LOST}; "
            "deletions among them are not carried out"
        )
        if self._settings.on_lost != "continue":
            raise SourceError(
                f"{what}. Have them sent again, then go on with --on-lost continue, "
                "which counts each as a dead letter"
            )
        _log.error("%s", what)
        self._aside = chain(self._aside, _without_bytes(name, lost, LOST))
        self._positions[partition.partition] = start
        self._consumer.seek(partition, start)

    def _read_from_start(self, partitions: Iterable[Any]) -> None:
        """Read all of a log that an unclean election cut back; repetitions are told by their ids."""
        for partition in partitions:
            _log.error("%s was cut back by its brokers: reading all of it again", partition_name(partition))
            self._positions.pop(partition.partition, None)
            self._consumer.seek_to_beginning(partition)

    def _set_damaged_aside(self, error: Exception) -> None:
        """Find the records that cannot be read, and go on after them, with a new consumer.

        After an error inside its fetcher kafka-python 3.0.12 may spin in the next poll.
        """
        places = {one: self._consumer.position(one, timeout_ms=5000) for one in self._consumer.assignment()}
        self._close_consumer()
        for partition, position in places.items():
            found = damaged_records(self._settings.connection, SAFE_OPTIONS, partition, position)
            if found:
                _log.error("%s %d: %d records are damaged", partition_name(partition), position, len(found))
                self._aside = chain(self._aside, found)
                self._positions[partition.partition] = found[-1].offset + 1
        _log.warning("reading %s again: %s", self._topic, type(error).__name__)

    def _refuse_another_topic(self) -> None:
        """Positions mean nothing in a topic that was deleted and made anew under the same name."""
        found = self._consumer._cluster.topic_id(self._topic)  # no public way to it without a request
        if found is not None and found.int and str(found) != self._topic_id:
            raise SourceError(
                f"topic {self._topic} was deleted and made anew while it was read: its id is {found}, "
                f"was {self._topic_id}; see docs/howto/kafka.md"
            )


class _Placing(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is not typed
    def __init__(self, place: Callable[[Iterable[Any]], None]) -> None:
        self._place = place

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._place(assigned)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        if revoked:
            _log.info("partitions go: %s", sorted(one.partition for one in revoked))


def instance_of(secret: bytes) -> str:
    """Name a state's member of its group, and the group unless another is named.

    Of one state there is one worker, and no other state may share its group: each would have a part of the
    deletions. So the name is made from what only this state has, a secret that it does not give away.

    Examples
    --------
    >>> instance_of(b"a secret key")
    'recunlearn-a93ee473f2c58649'
    """
    return f"recunlearn-{hashlib.sha256(b'consumer group' + secret).hexdigest()[:16]}"


def _records(partition: str, messages: Iterable[Any]) -> Iterator[Record]:
    for message in messages:
        headers = {name: value or b"" for name, value in message.headers} if message.headers else _NO_HEADERS
        yield Record(partition, message.offset, message.value, message.key, headers, message.timestamp)


def _without_bytes(name: str, offsets: range, damage: str) -> Iterator[Record]:
    return (Record(name, offset, None, damage=damage) for offset in offsets)


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _partitions_of(error: Exception) -> list[Any]:
    found = getattr(error, "divergent_offsets", None) or (error.args[0] if error.args else None)
    return list(found) if isinstance(found, Mapping) else []


def _committed(offsets: Any, response: Any) -> None:
    if isinstance(response, Exception):
        _log.warning("the group's offsets stay behind the ledger's: %s", type(response).__name__)
