"""Records that a client cannot read: a wrong checksum, a batch that does not decode. Found one by one."""

from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer

from .kafka_connection import KafkaConnection, connect
from .source import Record

DAMAGED = "its checksum is wrong, or its batch cannot be decoded"
"""Why a damaged record is set aside."""

_READ_MS = 5000


def damaged_records(
    connection: KafkaConnection, safe_options: Mapping[str, Any], partition: Any, position: int
) -> list[Record]:
    """Return the records from ``position`` up to the first that can be read; none if that one can.

    A batch has one checksum, so its records fall together. Their bytes are kept as far as they decode
    without it.

    Notes
    -----
    One fetch for each offset, in a client of its own, outside of the group.
    """
    consumer: Any = connect(KafkaConsumer, connection, **safe_options)
    try:
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        first = position
        while position < end and not _is_readable(consumer, partition, position):
            position += 1
    finally:
        consumer.close()
    if position == first:
        return []
    found = _unchecked(connection, safe_options, partition, first, position)
    name = partition_name(partition)
    return [found.get(at, Record(name, at, None, damage=DAMAGED)) for at in range(first, position)]


def partition_name(one: Any) -> str:
    """Name the partition that a message, or kafka-python's own partition, is of."""
    return f"{one.topic}-{one.partition}"


def _is_readable(consumer: Any, partition: Any, position: int) -> bool:
    consumer.seek(partition, position)
    try:
        consumer.poll(timeout_ms=_READ_MS, max_records=1)
    except Exception:  # noqa: BLE001  whatever it is, the record is the reason
        return False
    return True


def _unchecked(
    connection: KafkaConnection, safe_options: Mapping[str, Any], partition: Any, first: int, end: int
) -> dict[int, Record]:
    """Read [first, end) without looking at checksums, as far as that goes: offset -> record."""
    found: dict[int, Record] = {}
    consumer: Any = connect(KafkaConsumer, connection, check_crcs=False, **safe_options)
    try:
        consumer.assign([partition])
        consumer.seek(partition, first)
        for message in consumer.poll(timeout_ms=_READ_MS, max_records=end - first).get(partition, ()):
            if message.offset < end:
                found[message.offset] = Record(
                    partition_name(message), message.offset, message.value, message.key,
                    timestamp_ms=message.timestamp, damage=DAMAGED,
                )  # fmt: skip
    except Exception:  # noqa: BLE001  the batch does not decode: there are no bytes to keep
        return found
    finally:
        consumer.close()
    return found
