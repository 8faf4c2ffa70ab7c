"""What goes out: at least once, in order, the same bytes each time, and never instead of an erasure."""

import json
import threading

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.receipts import log_name, open_receipt, state_public_key
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_current
from recunlearn.streaming.announcer import Announcer
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.outbox import RECEIPTS, VERSIONS, FileSink, Outbox
from recunlearn.streaming.worker import Worker

from .popularity import interactions

ROWS = [(user, item) for user in range(1, 9) for item in range(user % 3, 5)]


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    erase(tmp_path / "state")
    return tmp_path / "state"


def erase(state, *users):
    """Erase users, one request each, in one batch."""
    append(
        state / "journal",
        [
            json.dumps({"id": f"e-{user}", "type": "account.deleted", "user_id": user}).encode()
            for user in users
        ],
    )
    with Engine.open(state) as engine:
        Worker(engine, lambda: Journal(state / "journal"), once=True).run()


class Broker:
    """A sink in memory, which may refuse, or take messages and not come back to say so."""

    name = "broker"
    streams = frozenset({VERSIONS, RECEIPTS})

    def __init__(self):
        self.taken, self.refuses, self.forgets, self.opened = [], 0, False, 0
        self.arrived = threading.Event()

    def open(self):
        """Count how often it is opened."""
        self.opened += 1
        return self

    def send(self, messages):
        """Take messages."""
        if self.refuses:
            self.refuses -= 1
            raise OSError("the broker is away")
        self.taken += messages
        self.arrived.set()
        if self.forgets:
            raise TimeoutError("no answer")

    def close(self):
        """Nothing is held."""

    def on(self, stream):
        """Return the messages of a stream."""
        return [message for message in self.taken if message.stream == stream]


def send_new(state, sink):
    """Send what is new, as a process that starts anew does."""
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        return Outbox(paths, ledger, sink, "http://host:8080").send_new()


def test_a_new_version_and_its_receipts_go_out_once(state):
    """The announcement commits to the manifest; each receipt is the signed line of the log."""
    broker = Broker()
    assert send_new(state, broker) == 1
    erase(state, 1, 2)
    assert send_new(state, broker) == 3
    assert send_new(state, broker) == 0
    paths = StatePaths(state)
    number, digest = read_current(paths)
    first, second = (json.loads(message.value) for message in broker.on(VERSIONS))
    assert (second["version"], second["manifest_sha256"]) == (number, digest) == (2, digest)
    assert second["parent_sha256"] == first["manifest_sha256"]
    assert second["counts"] == {"users": 6, "items": 5, "interactions": second["counts"]["interactions"]}
    assert (second["location"], second["state"]) == ("http://host:8080", log_name(paths))
    assert second["models"]["popularity"]["exact"] is True
    said = [open_receipt(one.value, state_public_key(paths)) for one in broker.on(RECEIPTS)]
    assert [one["predicate"]["request"]["id"] for one in said] == ["e-1", "e-2"]
    assert [one.key for one in broker.on(RECEIPTS)] == [f"{log_name(paths)}/{k}".encode() for k in (0, 1)]


def test_only_the_newest_version_is_announced(state):
    """Whoever was away fetches the newest; those in between are gone from disk."""
    broker = Broker()
    for user in (1, 2, 3):
        erase(state, user)
    assert send_new(state, broker) == 4
    assert [json.loads(one.value)["version"] for one in broker.on(VERSIONS)] == [4]
    assert broker.on(VERSIONS)[0].key == log_name(StatePaths(state)).encode()


def test_a_crash_between_sending_and_noting_repeats_the_same_messages(state):
    """Keys and bytes are the same, so that compaction and consumers see one."""
    broker = Broker()
    erase(state, 1)
    broker.forgets = True
    with pytest.raises(TimeoutError):
        send_new(state, broker)
    once = list(broker.taken)
    broker.forgets = False
    assert send_new(state, broker) == 2
    assert broker.taken == once * 2


def test_a_sink_that_takes_one_stream_gets_no_other(state):
    """A topic for announcements alone is not a topic for receipts."""
    broker = Broker()
    broker.streams = frozenset({RECEIPTS})
    erase(state, 1)
    assert send_new(state, broker) == 1
    assert not broker.on(VERSIONS)


def test_each_sink_has_a_position_of_its_own(state, tmp_path):
    """A sink that is added later gets every receipt and the newest version."""
    erase(state, 1)
    assert send_new(state, Broker()) == 2
    assert send_new(state, FileSink(tmp_path / "out.ndjson")) == 2


def test_the_file_is_json_lines_and_survives_a_torn_one(state, tmp_path):
    """A line that a crash cut off is left alone, and what follows is whole."""
    path = tmp_path / "out.ndjson"
    send_new(state, FileSink(path))
    with path.open("ab") as file:
        file.write(b'{"stream": "rec')
    erase(state, 1)
    send_new(state, FileSink(path))
    first, torn, second, receipt = path.read_text().splitlines()
    assert torn == '{"stream": "rec'
    assert [json.loads(line)["stream"] for line in (first, second, receipt)] == [VERSIONS, VERSIONS, RECEIPTS]
    assert json.loads(second)["value"]["version"] == 2


def test_an_announcer_goes_on_until_the_sink_takes_it(state, monkeypatch):
    """It neither ends nor stops the worker, opens the sink anew, and says meanwhile what is wrong."""
    monkeypatch.setattr("recunlearn.streaming.announcer._BACKOFF_SECONDS", (0.01,))
    broker = Broker()
    broker.refuses = 3
    announcer = Announcer(StatePaths(state), broker.open)
    assert broker.arrived.wait(30)
    erase(state, 1)
    assert announcer.close()
    assert (announcer.error, announcer.sent, broker.opened) == (None, 3, 4)
    assert {message.stream for message in broker.taken} == {VERSIONS, RECEIPTS}


def test_a_sink_that_hangs_does_not_hold_up_the_end(state, monkeypatch):
    """After a while the announcer is left behind, and says so."""
    monkeypatch.setattr("recunlearn.streaming.announcer._CLOSE_SECONDS", 0.2)
    answer = threading.Event()
    broker = Broker()
    monkeypatch.setattr(broker, "send", lambda messages: answer.wait(30))
    announcer = Announcer(StatePaths(state), broker.open)
    assert not announcer.close()
    assert isinstance(announcer.error, TimeoutError)
    answer.set()


def test_an_announcer_that_is_closed_says_what_is_not_sent(state):
    """It waits for the next run: nothing is lost, and nothing hangs."""
    broker = Broker()
    broker.refuses = 1000
    announcer = Announcer(StatePaths(state), broker.open)
    assert not announcer.close()
    assert isinstance(announcer.error, OSError)
    broker.refuses = 0
    assert send_new(state, broker) == 1
