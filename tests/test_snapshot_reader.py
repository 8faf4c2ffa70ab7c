"""A reader follows by itself: told by the kernel or looking, across forks, and it lets go of what is old."""

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from recunlearn import SnapshotReader
from recunlearn.engine import following, scheduling, snapshot
from recunlearn.engine.arrow_array import read_column, write_frame
from recunlearn.engine.following import UNPROMPTED_SECONDS, FolderWatch
from recunlearn.engine.snapshot import UnknownUserError
from recunlearn.engine.state import StateError
from recunlearn.engine.version import FileRecord, file_record, set_current
from recunlearn.models import MODELS

from .marked_state import ITEMS, Marked, MarkedState

HOUR = 3600.0
needs_inotify = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Return a state directory with version 1 published; its model is in the registry meanwhile."""
    monkeypatch.setitem(MODELS, Marked.name, Marked)
    return MarkedState(tmp_path / "state")


def until(reached, seconds=20.0):
    """Wait until something holds; returns how long it took."""
    start = time.monotonic()
    while not reached():
        if time.monotonic() - start > seconds:
            raise AssertionError("it never came to be")
        time.sleep(0.0005)
    return time.monotonic() - start


def held(root):
    """Count this process's file descriptors, and its maps of files below ``root`` by their version."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    descriptors = list(Path("/proc/self/fd").iterdir())
    return len(descriptors), sorted(line.split()[5] for line in maps if str(root) in line)


def mapped(root):
    """Name the versions below ``root`` that this process maps."""
    return {Path(name).relative_to(root).parts[0] for name in held(root)[1]}


@needs_inotify
def test_a_new_version_is_followed_at_the_kernels_word(state):
    """A reader that would look again in an hour has each of 20 versions in seconds, half in .1 s."""
    with SnapshotReader(state.root, poll_seconds=HOUR) as reader:
        took = []
        for version in range(2, 22):
            state.publish(version)
            took.append(until(lambda version=version: reader.current().version == version))
        assert reader.swaps == 20
    assert max(took) < 5
    assert np.median(took) < 0.1


def test_a_new_version_is_followed_by_looking_where_nobody_tells(state, monkeypatch):
    """Without inotify the reader looks as often as it is told to, and follows as well."""
    monkeypatch.setattr(following, "_open_inotify", lambda: None)
    with SnapshotReader(state.root, poll_seconds=0.005) as reader:
        for version in range(2, 12):
            state.publish(version)
            until(lambda version=version: reader.current().version == version)


def test_a_version_is_asked_once_before_it_shows(state, monkeypatch):
    """What a model derives at its first question is derived by the follower, while the old version serves."""
    asked = []
    recommend = Marked.recommend
    with SnapshotReader(state.root) as reader:

        def noting(model, *given, **named):
            asked.append((threading.current_thread().name, model.marks[0], reader.current().version))
            return recommend(model, *given, **named)

        monkeypatch.setattr(Marked, "recommend", noting)
        state.publish(2)
        until(lambda: reader.current().version == 2)
        assert asked == [("follower", 2.0, 1)]


@needs_inotify
def test_a_watch_tells_of_a_folder_that_took_the_place_of_another(tmp_path):
    """Renames into the folder end a wait; so they do in a folder that replaced it; nothing else does."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with FolderWatch(folder) as watch:
        for _ in range(2):
            (tmp_path / "new").write_text("x")
            waited = threading.Thread(target=watch.wait, args=(HOUR,))
            waited.start()
            (folder / "written in place").write_text("x")
            waited.join(0.1)
            assert waited.is_alive()
            (tmp_path / "new").rename(folder / "CURRENT")
            waited.join(10)
            assert not waited.is_alive()
            shutil.rmtree(folder)
            folder.mkdir()
            watch.wait(HOUR)  # its end, and the new one is watched from the next wait on


def test_a_watch_can_be_woken_and_closed_at_any_time(tmp_path):
    """A wake before the wait ends it at once, one after it too, and one after the close does nothing."""
    watch = FolderWatch(tmp_path / "not there")
    assert not watch.told
    watch.wake()
    watch.wait(HOUR)
    sleeper = threading.Thread(target=watch.wait, args=(HOUR,))
    sleeper.start()
    watch.wake()
    sleeper.join(10)
    assert not sleeper.is_alive()
    watch.close()
    watch.wake()
    watch.close()


def test_a_watch_that_nobody_waits_for_can_be_woken_for_ever(tmp_path):
    """Wakes beyond what a pipe holds block nobody, and the next wait ends at once."""
    with FolderWatch(tmp_path) as watch:
        for _ in range((1 << 16) + 1):
            watch.wake()
        started = time.monotonic()
        watch.wait(HOUR)
        assert time.monotonic() - started < UNPROMPTED_SECONDS


def test_a_system_without_inotify_and_eventfd_is_looked_at(state, monkeypatch):
    """Where neither is there, as outside Linux, a reader opens, follows by looking, and closes at once."""
    monkeypatch.delattr(os, "eventfd", raising=False)
    monkeypatch.setattr(following.ctypes, "CDLL", lambda _: object())
    with FolderWatch(state.paths.root) as watch:
        assert not watch.told
    reader = SnapshotReader(state.root, poll_seconds=0.005)
    state.publish(2)
    until(lambda: reader.current().version == 2)
    reader.close()
    with SnapshotReader(state.root, poll_seconds=HOUR) as another:  # its close wakes it
        assert another.current().version == 2


def test_threads_read_while_a_hundred_versions_swap_and_nothing_piles_up(state):
    """Three threads, 100 swaps: every answer is whole, and descriptors and maps are those of one version."""
    wrong, seen, done = [], set(), threading.Event()

    def ask(reader):
        while not done.is_set():
            snap = reader.current()
            items, scores = snap.recommend(7)
            seen.add(snap.version)
            if items.tolist() != [f"v{snap.version}/i{k}" for k in range(ITEMS)] or scores[0] != snap.version:
                wrong.append((snap.version, items, scores))
            time.sleep(0.0005)  # or the interpreter's lock is all that is tested

    gc.collect()  # or what other tests left behind is let go of in the middle
    with SnapshotReader(state.root) as reader:
        descriptors, maps = held(state.paths.versions)
        threads = [threading.Thread(target=ask, args=(reader,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(2, 102):
            state.publish(version)
            until(lambda version=version: version in seen)
        done.set()
        for thread in threads:
            thread.join()
        assert (wrong, reader.swaps, reader.error) == ([], 100, None)
        until(lambda: held(state.paths.versions)[0] == descriptors)  # closed by the thread that follows
        _, maps_now = held(state.paths.versions)
        assert [name.replace("000101", "000001") for name in maps_now] == maps


def test_an_old_version_is_let_go_when_its_last_snapshot_is(state):
    """A snapshot in hand keeps its version mapped through swaps; dropping it unmaps that version at once."""
    with SnapshotReader(state.root) as reader:
        snap = reader.current()
        for version in (2, 3):
            state.publish(version)
            until(lambda version=version: reader.current().version == version)
        assert snap.recommend(7)[1].tolist() == [1.0] * ITEMS
        until(lambda: mapped(state.paths.versions) == {"000001", "000003"})  # by the thread that follows
        gc.disable()
        try:
            del snap
            assert mapped(state.paths.versions) == {"000003"}
        finally:
            gc.enable()


def test_a_version_is_loaded_in_pieces_with_rests_between(state, tmp_path, monkeypatch):
    """A file is digested a piece at a time, and a follower rests after each file at the least."""
    rests, large = [], tmp_path / "large"
    large.write_bytes(os.urandom(5 << 18))
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    assert file_record(large, rest=lambda: rests.append(1)) == FileRecord(digest, 5 << 18)
    assert len(rests) == 3
    with SnapshotReader(state.root) as reader:
        monkeypatch.setattr(scheduling, "REST_SECONDS", 0.02)
        state.publish(2)
        took = until(lambda: reader.current().version == 2)
        assert took > 0.02 * len(reader.current().manifest.files)


def test_a_closed_reader_leaves_no_descriptor_and_no_thread(state):
    """Opening and closing 20 readers leaves the process as it was."""
    gc.collect()  # or what other tests left behind is let go of in the middle
    before, threads = held(state.paths.versions)[0], threading.active_count()
    for _ in range(20):
        with SnapshotReader(state.root) as reader:
            assert reader.current().version == 1
    with pytest.raises(StateError):
        SnapshotReader(state.root / "nowhere")
    del reader
    assert (held(state.paths.versions), threading.active_count()) == ((before, []), threads)


def test_a_reader_goes_on_in_processes_that_were_forked_off(tmp_path):
    """Three children of a process that had ranked: each follows 20 swaps by itself and refuses the fenced."""
    script = Path(__file__).with_name("forked_reader.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "state")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("ids", [[7, 42, 2**62], ["a", "", "more than twelve bytes", "ä\n\0"]])
def test_ids_are_read_on_one_thread_as_polars_reads_them(tmp_path, ids):
    """A column comes back as it was written, with another one beside it or not."""
    for frame in (pl.DataFrame({"id": ids}), pl.DataFrame({"x": range(len(ids)), "id": ids})):
        path = tmp_path / f"{frame.width}.arrow"
        with path.open("wb") as file:
            write_frame(file, frame)
        assert read_column(path, "id").equals(pl.read_ipc(path)["id"], check_dtypes=True)


def test_a_deleted_state_directory_serves_nobody_who_might_be_fenced(state, tmp_path):
    """Gone: items go on, users are refused with the ledger's name; restored: its fence and version count."""
    backup = tmp_path / "backup"
    with SnapshotReader(state.root, poll_seconds=0.01) as reader:
        assert reader.current().has_user(3)
        state.fence(3)
        state.publish(2)
        until(lambda: reader.current().version == 2)
        shutil.copytree(state.root, backup)
        shutil.rmtree(state.root)
        until(lambda: reader.error is not None)
        assert reader.current().similar_items("v2/i0")[0].size
        with pytest.raises(StateError, match=r"ledger\.sqlite is missing"):
            reader.current().recommend(7)
        backup.rename(state.root)
        until(lambda: reader.error is None)
        assert reader.current().recommend(7)[0].size
        state.fence(5)
        for user in (3, 5):
            with pytest.raises(UnknownUserError):
                reader.current().recommend(user)
        state.publish(3)
        until(lambda: reader.current().version == 3)


def test_a_damaged_version_is_not_read_again_at_every_look(state, monkeypatch):
    """While CURRENT names a version that cannot be used, it is tried once a second at the most."""
    monkeypatch.setattr(following, "_open_inotify", lambda: None)
    tried = []
    load = snapshot.load_snapshot
    with SnapshotReader(state.root, poll_seconds=0.001) as reader:
        monkeypatch.setattr(
            snapshot, "load_snapshot", lambda *given, **options: tried.append(1) or load(*given, **options)
        )
        set_current(state.paths, 9, "0" * 64)
        until(lambda: reader.error is not None)
        started = time.monotonic()
        time.sleep(0.3)
        tries = len(tried)
        assert 1 <= tries <= 2 + time.monotonic() - started
        state.publish(2)
        until(lambda: reader.current().version == 2)
        assert reader.error is None
