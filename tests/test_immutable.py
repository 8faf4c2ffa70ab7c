"""The kernel itself refuses to remove, rename or write a file (it is immutable): loud, and finished later.

Root may write what its mode forbids; what is *immutable* (``chattr +i``) not even root removes, renames or
opens for writing. That needs a file system with such flags, and the right to set them.
"""

import array
import errno
import fcntl
import os
import shutil
from contextlib import contextmanager

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError
from recunlearn.engine.verification import verify_state

from .popularity import interactions

ROWS = [(user, item) for user in ("anna", "bob", "cleo", "dora") for item in ("x", "y", "z")]
GET_FLAGS, SET_FLAGS, IMMUTABLE = 0x80086601, 0x40086602, 0x10
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL of linux/fs.h."""


def set_immutable(path, on):
    """Set or clear the flag."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(descriptor, GET_FLAGS, flags)
        flags[0] = flags[0] | IMMUTABLE if on else flags[0] & ~IMMUTABLE
        fcntl.ioctl(descriptor, SET_FLAGS, flags)
    finally:
        os.close(descriptor)


@contextmanager
def immutable(path):
    """Make a file or folder immutable for a while."""
    set_immutable(path, True)
    try:
        yield
    finally:
        set_immutable(path, False)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Make a state from which somebody is erased already; it is skipped where nothing can be immutable."""
    folder = tmp_path_factory.mktemp("immutable")
    (folder / "probe").touch()
    try:
        with immutable(folder / "probe"), pytest.raises(OSError) as refused:
            (folder / "probe").unlink()
    except OSError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no file can be made immutable here: {error}")
    assert refused.value.errno == errno.EPERM
    fit(folder / "state", interactions(ROWS), {"popularity": {}})
    with Engine.open(folder / "state") as engine:
        ask(engine, "e-1", "anna")
        engine.apply(engine.pending())
    return folder / "state"


def ask(engine, request_id, user):
    """Record that somebody is to be erased."""
    engine.ledger.record([Received(AccountDeletion(request_id, user))])


REFUSALS = {
    "unlink of a purged version": "versions/000002/manifest.json",
    "unlink of a purged partition": "interactions/*-00000[12].parquet",
    "rename to CURRENT": "CURRENT",
    "a new version's folder": "versions",
    "rename to the checkpoint": "receipts/checkpoint",
    "appending a receipt": "receipts/log.ndjson",
}
"""What the kernel refuses -> the file or folder that is immutable."""


@pytest.mark.parametrize("what", REFUSALS)
def test_what_the_kernel_refuses_is_loud_and_finished_by_the_next_start(what, state, tmp_path):
    """The error names the file; nobody is lost, nobody served; once it is allowed, all ends as it should."""
    copy = shutil.copytree(state, tmp_path / "state")
    path = next(copy.glob(REFUSALS[what]))
    with Engine.open(copy) as engine:
        ask(engine, "e-2", "bob")
        with immutable(path), pytest.raises((OSError, StateError)) as refused:
            engine.apply(engine.pending())
        assert path.name in str(refused.value)
        assert engine.ledger.counts()["fenced"] + engine.ledger.counts()["erasing"] <= 1
    with Engine.open(copy) as engine:
        engine.apply(engine.pending())
        assert engine.ledger.counts()["erased"] == 2
    assert "bob" not in load_snapshot(copy).user_ids()
    found = verify_state(copy)
    assert (found.problems, found.receipts, found.valid_receipts) == ([], 2, 2)


@pytest.mark.parametrize("name", ["ledger.count", "ledger.sqlite"])
def test_a_ledger_that_cannot_be_written_takes_nothing_in_silently(name, state, tmp_path):
    """Recording fails with the file's name; asked again, the request is recorded once."""
    copy = shutil.copytree(state, tmp_path / "state")
    with Engine.open(copy) as engine:
        engine.ledger.purge()
    with (
        immutable(copy / name),
        pytest.raises((OSError, StateError), match=name),
        Engine.open(copy) as engine,
    ):
        ask(engine, "e-2", "bob")
    with Engine.open(copy) as engine:
        ask(engine, "e-2", "bob")
        engine.apply(engine.pending())
        assert engine.ledger.counts()["erased"] == 2
    assert verify_state(copy).ok
