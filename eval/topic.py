"""The demo's deletions on a topic of Kafka's, as a platform would send them."""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaAdminClient, KafkaProducer, errors
from kafka.admin import NewTopic

from ..engine.requests import ExternalId
from .broker import BrokerError, local_broker
from .outcome import Asked

_PARTITIONS = 3
_CONNECT_MS = 10_000
_SEND_SECONDS = 30.0
_SESSION_SECONDS = 6  # Kafka's own least; Tansu holds a new member back for half of it, and 3 s more


class TopicChannel:
    """Asks by simple JSON events, keyed by user; the worker is the one member of a group.

    Parameters
    ----------
    servers : brokers in plain text, ``HOST:PORT[,HOST:PORT...]``.
    topic : is there, empty.
    """

    def __init__(self, servers: str, topic: str) -> None:
        self._topic = topic
        self.worker_options: Sequence[str] = (
            "--source", "kafka", "--bootstrap-servers", servers, "--topic", topic,
            "--session-timeout", str(_SESSION_SECONDS),
        )  # fmt: skip
        self.listening = f"reading partitions {list(range(_PARTITIONS))} of {topic}"
        self._producer: Any = KafkaProducer(bootstrap_servers=servers.split(","))

    def ask(self, asked: Asked) -> None:
        """Send an event for each request; every replica has them when this returns.

        Raises
        ------
        BrokerError
            The topic did not take one of them.
        """
        pairs = zip(asked.pair_users, asked.pair_items, strict=True)
        try:
            sent = [self._send("account.deleted", user) for user in asked.accounts]
            sent += [self._send("interaction.removed", user, item_id=item) for user, item in pairs]
            for one in sent:
                one.get(_SEND_SECONDS)
        except errors.KafkaError as error:
            raise BrokerError(
                f"the topic {self._topic} does not take events: {type(error).__name__}; what was sent before "
                "is on it: begin again, with a broker that keeps running and takes events of 1 MB"
            ) from None

    def _send(self, kind: str, user: ExternalId, **more: ExternalId) -> Any:
        event = {
            "id": str(uuid.uuid4()), "type": kind, "user_id": user, **more,
            "time": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        return self._producer.send(self._topic, msgspec.json.encode(event), str(user).encode())

    def close(self) -> None:
        """Release the connection."""
        with contextlib.suppress(errors.KafkaError):
            self._producer.close(timeout=5)


@contextlib.contextmanager
def open_topic(servers: str | None, folder: Path) -> Iterator[TopicChannel]:
    """Make a topic for one demo; it is deleted at the end, with its dead letters.

    Parameters
    ----------
    servers : brokers in plain text; None: one is started, and killed at the end.
    folder : for what the broker writes.

    Raises
    ------
    BrokerError
        There is no broker to be started, none answers, or the topic cannot be made.
    """
    with contextlib.ExitStack() as stack:
        servers = servers or stack.enter_context(local_broker(folder))
        admin = stack.enter_context(contextlib.closing(_admin(servers)))
        topic = f"recunlearn-demo-{uuid.uuid4().hex[:8]}"
        try:
            admin.create_topics([NewTopic(topic, _PARTITIONS, -1)], wait_for_metadata=True)
        except errors.KafkaError as error:
            raise BrokerError(
                f"{servers}: the topic {topic} cannot be made: {type(error).__name__}"
            ) from None
        stack.callback(_delete, admin, [topic, f"{topic}.dead-letters"])
        yield stack.enter_context(contextlib.closing(TopicChannel(servers, topic)))


def _admin(servers: str) -> Any:
    options: dict[str, Any] = {"bootstrap_servers": servers.split(","), "bootstrap_timeout_ms": _CONNECT_MS}
    try:
        return KafkaAdminClient(**options)
    except (errors.KafkaError, ValueError) as error:
        raise BrokerError(
            f"no Kafka broker answered at {servers} in plain text ({type(error).__name__}); "
            "is it running, and is that its address? Without --bootstrap-servers one is started"
        ) from None


def _delete(admin: Any, topics: Sequence[str]) -> None:
    for topic in topics:
        with contextlib.suppress(errors.KafkaError):
            admin.delete_topics([topic])
