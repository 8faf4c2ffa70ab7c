"""The bounds of a worker: when a batch closes, how soon it ends, and that a client that hangs is noticed."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.source import SourceError
from recunlearn.streaming.watch import Watch
from recunlearn.streaming.worker import Batching, Worker

from .popularity import POISON, interactions
from .test_cli import invoke
from .topics import account

ROWS = [(user, item) for user in range(1, 61) for item in range(user % 3, 5)]
SLOW = """
import hashlib
from recunlearn.models.item_knn import ItemKNN

plain = ItemKNN._forget

def slow(self, change):
    print("solving", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a solve in compiled code", b"", {rounds})
    plain(self, change)

ItemKNN._forget = slow
from recunlearn.cli import main
main()
"""


class Batches(Watch):
    """Notes when each batch began, and its size; ends the worker after ``count`` requests."""

    def __init__(self, count):
        self.count, self.began_at, self.worker = count, [], None

    def began(self, size):
        """Note it."""
        self.began_at.append((time.time(), size))

    def ended(self, report, ages):
        """End the worker when there is nothing more to come."""
        if sum(size for _, size in self.began_at) >= self.count:
            self.worker.stop()


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    return tmp_path / "state"


def batches_of(state, requests, batching):
    """Send requests at once to a worker that goes on until they are worked off; its batches."""
    append(state / "journal", [account(f"e-{user}", user) for user in range(1, requests + 1)])
    batches = Batches(requests)
    with Engine.open(state) as engine:
        batches.worker = Worker(engine, lambda: Journal(state / "journal"), batching=batching, watch=batches)
        batches.worker.run()
        timings = engine.ledger.timings()
    return batches.began_at, min(received for _, received, _, _ in timings)


def test_a_batch_closes_when_it_is_full_and_the_last_one_by_age(state):
    """Of 25 requests that came together ten go at once, ten more, and five when the oldest has waited."""
    began_at, received = batches_of(state, 25, Batching(size=10, age=2.0))
    assert [size for _, size in began_at] == [10, 10, 5]
    assert began_at[0][0] - received < 2.0 <= began_at[2][0] - received


def test_a_batch_that_waits_for_company_closes_in_half_of_the_time_that_is_due(state):
    """However long requests may wait by their age: one that is urgent goes."""
    began_at, received = batches_of(state, 5, Batching(age=3600.0, due=2.0))
    assert [size for _, size in began_at] == [5]
    assert 1.0 <= began_at[0][0] - received < 30.0


def test_a_request_that_failed_hurries_nobody(state, monkeypatch):
    """A batch's age is that of requests that wait, not of one that failed long ago."""
    monkeypatch.setitem(POISON, "poison", {5.0})
    append(state / "journal", [account("e-0", 60)])
    with Engine.open(state) as engine:
        assert Worker(engine, lambda: Journal(state / "journal"), once=True).run().failed == 1
        time.sleep(0.6)
        append(state / "journal", [account("e-1", 1)])
        batches = Batches(1)
        batches.worker = Worker(
            engine, lambda: Journal(state / "journal"), batching=Batching(age=0.5), watch=batches
        )
        batches.worker.run()
        ((_, received, _, _),) = engine.ledger.timings()
    assert batches.began_at[0][0] - received >= 0.5


def test_a_client_that_hangs_ends_the_worker(state, monkeypatch):
    """A poll that does not come back is noticed, and what was recorded before is carried out all the same."""
    hangs, go_on = threading.Event(), threading.Event()

    class Hanging(Journal):
        def poll(self, timeout, limit):
            records = super().poll(timeout, limit)
            if not records:
                hangs.set()
                go_on.wait(60)
            return records

    monkeypatch.setattr("recunlearn.streaming.worker._INTAKE_ENDS_SECONDS", 0.1)
    monkeypatch.setattr("recunlearn.streaming.worker._LOOK_SECONDS", 0.1)
    append(state / "journal", [account("e-1", 1)])
    started = time.monotonic()
    with Engine.open(state) as engine:
        worker = Worker(engine, lambda: Hanging(state / "journal"), patience=1.0)
        with pytest.raises(SourceError, match=r"^journal has not been read for \d+ s: its client hangs$"):
            worker.run()
        assert hangs.is_set()
        assert 1.0 <= time.monotonic() - started < 30.0
        assert engine.ledger.counts()["erased"] == 1
    go_on.set()


@pytest.fixture
def solving(tmp_path):
    """Start a worker whose solve is ``rounds`` of a hash, in compiled code; it does not outlive the test."""
    state = tmp_path / "state"
    fit(state, interactions(ROWS), {"item_knn": {}})
    append(state / "journal", [account("e-1", 1)])
    running = []

    def start(rounds, *options):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW.format(rounds=rounds), "run", "--state", str(state), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout.readline() == "solving\n"
        return state, process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_solve_that_takes_too_long_is_cut_off_and_done_again(solving):
    """SIGTERM ends the worker within the bound, also out of compiled code; the next start carries on."""
    state, process = solving(2_000_000_000, "--stop-within", "1")
    stopped_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert 1.0 <= time.monotonic() - stopped_at < 10.0
    assert (process.returncode, "it is cut off" in errors) == (143, True), errors
    assert load_snapshot(state).has_user(1)
    invoke("run", "--state", state, "--once")
    assert not load_snapshot(state).has_user(1)


def test_a_solve_that_ends_in_time_is_finished_first(solving):
    """SIGTERM waits for the batch at hand; then the worker ends as one that was asked to."""
    state, process = solving(1_000_000, "--stop-within", "60")
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "1 erased" in out
    assert not load_snapshot(state).has_user(1)
