"""Deadlines: what is late is counted from when the person asked, and said wherever one would look."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest
from recunlearn.cli import app
from recunlearn.engine.deadline import deadline, due_seconds
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import DeadLetter, Received
from recunlearn.engine.metrics import ServingMetrics
from recunlearn.engine.requests import AccountDeletion, Readmission
from recunlearn.engine.state import Config, StateError, StatePaths, read_config, write_config
from recunlearn.engine.status import state_status
from recunlearn.streaming.metrics import WorkerMetrics
from typer.testing import CliRunner

from .popularity import interactions

LONG_AGO = datetime.now(UTC) - timedelta(days=3)


@pytest.fixture
def state(tmp_path):
    """Fit a small state in which requests are due within two days."""
    fit(tmp_path, interactions([("anna", "x"), ("bob", "y"), ("cleo", "x")]), {"popularity": {}})
    paths = StatePaths(tmp_path)
    write_config(paths, Config(read_config(paths).models, {"due_days": 2}))
    return tmp_path


def record(state, *requests, letters=()):
    """Record requests and leave them waiting."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(request) for request in requests], dead_letters=letters)


def test_the_clock_runs_from_when_the_person_asked(state):
    """A request that was asked three days ago and came just now is late; one without a time is not."""
    record(state, AccountDeletion("e-1", "anna", LONG_AGO), AccountDeletion("e-2", "bob"))
    due = state_status(StatePaths(state))["due"]
    assert (due["within_seconds"], due["overdue"]) == (172_800.0, 1)
    expected = LONG_AGO + timedelta(days=2)
    assert abs(datetime.fromisoformat(due["next"]) - expected) <= timedelta(seconds=1)


def test_what_is_done_is_not_late(state):
    """Erased, the request is no duty any more, and nothing is due."""
    record(state, AccountDeletion("e-1", "anna", LONG_AGO))
    with Engine.open(state) as engine:
        engine.apply(engine.pending())
    due = state_status(StatePaths(state))["due"]
    assert (due["overdue"], due["next"]) == (0, None)


def test_every_open_duty_counts(state):
    """Failed requests, waiting re-admissions, unreadable records and the source's backlog are duties."""
    record(
        state,
        AccountDeletion("e-1", "anna", LONG_AGO),
        Readmission("e-2", "anna", LONG_AGO),
        letters=[DeadLetter("journal", 3, "not JSON")],
    )
    with Engine.open(state) as engine:
        engine.ledger.fail(1, "model ease could not forget: MemoryError")
        engine.ledger._connection.execute("UPDATE dead_letters SET at = at - 259200")
        found = deadline(engine.ledger, 172_800.0, time.time() - 259_200)
        assert (found["overdue"], deadline(engine.ledger, 1e9)["overdue"]) == (4, 0)


def test_a_later_time_than_now_does_not_stop_the_clock(state):
    """A request that claims to have been asked next year is due from when it came."""
    record(state, AccountDeletion("e-1", "anna", datetime.now(UTC) + timedelta(days=365)))
    with Engine.open(state) as engine:
        assert engine.ledger.overdue(time.time() + 1) == 1


def test_it_is_said_by_status_by_the_log_and_by_the_metrics(state, caplog):
    """One late request is in all of them, and nobody's id in any."""
    record(state, AccountDeletion("e-1", "anna", LONG_AGO))
    Engine.open(state).close()
    (warning,) = [entry for entry in caplog.records if "overdue" in entry.message]
    assert warning.levelname == "WARNING"
    assert warning.message == "1 requests are overdue: they were to be done within 2 days"
    told = CliRunner().invoke(app, ["status", "--state", str(state)])
    assert "1 requests are overdue: they were to be done within 2 days" in told.output
    status = json.loads(CliRunner().invoke(app, ["status", "--state", str(state), "--json"]).stdout)
    for exposition in (
        ServingMetrics(lambda: (1, 0), lambda: status).exposition(),
        generate_latest(WorkerMetrics(lambda: status).registry),
    ):
        assert b"recunlearn_overdue_requests 1.0" in exposition
        assert b"anna" not in exposition
    assert "anna" not in told.output + json.dumps(status) + caplog.text


@pytest.mark.parametrize("days", [0, -1, "30", True, float("inf"), float("nan")])
def test_days_that_are_none_are_refused(days):
    """The setting and its value are named."""
    with pytest.raises(StateError, match="due_days is"):
        due_seconds({"due_days": days})


def test_requests_that_end_otherwise_are_counted_apart(state):
    """Status tells erased from readmitted; the four counts of the contract stay what they were."""
    record(state, AccountDeletion("e-1", "anna"))
    record(state, Readmission("e-2", "anna"))
    with Engine.open(state) as engine:
        engine.apply(engine.pending())
    status = state_status(StatePaths(state))
    assert status["requests"] == {"pending": 0, "fenced": 0, "erased": 1, "failed": 0}
    assert status["other_requests"] == {"anonymised": 0, "readmitted": 1, "refused": 0, "cancelled": 0}
