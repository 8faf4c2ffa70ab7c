"""What a topic is at the brokers: which one, of which cluster, with how many partitions."""

from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, errors

from .kafka_connection import KafkaConnection, connect
from .source import SourceAwayError, SourceError


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
    admin: Any = connect(KafkaAdminClient, connection)
    try:
        (found,) = admin.describe_topics([name])
        cluster = admin.describe_cluster()["cluster_id"]
    except errors.KafkaError as error:
        kind = SourceAwayError if error.retriable else SourceError
        raise kind(f"topic {name} cannot be described: {type(error).__name__}") from None
    finally:
        admin.close()
    if found["error_code"] or not found["partitions"]:
        why = errors.for_code(found["error_code"]).__name__
        raise NoTopicError(
            f"{connection.bootstrap_servers} has no topic {name} ({why}); "
            "make it, or name another with --topic"
        )
    return Topic(cluster, str(found["topic_id"]), len(found["partitions"]))
