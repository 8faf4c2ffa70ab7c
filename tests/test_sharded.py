"""ShardedMF: equal to the bit to never having seen the user, at the price of the shards touched."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models.sharded import ShardedMF, shard_of_rows

FEW = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def counts(seed, users=40, items=15):
    """Draw counts."""
    rng = np.random.default_rng(seed)
    return (rng.random((users, items)) < 0.25) * rng.integers(1, 4, (users, items)) * 1.0


@FEW
@given(st.integers(0, 1000), st.lists(st.integers(0, 39), unique=True, max_size=6))
def test_forgetting_equals_a_fresh_fit_to_the_bit(seed, users):
    """Users in two batches, then an interaction: every factor equals the fresh fit's, bit for bit."""
    x = counts(seed)
    model = ShardedMF(shards=4, factors=3).fit(sp.csr_matrix(x))
    half = len(users) // 2
    model.forget_users(users[:half])
    model.forget_users(users[half:])
    x[users] = 0
    if x.any():
        user, item = np.argwhere(x > 0)[0]
        model.forget_interactions([user], [item])
        x[user, item] = 0
    fresh = ShardedMF(shards=4, factors=3).fit(sp.csr_matrix(x))
    np.testing.assert_array_equal(model.item_factors, fresh.item_factors)
    np.testing.assert_array_equal(model.user_factors, fresh.user_factors)


def test_only_the_shards_touched_are_retrained():
    """One user's deletion leaves the item factors of every other shard as they are, in bits."""
    x = counts(1)
    model = ShardedMF(shards=5, factors=3).fit(sp.csr_matrix(x))
    before = model.item_factors.copy()
    shard = shard_of_rows(40, 5)[17]
    model.forget_users([17])
    assert model.retrained == 1
    same = (before == model.item_factors).all(axis=0).reshape(5, 3).all(axis=1)
    np.testing.assert_array_equal(same, np.arange(5) != shard)
    assert model.proof().erased_at_least == 1.0
    assert model.proof().exact


def test_scores_are_the_mean_over_shards():
    """A user's score is the average of what each shard says when the user is folded into it."""
    x = counts(2)
    model = ShardedMF(shards=3, factors=4, regularization=0.3, alpha=2.0).fit(sp.csr_matrix(x))
    means = np.zeros(15)
    c = np.where(x[6] > 0, 2.0 * x[6], 1.0)
    for k in range(3):
        q = model.item_factors[:, 4 * k : 4 * k + 4].astype(float)
        means += q @ np.linalg.solve((q.T * c) @ q + 0.3 * np.eye(4), q.T @ (c * (x[6] > 0))) / 3
    np.testing.assert_allclose(model.user_factors[6] @ model.item_factors.T, means, atol=1e-4)
    np.testing.assert_allclose(
        model.recalculate_user([6, 7], sp.csr_matrix(x[[6, 7]])), model.user_factors[[6, 7]], atol=1e-5
    )


def test_forgetting_everybody_gives_the_empty_model():
    """After the last account every factor is zero and nothing is recommended."""
    model = ShardedMF(shards=3, factors=2).fit(sp.csr_matrix(counts(3)))
    model.forget_users(np.arange(40))
    assert not model.user_factors.any()
    assert not model.item_factors.any()
    assert model.recommend(3, None)[0].size == 0


def test_saving_and_restricting_keep_shards(tmp_path):
    """A restricted and a loaded model have the same factors, and their users stay in their shards."""
    x = counts(4)
    model = ShardedMF(shards=3, factors=2).fit(sp.csr_matrix(x))
    model.forget_users([2])
    model.save(str(tmp_path / "m.npz"))
    again = ShardedMF.load(str(tmp_path / "m"))
    x[2] = 0
    users, items = np.flatnonzero(x.any(axis=1)), np.flatnonzero(x.any(axis=0))
    small = again.restrict(users, items)
    np.testing.assert_array_equal(small.user_factors, model.user_factors[users])
    np.testing.assert_array_equal(small.shard_of, model.shard_of[users])
    small.forget_users([0])
    assert small.retrained == 1


@FEW
@given(st.integers(0, 1000), st.lists(st.integers(0, 39), unique=True, min_size=1, max_size=6))
def test_forgetting_and_restricting_equals_a_fresh_fit_with_everybody_in_their_shard(seed, users):
    """Two cycles of forgetting and leaving out what is empty: the fresh fit's factors, bit for bit."""
    x = counts(seed)
    x[:, 13] = 0.0
    x[users[0], 13] = 2.0  # an item that goes with its only user
    model = ShardedMF(shards=4, factors=3).fit(sp.csr_matrix(x))
    rows = np.arange(40)
    for gone in (users[:2], users[2:]):
        model.forget_users(np.flatnonzero(np.isin(rows, gone)))
        x[gone] = 0.0
        full, items = np.flatnonzero(np.diff(model.user_items.indptr)), np.unique(model.user_items.indices)
        model, rows = model.restrict(full, items.astype(np.int64)), rows[full]
        left = x[rows][:, x.any(axis=0)]
        np.testing.assert_array_equal(model.user_items.toarray(), left)
        np.testing.assert_array_equal(model.shard_of, shard_of_rows(40, 4)[rows])
        stored = ShardedMF.restore(
            model.settings(), model.published(), model.proof_record(), model.user_items
        )
        fresh = ShardedMF(shards=4, factors=3).fit(sp.csr_matrix(left), shard_of=stored.shard_of)
        np.testing.assert_array_equal(model.item_factors, fresh.item_factors)
        np.testing.assert_array_equal(model.user_factors, fresh.user_factors)


def test_users_dealt_out_anew_are_another_model():
    """The claim needs the shards: with others, a fresh fit of the same rows is far away."""
    x = counts(5)
    model = ShardedMF(shards=4, factors=3).fit(sp.csr_matrix(x))
    other = ShardedMF(shards=4, factors=3).fit(
        sp.csr_matrix(x), shard_of=(model.shard_of + np.arange(40)) % 4
    )
    scores, others = (m.user_factors @ m.item_factors.T for m in (model, other))
    assert np.linalg.norm(scores - others) > 0.01 * np.linalg.norm(scores)
    again = other.fit(sp.csr_matrix(x))  # given shards are for one fit
    np.testing.assert_array_equal(again.shard_of, model.shard_of)
    np.testing.assert_array_equal(again.item_factors, model.item_factors)


@pytest.mark.parametrize(
    ("shard_of", "message"),
    [
        ([0] * 39, r"each of 40 rows"),
        ([0.5] * 40, "float64"),
        ([0] * 39 + [4], "shard 4"),
        ([-1] * 40, "shard -1"),
    ],
)
def test_wrong_shards_are_named(shard_of, message):
    """Shards of another length, that are no numbers, or that there are not: refused, nothing changed."""
    model = ShardedMF(shards=4, factors=2).fit(sp.csr_matrix(counts(6)))
    before = model.item_factors
    with pytest.raises(ValueError, match=message):
        model.fit(sp.csr_matrix(counts(7)), shard_of=shard_of)
    assert model.item_factors is before


@pytest.mark.parametrize("wrong", [{"shards": 0}, {"factors": 0}, {"alpha": 0.0}, {"regularization": -1.0}])
def test_wrong_settings_are_named(wrong):
    """A setting out of range is refused by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ShardedMF(**wrong)
