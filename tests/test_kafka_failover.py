"""Leaders, brokers and topics that go while they are read: nothing is skipped, and what is lost is said."""

import functools
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition, errors
from recunlearn.streaming import kafka as kafka_source
from recunlearn.streaming.kafka_connection import connect
from recunlearn.streaming.source import SourceError

from .brokers.network import Network
from .faults import leader
from .topics import drained, new_topic, opened, produce

pytestmark = pytest.mark.xdist_group("kafka")


@pytest.fixture
def impatient(monkeypatch):
    """Give up on brokers that do not answer after a second, on topics that are not there after another."""
    monkeypatch.setattr(kafka_source, "connect", functools.partial(connect, seconds=1.0))
    monkeypatch.setattr(kafka_source, "_GONE_SECONDS", 1.0)


def read_and_commit(source, count, there, seconds=60):
    """Take ``count`` records as the worker does, of those that are ``there``, with an eye on the lag."""
    records = []
    deadline = time.monotonic() + seconds
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} records"
        polled = source.poll(0.2, 50)
        records += polled
        source.commit({one.partition: one.offset + 1 for one in polled})
        assert sum(source.lag().values()) <= there - len(records)
    return records


def test_reading_goes_on_when_the_leader_is_killed(killable_kafkas):
    """In each partition every offset comes once, in order; the lag never counts what was read."""
    cluster = killable_kafkas
    topic = new_topic(cluster.bootstrap_servers, 3, copies=3)
    produce(cluster.bootstrap_servers, topic, [b"%d" % number for number in range(300)])
    with Network(cluster.routes):
        source = opened(cluster.servers("NETWORK"), topic)
        records = read_and_commit(source, 150, 300)
        assert 0 < sum(source.lag().values()) <= 150
        killed = leader(cluster, topic)
        cluster.kill_node(killed)
        produce(cluster.bootstrap_servers, topic, [b"%d" % number for number in range(300, 360)])
        left = 360 - len(records)
        records += read_and_commit(source, left, left)
        assert leader(cluster, topic) != killed
        cluster.start_node(killed)
        for partition in range(3):
            name = f"{topic}-{partition}"
            assert [one.offset for one in records if one.partition == name] == list(range(120))
            assert source.lag()[name] == 0
        source.close()
        cluster.wait_for_node(killed)


def test_brokers_that_are_all_out_of_reach_are_waited_for(killable_kafkas, impatient, caplog):
    """Not at the start, where an address may be wrong; afterwards, however long it takes."""
    cluster = killable_kafkas
    topic = new_topic(cluster.bootstrap_servers, copies=3)
    produce(cluster.bootstrap_servers, topic, [b"1"])
    with Network(cluster.routes) as network:
        source = opened(cluster.servers("NETWORK"), topic, instance="the-state")
        assert [one.value for one in drained(source)] == [b"1"]
        source.commit({f"{topic}-0": 1})
        network.cut()
        source._close_consumer()
        assert [source.poll(0.1, 10) for _ in range(3)] == [[]] * 3
        assert "no Kafka broker answered" in caplog.text
        produce(cluster.bootstrap_servers, topic, [b"2"])
        network.heal()
        assert [one.value for one in read_and_commit(source, 1, 1)] == [b"2"]
        source.close()


def test_a_topic_that_is_deleted_while_it_is_read_is_an_error(kafka, impatient):
    """Reading does not make it anew, and the error says how many of its records were not read."""
    servers = kafka.bootstrap_servers
    topic = new_topic(servers, 2)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    source = opened(servers, topic)
    assert len(drained(source)) == 20
    source.commit({f"{topic}-0": 10, f"{topic}-1": 7})
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.delete_topics([topic])
    with pytest.raises(SourceError, match=rf"{topic} was deleted while it was read; 3 of its records"):
        drained(source)
    source.close()
    assert topic not in admin.list_topics()
    admin.close()


def test_records_that_the_retention_time_removed_are_an_error(kafka):
    """The broker's own cleaner took them while nobody read: how many, and which, is said."""
    servers = kafka.bootstrap_servers
    topic = new_topic(servers, **{"retention.ms": "500"})
    produce(servers, topic, [b"%d" % number for number in range(20)])
    deadline = time.monotonic() + 60
    while beginning(servers, TopicPartition(topic, 0)) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    source = opened(servers, topic, {f"{topic}-0": 5})
    with pytest.raises(SourceError, match=rf"{topic}-0: 15 records, offsets 5 to 19"):
        drained(source)
    source.close()


def test_what_cannot_be_looked_into_at_present_is_looked_into_again(kafka, monkeypatch):
    """Brokers go while it is asked what was lost: nothing is skipped by that, and the loss is told later."""
    servers = kafka.bootstrap_servers
    topic = new_topic(servers)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.delete_records({TopicPartition(topic, 0): 15})
    admin.close()
    asked = []
    ask = KafkaConsumer.beginning_offsets

    def no_answer_at_first(consumer, partitions):
        asked.append(partitions)
        if len(asked) == 1:
            raise errors.KafkaTimeoutError
        return ask(consumer, partitions)

    monkeypatch.setattr(KafkaConsumer, "beginning_offsets", no_answer_at_first)
    source = opened(servers, topic, {f"{topic}-0": 5}, instance="the-state")
    with pytest.raises(SourceError, match=rf"{topic}-0: 10 records, offsets 5 to 14"):
        drained(source)
    assert len(asked) == 2
    source.close()


def beginning(servers, partition):
    """Return the first offset that is left."""
    consumer = KafkaConsumer(bootstrap_servers=servers)
    try:
        return consumer.beginning_offsets([partition])[partition]
    finally:
        consumer.close()
