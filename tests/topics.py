"""Topics on real brokers for the tests: made, filled, read back, waited for."""

import itertools
import json
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from recunlearn.streaming.kafka import KafkaSettings, KafkaSource
from recunlearn.streaming.kafka_connection import KafkaConnection

_numbers = itertools.count()


def account(request_id, user):
    """Make an account deletion's bytes."""
    return json.dumps({"id": request_id, "type": "account.deleted", "user_id": user}).encode()


def new_topic(servers, partitions=1, copies=1, **configs):
    """Make a topic with a name of its own; returns the name."""
    name = f"deletions-{next(_numbers)}"
    make_topic(servers, name, partitions, copies, **configs)
    return name


def make_topic(servers, name, partitions=1, copies=1, **configs):
    """Make a topic."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        topic = NewTopic(name, partitions, copies, topic_configs=configs)
        admin.create_topics([topic], wait_for_metadata=True)
    finally:
        admin.close()


def produce(servers, topic, values, partition=None, **options):
    """Send values, durably; to one partition, or to each in turn."""
    producer = KafkaProducer(bootstrap_servers=servers, **options)
    try:
        count = len(producer.partitions_for(topic))
        for number, value in enumerate(values):
            producer.send(topic, value, partition=number % count if partition is None else partition)
        producer.flush(30)
    finally:
        producer.close()


def everything_in(servers, topic):
    """Read a whole topic back."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    messages = []
    try:
        while True:
            polled = [one for batch in consumer.poll(500).values() for one in batch]
            messages += polled
            assigned = consumer.assignment()
            ends = consumer.end_offsets(list(assigned)) if assigned else {}
            if assigned and all(consumer.position(one) >= ends[one] for one in assigned):
                return messages
    finally:
        consumer.close()


def members(servers, group):
    """Return the ids of a consumer group's members."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        return [member["member_id"] for member in admin.describe_groups([group])[group]["members"]]
    finally:
        admin.close()


def wait_until(holds, seconds=60):
    """Wait for what reads or writes elsewhere: a worker, a broker."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.01)


def settings(servers, topic, group=None, **options):
    """Say what a source reads, in plain text; in a group named like the topic."""
    return KafkaSettings(KafkaConnection(servers), topic, group or topic, **options)


def opened(servers, topic, positions=None, **options):
    """Open a source at the given positions."""
    source = KafkaSource(settings(servers, topic, **options))
    source.seek(positions or {})
    return source


def drained(source, seconds=30.0):
    """Poll until there is nothing more."""
    records = []
    for _ in range(int(seconds / 0.2)):
        polled = source.poll(0.2, 1000)
        records += polled
        if not polled and source.is_exhausted():
            return records
    raise AssertionError(f"not exhausted after {seconds} s; {len(records)} records")
