"""Dead letters on a real broker: set aside with their bytes, read again after a fix, taken off the topic."""

import json

import pytest
from kafka import KafkaProducer
from kafka.producer.future import FutureRecordMetadata
from recunlearn.engine.fitting import fit
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.verification import verify_state
from recunlearn.streaming.kafka_connection import KafkaConnection
from recunlearn.streaming.kafka_letters import KafkaLetters
from recunlearn.streaming.source import Record, SourceError

from .popularity import interactions
from .test_cli import invoke
from .topics import everything_in, new_topic, produce

pytestmark = pytest.mark.xdist_group("kafka")

ROWS = [(f"customer-{user}", item) for user in range(1, 9) for item in range(user % 3, 5)]


def test_letters_are_sent_together_and_each_is_waited_for(kafka, monkeypatch):
    """None is waited for before the last is sent; one that the topic does not take is named."""
    calls = []

    def spied(owner, name):
        plain = getattr(owner, name)

        def spy(*args, **kwargs):
            calls.append(name)
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, spy)

    spied(KafkaProducer, "send")
    spied(FutureRecordMetadata, "get")
    topic = new_topic(kafka.bootstrap_servers, **{"max.message.bytes": "2000"})
    letters = KafkaLetters(KafkaConnection(kafka.bootstrap_servers), topic, "group", 1)
    letters.put([(Record("users-0", offset, b"%d" % offset), "not JSON") for offset in range(50)])
    assert calls == ["send"] * 50 + ["get"] * 50
    assert [letter.record.value for letter in letters.letters()] == [b"%d" % one for one in range(50)]
    large = [(Record("users-0", 50 + number, b"x" * size), "") for number, size in enumerate((10, 3000))]
    with pytest.raises(SourceError, match=r"does not take users-0 51: .*look at its max\.message\.bytes"):
        letters.put(large)
    letters.discard([("users-0", offset) for offset in range(51)])
    assert list(letters.letters()) == []
    letters.close()


def test_what_could_not_be_read_is_read_again_after_a_fix(tmp_path, kafka):
    """From poison on a topic to an erased user, by the commands; the letter's bytes leave the topic."""
    state, servers = tmp_path / "state", kafka.bootstrap_servers
    fit(state, interactions(ROWS), {"item_knn": {}})
    topic = new_topic(servers, partitions=2)
    good = {"id": "e-1", "type": "account.deleted", "user_id": "customer-2"}
    other = {"id": "e-2", "type": "account.deleted", "who": "customer-1"}
    produce(servers, topic, [json.dumps(good).encode(), json.dumps(other).encode(), b"{broken", b""])
    source = (
        "--state",
        state,
        "--source",
        "kafka",
        "--bootstrap-servers",
        servers,
        "--topic",
        topic,
        "--group",
        topic,
    )
    invoke("run", "--once", *source, rc=3)
    rows = json.loads(invoke("dead-letters", "list", *source, "--json").stdout)["dead_letters"]
    assert sorted((row["reason"], row["lost"]) for row in rows) == [
        ("empty", False),
        ("field user_id is missing", False),
        ("not JSON", False),
    ]
    status = json.loads(invoke("status", "--state", state, "--json").stdout)
    assert status["requests"]["failed"] == 3
    with (state / "config.toml").open("a") as config:
        config.write('[format]\nname = "json"\nmapping = { user_id = "who" }\n')
    told = invoke("dead-letters", "replay", *source, rc=3)
    assert "1 records could be read now, 1 requests are new; 2 remain" in told.stdout
    invoke("run", "--once", *source)
    assert not load_snapshot(state).has_user("customer-1")
    for row in rows:
        if row["reason"] != "field user_id is missing":
            at = (row["partition"], row["offset"])
            shown = invoke("dead-letters", "show", *source, *at).stdout_bytes
            assert shown == (b"{broken" if row["reason"] == "not JSON" else b"")
            invoke("dead-letters", "discard", *source, "--yes", *at)
    assert "0 records wait" in invoke("dead-letters", "list", *source).stdout
    newest = {message.key: message.value for message in everything_in(servers, f"{topic}.dead-letters")}
    assert set(newest.values()) == {None}
    assert verify_state(state).ok
