"""Deletions have their effect exactly once, whatever is killed: worker, leaders of the brokers, network.

``RECUNLEARN_EVENTS=20000 RECUNLEARN_FAULTS=50 RECUNLEARN_SEED=8 pytest tests/test_exactly_once.py`` is
the run whose figures the docs give (docs/howto/kafka.md).
"""

import os
import re
import signal
import time

import numpy as np
import polars as pl
import pytest
from kafka import KafkaProducer
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import read_current, read_manifest, read_models

from .brokers.network import Network
from .deletion_stream import draw_stream
from .faults import KINDS, LONG_KINDS, Faults, Supervised
from .topics import everything_in, new_topic

pytestmark = pytest.mark.xdist_group("kafka")
EVENTS = int(os.environ.get("RECUNLEARN_EVENTS", "400"))
FAULTS = int(os.environ.get("RECUNLEARN_FAULTS", "4"))
SEED = int(os.environ.get("RECUNLEARN_SEED", "6"))
IS_LONG = FAULTS > 20
PARTITIONS = 6
AT_ITS_START = re.compile(r"^error: (no Kafka broker answered|topic \S+ cannot be described)", re.MULTILINE)
"""What a worker ends with if no broker answers when it starts: whoever started it starts it again."""

USERS = max(200, EVENTS // 10)
MODELS = {"item_knn": {"K": 10}, "ease": {"regularization": 10.0}, "spectral_mf": {"factors": 8}}


def frame_of(pairs):
    """Make an interaction frame."""
    frame = pl.DataFrame(list(pairs), schema=["user_id", "item_id"], orient="row")
    return frame.with_columns(value=pl.lit(1.0))


class Sender:
    """Sends a stream in portions, each message once, its place in the stream as key."""

    def __init__(self, cluster, topic, messages):
        self._topic, self._messages = topic, enumerate(messages)
        self._producer = KafkaProducer(
            bootstrap_servers=cluster.bootstrap_servers, delivery_timeout_ms=300_000, linger_ms=5
        )
        self._sent = []

    def send(self, count):
        """Send the next ``count`` messages, without waiting for the brokers."""
        for _, (number, one) in zip(range(count), self._messages, strict=False):
            key, headers = b"%d" % number, list(one.headers)
            self._sent.append(self._producer.send(self._topic, one.value, key, headers, one.partition))

    def finish(self):
        """Wait until the brokers have every message."""
        for future in self._sent:
            future.get(300)
        self._producer.close()


class Progress:
    """How far the ledger is, as a reader sees it."""

    def __init__(self, state, topic):
        paths = StatePaths(state)
        self._ledger, self._source = Ledger(paths.ledger, FenceKey.load(paths)), f"kafka:{topic}"

    def wait_for_any(self):
        """Wait until something was read: the group is there then, which the brokers make when first asked."""
        self._wait(lambda: self._ledger.positions(self._source))

    def wait_for(self, ends):
        """Wait until the ledger's positions are the topic's ends, and every request is done, with receipt."""
        self._wait(lambda: self._ledger.positions(self._source) == ends and not self._open())
        self._wait(lambda: not self._ledger.without_receipt())  # a kill may come before them
        self._ledger.close()

    def _open(self):
        counts = self._ledger.counts()
        return sum(counts[one] for one in ("received", "fenced", "erasing", "failed"))

    def _wait(self, holds):
        deadline = time.monotonic() + 300
        while not holds():
            assert time.monotonic() < deadline, (self._ledger.positions(self._source), self._ledger.counts())
            time.sleep(0.1)


def ends_of(topic, records):
    """Return partition -> the offset after the last of its records."""
    ends = {f"{topic}-{partition}": 0 for partition in range(PARTITIONS)}
    for record in records:
        ends[f"{topic}-{record.partition}"] = record.offset + 1
    return ends


def models_of(state):
    """Return the published models."""
    paths = StatePaths(state)
    manifest = read_manifest(paths, *read_current(paths))
    return read_models(paths.version(manifest.version), manifest, mapped=False)


def receipts_of(state):
    """Return the (request id, outcome) of every receipt in the log, signatures checked."""
    public = state_public_key(StatePaths(state))
    predicates = [open_receipt(line, public)["predicate"] for line in read_lines(StatePaths(state))]
    return [(one["request"]["id"], one["outcome"]) for one in predicates]


def check_models(state, left, fresh):
    """Compare the published models with a fit, elsewhere, to what must be left."""
    fit(fresh, frame_of(left), MODELS)
    ours, theirs = models_of(state), models_of(fresh)
    for part in ("indptr", "indices", "data"):
        knn = [getattr(models["item_knn"].similarity, part) for models in (ours, theirs)]
        assert np.array_equal(*knn)
    assert np.array_equal(ours["ease"].gram, theirs["ease"].gram)
    found = verify_state(state, deep=True)
    assert found.problems == []
    assert found.deep["item_knn"].distance == 0.0
    return {name: one.distance for name, one in found.deep.items()}


def check_receipts(state, stream):
    """Every valid request has one receipt, which says what was done; nothing else has one."""
    receipts = receipts_of(state)
    assert sorted(request for request, _ in receipts) == sorted(stream.requests)
    possible = stream.outcomes()
    assert [one for one in receipts if one[1] not in possible[one[0]]] == []
    outcomes = dict(receipts)
    fence = Fence(state)
    returned = {user for user, (back, _) in stream.returns.items() if outcomes[back] == "readmitted"}
    assert {user for user in stream.deleted() if not fence.is_fenced(user)} == returned
    fence.close()
    return len(receipts)


def check_letters(state, cluster, topic, expected):
    """Every record that is no request has one dead letter, with its bytes; nothing else has one."""
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        assert set(ledger.open_letters(f"kafka:{topic}")) == expected.keys()
    messages = everything_in(cluster.bootstrap_servers, f"{topic}.dead-letters")
    letters = {message.key.decode(): message.value or None for message in messages}
    assert letters == {f"{partition}:{at}": value for (partition, at), value in expected.items()}
    return len(letters), len(messages)


def test_every_deletion_has_its_effect_once_whatever_is_killed(killable_kafkas, tmp_path, capsys):
    """Models as fitted to what is left, a receipt for each request, a letter for each other record."""
    cluster, state, started = killable_kafkas, tmp_path / "state", time.monotonic()
    stream = draw_stream(SEED, USERS, EVENTS, PARTITIONS)
    fit(state, frame_of((user, item) for user, items in stream.taken.items() for item in items), MODELS)
    topic = new_topic(cluster.bootstrap_servers, PARTITIONS, copies=3)
    with Network(cluster.routes) as network:
        source = ("--source", "kafka", "--bootstrap-servers", cluster.servers("NETWORK"), "--topic", topic)
        worker = Supervised(("run", "--state", state, *source), tmp_path / "worker.log")
        try:
            kinds, pace = (LONG_KINDS, 1.0) if IS_LONG else (KINDS, 0.3)
            faults = Faults(SEED, kinds, pace, cluster, network, worker, [topic, "__consumer_offsets"])
            sender, progress = Sender(cluster, topic, stream.messages), Progress(state, topic)
            sender.send(PARTITIONS)
            progress.wait_for_any()
            for _ in range(FAULTS):
                sender.send(-(-EVENTS // FAULTS))
                faults.wait(4.0)
                faults.one()
            sender.finish()
            records = everything_in(cluster.bootstrap_servers, topic)
            progress.wait_for(ends_of(topic, records))
            code = worker.stop()
        except BaseException:
            worker.stop()
            print((tmp_path / "worker.log").read_text()[-8000:])
            raise
    letters = {
        (f"{topic}-{record.partition}", record.offset): record.value or None
        for record in records
        if stream.messages[int(record.key)].kind != "request"
    }
    assert code in (0, 3, -signal.SIGTERM)  # the last when it was only starting
    found = {
        "events": len(records),
        "faults": dict(faults.done),
        "starts": worker.starts,
        "endings": worker.endings,
        "receipts": check_receipts(state, stream),
        "letters": check_letters(state, cluster, topic, letters),
        "distances": check_models(state, stream.left(), tmp_path / "fresh"),
        "seconds": round(time.monotonic() - started),
    }
    with capsys.disabled():
        print(found if IS_LONG else "")
    assert worker.endings == [1] * len(AT_ITS_START.findall((tmp_path / "worker.log").read_text()))
    assert len(records) == EVENTS
