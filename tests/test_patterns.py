"""Sparsity patterns: right values in a matrix that says who was there are found by verify."""

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.patterns import pattern_problems
from recunlearn.engine.purge import purge
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import (
    Store,
    read_current,
    read_ids,
    read_manifest,
    read_models,
    set_current,
    write_version,
)

from .popularity import ask, interactions

ROWS = [("anna", "x"), ("anna", "y"), ("bob", "x"), ("bob", "z"), ("cleo", "y"), ("cleo", "w")]
ROWS += [("gone-one", item) for item in ("w", "z", "only-theirs")]


@pytest.fixture
def state(tmp_path):
    """Erase the one user who had two of the items together, and one item alone."""
    fit(tmp_path / "state", interactions(ROWS), {"item_knn": {"K": 5}})
    with Engine.open(tmp_path / "state") as engine:
        ask(engine, AccountDeletion("e-1", "gone-one"))
    assert verify_state(tmp_path / "state").problems == []
    return tmp_path / "state"


def publish(state, alter):
    """Publish the version again with something altered, as a fault of ours would: every digest is right."""
    paths = StatePaths(state)
    number, digest = read_current(paths)
    manifest = read_manifest(paths, number, digest)
    models = read_models(paths.version(number), manifest, mapped=False)
    users, items = alter(models["item_knn"], *read_ids(paths.version(number), manifest))
    store = Store(manifest.interactions, manifest.partitions)
    digest = write_version(paths, number + 1, models, users, items, store, software="test", parent=digest)
    set_current(paths, number + 1, digest)
    purge(paths, read_manifest(paths, number + 1, digest))
    return verify_state(state).problems


def with_entry(matrix, row, column, value):
    """Store one more entry in a CSR matrix."""
    coo = matrix.tocoo()
    row, column, data = (np.append(*pair) for pair in ((coo.row, row), (coo.col, column), (coo.data, value)))
    altered = sp.csr_matrix((data, (row, column)), shape=matrix.shape)
    altered.sort_indices()
    return altered


@pytest.mark.parametrize(
    ("value", "said"), [(0.25, "an entry that no kept user supports"), (0.0, "a stored zero")]
)
def test_a_neighbour_that_only_the_erased_made_is_found(state, value, said):
    """Nobody who is kept has w and z: that they are neighbours, be it by zero, tells that somebody had."""

    def alter(model, users, items):
        w, z = (items.to_list().index(name) for name in ("w", "z"))
        altered = with_entry(model.similarity, w, z, value)
        model.published = lambda: {"similarity": altered}
        return users, items

    assert publish(state, alter) == [f"model item_knn: similarity has {said}"]


def test_a_stored_zero_among_the_interactions_is_found(state):
    """The values are the store's, the pattern has one entry more."""

    def alter(model, users, items):
        model._user_items = with_entry(model.user_items, 0, 3, 0.0)
        return users, items

    assert "model item_knn does not hold what the interaction store holds" in publish(state, alter)


def test_an_interaction_at_another_place_is_found(state):
    """As many entries with the same values, one of them of another item."""

    def alter(model, users, items):
        moved = model.user_items.copy()
        moved.indices[moved.indptr[1] - 1] = 3
        moved.sort_indices()
        model._user_items = moved
        return users, items

    assert "model item_knn does not hold what the interaction store holds" in publish(state, alter)


@pytest.mark.parametrize("what", ["user", "item"])
def test_an_empty_row_or_column_is_found(state, what):
    """An id without interactions is in the index of ids: somebody was there."""

    def alter(model, users, items):
        n_users, n_items = model.user_items.shape
        more_users, more_items = n_users + (what == "user"), n_items + (what == "item")
        model._user_items = sp.csr_matrix(model.user_items)
        model._user_items.resize((more_users, more_items))
        similarity = sp.csr_matrix(model.similarity)
        similarity.resize((more_items, more_items))
        model.published = lambda: {"similarity": similarity}
        if what == "user":
            return users.append(pl.Series(["zoe"])), items
        return users, items.append(pl.Series(["zz"]))

    problems = publish(state, alter)
    assert "the published users and items are not those of the interaction store" in problems


def test_a_matrix_that_is_none_is_named():
    """Places outside the shape, and one place twice, are said and stop nothing."""
    kept = sp.csr_matrix(np.ones((2, 2)))
    twice = sp.csr_matrix((np.ones(2), np.array([0, 0]), np.array([0, 2, 2])), shape=(2, 2))
    assert pattern_problems("m", {"s": twice}, kept) == ["model m: s has an entry twice"]
    outside = sp.csr_matrix((np.ones(1), np.array([0]), np.array([0, 1, 1])), shape=(2, 2))
    outside.indices[0] = 7
    assert pattern_problems("m", {"s": outside}, kept) == ["model m: s has an entry outside its shape"]
    assert pattern_problems("m", {"dense": np.zeros(3)}, kept) == []
