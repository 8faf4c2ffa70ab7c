"""ForgettableALS: the closed form against a refit half-step, the sweeps, and what it does not claim."""

import numpy as np
import pytest
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from recunlearn.models.als import ForgettableALS, leave_out_rows, loss_gradients
from recunlearn.models.base import canonical_interactions, plan_change
from recunlearn.models.weighted_loss import WeightedLoss
from threadpoolctl import threadpool_limits

ALPHA, RIDGE = 2.0, 0.5


def counts(seed=0, users=60, items=30):
    """Draw counts, every user with something."""
    rng = np.random.default_rng(seed)
    x = (rng.random((users, items)) < 0.2) * rng.integers(1, 4, (users, items)) * 1.0
    x[np.arange(users), rng.integers(0, items, users)] = 1
    return x


def trained(x, factors=5):
    """Fit implicit's ALS on dense counts."""
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(factors=factors, regularization=RIDGE, alpha=ALPHA, random_state=3)
        model.fit(sp.csr_matrix(x).astype(np.float32), show_progress=False)
    return model


def solve_items(x, left):
    """Solve every item's ridge regression with the users' factors fixed, from the definition."""
    solved = np.zeros((x.shape[1], left.shape[1]))
    for item, column in enumerate(x.T):
        c = np.where(column > 0, ALPHA * column, 1.0)
        system = (left.T * c) @ left + RIDGE * np.eye(left.shape[1])
        solved[item] = np.linalg.solve(system, left.T @ (c * (column > 0)))
    return solved


@pytest.mark.parametrize("seed", range(4))
def test_leaving_rows_out_equals_solving_the_half_step_again(seed):
    """Users and interactions leave the items' normal equations exactly, the users' factors fixed."""
    x = counts(seed)
    left = np.random.default_rng(seed).standard_normal((60, 5))
    right = solve_items(x, left)
    pairs = np.argwhere(x[10:20] > 0)[:6] + np.array([10, 0])
    kept = canonical_interactions(sp.csr_matrix(x))
    change = plan_change(kept, np.zeros(60, bool), [2, 40], pairs[:, 0], pairs[:, 1])
    x[[2, 40]] = 0
    x[pairs[:, 0], pairs[:, 1]] = 0
    stay = left * x.any(axis=1)[:, None]
    np.testing.assert_allclose(
        leave_out_rows(left, right, change, ALPHA, RIDGE), solve_items(x, stay), atol=1e-9
    )


def test_one_user_has_the_leave_one_out_form():
    """For one user the closed form is the rank-one downdate, for their items and for all others."""
    x = counts(5)
    left = np.random.default_rng(5).standard_normal((60, 5))
    right = solve_items(x, left)
    kept = canonical_interactions(sp.csr_matrix(x))
    change = plan_change(kept, np.zeros(60, bool), [7], [], [])
    result = leave_out_rows(left, right, change, ALPHA, RIDGE)
    p = left[7]
    for item, value in enumerate(x[7]):
        c = ALPHA * value if value else 1.0
        weights = np.where(x[:, item] > 0, ALPHA * x[:, item], 1.0)
        z = np.linalg.solve((left.T * weights) @ left + RIDGE * np.eye(5), p)
        pull = c * ((value > 0) - p @ right[item])
        np.testing.assert_allclose(result[item], right[item] - pull / (1 - c * p @ z) * z, atol=1e-9)


def test_gradients_equal_finite_differences():
    """The gradients are those of the loss as written, in both sides' factors."""
    x = counts(1, 12, 8)
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((12, 3)), rng.standard_normal((8, 3))
    kept = canonical_interactions(sp.csr_matrix(x))
    loss = WeightedLoss.from_confidence(kept, ALPHA * kept.data)
    (in_users, in_items), _ = loss_gradients(loss, left, right, RIDGE)
    c = np.where(x > 0, ALPHA * x, 1.0)

    def half(p, q):
        return 0.5 * (c * ((x > 0) - p @ q.T) ** 2).sum() + RIDGE / 2 * ((p * p).sum() + (q * q).sum())

    for at, gradient, which in ((left, in_users, 0), (right, in_items, 1)):
        nudge = np.zeros_like(at)
        nudge[2, 1] = 1e-5
        moved = [(left + s * nudge, right) if which == 0 else (left, right + s * nudge) for s in (1, -1)]
        assert gradient[2, 1] == pytest.approx((half(*moved[0]) - half(*moved[1])) / 2e-5, rel=1e-5, abs=1e-6)


def test_an_implicit_model_is_taken_over_as_it_is():
    """The factors are implicit's, copied; recommendations are the same; nothing is certified."""
    x = counts(2)
    theirs = trained(x)
    ours = ForgettableALS.from_implicit(theirs, sp.csr_matrix(x))
    np.testing.assert_array_equal(ours.item_factors, theirs.item_factors)
    assert not np.shares_memory(ours.item_factors, theirs.item_factors)
    rows = sp.csr_matrix(x[4:5]).astype(np.float32)
    np.testing.assert_array_equal(ours.recommend(4, rows, N=5)[0], theirs.recommend(4, rows, N=5)[0])
    np.testing.assert_allclose(ours.recalculate_user(4, rows), theirs.recalculate_user(4, rows), atol=1e-5)
    proof = ours.proof()
    assert (proof.exact, proof.bound, proof.erased_at_least, proof.certified) == (False, None, None, False)
    assert "no unique optimum" in proof.reason


def test_forgetting_comes_closer_to_a_standstill_than_asked():
    """After forgetting, the gradient on what is kept is below the stationarity; the row is empty."""
    x = counts(3)
    model = ForgettableALS.from_implicit(trained(x), sp.csr_matrix(x), stationarity=2e-3, max_sweeps=300)
    model.forget_users([4, 9])
    model.forget_interactions([5], [int(np.flatnonzero(x[5])[0])])
    assert model.residual <= 2e-3
    assert not model.user_factors[[4, 9]].any()
    assert model.recommend(4, None)[0].size == 0
    assert not model.proof().certified


def test_forgetting_moves_towards_the_warm_refit():
    """With the row gone, the items end nearer to sweeps without the user than where they were."""
    x = counts(4)
    theirs = trained(x)
    model = ForgettableALS.from_implicit(theirs, sp.csr_matrix(x), stationarity=1e-3, max_sweeps=500)
    model.forget_users([4])
    x[4] = 0
    left, right = theirs.user_factors.astype(float), theirs.item_factors.astype(float)
    for _ in range(400):
        left = solve_items(x.T, right)
        right = solve_items(x, left)
    before = np.linalg.norm(theirs.user_factors[5:] @ theirs.item_factors.T - left[5:] @ right.T)
    after = np.linalg.norm(model.user_factors[5:] @ model.item_factors.T - left[5:] @ right.T)
    assert after < 0.2 * before


def test_wrong_models_and_ids_are_refused():
    """An unfitted model, another shape and unknown users are named; nothing changes."""
    x = counts(6)
    with pytest.raises(ValueError, match="not fitted"), threadpool_limits(1, "blas"):
        ForgettableALS.from_implicit(AlternatingLeastSquares(factors=2), sp.csr_matrix(x))
    with pytest.raises(ValueError, match=r"\(59, 30\)"):
        ForgettableALS.from_implicit(trained(x), sp.csr_matrix(x[1:]))
    model = ForgettableALS(factors=4, regularization=RIDGE).fit(sp.csr_matrix(x))
    kept = model.item_factors.copy()
    with pytest.raises(ValueError, match="user 99"):
        model.forget_users([1, 99])
    np.testing.assert_array_equal(model.item_factors, kept)


def test_saving_and_restricting_keep_the_model(tmp_path):
    """What is loaded or restricted has the same factors and goes on forgetting."""
    x = counts(7)
    model = ForgettableALS(factors=4, regularization=RIDGE, stationarity=1e-2).fit(sp.csr_matrix(x))
    model.forget_users([0])
    model.save(str(tmp_path / "als.npz"))
    again = ForgettableALS.load(str(tmp_path / "als.npz"))
    np.testing.assert_array_equal(again.item_factors, model.item_factors)
    small = again.restrict(np.arange(1, 60), np.flatnonzero(x[1:].any(axis=0)))
    small.forget_users([0])
    assert np.isfinite(small.item_factors).all()
