"""Files of a version stay open until nobody maps them, and are closed by the thread that follows."""

import mmap
from pathlib import Path

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.files_in_use import FilesInUse
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import SnapshotReader

from .popularity import interactions


class User:
    """Something that can be let go of."""


def open_files(folder):
    """Return what this process has open under a folder, removed files too."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue  # of the listing itself
    return sorted(name for name in found if name.startswith(str(folder)))


def mapped_files(folder):
    """Return what this process maps under a folder, removed files too."""
    return {line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line}


def test_files_are_open_until_their_user_is_gone_and_somebody_closes(tmp_path):
    """Letting go closes nothing by itself: it is left to whoever calls close_unused."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    one, other = User(), User()
    with FilesInUse() as files:
        files.keep(one, [tmp_path / "a", tmp_path / "never-was"])
        files.keep(other, [tmp_path / "b"])
        del one
        assert open_files(tmp_path) == [f"{tmp_path}/a", f"{tmp_path}/b"]
        files.close_unused()
        assert open_files(tmp_path) == [f"{tmp_path}/b"]
    assert open_files(tmp_path) == []
    del other


def test_whoever_unmaps_a_removed_file_is_not_the_last_to_have_it(tmp_path):
    """The bytes of a removed file are still there after the mapping went, and gone after the descriptor."""
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 16))
    user = User()
    with path.open("rb") as file:
        user.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with FilesInUse() as files:
        files.keep(user, [path])
        path.unlink()
        del user
        assert not mapped_files(tmp_path)
        assert open_files(tmp_path) == [f"{path} (deleted)"]
        files.close_unused()
        assert not open_files(tmp_path)


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    rows = [(user, item) for user in range(1, 9) for item in range(user % 3, 5)]
    fit(tmp_path / "state", interactions(rows), {"popularity": {}})
    return tmp_path / "state"


def erase(state, user):
    """Erase a user: a new version, and the one before is purged."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(AccountDeletion(f"e-{user}", user))])
        engine.apply(engine.pending())


def test_a_reader_closes_a_purged_version_once_nobody_has_it(state):
    """Whoever is last to have the old version unmaps it and closes nothing; the next look does."""
    with SnapshotReader(state, poll_seconds=3600) as reader:
        reader._follower.close()  # this test looks by itself
        old = reader.current()
        first = open_files(state / "versions")
        assert any("000001" in name for name in first)
        erase(state, 1)
        reader._look()
        assert reader.current().version == 2
        assert old.has_user(2)
        del old
        assert not any("000001" in line for line in mapped_files(state))
        assert any("000001" in name for name in open_files(state / "versions"))
        reader._look()
        second = open_files(state / "versions")
        assert len(second) == len(first)
        assert all("000002" in name for name in second)
        erase(state, 2)
        reader._look()
        assert all("000003" in name for name in open_files(state / "versions"))
