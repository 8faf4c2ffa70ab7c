"""What a topic is at the brokers: which one, of which cluster, with how many partitions; made if need be."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, errors
from kafka.admin import NewTopic

from .kafka_connection import KafkaConnection, connect
from .source import SourceAwayError, SourceError

_KNOWN_SECONDS = 10.0
_log = logging.getLogger(__name__)


class NoTopicError(SourceError):
    """The brokers have no such topic."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the brokers describe it: ids of the cluster and of itself, number of partitions."""

    cluster_id: str
    id: str
    partitions: int


def describe_topic(connection: KafkaConnection, name: str) -> Topic:
    """Ask the brokers for a topic; asking makes none.

    Raises
    ------
    NoTopicError
        There is no such topic.
    SourceAwayError
        No broker answers at present.
    SourceError
        The brokers refuse to describe it.
    """
    with _administrator(connection, name) as admin:
        (found,) = admin.describe_topics([name])
        cluster = admin.describe_cluster()["cluster_id"]
    if found["error_code"] or not found["partitions"]:
        why = errors.for_code(found["error_code"]).__name__
        raise NoTopicError(
            f"{connection.bootstrap_servers} has no topic {name} ({why}); "
            "make it, or name another with --topic"
        )
    return Topic(cluster, str(found["topic_id"]), len(found["partitions"]))


def ensure_topic(connection: KafkaConnection, name: str, partitions: int) -> int:
    """Make a compacted topic that expires nothing, if there is none; returns how many partitions it has.

    Raises
    ------
    SourceAwayError
        No broker answers at present.
    SourceError
        It is not there and cannot be made.
    """
    with _administrator(connection, name) as admin:
        (found,) = admin.describe_topics([name])
        if found["partitions"]:
            return len(found["partitions"])
        configs = {"cleanup.policy": "compact", "retention.ms": "-1", "min.compaction.lag.ms": "0"}
        topic = NewTopic(name, partitions, -1, topic_configs=configs)
        try:
            admin.create_topics([topic], wait_for_metadata=True)
        except errors.TopicAlreadyExistsError:  # another process has just made it
            return _partitions_of(admin, name)
        except errors.KafkaError as error:
            raise SourceError(
                f"there is no topic {name}, and it cannot be made ({type(error).__name__}); "
                f"make it with {partitions} partitions and cleanup.policy=compact, "
                "or name another"
            ) from None
    _log.info("made the topic %s with %d partitions", name, partitions)
    return partitions


def _partitions_of(admin: Any, name: str) -> int:
    """Ask for a topic that is there, until every broker knows it."""
    deadline = time.monotonic() + _KNOWN_SECONDS
    while True:
        (found,) = admin.describe_topics([name])
        if found["partitions"]:
            return len(found["partitions"])
        if time.monotonic() > deadline:
            raise SourceAwayError(f"topic {name} is there, and the brokers do not say what it is; try again")
        time.sleep(0.1)


@contextmanager
def _administrator(connection: KafkaConnection, name: str) -> Iterator[Any]:
    """Ask about a topic; what goes wrong is one of our errors."""
    admin: Any = connect(KafkaAdminClient, connection)
    try:
        yield admin
    except errors.KafkaError as error:
        kind = SourceAwayError if error.retriable else SourceError
        raise kind(f"topic {name} cannot be described: {type(error).__name__}") from None
    finally:
        admin.close()
