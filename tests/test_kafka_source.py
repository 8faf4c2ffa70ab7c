"""The Kafka source against Apache Kafka itself: nothing is skipped silently, whatever the broker did."""

import time

import pytest
from kafka import KafkaAdminClient, TopicPartition, errors
from kafka.structs import OffsetAndMetadata
from recunlearn.streaming.kafka import LOST
from recunlearn.streaming.kafka_damage import DAMAGED
from recunlearn.streaming.source import SourceError

from .topics import drained, everything_in, make_topic, new_topic, opened, produce, wait_until

pytestmark = pytest.mark.xdist_group("kafka")


@pytest.fixture
def servers(kafka):
    """Return the addresses of the broker."""
    return kafka.bootstrap_servers


@pytest.fixture
def admin(servers):
    """Return an administrator's client."""
    client = KafkaAdminClient(bootstrap_servers=servers)
    yield client
    client.close()


def poll_until(source, deadline):
    """Poll, whatever arrives, until the deadline."""
    while time.monotonic() < deadline:
        source.poll(0.2, 1000)


def committed(admin, topic):
    """Return partition -> the offset of the group that is named like the topic."""
    offsets = admin.list_group_offsets(topic)[topic]
    return {one.partition: found.offset for one, found in offsets.items() if one.topic == topic}


def test_every_record_of_every_partition_arrives_with_all_that_it_has(servers):
    """In order within a partition, with key, headers, time and coordinates; an empty value is one."""
    topic = new_topic(servers, 3)
    produce(servers, topic, [b"%d" % number for number in range(300)])
    produce(servers, topic, [b""], partition=1)
    source = opened(servers, topic)
    records = drained(source)
    source.close()
    for partition in range(3):
        values = [one.value for one in records if one.partition == f"{topic}-{partition}"]
        expected = [b"%d" % number for number in range(partition, 300, 3)]
        assert values == expected + ([b""] if partition == 1 else [])
    assert all(one.timestamp_ms and one.damage is None for one in records)


def test_the_ledger_says_where_to_read_on_not_the_group(servers, admin):
    """Offsets that somebody else committed to the group are not believed; ours are written over them."""
    topic = new_topic(servers, 2)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    source = opened(servers, topic)
    drained(source)
    source.close()  # the group is there now
    admin.alter_group_offsets(topic, {TopicPartition(topic, 0): OffsetAndMetadata(9, "", -1)})
    source = opened(servers, topic, {f"{topic}-0": 4, f"{topic}-1": 8})
    records = drained(source)
    assert sorted((one.partition[-1], one.offset) for one in records) == [
        *(("0", offset) for offset in range(4, 10)),
        *(("1", offset) for offset in range(8, 10)),
    ]
    source.commit({f"{topic}-0": 7})
    source.close()
    assert committed(admin, topic) == {0: 7, 1: 8}


def test_a_topic_is_never_made_by_reading_it(servers, admin):
    """A misspelt name is an error that names it, and no topic comes of it."""
    with pytest.raises(SourceError, match=r"has no topic deletoins .*--topic"):
        opened(servers, "deletoins")
    assert "deletoins" not in admin.list_topics()


def test_what_an_aborted_transaction_wrote_is_not_read(servers):
    """Only committed records count."""
    from kafka import KafkaProducer

    topic = new_topic(servers)
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id=topic)
    producer.init_transactions()
    for value, end in ((b"aborted", producer.abort_transaction), (b"kept", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send(topic, value).get(10)
        end()
    producer.close()
    source = opened(servers, topic)
    assert [one.value for one in drained(source)] == [b"kept"]
    source.close()


def test_expired_records_are_an_error_that_says_how_many(servers, admin):
    """The broker deleted records before they were read: the source stops, and names them."""
    topic = new_topic(servers)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    admin.delete_records({TopicPartition(topic, 0): 15})
    source = opened(servers, topic, {f"{topic}-0": 5})
    with pytest.raises(SourceError, match=rf"{topic}-0: 10 records, offsets 5 to 14.*--on-lost continue"):
        drained(source)
    source.close()


def test_expired_records_are_each_counted_if_that_is_asked_for(servers, admin):
    """With --on-lost continue each lost offset comes as a record without bytes, then the rest."""
    topic = new_topic(servers)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    admin.delete_records({TopicPartition(topic, 0): 15})
    source = opened(servers, topic, {f"{topic}-0": 5}, on_lost="continue")
    records = drained(source)
    source.close()
    assert [one.offset for one in records] == list(range(5, 20))
    assert [one.damage for one in records] == [LOST] * 10 + [None] * 5


def test_what_was_not_recorded_before_an_error_is_read_again_first(servers, admin, monkeypatch):
    """Later records expired; as earlier ones are to be read again, those are lost too, and are counted."""
    topic = new_topic(servers)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    source = opened(servers, topic, {f"{topic}-0": 5})
    wait_until(lambda: [one.offset for one in source.poll(0.2, 5)] == [5, 6, 7, 8, 9])
    admin.delete_records({TopicPartition(topic, 0): 15})

    def expired(**_):
        raise errors.OffsetOutOfRangeError({TopicPartition(topic, 0): 10})

    monkeypatch.setattr(source._consumer, "poll", expired)
    assert source.poll(0.2, 5) == []
    assert not source.is_exhausted()
    source.seek({f"{topic}-0": 5})
    with pytest.raises(SourceError, match=rf"{topic}-0: 10 records, offsets 5 to 14"):
        drained(source)
    source.close()


def test_a_log_shorter_than_what_was_read_is_read_from_its_start(servers):
    """After an unclean election everything is read again: repetitions are told by their ids."""
    topic = new_topic(servers)
    produce(servers, topic, [b"a", b"b"])
    source = opened(servers, topic, {f"{topic}-0": 10})
    assert [one.value for one in drained(source)] == [b"a", b"b"]
    source.close()


def test_a_topic_made_anew_while_it_is_read_is_refused(servers, admin):
    """Positions in the old topic mean nothing in the new one."""
    topic = new_topic(servers)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    source = opened(servers, topic)
    assert len(drained(source)) == 20
    source.commit({f"{topic}-0": 20})
    admin.delete_topics([topic])
    deadline = time.monotonic() + 20
    while topic in admin.list_topics() and time.monotonic() < deadline:
        source.poll(0.1, 10)
    make_topic(servers, topic)
    produce(servers, topic, [b"new"] * 30)
    with pytest.raises(SourceError, match=rf"topic {topic} was deleted and made anew"):
        poll_until(source, deadline)
    source.close()


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_wrong_checksum_does_not_block_the_partition(kafka, servers, place):
    """The batch is set aside record by record, with its bytes, and what comes before and after is read."""
    topic = new_topic(servers)
    batches = {"first": [b"bad"], "middle": [b"good", b"bad"], "last": [b"good", b"bad"]}[place]
    for value in batches:
        produce(servers, topic, [value + b"-1", value + b"-2", value + b"-3"], linger_ms=200)
    segment = next((kafka.log_directory() / f"{topic}-0").glob("*.log"))
    at = segment.read_bytes().index(b"bad-2")
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(b"BAD")
    if place != "last":
        produce(servers, topic, [b"after"])
    source = opened(servers, topic)
    records = drained(source)
    source.close()
    good = [one.value for one in records if one.damage is None]
    damaged = {one.value: one.damage for one in records if one.damage is not None}
    before = [] if place == "first" else [b"good-1", b"good-2", b"good-3"]
    assert good == before + ([] if place == "last" else [b"after"])
    assert damaged == {b"bad-1": DAMAGED, b"BAD-2": DAMAGED, b"bad-3": DAMAGED}
    assert [one.offset for one in records] == list(range(len(records)))


def test_membership_outlives_a_pause_longer_than_the_poll_interval(servers, admin):
    """An intake that polls keeps its membership; one that does not loses it, and no record by that."""
    topic = new_topic(servers)
    source = opened(servers, topic, session_timeout=2.0, max_poll_interval=2.0)
    produce(servers, topic, [b"1"])
    first = drained(source)
    source.commit({f"{topic}-0": 1})
    time.sleep(4)  # longer than the poll interval, and the session
    produce(servers, topic, [b"2"])
    assert [one.value for one in first + drained(source)] == [b"1", b"2"]
    source.commit({f"{topic}-0": 2})
    source.close()
    assert committed(admin, topic) == {0: 2}


def test_partitions_that_go_are_not_committed_any_more(servers, admin, caplog):
    """Two members share a topic: each commits what it holds, and that one has not all is said loudly."""
    topic = new_topic(servers, 2)
    produce(servers, topic, [b"%d" % number for number in range(20)])
    one = opened(servers, topic, session_timeout=6.0)
    assert len(drained(one)) == 20
    one.commit({f"{topic}-0": 10, f"{topic}-1": 10})
    other = opened(servers, topic, session_timeout=6.0)
    deadline = time.monotonic() + 30
    seen = []
    while not seen and time.monotonic() < deadline:
        one.poll(0.1, 1000)
        seen += other.poll(0.1, 1000)
    (lost,) = {int(record.partition[-1]) for record in seen}
    held = 1 - lost
    offsets = {}
    while "1 of 2 partitions" not in caplog.text or offsets.get(held) != 3:
        assert time.monotonic() < deadline, offsets
        one.poll(0.1, 1000)
        other.poll(0.1, 1000)  # both go on, or a rebalance does not end
        if {partition.partition for partition in one._consumer.assignment()} == {held}:
            one.commit({f"{topic}-0": 3, f"{topic}-1": 3})  # as if rewound; it holds one of the two
        offsets = committed(admin, topic)
    assert offsets == {held: 3, lost: 10}
    other.close()
    one.close()


@pytest.mark.parametrize("instance", ["the-state", None])
def test_partitions_that_were_added_while_nobody_read_are_read(servers, admin, instance):
    """A member that comes back does not keep to the assignment it had: the topic has grown."""
    topic = new_topic(servers)
    produce(servers, topic, [b"1"])
    source = opened(servers, topic, instance=instance)
    assert len(drained(source)) == 1
    source.commit({f"{topic}-0": 1})
    source.close()
    admin.create_partitions({topic: 3})
    wait_until(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 3)
    produce(servers, topic, [b"2"], partition=1)
    produce(servers, topic, [b"3"], partition=2)
    source = opened(servers, topic, {f"{topic}-0": 1}, instance=instance)
    assert sorted(one.value for one in drained(source)) == [b"2", b"3"]
    source.close()


def test_a_member_that_was_killed_is_replaced_at_once(servers):
    """A static member's partitions go to the one that takes its name, without waiting for a time-out."""
    topic = new_topic(servers)
    produce(servers, topic, [b"1"])
    killed = opened(servers, topic, instance="the-state")
    assert len(drained(killed)) == 1
    started = time.monotonic()
    successor = opened(servers, topic, instance="the-state")
    assert len(drained(successor)) == 1
    assert time.monotonic() - started < 30  # the session lasts 45 s
    successor.close()
    killed.close()


def test_dead_letters_keep_the_bytes_and_say_where_they_come_from(servers):
    """A letter has the original key, value and headers; twice the same is one; one that is done is none."""
    from kafka import KafkaProducer

    topic = new_topic(servers, 2)
    producer = KafkaProducer(bootstrap_servers=servers)
    producer.send(topic, b"\xff{", b"the key", [("content-type", b"text/x")], partition=1).get(10)
    producer.send(topic, None, b"k", partition=1).get(10)
    producer.close()
    source = opened(servers, topic)
    records = drained(source)
    source.dead_letters([(record, "not UTF-8") for record in (*records, records[0])])
    letters = sorted(source.letters.letters(), key=lambda letter: letter.coordinates)
    assert [letter.record for letter in letters] == records
    assert {letter.reason for letter in letters} == {"not UTF-8"}
    headers = dict(everything_in(servers, f"{topic}.dead-letters")[0].headers)
    assert headers["recunlearn.topic"] == topic.encode()
    assert headers["recunlearn.partition"] == b"1"
    assert headers["recunlearn.group"] == topic.encode()
    source.letters.discard([(records[0].partition, records[0].offset)])
    assert [letter.record for letter in source.letters.letters()] == records[1:]
    source.close()
