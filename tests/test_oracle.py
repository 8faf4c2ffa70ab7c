"""The strict measure: distances in score space, influence, and the controls a removal is compared with."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.eval.oracle import (
    Influence,
    Scores,
    controls,
    distance,
    influence,
    item_weights_of,
    retrain,
    scores_of,
    weight_distance,
)
from recunlearn.models import MODELS

SEEDS = st.integers(0, 2**32 - 1)
NAMES = [name for name in ("spectral_mf", "ease", "item_knn") if name in MODELS]


def dense(scores):
    """Write the score matrix out: what the product form must agree with."""
    left, right = (m.toarray() if sp.issparse(m) else m for m in (scores.left, scores.right))
    return np.array([[sum(a * b for a, b in zip(row, col, strict=True)) for col in right.T] for row in left])


def factor_scores(rng, users, items, k):
    """Draw scores of dense factors."""
    return Scores(rng.normal(size=(users, k)), rng.normal(size=(k, items)))


def item_scores(rng, users, items):
    """Draw scores of an item-item model: sparse counts times sparse weights."""
    counts = sp.csr_matrix(rng.poisson(0.4, size=(users, items)).astype(float))
    return Scores(counts, sp.csr_matrix(rng.normal(size=(items, items)) * (rng.random((items, items)) < 0.3)))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4))
def test_distance_equals_the_norm_of_the_difference_written_out(seed, users, items, k1, k2):
    """Factors of any two ranks, over any subset of rows, give the Frobenius norm of the dense difference."""
    rng = np.random.default_rng(seed)
    a, b = factor_scores(rng, users, items, k1), factor_scores(rng, users, items, k2)
    rows = np.flatnonzero(rng.random(users) < 0.6)
    expected = np.sqrt(np.square(dense_or_zero(a)[rows] - dense_or_zero(b)[rows]).sum())
    assert distance(a, b, rows) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def dense_or_zero(scores):
    """Write scores of rank 0 out too."""
    return dense(scores) if scores.left.shape[1] else np.zeros(scores.shape)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 8), st.integers(1, 8))
def test_distance_of_sparse_products_equals_the_norm_written_out(seed, users, items):
    """Item-item models (CSR rows times CSR weights), alone and against factors, agree with the dense twin."""
    rng = np.random.default_rng(seed)
    a, b = item_scores(rng, users, items), factor_scores(rng, users, items, 1)
    rows = np.arange(users)
    assert distance(a, b, rows) == pytest.approx(np.linalg.norm(dense(a) - dense(b)), rel=1e-12, abs=1e-12)


def test_distance_does_not_lose_its_digits_to_cancellation():
    """Two products that differ by 1e-9 of their norm, in other bases, are told apart to six digits."""
    rng = np.random.default_rng(7)
    p, q, extra = rng.normal(size=(60, 5)), rng.normal(size=(50, 5)), rng.normal(size=(60, 1))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    step = 1e-9 * np.linalg.norm(p @ q.T) / np.linalg.norm(extra @ q[:, :1].T)
    moved = Scores(np.hstack([p @ rotation, step * extra]), np.vstack([(q @ rotation).T, q[:, :1].T]))
    measured = distance(Scores(p, q.T), moved, np.arange(60)) / np.linalg.norm(p @ q.T)
    assert measured == pytest.approx(1e-9, rel=1e-6)


def test_distance_of_many_blocks_equals_one_block(monkeypatch):
    """Cutting the rows into blocks does not change the result."""
    rng = np.random.default_rng(3)
    a, b = item_scores(rng, 23, 11), item_scores(rng, 23, 11)
    whole = distance(a, b, np.arange(23))
    monkeypatch.setattr("recunlearn.eval.oracle._BLOCK_ENTRIES", 50)
    assert distance(a, b, np.arange(23)) == pytest.approx(whole, rel=1e-13)


def test_scores_of_different_shapes_are_refused():
    """Comparing score matrices over other users or items names both shapes."""
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 3\)"):
        distance(
            Scores(np.ones((2, 1)), np.ones((1, 3))), Scores(np.ones((3, 1)), np.ones((1, 3))), np.arange(2)
        )


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_placing_scores_moves_rows_and_columns_and_leaves_the_rest_zero(seed):
    """Placed scores hold each value at its new user and item, for dense and sparse products."""
    rng = np.random.default_rng(seed)
    for scores in (factor_scores(rng, 3, 4, 2), item_scores(rng, 3, 4)):
        users, items = np.sort(rng.permutation(6)[:3]), np.sort(rng.permutation(7)[:4])
        expected = np.zeros((6, 7))
        expected[np.ix_(users, items)] = dense(scores)
        np.testing.assert_allclose(dense(scores.placed(users, items, (6, 7))), expected, atol=1e-14)


def test_influence_is_judged_by_what_is_left_of_it():
    """Standing still leaves all of the influence, the oracle none, going the wrong way more than all."""
    one, rows = np.ones((1, 1)), np.array([0])
    before, oracle = Scores(3 * one, one), Scores(2 * one, one)
    assert influence(before, before, oracle, rows).remaining == 1.0
    assert influence(before, oracle, oracle, rows).erased == 1.0
    assert influence(before, Scores(5 * one, one), oracle, rows).remaining == 3.0
    assert Influence(norm=1.0, removed=0.0, left=0.0).erased == 1.0
    assert Influence(norm=1.0, removed=0.0, left=0.1).erased == -np.inf


def test_weight_distance_reports_relative_and_largest_difference():
    """One weight moved by 0.5 in weights of norm 5 is a tenth away, and 0.5 at the most; equal is zero."""
    weights = sp.csr_matrix([[0.0, 3.0], [4.0, 0.0]])
    moved = sp.csr_matrix([[0.5, 3.0], [4.0, 0.0]])
    assert weight_distance(moved, weights) == (0.1, 0.5)
    assert weight_distance(weights, weights.toarray()) == (0.0, 0.0)


def small_interactions(seed, users=24, items=12):
    """Draw choices in which everybody, and every item, has some."""
    rng = np.random.default_rng(seed)
    x = (rng.random((users, items)) < 0.3).astype(float)
    x[np.arange(users), np.arange(users) % items] = 1.0
    x[np.arange(users), (np.arange(users) + 5) % items] = 1.0
    return sp.csr_matrix(x)


def left_out(x, users, pair_users, pair_items):
    """Empty rows and pairs the slow way."""
    kept = x.toarray()
    for user in users:
        kept[user] = 0.0
    for user, item in zip(pair_users, pair_items, strict=True):
        kept[user, item] = 0.0
    return kept


@pytest.mark.parametrize("weighted", ["ease", "item_knn"])
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_controls_are_what_their_names_say(weighted, seed):
    """Nothing: the scores as they were. Rows only: old weights, new rows. Retrained: a fit on the rest."""
    x = small_interactions(seed)
    model = MODELS[weighted]().fit(x)
    old = item_weights_of(model)
    found = controls(model, [3, 8], [5], [5])
    kept = left_out(x, [3, 8], [5], [5])
    fresh = MODELS[weighted]().fit(sp.csr_matrix(kept))
    old, new = (w.toarray() if sp.issparse(w) else w for w in (old, item_weights_of(fresh)))
    np.testing.assert_allclose(dense(found.nothing), x.toarray() @ old, atol=1e-12)
    np.testing.assert_allclose(dense(found.rows_only), kept @ old, atol=1e-12)
    np.testing.assert_allclose(dense(found.retrained), kept @ new, atol=1e-10)
    assert found.others.tolist() == [u for u in range(24) if u not in (3, 5, 8)]
    np.testing.assert_array_equal(dense(scores_of(model)), dense(found.nothing))


@pytest.mark.parametrize("name", NAMES)
def test_an_item_and_a_user_that_vanish_are_zero_in_the_oracle(name):
    """Whoever is forgotten, and an item only they had, are rows and columns of zeros where they were."""
    x = small_interactions(1).toarray()
    x[:, 11] = 0.0
    x[4, 11] = 1.0
    found = controls(MODELS[name]().fit(sp.csr_matrix(x)), [4])
    assert 4 not in found.users
    assert 11 not in found.items
    scores = dense(found.retrained)
    assert not scores[4].any()
    assert not scores[:, 11].any()
    np.testing.assert_array_equal(dense(found.place(scores_of(found.oracle))), scores)


@pytest.mark.parametrize("name", ["ease", "item_knn"])
def test_an_exact_model_erases_all_influence(name):
    """After forgetting, an exact model is at the oracle, while dropping rows leaves everything."""
    model = MODELS[name]().fit(small_interactions(2))
    found = controls(model, [3, 8], [5], [5])
    model.forget(users=[3, 8], pair_users=[5], pair_items=[5])
    ours = influence(found.nothing, scores_of(model), found.retrained, found.others)
    rows_only = influence(found.nothing, found.rows_only, found.retrained, found.others)
    assert ours.erased > 1 - 1e-9
    assert ours.removed > 1e-3 * ours.norm
    assert rows_only.remaining == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_retraining_leaves_the_model_alone_and_keeps_its_settings(name):
    """The oracle has the model's settings, but is tighter and in float64; the model is not changed."""
    model = MODELS[name]().fit(small_interactions(3))
    before = {key: np.array(a.toarray() if sp.issparse(a) else a) for key, a in model.published().items()}
    oracle = retrain(model, small_interactions(4))
    for key, array in model.published().items():
        np.testing.assert_array_equal(array.toarray() if sp.issparse(array) else array, before[key])
    for setting, value in oracle.settings().items():
        if setting == "tolerance":
            assert value < model.settings()["tolerance"]
        elif setting == "dtype":
            assert value == "float64"
        elif model.settings()[setting] is not None:
            assert value == model.settings()[setting]


def test_the_oracle_of_a_sharded_model_deals_users_the_same_way():
    """What ShardedMF erases is all of it, though rows that went have moved the numbers of the others."""
    model = MODELS["sharded_mf"](shards=3, factors=4).fit(small_interactions(6))
    found = controls(model, [3, 8], [5], [5])
    model.forget(users=[3, 8], pair_users=[5], pair_items=[5])
    ours = influence(found.nothing, scores_of(model), found.retrained, found.others)
    assert ours.removed > 1e-3 * ours.norm
    assert ours.left <= 1e-9 * ours.norm


def test_the_oracle_of_a_spectral_factorisation_is_the_shrunk_svd_of_what_is_kept():
    """The retrained scores are SVT(X~) by a full SVD, and all scores are in its scale of items."""
    x = small_interactions(6)
    model = MODELS["spectral_mf"](factors=4).fit(x)
    found = controls(model, [3, 8], [5], [5])
    kept = left_out(x, [3, 8], [5], [5])
    by_user, by_item = (
        np.where(sums > 0, sums, 1.0) ** -0.25 for sums in (kept.sum(axis=1), kept.sum(axis=0))
    )
    u, s, vt = np.linalg.svd(by_user[:, None] * kept * by_item)
    shrunk = np.maximum(s - model.regularization, 0.0)
    expected = u[:, : s.size] * shrunk @ vt[: s.size]
    np.testing.assert_allclose(dense(found.retrained), expected, atol=1e-6 * np.linalg.norm(expected))
    before = (model.user_factors @ model.item_factors.T) * by_item
    np.testing.assert_allclose(dense(found.nothing), before, atol=1e-6)


def test_a_model_without_weights_or_factors_is_refused():
    """What cannot be compared says so, with the model's class."""
    with pytest.raises(TypeError, match="object has no item_weights"):
        item_weights_of(object())
