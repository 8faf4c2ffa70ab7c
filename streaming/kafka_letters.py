"""Dead letters on a topic of their own: compacted, one key for each record, so that repeats are harmless.

The value is the original one. The key is ``PARTITION:OFFSET`` of the original; what else the original was
(its key, its time) is in headers beside its own. A letter that is done is a null value: compaction removes
its bytes, and nothing else ever does.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from kafka import KafkaConsumer, KafkaProducer, errors
from kafka.structs import TopicPartition

from ..engine.ledger_letters import Coordinates
from .dead_letters import Letter
from .kafka_connection import KafkaConnection, connect
from .kafka_topic import ensure_topic
from .source import Record, SourceAwayError, SourceError

HEADER = "recunlearn."
"""What the headers that say where a letter comes from begin with: topic, partition, offset, ..."""

_Message: TypeAlias = tuple[Coordinates, bytes | None, list[tuple[str, bytes]]]
"""Of which record, value, headers."""

_SEND_SECONDS = 30.0
_CLOSE_SECONDS = 5.0
_POLL_MS = 500


class KafkaLetters:
    """The dead-letter topic of a source: a :class:`~.dead_letters.LetterStore`.

    Parameters
    ----------
    topic : its name; it is made, compacted and with ``partitions`` partitions, if there is none.
    group : of the worker that sets records aside.
    """

    def __init__(self, connection: KafkaConnection, topic: str, group: str, partitions: int) -> None:
        self.topic, self._group, self._connection = topic, group, connection
        self._producer: Any = None
        self._partitions = ensure_topic(connection, topic, partitions)

    def put(self, letters: Sequence[tuple[Record, str]]) -> None:
        """Keep records, durably, each with why it is set aside.

        Raises
        ------
        SourceAwayError
            The brokers do not take one at present; all of them must then be read again.
        SourceError
            The topic does not take one.
        """
        self._send(self._message(record, reason) for record, reason in letters)

    def _message(self, record: Record, reason: str) -> _Message:
        topic, _, partition = record.partition.rpartition("-")
        about = {
            "topic": topic, "partition": partition, "offset": record.offset, "group": self._group,
            "timestamp": "" if record.timestamp_ms is None else record.timestamp_ms, "reason": reason,
        }  # fmt: skip
        headers = [(name, value) for name, value in record.headers.items()]
        headers += [(HEADER + name, str(value).encode()) for name, value in about.items()]
        if record.key is not None:
            headers.append((f"{HEADER}key", record.key))
        if record.value is None:
            headers.append((f"{HEADER}null", b"1"))
        if record.damage is not None:
            headers.append((f"{HEADER}damage", record.damage.encode()))
        return (record.partition, record.offset), record.value or b"", headers

    def _send(self, messages: Iterable[_Message]) -> None:
        """Send messages, and wait until the brokers have every one."""
        producer, at = self._open_producer(), ("", -1)
        try:
            sent = []
            for at, value, headers in messages:
                partition = int(at[0].rpartition("-")[2]) % self._partitions
                sent.append((at, producer.send(self.topic, value, _key(at), headers, partition)))
            for at, future in sent:  # noqa: B007  the error names it
                future.get(2 * _SEND_SECONDS)
        except errors.KafkaError as error:
            self.close()  # a producer that gave a message up may refuse the next one
            what = f"the dead-letter topic {self.topic} does not take {at[0]} {at[1]}: {type(error).__name__}"
            if error.retriable:
                raise SourceAwayError(what) from None
            raise SourceError(f"{what}; look at its max.message.bytes and the rights on it") from None

    def _open_producer(self) -> Any:
        if self._producer is None:
            self._producer = connect(
                KafkaProducer,
                self._connection,
                max_request_size=1 << 26,
                delivery_timeout_ms=int(_SEND_SECONDS * 1000),
                request_timeout_ms=int(_SEND_SECONDS * 500),
            )
        return self._producer

    def letters(self) -> Iterator[Letter]:
        """Yield the letters that are not done, one for each record."""
        last: dict[bytes, Any] = {}
        for message in self._messages():
            last[message.key] = message
        yield from (_letter(message) for message in last.values() if message.value is not None)

    def _messages(self) -> Iterator[Any]:
        consumer: Any = connect(
            KafkaConsumer, self._connection, group_id=None, enable_auto_commit=False,
            auto_offset_reset="earliest", allow_auto_create_topics=False,
        )  # fmt: skip
        try:
            partitions = [TopicPartition(self.topic, number) for number in range(self._partitions)]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            consumer.seek_to_beginning(*partitions)
            while any(consumer.position(one) < ends[one] for one in partitions):
                for messages in consumer.poll(_POLL_MS).values():
                    yield from messages
        finally:
            consumer.close()

    def discard(self, coordinates: Collection[Coordinates]) -> None:
        """Take letters off: their bytes go with the topic's next compaction."""
        self._send((at, None, []) for at in coordinates)

    def close(self) -> None:
        """Release the connection."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(errors.KafkaError):  # what it still has was given up
                producer.close(timeout=_CLOSE_SECONDS)


def _key(at: Coordinates) -> bytes:
    return f"{at[0]}:{at[1]}".encode()


def _letter(message: Any) -> Letter:
    headers: Mapping[str, bytes] = {name: value or b"" for name, value in message.headers}
    about = {name.removeprefix(HEADER): value for name, value in headers.items() if name.startswith(HEADER)}
    timestamp = about.get("timestamp", b"")
    record = Record(
        f"{about['topic'].decode()}-{about['partition'].decode()}",
        int(about["offset"]),
        None if "null" in about else message.value,
        about.get("key"),
        {name: value for name, value in headers.items() if not name.startswith(HEADER)},
        int(timestamp) if timestamp else None,
        about["damage"].decode() if "damage" in about else None,
    )
    return Letter(record, about["reason"].decode(), message.timestamp / 1000)
