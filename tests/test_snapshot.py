"""Published versions: written, mapped, checked, swapped."""

import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn import SnapshotReader
from recunlearn.engine import snapshot
from recunlearn.engine import version as version_files
from recunlearn.engine.arrow_array import map_array, write_array
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import UnknownItemError, UnknownModelError, UnknownUserError, load_snapshot
from recunlearn.engine.state import Config, StatePaths, write_config
from recunlearn.engine.version import Store, VersionError, read_manifest, set_current, write_version

from .popularity import Popularity


def publish(paths, number, matrix, users, items):
    """Publish version ``number`` of a popularity model."""
    model = Popularity().fit(sp.csr_matrix(np.asarray(matrix, dtype=np.float64)))
    digest = write_version(
        paths,
        number,
        {"popularity": model},
        pl.Series(users),
        pl.Series(items),
        Store({}, 1),
        software="test",
    )
    set_current(paths, number, digest)
    return model


@pytest.fixture
def paths(tmp_path):
    """Make an empty state: config, key and ledger."""
    paths = StatePaths(tmp_path / "state")
    paths.versions.mkdir(parents=True)
    write_config(paths, Config({"popularity": {"weight": 1.0}}))
    Ledger.create(paths, FenceKey.create(paths)).close()
    return paths


def fence_user(paths, user, request_id="e-1"):
    """Record an account deletion in the ledger."""
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.record([Received(AccountDeletion(request_id, user))])


@settings(max_examples=30, deadline=None)
@given(
    shape=st.one_of(st.tuples(st.integers(0, 40)), st.tuples(st.integers(0, 30), st.integers(0, 9))),
    dtype=st.sampled_from(["f4", "f8", "i4", "i8", "u1", "?"]),
    seed=st.integers(0, 99),
)
def test_an_array_comes_back_bit_for_bit(tmp_path_factory, shape, dtype, seed):
    """What is mapped is what was written, read-only, for every dtype and shape, empty ones too."""
    path = tmp_path_factory.mktemp("array") / "a.arrow"
    array = (np.random.default_rng(seed).normal(size=shape) * 100).astype(dtype)
    record = write_array(path, array, "a")
    mapped = map_array(path, record)
    assert mapped.shape == array.shape
    assert not mapped.flags.writeable
    assert mapped.tobytes() == array.tobytes()
    column = pl.read_ipc(path)["a"]
    assert not array.size or np.array_equal(column.to_numpy(), array)


def test_an_array_that_cannot_be_mapped_is_refused(tmp_path):
    """Objects and complex numbers are refused by name."""
    with pytest.raises(TypeError, match="'names' has dtype"):
        write_array(tmp_path / "a.arrow", np.array(["x"], dtype=object), "names")


def test_mapping_a_large_array_does_not_read_it(tmp_path):
    """40 MB are mapped in a few milliseconds."""
    array = np.ones((2200, 2200))
    record = write_array(tmp_path / "a.arrow", array, "inverse")
    took = []
    for _ in range(5):
        start = time.perf_counter()
        map_array(tmp_path / "a.arrow", record)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.005


def test_a_snapshot_answers_as_the_model_does_with_external_ids(paths):
    """Recommendations, similar items and vectors are the model's own, by the platform's ids."""
    publish(paths, 1, [[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]], [7, 42, 1000], ["a", "b", "c", "d"])
    with SnapshotReader(paths.root) as reader:
        snap = reader.current()
        items, scores = snap.recommend(7)
        assert (items.tolist(), scores.tolist()) == (["c", "d"], [2.0, 1.0])
        assert snap.recommend("7", N=1)[0].tolist() == ["c"]
        assert snap.similar_items("a")[0].tolist() == ["a", "b"]
        assert snap.user_vector(1000).tolist() == [3.0]
        assert (snap.version, snap.models, snap.manifest.counts.users) == (1, ("popularity",), 3)
        assert snap.user_ids() == [7, 42, 1000]
        with pytest.raises(ValueError, match="item_factors"):
            snap.item_vector("a")


@pytest.mark.parametrize("user", [8, "007", "7 ", "", "x", 2**70, "\u0667", None, True])
def test_unknown_users_are_refused_alike(paths, user):
    """Ids that are not in the version, of whatever type, are unknown; none is taken for another."""
    publish(paths, 1, [[1, 1]], [7], ["a", "b"])
    with SnapshotReader(paths.root) as reader, pytest.raises(UnknownUserError, match="is not known"):
        reader.current().recommend(user)


def test_unknown_items_and_models_are_named(paths):
    """The error names the item, or the model and those that there are."""
    publish(paths, 1, [[1, 1]], [7], ["a", "b"])
    with SnapshotReader(paths.root) as reader:
        with pytest.raises(UnknownItemError, match="'zzz'"):
            reader.current().similar_items("zzz")
        with pytest.raises(UnknownModelError, match="'nothing' in this version; it has popularity"):
            reader.current().recommend(7, model="nothing")


def test_a_fenced_user_is_refused_at_once_by_a_snapshot_already_loaded(paths):
    """From the moment the request is durable the user is not served, and is refused as an unknown one."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])
    with SnapshotReader(paths.root) as reader:
        snap = reader.current()
        assert snap.has_user("anna")
        fence_user(paths, "anna")
        with pytest.raises(UnknownUserError) as forgotten:
            snap.recommend("anna")
        with pytest.raises(UnknownUserError) as unknown:
            snap.recommend("zoe")
        assert str(forgotten.value).replace("anna", "zoe") == str(unknown.value)
        assert snap.user_ids() == ["bob"]
        with pytest.raises(UnknownUserError):
            snap.user_vector("anna")


def test_the_fence_sees_another_process_and_costs_microseconds(paths):
    """A request recorded by another process fences at once; a look-up takes well under a millisecond."""
    fence = Fence(paths.root)
    assert not fence.is_fenced("anna")
    code = (
        "import sys; from pathlib import Path\n"
        "from recunlearn.engine.fence import FenceKey\n"
        "from recunlearn.engine.ledger import Ledger, Received\n"
        "from recunlearn.engine.requests import AccountDeletion\n"
        "from recunlearn.engine.state import StatePaths\n"
        "paths = StatePaths(Path(sys.argv[1]))\n"
        "Ledger(paths.ledger, FenceKey.load(paths)).record([Received(AccountDeletion('e', 'anna'))])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(paths.root)], check=True, env=os.environ)
    assert fence.is_fenced("anna")
    start = time.perf_counter()
    for _ in range(200):
        fence.is_fenced("bob")
    assert (time.perf_counter() - start) / 200 < 1e-3
    fence.close()


def test_versions_are_swapped_under_load_without_a_mixed_answer(paths):
    """While versions are published, every answer is wholly of one version, and the last one is reached."""
    last = 12
    publish(paths, 1, [[1, 0, 1], [1, 1, 1]], [1, 2], [100, 101, 102])
    wrong, seen = [], set()
    done = threading.Event()

    def ask(reader):
        while not done.is_set():
            snap = reader.current()
            items, scores = snap.recommend(1, N=1)
            seen.add(snap.version)
            if (items[0], scores[0]) != (100 * snap.version + 1, snap.version):
                wrong.append((snap.version, items, scores))

    with SnapshotReader(paths.root, poll_seconds=0.001) as reader:
        threads = [threading.Thread(target=ask, args=(reader,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while not seen and time.monotonic() < deadline:
            time.sleep(0.002)
        for number in range(2, last + 1):
            base = 100 * number
            publish(paths, number, [[1, 0, 1], [1, number, 1]], [1, 2], [base, base + 1, base + 2])
        deadline = time.monotonic() + 20
        while last not in seen and time.monotonic() < deadline:
            time.sleep(0.002)
        done.set()
        for thread in threads:
            thread.join()
        assert reader.current().version == last
        assert reader.error is None
    assert not wrong
    assert {1, last} <= seen


@pytest.mark.parametrize("where", ["manifest.json", "users.arrow", "popularity/item_counts.arrow", "CURRENT"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_version_is_refused_by_name(paths, where, how):
    """A flipped byte, a cut file or a missing one is found before anything is served, and named."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])
    path = paths.current if where == "CURRENT" else paths.version(1) / where
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content if how == "flip" else content[: len(content) // 2])
    with pytest.raises(VersionError) as refused:
        load_snapshot(paths.root)
    assert (str(paths.root) if where == "CURRENT" else path.name) in str(refused.value)


def test_a_version_that_is_replaced_while_it_is_read_gives_way_to_the_newer_one(paths, monkeypatch):
    """Purged between CURRENT and its files: the newer one is loaded; one that is just gone is an error."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])

    def purged(*arguments):
        monkeypatch.undo()
        shutil.rmtree(paths.version(1))
        publish(paths, 2, [[1, 1]], ["bob"], ["a", "b"])
        return read_manifest(*arguments)

    monkeypatch.setattr(snapshot, "read_manifest", purged)
    assert load_snapshot(paths.root).version == 2
    shutil.rmtree(paths.version(2))
    with pytest.raises(VersionError):
        load_snapshot(paths.root)


def test_a_damaged_new_version_leaves_the_old_one_serving(paths):
    """A reader that meets a damaged version keeps the one it has and says why."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])
    with SnapshotReader(paths.root, poll_seconds=0.001) as reader:
        set_current(paths, 2, "0" * 64)
        deadline = time.monotonic() + 10
        while reader.error is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert isinstance(reader.error, VersionError)
        assert reader.current().recommend("bob")[0].tolist() == ["b"]


def test_going_back_past_an_erasure_is_refused(paths):
    """A version older than the newest one that an erasure was published in is not loaded."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])
    fence_user(paths, "anna")
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.publish_cycle(ledger.begin_cycle(2, {1: "removed"}), {})
    with pytest.raises(VersionError, match="past an erasure is refused"):
        SnapshotReader(paths.root)


def test_a_reader_that_is_dropped_ends_its_thread(paths):
    """Nobody has to close a reader for its thread to end."""
    publish(paths, 1, [[1, 1]], [7], ["a", "b"])
    reader = SnapshotReader(paths.root, poll_seconds=0.001)
    thread = reader._follower._thread
    fence = reader.fence
    del reader
    thread.join(10)
    assert not thread.is_alive()
    fence.close()


def test_published_files_are_plain_arrow_with_ids_beside_rows(paths):
    """Any Arrow reader finds a user's vector beside the user's id."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])
    frame = pl.read_ipc(paths.version(1) / "popularity" / "user_factors.arrow")
    assert frame.to_dicts() == [
        {"user_factors": [2.0], "user_id": "anna"},
        {"user_factors": [1.0], "user_id": "bob"},
    ]


def test_restored_models_do_not_share_memory_with_files_unless_mapped(paths):
    """For forgetting, models are restored into memory of their own: purged files are not held open."""
    publish(paths, 1, [[1, 1], [1, 0]], ["anna", "bob"], ["a", "b"])
    number, digest = version_files.read_current(paths)
    manifest = version_files.read_manifest(paths, number, digest)
    for mapped in (True, False):
        models = version_files.read_models(paths.version(1), manifest, mapped=mapped)
        assert models["popularity"].item_counts.flags.writeable is not mapped
