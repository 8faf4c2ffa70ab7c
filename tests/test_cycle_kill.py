"""Killed at every step of a fit and of an erasure cycle: after a restart nothing tells it from no kill."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_points.py"


@pytest.fixture
def folder():
    """Make a folder in memory, if there is such a place: a kill, unlike a power cut, loses no page."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of one's own is made in it
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def kill_at(work, place, steps=()):
    """Run the script; returns the uninterrupted outcome, and the outcome for each step."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), work, str(place), *map(str, steps)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected, *outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    return expected, outcomes, done.stderr


@pytest.mark.parametrize(
    ("work", "least", "versions"), [("cycle", 70, {1, 2}), ("fit", 40, {0, 1}), ("refit", 35, {2, 3})]
)
def test_killed_at_any_step_the_restart_ends_as_if_nothing_had_been(folder, work, least, versions):
    """Models bit-equal, each request once in effect, one receipt each, nothing of the erased on disk."""
    expected, outcomes, stderr = kill_at(work, folder)
    assert expected["problems"] == expected["remains"] == expected["stray"] == []
    assert len(outcomes) >= least
    for outcome in outcomes:
        assert outcome["status"] == 0, (outcome["step"], stderr[-3000:])
        assert outcome["found"] == expected, outcome["step"]
    assert {outcome["version"] for outcome in outcomes} == versions


def test_killed_while_a_request_is_taken_back_the_restart_ends_the_same(folder):
    """Taken back once for all, whenever the kill comes, with the replayed event in the journal behind it."""
    expected, outcomes, stderr = kill_at("cancel", folder, range(1, 13))
    assert expected["problems"] == expected["stray"] == []
    assert expected["requests"][0][:3] == ["e-1", "cancelled", None]
    assert expected["users"] == ["bob", "cleo", "dora", "erin-unique"]
    assert len(outcomes) == 12
    for outcome in outcomes:
        assert outcome["status"] == 0, (outcome["step"], stderr[-3000:])
        assert outcome["found"] == expected, outcome["step"]


def test_killed_at_random_with_both_threads_at_work_the_restart_ends_the_same(folder):
    """The worker as it runs, its threads interleaved as they come."""
    steps = sorted(random.Random(3).sample(range(5, 70), 12))  # noqa: S311  a seed, not a secret
    expected, outcomes, stderr = kill_at("work", folder, steps)
    assert len(outcomes) == len(steps)
    for outcome in outcomes:
        assert outcome["status"] == 0, (outcome["step"], stderr[-3000:])
        assert outcome["found"] == expected, outcome["step"]
