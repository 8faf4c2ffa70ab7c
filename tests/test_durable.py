"""The durability primitives, and what becomes of a cycle when any of them fails."""

import errno
import os
import shutil

import pytest
from recunlearn.engine import durable
from recunlearn.engine.durable import SyncFailedError, append, create_bytes, remove, replace
from recunlearn.engine.snapshot import load_snapshot

from . import kill_points


def test_a_file_is_created_once(tmp_path):
    """What exists is left as it is."""
    create_bytes(tmp_path / "a", b"first", mode=0o600)
    with pytest.raises(FileExistsError):
        create_bytes(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """Neither a created file nor a replaced one is left half-written."""

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        durable.create(tmp_path / "a", full)
    assert list(tmp_path.iterdir()) == []
    replace(tmp_path / "b", b"old")
    replace(tmp_path / "b", b"new")
    assert (tmp_path / "b").read_bytes() == b"new"
    append(tmp_path / "b", b"er")
    assert (tmp_path / "b").read_bytes() == b"newer"
    remove(tmp_path / "b")
    remove(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_sync_is_no_exception_that_could_be_caught(tmp_path, monkeypatch):
    """It ends the process: no handler of errors carries on after it."""

    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    for act in (
        lambda: create_bytes(tmp_path / "a", b"x"),
        lambda: replace(tmp_path / "b", b"x"),
        lambda: append(tmp_path / "c", b"x"),
    ):
        with pytest.raises(SyncFailedError, match="could not be made durable"):
            act()
    assert not issubclass(SyncFailedError, Exception)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Make a state with events in its journal, and what an undisturbed cycle makes of a copy of it."""
    folder = tmp_path_factory.mktemp("prepared")
    kill_points.prepare("cycle", folder / "template")
    shutil.copytree(folder / "template", folder / "undisturbed")
    kill_points.cycle(folder / "undisturbed")
    return folder / "template", kill_points.describe(folder / "undisturbed")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_an_error_at_any_step_loses_nothing(prepared, tmp_path, monkeypatch, code):
    """Each step of a cycle fails in turn: the error comes out, whole versions are served, a restart ends."""
    template, expected = prepared
    failed = 0
    # A third of the steps for each error: together they are all of them, at a third of the time.
    for step in range(1 + [errno.ENOSPC, errno.EIO, errno.EACCES].index(code), 500, 3):
        state = tmp_path / f"step-{step}"
        shutil.copytree(template, state)
        count = iter(range(1, 10_000))

        def fail(name, step=step, count=count):
            if next(count) == step:
                raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(durable, "reached", fail)
            try:
                kill_points.cycle(state)
            except OSError as error:
                assert error.errno == code  # noqa: PT017  whether it fails at all ends the loop
                failed += 1
            else:
                break
        assert load_snapshot(state).version in (1, 2)
        kill_points.cycle(state)
        assert kill_points.describe(state) == expected, step
        shutil.rmtree(state)
    assert failed >= 25


def test_an_engine_goes_on_after_an_error(prepared, tmp_path, monkeypatch):
    """The same engine, asked again after the disk was full, erases what it could not before."""
    from recunlearn.engine.engine import Engine
    from recunlearn.engine.ledger import Received
    from recunlearn.engine.requests import AccountDeletion

    shutil.copytree(prepared[0], tmp_path / "state")
    with Engine.open(tmp_path / "state") as engine:
        engine.ledger.record([Received(AccountDeletion("x-1", "anna"))])
        with monkeypatch.context() as patch:

            def full(*arguments, **named):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr("recunlearn.engine.engine.write_version", full)
            with pytest.raises(OSError, match="No space"):
                engine.apply(engine.ledger.pending())
        assert engine.ledger.counts()["erasing"] == 1
        assert engine.apply(engine.pending()).erased == 1
    assert not load_snapshot(tmp_path / "state").has_user("anna")
