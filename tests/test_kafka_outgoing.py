"""Announcements and receipts on a real broker: durable, repeatable, and followed by another host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.receipts import log_name, open_receipt, state_public_key
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_current
from recunlearn.streaming.kafka_connection import KafkaConnection
from recunlearn.streaming.kafka_sink import KafkaSink
from recunlearn.streaming.outbox import RECEIPTS, VERSIONS, Outbox

from .popularity import interactions
from .test_cli import invoke
from .topics import everything_in, new_topic, produce

pytestmark = pytest.mark.xdist_group("kafka")

ROWS = [(f"customer-{user}", item) for user in range(1, 9) for item in range(user % 3, 5)]
EXAMPLE = Path(__file__).parent.parent / "examples" / "replica.py"


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), {"item_knn": {}})
    return tmp_path / "state"


def run(state, servers, *options, rc=0):
    """Work off what is there, and announce it."""
    kafka = ("--bootstrap-servers", servers, "--announce-topic", f"{state.parent.name}-versions")
    receipts = ("--receipts-topic", f"{state.parent.name}-receipts")
    return invoke("run", "--state", state, "--once", *kafka, *receipts, *options, rc=rc)


def test_what_is_erased_is_announced_and_its_receipt_sent(state, kafka):
    """From a deletion on one topic to a version on another and a receipt on a third, each checked."""
    servers = kafka.bootstrap_servers
    topic = new_topic(servers)
    event = {"id": "e-1", "type": "account.deleted", "user_id": "customer-1"}
    produce(servers, topic, [json.dumps(event).encode()])
    run(
        state, servers, "--source", "kafka", "--topic", topic, "--group", topic, "--location", "http://leader"
    )
    paths = StatePaths(state)
    announced = everything_in(servers, f"{state.parent.name}-versions")
    newest = json.loads(announced[-1].value)
    assert (newest["version"], newest["manifest_sha256"]) == read_current(paths)
    assert {message.key for message in announced} == {log_name(paths).encode()}
    assert dict(announced[-1].headers)["content-type"] == b"application/json"
    (receipt,) = everything_in(servers, f"{state.parent.name}-receipts")
    assert receipt.key == f"{log_name(paths)}/0".encode()
    assert open_receipt(receipt.value, state_public_key(paths))["predicate"]["request"]["id"] == "e-1"
    run(state, servers)
    assert len(everything_in(servers, f"{state.parent.name}-receipts")) == 1


def test_a_broker_that_is_away_stops_no_erasure(state, kafka, monkeypatch):
    """The user is erased, the run says what waits, and the next one sends it."""
    invoke("forget", "--state", state, "--user", "customer-1")
    monkeypatch.setattr("recunlearn.streaming.announcer._CLOSE_SECONDS", 2.0)
    told = run(state, "127.0.0.1:1", rc=1)
    assert "1 erased" in told.stdout
    assert "announcements wait for the next run: no answer within 2 s" in told.stderr
    assert not load_snapshot(state).has_user("customer-1")
    run(state, kafka.bootstrap_servers)
    assert len(everything_in(kafka.bootstrap_servers, f"{state.parent.name}-receipts")) == 1


def test_a_crash_before_the_position_is_noted_repeats_the_same_bytes(state, kafka):
    """At least once: a consumer that keeps the newest of each key sees it once."""
    servers, name = kafka.bootstrap_servers, f"{state.parent.name}-versions"
    invoke("run", "--state", state, "--once")
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        sink = KafkaSink(KafkaConnection(servers), {VERSIONS: name, RECEIPTS: name})
        outbox = Outbox(paths, ledger, sink)
        messages = [message for message, _ in outbox._next()]
        sink.send(messages)
        assert outbox.send_new() == 1
        sink.close()
    first, second = everything_in(servers, name)
    assert (first.key, first.value) == (second.key, second.value)


def test_the_example_pulls_each_version_that_is_announced(state, kafka, tmp_path):
    """A process on another host follows the topic: after an erasure the user is gone there too."""
    token, replica = tmp_path / "token", tmp_path / "replica"
    token.write_text("0123456789abcdef-token\n")
    me = [sys.executable, "-m", "recunlearn.cli", "serve", "--state", state, "--port", "0"]
    follow = [
        sys.executable, EXAMPLE, "--bootstrap-servers", kafka.bootstrap_servers, "--topic",
        f"{state.parent.name}-versions", "--state", replica, "--token-file", token,
    ]  # fmt: skip
    with subprocess.Popen(
        [*me, "--offer-versions", "--token-file", token], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            url = server.stdout.readline().split()[-1]
            run(state, kafka.bootstrap_servers, "--location", url)
            with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as example:
                try:
                    assert example.stdout.readline() == "serving version 1\n"
                    invoke("forget", "--state", state, "--user", "customer-1")
                    run(state, kafka.bootstrap_servers, "--location", url)
                    assert example.stdout.readline() == "serving version 2\n"
                finally:
                    example.kill()
        finally:
            server.kill()
    assert not load_snapshot(replica).has_user("customer-1")
    assert load_snapshot(replica).has_user("customer-2")
