"""A solve that takes longer than a member of the group may be silent: the membership is kept.

``RECUNLEARN_SOLVE_ITEMS=4000 pytest -s tests/test_kafka_long_solve.py`` does it with an inverse of EASE.
"""

import os
import queue
import threading
import time

import numpy as np
import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.streaming.kafka import KafkaSource
from recunlearn.streaming.watch import Watch
from recunlearn.streaming.worker import Worker

from .popularity import Popularity, interactions
from .topics import account, members, new_topic, produce, settings, wait_until

pytestmark = pytest.mark.xdist_group("kafka")
ITEMS = int(os.environ.get("RECUNLEARN_SOLVE_ITEMS", "0"))
MAY_BE_SILENT_SECONDS = 1.0
DELETED = 20


def computing(forget, seen):
    """Let a model's forgetting compute until what is claimed of it was seen, as a large one does."""

    def slowly(self, change):
        until = time.monotonic() + 120
        while not seen.is_set() and time.monotonic() < until:
            np.linalg.inv(np.eye(300) + 0.001)
        forget(self, change)

    return slowly


@pytest.fixture
def seen():
    """Tell the double that it may end."""
    return threading.Event()


@pytest.fixture
def state(tmp_path, monkeypatch, seen):
    """Fit what takes long to forget from: a real EASE if its size is given, else a double that computes."""
    users = np.repeat(np.arange(3 * DELETED), 8) if not ITEMS else np.repeat(np.arange(2000), 40)
    draw = np.random.default_rng(7)
    items = draw.integers(0, ITEMS or 50, users.size)
    rows = sorted({(f"user-{user}", f"item-{item}") for user, item in zip(users, items, strict=True)})
    if ITEMS:
        models = {"ease": {"regularization": 10.0}}
    else:
        monkeypatch.setattr(Popularity, "_forget", computing(Popularity._forget, seen))
        models = {"popularity": {}}
    fit(tmp_path / "state", interactions(rows), models)
    return tmp_path / "state"


class Solves(Watch):
    """Notes when the worker is at a batch, and for how long it was."""

    def __init__(self):
        self.at_one, self.seconds, self.erased = threading.Event(), [], 0

    def began(self, size):
        """Note the start."""
        self.at_one.set()
        self._started = time.monotonic()

    def ended(self, report, ages):
        """Note the end."""
        self.at_one.clear()
        self.seconds.append(time.monotonic() - self._started)
        self.erased += report.erased


class Running:
    """A worker on a thread of its own, with its engine."""

    def __init__(self, state, source, watch):
        self._workers = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(state, source, watch))
        self._thread.start()

    def _run(self, state, source, watch):
        with Engine.open(state) as engine:
            worker = Worker(engine, lambda: KafkaSource(source), watch=watch)
            self._workers.put(worker)
            worker.run()

    def stop(self):
        """End it."""
        self._workers.get(timeout=60).stop()
        self._thread.join()


def test_the_membership_outlives_a_solve(kafka, state, seen, caplog):
    """The same member before, during and after; who asks during the solve is fenced during it."""
    caplog.set_level("INFO", "recunlearn.streaming.kafka")
    servers, deleted = kafka.bootstrap_servers, (1000 if ITEMS else DELETED)
    topic = new_topic(servers, 2)
    produce(servers, topic, [account(f"e-{user}", f"user-{user}") for user in range(deleted)])
    source = settings(servers, topic, session_timeout=2.0, max_poll_interval=MAY_BE_SILENT_SECONDS)
    fence, solves = Fence(state), Solves()
    running = Running(state, source, solves)
    try:
        assert solves.at_one.wait(60)
        during = members(servers, topic)
        time.sleep(2 * MAY_BE_SILENT_SECONDS)
        produce(servers, topic, [account("e-late", f"user-{deleted + 1}")])
        wait_until(lambda: fence.is_fenced(f"user-{deleted + 1}"), 120)
        assert solves.at_one.is_set()
        assert len(solves.seconds) == 0
        seen.set()
        wait_until(lambda: solves.erased == deleted + 1, 120)
        assert members(servers, topic) == during
        assert len(during) == 1
        assert "partitions go" not in caplog.text
    finally:
        seen.set()
        running.stop()
        fence.close()
    print(
        f"solves of {', '.join(f'{one:.1f}' for one in solves.seconds)} s, {MAY_BE_SILENT_SECONDS} s allowed"
    )
    assert max(solves.seconds) > 2 * MAY_BE_SILENT_SECONDS
