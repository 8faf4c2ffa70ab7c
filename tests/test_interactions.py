"""The system of record: partitioned, rewritten only where a user lives, the same in any order."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine import interactions as store_module
from recunlearn.engine.interactions import (
    canonical_frame,
    partition_of,
    read_store,
    rewrite_store,
    to_user_items,
    write_store,
)
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import VersionError

from .popularity import interactions

rows = st.lists(st.tuples(st.integers(-3, 30), st.integers(0, 9)), min_size=1, max_size=60, unique=True)


@settings(max_examples=40, deadline=None)
@given(rows=rows, gone=st.sets(st.integers(-3, 33)), picked=st.data())
def test_what_is_kept_is_what_a_filter_over_rows_keeps(tmp_path_factory, rows, gone, picked):
    """Removing users and pairs leaves exactly the other rows, in canonical order, in any partitioning."""
    paths = StatePaths(tmp_path_factory.mktemp("store"))
    pairs = set(picked.draw(st.lists(st.sampled_from([*rows, (99, 1)]), max_size=5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_ROWS_PER_PARTITION", picked.draw(st.integers(1, 70)))
        store = write_store(paths, 1, canonical_frame(interactions(rows)))
    after = rewrite_store(
        paths, store, 2, [str(user) for user in gone], [(str(user), str(item)) for user, item in pairs]
    )
    expected = sorted((u, i, 1.0) for u, i in rows if u not in gone and (u, i) not in pairs)
    frame = read_store(paths, after)
    assert (frame.rows() if frame is not None else []) == expected
    assert read_store(paths, store).rows() == sorted((u, i, 1.0) for u, i in rows)


def test_only_the_partitions_of_the_users_are_rewritten(tmp_path, monkeypatch):
    """A partition without anything to remove keeps its file."""
    monkeypatch.setattr(store_module, "_ROWS_PER_PARTITION", 10)
    paths = StatePaths(tmp_path)
    store = write_store(paths, 1, interactions([(f"user-{k}", "x") for k in range(100)]))
    assert store.partitions == 16
    after = rewrite_store(paths, store, 2, ["user-7", "nobody"], [("user-8", "not there")])
    assert len(set(store.files) - set(after.files)) == 1
    assert sum(record.rows for record in after.files.values()) == 99


def test_a_damaged_partition_is_named(tmp_path):
    """A flipped byte in a partition is found when it is read."""
    paths = StatePaths(tmp_path)
    store = write_store(paths, 1, interactions([(1, 2), (3, 4)]))
    (name,) = store.files
    content = bytearray((paths.interactions / name).read_bytes())
    content[20] ^= 1
    (paths.interactions / name).write_bytes(content)
    with pytest.raises(VersionError, match=name):
        read_store(paths, store)


def test_duplicates_are_summed_and_the_latest_time_is_kept():
    """The canonical frame does not depend on the order of the rows."""
    frame = pl.DataFrame(
        {"user_id": ["b", "a", "b"], "item_id": [2, 1, 2], "value": [1.0, 5.0, 2.5], "time": [3, 2, 1]}
    )
    for seed in range(3):
        shuffled = frame.sample(fraction=1, shuffle=True, seed=seed)
        assert canonical_frame(shuffled).rows() == [("a", 1, 5.0, 2), ("b", 2, 3.5, 3)]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"user_id": [1], "value": [1.0]}), "lack the columns"),
        (pl.DataFrame({"user_id": [1.5], "item_id": [1], "value": [1.0]}), "user_id is Float64"),
        (pl.DataFrame({"user_id": [1, None], "item_id": [1, 1], "value": [1.0, 1.0]}), "1 nulls"),
    ],
)
def test_a_frame_that_is_none_is_refused(frame, message):
    """Missing columns, ids of other types and nulls are named."""
    with pytest.raises(ValueError, match=message):
        canonical_frame(frame)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_the_matrix_is_the_frame(rows):
    """Every interaction is at its user's row and its item's column, and nothing else."""
    user_items, users, items = to_user_items(canonical_frame(interactions(rows)))
    coo = user_items.tocoo()
    assert sorted(
        zip(users.gather(coo.row).to_list(), items.gather(coo.col).to_list(), strict=True)
    ) == sorted(rows)
    assert user_items.has_sorted_indices
    assert np.all(coo.data == 1.0)


def test_partitions_are_the_same_for_ever():
    """The home of an id is pinned: another release finds the user where this one wrote it."""
    assert (
        partition_of(pl.Series([42, 7, -1]), 64).to_list()
        == partition_of(pl.Series(["42", "7", "-1"]), 64).to_list()
    )
    assert partition_of(pl.Series(["anna", "bob", "42"]), 64).to_list() == [55, 0, 8]
