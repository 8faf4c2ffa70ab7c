"""A reader that does not let go of a purged version is named: pid, command, version."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.testing
from recunlearn import cli
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.metrics import duties
from recunlearn.engine.readers import OldReader, ReaderWatch, old_readers
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import SnapshotReader, load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.status import state_status

from .popularity import ask, interactions

HOLD = """
import mmap, sys, time
kept = []
for path in sys.argv[1:-2]:
    with open(path, "rb") as file:
        kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
print("mapped", flush=True)
sys.stdin.readline()
"""
"""Maps files and holds them; no part of recunlearn is in it. The last two words stand for a secret."""


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    rows = [(user, item) for user in ("anna", "bob", "cleo") for item in "xyz"]
    fit(tmp_path / "state", interactions(rows), {"popularity": {}})
    return tmp_path / "state"


@pytest.fixture
def holder(state):
    """Start a process that maps the first version, and stop it."""
    script = state.parent / "hold.py"
    script.write_text(HOLD)
    files = sorted(map(str, (state / "versions" / "000001").rglob("*.arrow")))
    command = [sys.executable, str(script), *files, "--token", "secret"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mapped\n"
        yield process
        process.kill()


def erase(engine, user):
    """Erase one user."""
    assert ask(engine, AccountDeletion(f"delete-{user}", user)).erased == 1


def test_status_metrics_and_log_name_who_holds_a_purged_version(state, holder, caplog, monkeypatch):
    """By pid, command and version, never its options; warned of once; silent when it lets go."""
    monkeypatch.setattr("recunlearn.engine.readers._GRACE_SECONDS", 0.0)
    paths = StatePaths(state)
    assert old_readers(paths) == []
    with Engine.open(state) as engine:
        erase(engine, "anna")
        engine.pending()
        engine.pending()
        (found,) = state_status(paths)["old_readers"]
        assert (found["pid"], found["version"]) == (holder.pid, 1)
        assert found["command"].startswith(f"{Path(sys.executable).name} hold.py")
        assert "secret" not in found["command"]
        assert [r.message for r in caplog.records if "still maps version 1" in r.message] == [
            f"process {holder.pid} ({found['command']}) still maps version 1, which is purged: its bytes "
            "stay on disk until the process drops it or ends"
        ]
        erase(engine, "bob")
    said = typer.testing.CliRunner().invoke(cli.app, ["status", "--state", str(state)])
    assert f"process {holder.pid} (" in said.output
    (gauge,) = (m for m in duties(state_status(paths)) if m.name == "recunlearn_old_version_readers")
    assert gauge.samples[0].value == 1.0
    holder.communicate(b"\n")
    assert old_readers(paths) == []
    assert state_status(paths)["old_readers"] == []


def test_a_snapshot_that_is_kept_is_named_and_one_that_is_dropped_is_not(state):
    """In the process of the engine too: whoever keeps a snapshot keeps its version's bytes on disk."""
    paths = StatePaths(state)
    kept = load_snapshot(state)
    with Engine.open(state) as engine:
        erase(engine, "anna")
        assert [(reader.pid, reader.version) for reader in old_readers(paths)] == [(os.getpid(), 1)]
        assert kept.version == 1
        del kept
        assert old_readers(paths) == []


def test_a_reader_that_follows_lets_go(state):
    """It swaps within moments, and nothing of the old version stays mapped."""
    with SnapshotReader(state) as reader, Engine.open(state) as engine:
        erase(engine, "anna")
        deadline = time.monotonic() + 20
        while (reader.current().version, old_readers(engine.paths)) != (2, []):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_last_look_waits_for_who_lets_go_in_time(state, holder, caplog):
    """When the engine closes, a reader that swaps within the grace is not warned of."""
    with Engine.open(state) as engine:
        erase(engine, "anna")
        holder.stdin.write(b"\n")
        holder.stdin.flush()
    assert "still maps" not in caplog.text


def test_where_nobody_can_tell_nobody_is_named(state, monkeypatch, tmp_path):
    """Without /proc there is no answer and no error; a process that ends meanwhile is none."""
    monkeypatch.setattr("recunlearn.engine.readers._PROC", tmp_path / "none")
    assert old_readers(StatePaths(state)) == []
    (tmp_path / "none" / "4711").mkdir(parents=True)
    assert old_readers(StatePaths(state)) == []
    watch = ReaderWatch(StatePaths(state))
    watch.purged()
    watch.close()
    assert str(OldReader(1, "x", 2)) == "process 1 (x) still maps version 2"
