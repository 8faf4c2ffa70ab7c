"""Silos and coordinator killed, at each step and at random: no deletion is lost, none counts twice.

``RECUNLEARN_KILLS=200 RECUNLEARN_DELETIONS=100 RECUNLEARN_EVERY=1`` is the run whose figures the docs give.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "federated_kills.py"
KILLS = int(os.environ.get("RECUNLEARN_KILLS", "6"))
EVERY = int(os.environ.get("RECUNLEARN_EVERY", "13"))
DELETIONS = int(os.environ.get("RECUNLEARN_DELETIONS", "20"))


def outcomes(folder, *arguments):
    """Run the script; returns the documents that it printed."""
    command = [sys.executable, str(SCRIPT), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_in_order(outcome):
    """Hold what must be so after any crash, once everybody has looked again."""
    assert outcome["exact"], "what is published is not the fit on who is left"
    assert outcome["kept"]
    assert outcome["erased"] == outcome["wanted"]
    assert outcome["users"] == sum(60 - gone for gone in outcome["wanted"].values())
    answered = [key for keys in outcome["messages"].values() for key in keys]
    assert len(set(answered)) == len(answered)
    assert set(answered) <= set(outcome["receipts"])
    assert outcome["waiting"] == outcome["left_over"] == 0
    assert outcome["rows_files"] == 3


def test_a_kill_at_any_step_loses_nothing_and_counts_nothing_twice(tmp_path):
    """SIGKILL at durable steps of a silo and of the coordinator, then a start: as if it had not been."""
    found = outcomes(tmp_path, "steps", str(EVERY), "open")
    assert len(found) > 60 // EVERY
    for outcome in found:
        assert_in_order(outcome)
        assert sum(map(len, outcome["messages"].values())) == len(outcome["receipts"]) == 5


def test_a_kill_at_any_step_of_a_round_loses_nothing_and_counts_nothing_twice(tmp_path):
    """The same under masks, in each look of a silo and of the coordinator at a round of deletions."""
    found = outcomes(tmp_path, "steps", str(2 * EVERY), "secure")
    assert len(found) > 90 // (2 * EVERY)
    for outcome in found:
        assert_in_order(outcome)
        assert sum(map(len, outcome["messages"].values())) == 5


def test_a_kill_at_any_step_of_a_solve_mixes_no_products(tmp_path):
    """The same without sums, in letters, questions and answers of a solve, while the others run."""
    every = 16 * EVERY
    found = outcomes(tmp_path, "steps", str(every), "products")
    assert len(found) > 300 // every
    for outcome in found:
        assert_in_order(outcome)
        assert sum(map(len, outcome["messages"].values())) == len(outcome["receipts"]) == 5


@pytest.mark.parametrize("how", ["open", "secure", "products"])
def test_random_kills_during_deletions_lose_nothing_and_count_nothing_twice(tmp_path, how):
    """Three silos and the coordinator as processes, killed at random while deletions come in."""
    killed, outcome = outcomes(tmp_path, "random", str(KILLS), str(DELETIONS), how)
    assert killed["killed"] >= KILLS
    assert killed["versions_so_far"] > 1
    assert sum(outcome["wanted"].values()) == DELETIONS
    assert_in_order(outcome)
