"""Announcements and receipts on topics: the outbox's sink for Kafka."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer, errors

from .kafka_connection import KafkaConnection, connect
from .kafka_topic import ensure_topic
from .outbox import RECEIPTS, VERSIONS, Message
from .source import SourceError

_SEND_SECONDS = 30.0
_HEADERS = {
    VERSIONS: [("content-type", b"application/json")],
    RECEIPTS: [("content-type", b"application/vnd.dsse.envelope.v1+json")],
}


class KafkaSink:
    """Sends messages with acknowledgement of all replicas: an :class:`~.outbox.Sink`.

    Parameters
    ----------
    topics : stream -> topic. One that is not there is made with a single partition, compacted: of each key
        the newest message stays.

    Raises
    ------
    SourceError
        No broker answers, credentials are refused, or a topic is not there and cannot be made.
    """

    def __init__(self, connection: KafkaConnection, topics: Mapping[str, str]) -> None:
        self._topics = dict(topics)
        self.streams = frozenset(topics)
        self.name = "kafka:" + ",".join(f"{stream}={topic}" for stream, topic in sorted(topics.items()))
        for topic in topics.values():
            ensure_topic(connection, topic, 1)
        self._producer: Any = connect(
            KafkaProducer,
            connection,
            delivery_timeout_ms=int(_SEND_SECONDS * 1000),
            request_timeout_ms=int(_SEND_SECONDS * 500),
        )

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages in order; every replica that is in sync has them when this returns.

        Raises
        ------
        SourceError
            A topic does not take one; those before it may have been taken.
        """
        try:
            sent = [
                self._producer.send(self._topics[one.stream], one.value, one.key, _HEADERS[one.stream])
                for one in messages
            ]
            for future in sent:
                future.get(_SEND_SECONDS)
        except errors.KafkaError as error:
            raise SourceError(
                f"{' and '.join(self._topics.values())} take no messages: {type(error).__name__}; "
                "they are sent again until they do"
            ) from None

    def close(self) -> None:
        """Release the connection."""
        with contextlib.suppress(errors.KafkaError):
            self._producer.close(timeout=5)
