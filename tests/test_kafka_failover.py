"""Leaders, brokers and topics that go while they are read: nothing is skipped, and what is lost is said."""

import functools
import gc
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition, errors
from kafka.admin import NewTopic
from recunlearn.streaming import kafka as kafka_source
from recunlearn.streaming import kafka_letters
from recunlearn.streaming.kafka import KafkaSource
from recunlearn.streaming.kafka_connection import KafkaConnection, connect
from recunlearn.streaming.kafka_topic import describe_topic, ensure_topic
from recunlearn.streaming.source import Record, SourceAwayError, SourceError

from .brokers.network import Network
from .faults import leader
from .topics import drained, new_topic, opened, produce, settings, wait_until

pytestmark = [
    pytest.mark.xdist_group("kafka"),
    # kafka-python does not close a connection that is cut off; no other test may leave one behind.
    pytest.mark.filterwarnings(r"ignore:unclosed <socket\.socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _collected():
    """Let go, within the test, of connections that nobody closed."""
    yield
    gc.collect()


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
        network.cut()
        with pytest.raises(SourceAwayError, match="no Kafka broker answered"):
            source.poll(0.1, 10)
        network.heal()
        assert [one.value for one in drained(source)] == [b"1"]
        source.commit({f"{topic}-0": 1})
        network.cut()
        source._close_consumer()
        polled = []
        wait_until(lambda: polled.append(source.poll(0.1, 10)) or "no Kafka broker answered" in caplog.text)
        assert polled == [[]] * len(polled)
        produce(cluster.bootstrap_servers, topic, [b"2"])
        network.heal()
        assert [one.value for one in read_and_commit(source, 1, 1)] == [b"2"]
        source.close()


def test_a_record_that_cannot_be_set_aside_at_present_can_be_later(killable_kafkas, impatient, monkeypatch):
    """The topic of dead letters is out of reach: that is said in time, and the letter is put afterwards."""
    monkeypatch.setattr(kafka_letters, "_SEND_SECONDS", 2.0)
    monkeypatch.setattr(kafka_letters, "connect", functools.partial(connect, seconds=1.0))
    cluster = killable_kafkas
    topic = new_topic(cluster.bootstrap_servers, copies=3)
    first, second = (Record(f"{topic}-0", offset, b"{broken") for offset in range(2))
    with Network(cluster.routes) as network:
        source = KafkaSource(settings(cluster.servers("NETWORK"), topic))
        source.dead_letters([(first, "not JSON")])
        network.cut()
        for _ in range(2):  # by the producer that there is; then there is none
            with pytest.raises(SourceAwayError):
                source.dead_letters([(second, "not JSON")])
        network.heal()
        source.dead_letters([(second, "not JSON")])
        assert [letter.record for letter in source.letters.letters()] == [first, second]
        source.close()


@pytest.mark.parametrize("ask", [describe_topic, functools.partial(ensure_topic, partitions=1)])
def test_brokers_that_go_while_they_are_asked_for_a_topic_are_away(kafka, monkeypatch, ask):
    """What the client raises in the midst of it is one of our errors."""

    def gone(*_):
        raise errors.KafkaConnectionError

    monkeypatch.setattr(KafkaAdminClient, "describe_topics", gone)
    with pytest.raises(SourceAwayError, match="topic deletions cannot be described: KafkaConnectionError"):
        ask(KafkaConnection(kafka.bootstrap_servers), "deletions")


def test_a_topic_that_another_process_has_just_made_is_taken_as_it_is(kafka, monkeypatch):
    """Between asking for it and making it, with another number of partitions."""
    servers, make = kafka.bootstrap_servers, KafkaAdminClient.create_topics

    def overtaken(admin, topics, **options):
        monkeypatch.undo()
        make(admin, [NewTopic(topics[0].name, 5, 1)], wait_for_metadata=True)
        return make(admin, topics, **options)

    monkeypatch.setattr(KafkaAdminClient, "create_topics", overtaken)
    assert ensure_topic(KafkaConnection(servers), "made-twice", partitions=2) == 5


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
    wait_until(lambda: beginning(servers, TopicPartition(topic, 0)) == 20)
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
