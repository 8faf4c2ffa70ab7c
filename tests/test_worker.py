"""The worker: what is asked is recorded, fenced, erased or set aside, whatever comes in between."""

import json
import threading

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.streaming.journal import Journal, append, letter_files
from recunlearn.streaming.source import SourceAwayError
from recunlearn.streaming.worker import Worker

from .popularity import POISON, Popularity, interactions

ROWS = [(user, item) for user in range(1, 9) for item in range(user % 3, 5)]


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path, interactions(ROWS), {"popularity": {}})
    return tmp_path


def account(request_id, user):
    """Make an account deletion's bytes."""
    return json.dumps({"id": request_id, "type": "account.deleted", "user_id": user}).encode()


def drain(state, **kwargs):
    """Work off what is there."""
    with Engine.open(state) as engine:
        return Worker(engine, lambda: Journal(state / "journal"), once=True, **kwargs).run()


def counts(state):
    """Return the ledger's counts."""
    with Engine.open(state) as engine:
        return engine.ledger.counts()


def test_what_is_in_the_journal_is_worked_off(state):
    """Every request is erased in one batch; unreadable lines are set aside, and the rest goes on."""
    append(state / "journal", [account("e-1", 1), b"{broken", account("e-2", "2"), b"", account("e-1", 1)])
    report = drain(state)
    assert (report.recorded, report.erased, report.failed, report.dead_letters) == (2, 2, 0, 2)
    assert report.versions == 1
    assert load_snapshot(state).user_ids() == [3, 4, 5, 6, 7, 8]
    assert [letter.reason for letter in letter_files(state / "journal").letters()] == ["not JSON", "empty"]
    assert counts(state)["dead_letters"] == 2
    assert drain(state).erased == 0


def test_a_request_id_used_for_another_subject_is_set_aside(state):
    """The second subject is not silently lost: its record is a duty that is not fulfilled."""
    append(state / "journal", [account("e-1", 1), account("e-1", 2)])
    report = drain(state)
    assert (report.recorded, report.dead_letters) == (1, 1)
    assert load_snapshot(state).has_user(2)
    (letter,) = letter_files(state / "journal").letters()
    assert letter.reason == "the request id was used for another subject before"


def test_fencing_does_not_wait_for_a_solve(state, monkeypatch):
    """While a model is busy forgetting, a request that arrives is recorded and its user fenced."""
    busy, go_on = threading.Event(), threading.Event()
    plain = Popularity._forget

    def slow(self, change):
        busy.set()
        assert go_on.wait(20)
        plain(self, change)

    monkeypatch.setattr(Popularity, "_forget", slow)
    fence = Fence(state)
    append(state / "journal", [account("e-1", 1)])
    with Engine.open(state) as engine:
        worker = Worker(engine, lambda: Journal(state / "journal"), once=False)
        thread = threading.Thread(target=lambda: check_and_stop())
        fenced = []

        def check_and_stop():
            try:
                assert busy.wait(20)
                self_check()
            finally:
                go_on.set()
                worker.stop()

        def self_check():
            append(state / "journal", [account("e-2", 2)])
            waited = threading.Event()
            for _ in range(1000):
                if fence.is_fenced(2):
                    break
                waited.wait(0.01)
            fenced.append((fence.is_fenced(2), go_on.is_set()))
            go_on.set()
            for _ in range(1000):
                if load_snapshot(state).version == 3:
                    break
                waited.wait(0.01)

        thread.start()
        report = worker.run()
        thread.join()
    assert fenced == [(True, False)]
    assert (report.erased, report.versions) == (2, 2)
    fence.close()


def test_an_intake_that_breaks_ends_the_worker_and_loses_nothing(state):
    """The error comes out of run; what was recorded waits for the next run."""

    class Broken(Journal):
        def commit(self, positions):
            raise OSError("the disk is gone")

    append(state / "journal", [account("e-1", 1)])
    with Engine.open(state) as engine, pytest.raises(OSError, match="the disk is gone"):
        Worker(engine, lambda: Broken(state / "journal"), once=True).run()
    drain(state)
    assert counts(state)["erased"] == 1
    assert not load_snapshot(state).has_user(1)


def test_what_cannot_be_set_aside_at_present_is_read_again(state, caplog):
    """Neither lost nor an end of the worker: what was polled with it is recorded once, when that can be."""
    away = iter([True, True, False])

    class OftenAway(Journal):
        def dead_letters(self, letters):
            if next(away):
                raise SourceAwayError("the place for dead letters does not answer")
            super().dead_letters(letters)

    append(state / "journal", [account("e-1", 1), b"{broken", account("e-2", 2)])
    with Engine.open(state) as engine:
        report = Worker(engine, lambda: OftenAway(state / "journal"), once=True).run()
    assert (report.recorded, report.erased, report.dead_letters) == (2, 2, 1)
    assert caplog.text.count("is read again") == 2
    assert counts(state)["dead_letters"] == 1


def test_failed_requests_are_reported_and_tried_again(state, monkeypatch):
    """A request that a model cannot forget fails alone; the next run carries it out."""
    totals = {user: float(sum(u == user for u, _ in ROWS)) for user in range(1, 9)}
    monkeypatch.setitem(POISON, "poison", {totals[1]})
    append(state / "journal", [account(f"e-{user}", user) for user in (1, 2, 3)])
    report = drain(state)
    failing = sum(totals[user] == totals[1] for user in (1, 2, 3))
    assert (report.erased, report.failed) == (3 - failing, failing)
    POISON.clear()
    assert drain(state).erased == failing
    assert load_snapshot(state).user_ids() == [4, 5, 6, 7, 8]


def test_a_long_backlog_is_worked_off_in_one_solve(state):
    """Thousands of requests that wait are few batches, not thousands."""
    append(state / "journal", [account(f"e-{k}", k % 40) for k in range(3000)])
    with Engine.open(state) as engine:
        worker = Worker(engine, lambda: Journal(state / "journal"), once=True)
        report = worker.run()
    assert (report.recorded, report.erased) == (3000, 3000)
    assert report.versions <= 3
    assert load_snapshot(state).user_ids() == []
