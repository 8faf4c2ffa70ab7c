"""Watching a worker: metrics that add up, health that is true, a log that names nobody."""

import json
import logging
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from recunlearn.commands.logs import JsonLines
from recunlearn.engine.engine import CycleReport, Engine
from recunlearn.engine.fitting import fit
from recunlearn.streaming.health import HealthServer
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.metrics import _ERASED, _FENCED, WorkerMetrics
from recunlearn.streaming.source import Record
from recunlearn.streaming.worker import Worker

from .popularity import interactions
from .test_cli import invoke

ROWS = [(f"customer-{user}", item) for user in range(1, 9) for item in range(user % 3, 5)]
DOCS = Path(__file__).parent.parent / "docs" / "howto" / "operate.md"
STATUS = {"version": 3, "requests": {"pending": 2, "failed": 1}, "oldest_pending_seconds": 7.5}


def account(user):
    """Make an account deletion's bytes."""
    return json.dumps({"id": f"e-{user}", "type": "account.deleted", "user_id": user}).encode()


def readings(registry):
    """Return sample name and labels -> value."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), {"item_knn": {}})
    return tmp_path / "state"


def test_the_figures_of_a_run_add_up(state):
    """Recorded, set aside, erased; a latency for each; the batch's size and phases; nothing unread."""
    append(state / "journal", [account("customer-1"), account("customer-2"), b"{"])
    metrics = WorkerMetrics(lambda: STATUS)
    with Engine.open(state) as engine:
        Worker(engine, lambda: Journal(state / "journal"), once=True, watch=metrics).run()
    found = readings(metrics.registry)
    assert found["recunlearn_recorded_total",] == found["recunlearn_erased_total",] == 2
    assert found["recunlearn_set_aside_total",] == 1
    assert found["recunlearn_failed_attempts_total",] == 0
    assert found["recunlearn_to_fenced_seconds_count",] == 3
    assert found["recunlearn_to_erased_seconds_count",] == 2
    assert 0 < found["recunlearn_to_erased_seconds_sum",] < 60
    assert (found["recunlearn_batch_requests_count",], found["recunlearn_batch_requests_sum",]) == (1, 2)
    for phase in ("forget", "publish", "purge"):
        assert found["recunlearn_batch_seconds_count", phase] == 1
    assert found["recunlearn_batch_at_hand",] == 0
    assert ("recunlearn_lag_records", "journal") in found


def test_a_portion_at_once_counts_as_the_library_counts_one_by_one(monkeypatch):
    """Buckets, counts and sums: of ages between, on and beyond the bounds, below zero, none, and unknown."""
    monkeypatch.setattr(time, "time", lambda: 1e6)
    ages = [*np.random.default_rng(0).lognormal(0, 4, 500).round(3), 0.0, 0.25, 5.0, 3600.0, 1e7, -3.0]
    metrics, library = WorkerMetrics(lambda: STATUS), CollectorRegistry()
    fenced = Histogram("recunlearn_to_fenced_seconds", "", buckets=_FENCED, registry=library)
    erased = Histogram("recunlearn_to_erased_seconds", "", buckets=_ERASED, registry=library)
    stamps = [round((1e6 - age) * 1000) for age in ages]
    records = [Record("users-0", at, b"{}", timestamp_ms=stamp) for at, stamp in enumerate([*stamps, None])]
    for portion in (records[:300], [], records[300:]):
        metrics.took_in(portion, 0, 0)
    for done in (ages, []):
        metrics.ended(CycleReport(version=1, erased=0, failed=0), done)
    for age, stamp in zip(ages, stamps, strict=True):
        fenced.observe(max(0.0, 1e6 - stamp / 1000))
        erased.observe(age)
    found = readings(metrics.registry)
    for name, value in readings(library).items():
        assert found[name] == (pytest.approx(value, rel=1e-12) if name[0].endswith("_sum") else value), name
    assert found["recunlearn_to_fenced_seconds_count",] == len(ages)


def test_what_is_scraped_is_the_status_of_that_moment():
    """Requests by state, the oldest one's age, the version, and announcements that wait."""
    found = readings(WorkerMetrics(lambda: STATUS, lambda: True).registry)
    assert found["recunlearn_published_version",] == 3
    assert (found["recunlearn_requests", "pending"], found["recunlearn_requests", "failed"]) == (2, 1)
    assert found["recunlearn_oldest_pending_seconds",] == 7.5
    assert found["recunlearn_announcements_wait",] == 1


def test_every_metric_is_documented():
    """The table in the how-to has each name that is exposed, and no other."""
    metrics = WorkerMetrics(lambda: STATUS)
    exposed = re.findall(
        r"^# TYPE (recunlearn_\w+) ", generate_latest(metrics.registry).decode(), re.MULTILINE
    )
    exposed = {name for name in exposed if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(recunlearn_\w+)", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert documented == exposed


def fetch(url):
    """Fetch a URL; returns its status and its body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  our own server
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_health_is_told_apart_from_readiness():
    """A worker that cannot go on is alive but not ready, and says why."""
    problems = []
    metrics = WorkerMetrics(lambda: STATUS)
    with HealthServer("127.0.0.1", 0, metrics.registry, lambda: problems) as server:
        assert fetch(f"{server.url}/readyz") == (200, b'{"ok": true, "problems": []}')
        problems.append("announcements wait")
        assert fetch(f"{server.url}/healthz")[0] == 200
        assert fetch(f"{server.url}/readyz") == (503, b'{"ok": false, "problems": ["announcements wait"]}')
        assert b"recunlearn_published_version 3.0" in fetch(f"{server.url}/metrics")[1]
        assert fetch(f"{server.url}/other")[0] == 404
        with pytest.raises(OSError, match="in use"):
            HealthServer("127.0.0.1", int(server.url.rpartition(":")[2]), metrics.registry, list)


def test_a_json_log_says_where_an_error_was_but_not_what_it_quoted():
    """The class and the place; a KeyError's message is an id."""
    try:
        {}["customer-1"]
    except KeyError:
        record = logging.LogRecord("worker", logging.ERROR, __file__, 1, "%d failed", (3,), sys.exc_info())
    line = JsonLines().format(record)
    said = json.loads(line)
    assert (said["message"], said["level"], said["error"]) == ("3 failed", "ERROR", "KeyError")
    assert "test_watch.py" in said["at"][0]
    assert "customer-1" not in line


def test_a_run_serves_its_metrics_logs_json_and_announces_to_a_file(state, tmp_path):
    """As a process: each log line is JSON, nobody is in it, and what goes out went out before it ended."""
    append(state / "journal", [account("customer-1"), b"{customer-2"])
    out = tmp_path / "out.ndjson"
    options = [
        "--metrics-port",
        "0",
        "--log-format",
        "json",
        "--announce-file",
        out,
        "--location",
        "http://h:1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "recunlearn.cli", "run", "--state", state, "--once", *options],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    first, *lines = done.stderr.splitlines()
    assert re.fullmatch(r"metrics at http://127\.0\.0\.1:\d+/metrics", first)
    assert any("forgetting a batch of 1 requests" in json.loads(line)["message"] for line in lines)
    assert "customer" not in done.stderr
    sent = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["stream"] for one in sent][-2:] == ["versions", "receipts"]
    assert sent[-2]["value"]["version"] == 2
    assert sent[-2]["value"]["location"] == "http://h:1"


def test_a_run_says_what_it_could_not_announce(state, tmp_path):
    """The erasure is done; the exit code says that somebody was not told of it."""
    append(state / "journal", [account("customer-1")])
    (tmp_path / "folder").mkdir()
    told = invoke("run", "--state", state, "--once", "--announce-file", tmp_path / "folder", rc=1)
    assert "1 erased" in told.stdout
    assert "announcements wait for the next run" in told.stderr
    invoke("run", "--state", state, "--once", "--announce-file", tmp_path / "out.ndjson")
    assert len((tmp_path / "out.ndjson").read_text().splitlines()) == 2
