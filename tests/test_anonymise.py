"""Anonymisation: the rows stay under an id that leads nowhere, the influence stays, the old id is gone."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine import interactions as store_module
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.interactions import read_store
from recunlearn.engine.ledger import Received
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion, Anonymisation, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import Store

from .popularity import ask, files_with, interactions

MODELS = {"popularity": {"weight": 2.0}, "ease": {"regularization": 5.0}, "item_knn": {"K": 5}}
ROWS = [("anna-long", "x"), ("anna-long", "y"), ("bob", "x"), ("bob", "z"), ("cleo", "y"), ("cleo", "z")]


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), MODELS)
    return tmp_path / "state"


def stored(state):
    """Return the rows of the interaction store."""
    manifest = load_snapshot(state, mapped=False).manifest
    frame = read_store(StatePaths(state), Store(manifest.interactions, manifest.partitions))
    return [] if frame is None else frame.rows()


def said(state):
    """Return what the receipts say."""
    public = state_public_key(StatePaths(state))
    return [open_receipt(line, public)["predicate"] for line in read_lines(StatePaths(state))]


def test_the_rows_stay_and_the_id_goes(state):
    """The items of the user are still there, under an id that was never there, in no file the old one."""
    with Engine.open(state) as engine:
        report = ask(engine, Anonymisation("e-1", "anna-long"))
        assert (report.version, report.erased, report.failed) == (2, 1, 0)
        assert engine.ledger.counts()["anonymised"] == 1
    rows = stored(state)
    new = {user for user, _, _ in rows} - {"bob", "cleo"}
    assert len(new) == 1
    assert new.pop().startswith("anonymous-")
    assert sorted(item for user, item, _ in rows if user not in ("bob", "cleo")) == ["x", "y"]
    assert not files_with(state, "anna-long")
    assert verify_state(state).problems == []


def test_the_models_are_unchanged_to_the_bit(state):
    """Item weights, similarities and counts are the same; the user's list is served under the new id."""
    before = load_snapshot(state, mapped=False)
    lists = {user: before.recommend(user) for user in ("anna-long", "bob")}
    with Engine.open(state) as engine:
        ask(engine, Anonymisation("e-1", "anna-long"))
    after = load_snapshot(state, mapped=False)
    for name in ("ease", "item_knn"):
        for key, array in before._models[name].published().items():
            same = after._models[name].published()[key]
            assert (same != array).nnz == 0 if hasattr(array, "nnz") else same.tobytes() == array.tobytes()
    (new,) = set(after.user_ids()) - {"bob", "cleo"}
    for user, known in ((new, "anna-long"), ("bob", "bob")):
        for found, expected in zip(after.recommend(user), lists[known], strict=True):
            assert found.tolist() == expected.tolist()


def test_the_old_id_is_fenced_like_an_erased_one(state):
    """It is not served from the record on, and a file that brings it back is refused."""
    fence = Fence(state)
    with Engine.open(state) as engine:
        engine.ledger.record([Received(Anonymisation("e-1", "anna-long"))])
        assert fence.is_fenced("anna-long")
        engine.apply(engine.pending())
    report = fit(state, interactions(ROWS), MODELS)
    assert (report.refused_users, report.refused_interactions) == (1, 2)
    assert load_snapshot(state).user_ids() == ["bob", "cleo"]
    fence.close()


def test_the_receipt_says_anonymised_and_claims_no_erasure(state):
    """No time of erasure, no proof of a model: the influence stays, and the receipt says so."""
    with Engine.open(state) as engine:
        ask(engine, Anonymisation("e-1", "anna-long"), Anonymisation("e-2", "nobody"))
    first, second = said(state)
    assert (first["request"]["kind"], first["outcome"], second["outcome"]) == (
        "anonymisation", "anonymised", "nothing",
    )  # fmt: skip
    assert first["erased"] is None
    assert first["anonymised"] == first["done"] > first["fenced"]
    assert first["models"] == {}
    assert "influence" in first["kept"]
    assert "anonymous-" not in json.dumps(first)


def test_a_deletion_beside_an_anonymisation_wins(state):
    """Asked for both before either was carried out, nothing of the user is kept, whatever came first."""
    with Engine.open(state) as engine:
        ask(
            engine,
            Anonymisation("e-1", "anna-long"),
            AccountDeletion("e-2", "anna-long"),
            InteractionRemoval("e-3", "cleo", "y"),
            Anonymisation("e-4", "cleo"),
        )
    assert [one["outcome"] for one in said(state)] == ["nothing", "removed", "removed", "anonymised"]
    assert sorted((item for user, item, _ in stored(state) if user != "bob")) == ["z"]
    assert len(stored(state)) == 3


def test_integer_ids_stay_integers(tmp_path):
    """The new id of a state with integer ids is one that any JSON reader reads exactly."""
    fit(tmp_path, interactions([(42, 1), (42, 2), (7, 1)]), {"popularity": {}})
    with Engine.open(tmp_path) as engine:
        ask(engine, Anonymisation("e-1", "42"))
    (new,) = set(load_snapshot(tmp_path).user_ids()) - {7}
    assert 2**52 <= new < 2**53
    assert verify_state(tmp_path).ok


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=60, unique=True),
    hidden=st.sets(st.integers(1, 33), max_size=8),
    gone=st.sets(st.integers(1, 33), max_size=5),
    size=st.integers(1, 70),
)
def test_whatever_is_asked_the_rest_is_kept_row_by_row(tmp_path_factory, rows, hidden, gone, size):
    """Over any partitioning: the deleted go, rows of the anonymised keep their shape, no id is left."""
    state = tmp_path_factory.mktemp("state") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_ROWS_PER_PARTITION", size)
        fit(state, interactions(rows), {"popularity": {}})
    with Engine.open(state) as engine:
        requests = [Anonymisation(f"a-{user}", user) for user in hidden]
        ask(engine, *requests, *(AccountDeletion(f"d-{user}", user) for user in gone))
    frame = pl.DataFrame(stored(state), schema=["user", "item", "value"], orient="row")
    kept = [(user, item) for user, item in rows if user not in gone]
    plain = sorted(pair for pair in kept if pair[0] not in hidden)
    assert sorted(row[:2] for row in frame.rows() if row[0] < 2**52) == plain
    under_new = frame.filter(pl.col("user") >= 2**52).group_by("user").agg(pl.col("item").sort())
    shapes = sorted(
        sorted(i for u, i in kept if u == user) for user in hidden if any(u == user for u, _ in kept)
    )
    assert sorted(map(list, under_new["item"].to_list())) == shapes
    assert verify_state(state).problems == []
    snap = load_snapshot(state, mapped=False)
    matrix = snap._models["popularity"].user_items
    assert np.all(np.diff(matrix.indptr) > 0)
    assert sorted(snap.user_ids()) == snap.user_ids()
