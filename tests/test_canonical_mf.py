"""CanonicalMF against a dense oracle, its certificate against the truth, its kernels against twins."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models.base import canonical_interactions
from recunlearn.models.canonical_mf import CanonicalMF
from recunlearn.models.spectrum_bound import top_outside
from recunlearn.models.weighted_certificate import distance_to_optimum
from recunlearn.models.weighted_loss import WeightedLoss, orthonormal
from recunlearn.models.weighted_solver import chebyshev_cycle, padding, starting_point, step

from . import oracle_canonical as oracle

FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def random_counts(seed, users=40, items=25, density=0.15, most=4):
    """Draw counts with popular items and a handful of heavy users."""
    rng = np.random.default_rng(seed)
    popularity = rng.random(items) ** 2 + 0.05
    activity = rng.random(users) ** 2 + 0.1
    chance = np.outer(activity, popularity)
    return (
        (rng.random((users, items)) < chance * density / chance.mean())
        * rng.integers(1, most + 1, (users, items))
        * 1.0
    )


def hostile(kind, seed=0):
    """Make data that might break a bound."""
    rng = np.random.default_rng(seed)
    if kind == "huge counts":
        return random_counts(seed) * np.where(rng.random((40, 1)) < 0.1, 1e6, 1.0)
    if kind == "rank one":
        return np.outer(np.ones(30), rng.random(20) < 0.5) * 1.0
    if kind == "blocks":
        return np.kron(np.eye(4), np.ones((8, 5)))
    if kind == "repeated singular values":
        return np.kron(np.eye(5), np.ones((6, 6)))
    if kind == "identical users":
        return np.tile(random_counts(seed)[:1], (30, 1)) + np.eye(30, 25)
    if kind == "lonely item":
        x = random_counts(seed)
        x[:, 7] = 0
        x[:3, 7] = 5
        return x
    if kind == "one user":
        return random_counts(seed)[:1] + np.eye(1, 25)
    if kind == "wide":
        return random_counts(seed).T.copy()
    return np.eye(12)


HOSTILE = (
    "huge counts",
    "rank one",
    "blocks",
    "repeated singular values",
    "identical users",
    "lonely item",
    "one user",
    "wide",
    "identity",
)


def scores(model):
    """Return the dense scores of the factors as published."""
    return model.user_factors.astype(np.float64) @ model.item_factors.astype(np.float64).T


def assert_within_bound(model, dense, regularization, alpha, cap=50.0):
    """Compare the published scores with the oracle's optimum, which is returned."""
    best = oracle.optimum(dense, regularization, alpha, cap)
    error, size = np.linalg.norm(scores(model) - best), np.linalg.norm(scores(model))
    slack = 1e-9 * max(np.linalg.norm(best), 1.0)  # the oracle's own accuracy
    assert (
        error <= model.certificate.bound * size + slack
        if size
        else error <= slack or not model.certificate.certified
    )
    return best


@FEW
@given(st.integers(0, 10_000), st.sampled_from([0.8, 2.0, 5.0]), st.sampled_from([0.5, 3.0]))
def test_a_fit_is_within_its_bound_of_the_dense_optimum(seed, regularization, alpha):
    """On random data the published factors are as close to the oracle's optimum as the certificate says."""
    x = random_counts(seed)
    model = CanonicalMF(regularization, alpha).fit(sp.csr_matrix(x))
    assert model.certificate.certified, model.certificate
    assert model.certificate.bound <= model.tolerance
    assert_within_bound(model, x, regularization, alpha)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hostile_data_never_breaks_the_bound(kind, dtype):
    """On huge counts, rank one, blocks, ties, lonely items the bounds hold, and a deletion is certified."""
    x = hostile(kind)
    model = CanonicalMF(1.5, 2.0, dtype=dtype, erasure=0.99).fit(sp.csr_matrix(x))
    before = scores(model)
    assert_within_bound(model, x, 1.5, 2.0)
    gone = list(range(min(3, x.shape[0])))
    model.forget_users(gone)
    x[gone] = 0
    best = assert_within_bound(model, x, 1.5, 2.0)
    stay = x.any(axis=1)
    influence = np.linalg.norm((before - best)[stay])
    left = np.linalg.norm((scores(model) - best)[stay])
    assert model.certificate.certified, model.certificate
    if influence > 1e-6:
        assert 1 - left / influence >= model.certificate.erased_at_least - 1e-6
    assert np.isfinite(model.user_factors).all()
    assert np.isfinite(model.item_factors).all()


@pytest.mark.parametrize("regularization", [0.999, 1.0, 1.001])
def test_lambda_on_a_singular_value(regularization):
    """With lambda at, just under and just over a repeated singular value of the data, the bound holds."""
    x = np.eye(20)  # R at S = 0 has all singular values c = 1 + alpha
    model = CanonicalMF(4.0 * regularization, 3.0).fit(sp.csr_matrix(x))
    assert_within_bound(model, x, 4.0 * regularization, 3.0)


@FEW
@given(st.integers(0, 10_000), st.data())
def test_forgetting_in_any_interleaving_equals_never_having_seen(seed, data):
    """After any batches of users and interactions, the model is within its bound of what a fit finds."""
    x = random_counts(seed)
    model = CanonicalMF(1.5, 2.0, erasure=0.9).fit(sp.csr_matrix(x))
    for _ in range(data.draw(st.integers(1, 3))):
        alive = np.flatnonzero(x.any(axis=1) & ~model._forgotten)
        users = data.draw(st.lists(st.sampled_from(alive.tolist()), unique=True, max_size=3))
        pairs = [p for p in np.argwhere(x > 0).tolist() if p[0] not in users]
        chosen = data.draw(st.lists(st.sampled_from(pairs), unique_by=tuple, max_size=4))
        model.forget(users=users, pair_users=[p[0] for p in chosen], pair_items=[p[1] for p in chosen])
        x[users] = 0
        for user, item in chosen:
            x[user, item] = 0
    best = assert_within_bound(model, x, 1.5, 2.0)
    fresh = CanonicalMF(1.5, 2.0).fit(sp.csr_matrix(x))
    apart = np.linalg.norm(scores(model) - scores(fresh))
    assert apart <= (model.certificate.bound + fresh.certificate.bound) * np.linalg.norm(best) * 1.01 + 1e-9


@FEW
@given(st.integers(0, 10_000))
def test_the_share_erased_is_a_lower_bound_of_the_truth(seed):
    """What is certified as gone is at most what is gone, measured strictly: on the rows that stay."""
    x = random_counts(seed)
    model = CanonicalMF(1.5, 2.0, erasure=0.99).fit(sp.csr_matrix(x))
    before = scores(model)
    gone = np.random.default_rng(seed).choice(40, 4, replace=False)
    model.forget_users(gone)
    x[gone] = 0
    best, stay = oracle.optimum(x, 1.5, 2.0), x.any(axis=1)
    truth = 1 - np.linalg.norm((scores(model) - best)[stay]) / np.linalg.norm((before - best)[stay])
    assert model.certificate.certified, model.certificate
    assert 0.99 <= model.certificate.erased_at_least <= truth + 1e-6


@FEW
@given(st.integers(0, 10_000), st.floats(1e-4, 0.3))
def test_the_bound_holds_at_any_point(seed, noise):
    """The bound of factors that are nowhere near the optimum, of any rank, is never below the distance."""
    x = random_counts(seed)
    rng = np.random.default_rng(seed)
    loss = WeightedLoss.from_interactions(canonical_interactions(sp.csr_matrix(x)), 2.0, 50.0)
    best = oracle.optimum(x, 1.5, 2.0)
    u, s, vt = np.linalg.svd(best + noise * rng.standard_normal((40, 3)) @ rng.standard_normal((3, 25)) / 10)
    rank = int(rng.integers(0, 20))
    left, right = u[:, :rank] * np.sqrt(s[:rank]), vt[:rank].T * np.sqrt(s[:rank])
    shown = distance_to_optimum(loss, left, right, rng.standard_normal((25, 5)), 1.5)
    c = oracle.weights(x, 2.0, 50.0)
    assert np.sqrt((c * (left @ right.T - best) ** 2).sum()) <= shown.bound + 1e-8


def test_the_bound_is_tight_near_the_optimum():
    """On data with structure a fit's bound is within 20 times the true distance, whatever the tolerance."""
    x = random_counts(5, 120, 60, 0.2, 2)
    best = oracle.optimum(x, 4.0, 2.0)
    for tolerance in (1e-2, 1e-3, 1e-4):
        model = CanonicalMF(4.0, 2.0, tolerance=tolerance).fit(sp.csr_matrix(x))
        error = np.linalg.norm(scores(model) - best) / np.linalg.norm(best)
        assert error <= model.certificate.bound <= 20 * error + 1e-6


def test_an_optimum_of_higher_rank_is_not_certified():
    """With fewer factors than the optimum has, the certificate says so and names the setting."""
    x = np.eye(20)
    model = CanonicalMF(0.5, 3.0, max_factors=5, max_steps=200).fit(sp.csr_matrix(x))
    assert not model.certificate.certified
    assert model.certificate.iterations < 50  # it does not go on trying
    assert "max_factors=5" in model.certificate.reason
    assert model.certificate.rank == 5


def test_strong_regularisation_gives_the_empty_model():
    """Where lambda exceeds every singular value, S* = 0 is found, certified and forgotten from, exactly."""
    x = random_counts(1)
    model = CanonicalMF(1e4, 2.0).fit(sp.csr_matrix(x))
    assert (model.certificate.rank, model.certificate.bound, model.certificate.certified) == (0, 0.0, True)
    model.forget_users([1])
    assert model.certificate.erased_at_least == 1.0
    assert model.recommend(2, None)[0].size == 0


def test_forgetting_everybody_gives_the_empty_model():
    """After the last account nothing is left: zero factors, certified."""
    x = random_counts(2)
    model = CanonicalMF(1.5, 2.0).fit(sp.csr_matrix(x))
    model.forget_users(np.arange(40))
    assert model.certificate.certified, model.certificate
    assert not scores(model).any()


@pytest.mark.parametrize("shape", [(5, 4), (0, 4), (4, 0), (0, 0), (1, 1)])
def test_nothing_to_learn_from_gives_the_empty_model(shape):
    """Without users, items or interactions there is a model all the same: zero, certified."""
    model = CanonicalMF(1.0, 1.0).fit(sp.csr_matrix(shape))
    model.forget_users(np.arange(shape[0]))
    assert model.certificate.certified
    assert not model.user_factors.any()
    assert not model.item_factors.any()


def test_a_restored_model_forgets_from_read_only_memory():
    """Factors and interactions that cannot be written to serve and forget as well, and stay as they are."""
    model = CanonicalMF(1.5, 2.0, erasure=0.9).fit(sp.csr_matrix(random_counts(9)))
    arrays = {name: array.copy() for name, array in model.published().items()}
    kept = model.user_items.copy()
    for array in (*arrays.values(), kept.data, kept.indices, kept.indptr):
        array.flags.writeable = False
    again = CanonicalMF.restore(model.settings(), arrays, model.proof_record(), kept)
    assert again.proof() == model.proof()
    again.forget_users([3])
    assert again.certificate.certified, again.certificate
    np.testing.assert_array_equal(arrays["item_factors"], model.item_factors)
    assert_within_bound(again, again.user_items.toarray(), 1.5, 2.0)


def test_a_deletion_too_small_for_float32_is_not_certified():
    """Where rounding hides what little influence there was, the certificate says so and names the dtype."""
    x = random_counts(3)
    model = CanonicalMF(1.5, 2.0, erasure=1 - 1e-9, max_steps=60).fit(sp.csr_matrix(x))
    model.forget_users([2])
    assert not model.certificate.certified
    assert "float32" in model.certificate.reason
    assert model.certificate.erased_at_least < 1 - 1e-9


def test_a_failed_removal_changes_nothing():
    """An unknown user in a batch is named, and the model is what it was."""
    model = CanonicalMF(1.5, 2.0).fit(sp.csr_matrix(random_counts(3)))
    before, certificate = model.user_factors.copy(), model.certificate
    with pytest.raises(ValueError, match="user 40"):
        model.forget_users([1, 40])
    np.testing.assert_array_equal(model.user_factors, before)
    assert model.certificate is certificate


def test_the_same_data_gives_the_same_bits():
    """Fits repeat to the bit, sign and order included; the largest entry of an item column is positive."""
    x = sp.csr_matrix(random_counts(3))
    one, two = CanonicalMF(1.5, 2.0).fit(x), CanonicalMF(1.5, 2.0).fit(x)
    np.testing.assert_array_equal(one.item_factors, two.item_factors)
    lengths = np.linalg.norm(one.item_factors, axis=0)
    assert (np.diff(lengths) <= 1e-5).all()
    largest = one.item_factors[np.abs(one.item_factors).argmax(axis=0), np.arange(lengths.size)]
    assert (largest > 0).all()


def test_folding_a_user_in_gives_their_own_factors():
    """At the optimum, the factors solved from a user's row alone are the user's factors."""
    x = sp.csr_matrix(random_counts(4))
    model = CanonicalMF(1.5, 2.0, tolerance=1e-6, dtype="float64").fit(x)
    np.testing.assert_allclose(
        model.recalculate_user([3, 4], x[[3, 4]]), model.user_factors[[3, 4]], atol=1e-4
    )


def test_recommendations_are_real_candidates_only():
    """Liked, filtered and empty items are never returned; padding is -1 and -inf, for batches only."""
    x = random_counts(6)
    x[:, 4] = 0
    model = CanonicalMF(1.5, 2.0).fit(sp.csr_matrix(x))
    ids, ranked = model.recommend(2, sp.csr_matrix(x[2:3]), N=50, filter_items=[1])
    assert not set(ids) & (set(np.flatnonzero(x[2])) | {4, 1})
    expected = np.argsort(-scores(model)[2], kind="stable")
    expected = [i for i in expected if not x[2, i] and i != 1 and x[:, i].any()]
    np.testing.assert_allclose(ranked, scores(model)[2][expected], rtol=1e-4)
    ids, ranked = model.recommend([2, 3], None, N=50)
    assert ids.shape == ranked.shape == (2, 50)
    assert ((ids == -1) == np.isneginf(ranked)).all()
    assert model.similar_items(0, N=3)[0][0] == 0
    assert model.similar_users(5, N=3)[0][0] == 5
    full = np.flatnonzero(x.any(axis=0))[:2]
    ids, _ = model.recommend(2, None, items=[*full, 4], filter_already_liked_items=False)
    assert sorted(ids) == full.tolist()


def test_saving_and_restricting_keep_the_model(tmp_path):
    """A saved model proves and forgets like the one it was; a restricted one has its own rows only."""
    x = random_counts(7)
    model = CanonicalMF(1.5, 2.0, erasure=0.9).fit(sp.csr_matrix(x))
    model.forget_users([5])
    model.save(str(tmp_path / "model.npz"))
    again = CanonicalMF.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(again.user_factors, model.user_factors)
    assert again.certificate == model.certificate
    with pytest.raises(ValueError, match="already forgotten"):
        again.forget_users([5])
    again.forget_users([6])
    x[[5, 6]] = 0
    assert again.certificate.certified, again.certificate
    assert_within_bound(again, x, 1.5, 2.0)
    users, items = np.flatnonzero(x.any(axis=1)), np.flatnonzero(x.any(axis=0))
    small = again.restrict(users, items)
    np.testing.assert_array_equal(small.user_factors, again.user_factors[users])
    with pytest.raises(ValueError, match="has interactions"):
        again.restrict(users[1:], items)
    small.forget_users([0])
    assert_within_bound(small, np.where(np.arange(users.size)[:, None] == 0, 0, x[users][:, items]), 1.5, 2.0)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"regularization": 0.0, "alpha": 1.0}, "regularization is 0"),
        ({"regularization": 1.0, "alpha": -1.0}, "alpha is -1"),
        ({"regularization": 1.0, "alpha": 1.0, "erasure": 1.0}, "erasure is 1"),
        ({"regularization": 1.0, "alpha": 1.0, "max_confidence": 1.0}, "max_confidence is 1"),
        ({"regularization": 1.0, "alpha": 1.0, "dtype": "float16"}, "dtype is float16"),
    ],
)
def test_wrong_settings_are_named(settings_, message):
    """A setting out of range is refused with its name and value."""
    with pytest.raises(ValueError, match=message):
        CanonicalMF(**settings_)


@FEW
@given(st.integers(0, 10_000), st.floats(1.5, 6.0), st.sampled_from([0, 2]))
def test_a_step_equals_the_dense_proximal_step(seed, lipschitz, inner):
    """With the whole space as work subspace, a step is the definition: SVT of ``S - grad f(S) / L``."""
    x = random_counts(seed, 20, 12, 0.3)
    loss = WeightedLoss.from_interactions(canonical_interactions(sp.csr_matrix(x)), 2.0, 50.0)
    c, y = oracle.weights(x, 2.0, 50.0), (x > 0) * 1.0
    point = starting_point(loss, np.zeros((20, 0)), np.eye(12), np.float64)
    s = np.zeros((20, 12))
    for _ in range(3):
        before = s
        s = oracle.shrink(s - c * (s - y) / lipschitz, 1.5 / lipschitz)
        point, seen = step(loss, loss.confidence, point, 1.5, lipschitz, 12, inner)
        np.testing.assert_allclose(point.left @ point.active.T, s, atol=1e-9)
        assert point.change == pytest.approx(np.linalg.norm(s - before), rel=1e-5) or not point.change > 1e-5
    _, seen = step(loss, loss.confidence, point, 1.5, lipschitz, 12)
    h = s - before
    assert seen.observed == pytest.approx(np.sqrt((c * h * h)[x > 0].sum()), rel=1e-6, abs=1e-9)
    if np.linalg.norm(h) > 1e-4:
        assert seen.curvature == pytest.approx((c * h * h).sum() / (h * h).sum(), rel=1e-4)
        assert seen.distance == pytest.approx(np.linalg.norm((c - lipschitz) / np.sqrt(c) * h), rel=1e-3)


def test_products_equal_their_dense_twins():
    """The passes over the data are products with the sparse matrix and its transpose, in every width."""
    x = canonical_interactions(sp.csr_matrix(random_counts(8)))
    loss = WeightedLoss.from_interactions(x, 2.0, 50.0)
    rng = np.random.default_rng(0)
    for dtype, accuracy in ((np.float32, 1e-4), (np.float64, 1e-12)):
        values = rng.standard_normal(x.nnz).astype(dtype)
        e = sp.csr_matrix((values, x.indices, x.indptr), shape=x.shape).toarray()
        for width in (1, 7, 16):
            v, u = (rng.standard_normal((k, width)).astype(dtype) for k in (25, 40))
            np.testing.assert_allclose(loss.times(values, v), e @ v, atol=accuracy)
            np.testing.assert_allclose(loss.transposed_times(values, u), e.T @ u, atol=accuracy)
        np.testing.assert_allclose(loss.narrow_times(values, v), e @ v, atol=accuracy)
        np.testing.assert_allclose(
            loss.narrow_transposed_times(values[loss.order], u), e.T @ u, atol=accuracy
        )


@settings(FEW, max_examples=4)
@given(st.integers(0, 10_000), st.integers(0, 8), st.floats(0.5, 0.999))
def test_the_spectrum_bound_is_above_the_spectrum(seed, known, closeness):
    """Block Lanczos never reports less than the largest eigenvalue outside what is known."""
    rng = np.random.default_rng(seed)
    n = 560
    values = np.r_[np.linspace(4, 5, known), 1.0, closeness * rng.random(n - known - 1)]
    v = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = (v * values) @ v.T
    bound = top_outside(lambda b: matrix @ b, v[:, :known].copy(), 1.05, 1.2)
    assert 1.0 - 1e-9 <= bound <= 1.25


def test_the_spectrum_bound_of_small_and_degenerate_operators():
    """Nothing outside gives 0; few dimensions are exact; an invariant Krylov space gives the value itself."""
    assert top_outside(lambda b: b, np.eye(4), 1.0, 1.0) == 0.0
    assert top_outside(lambda b: 2 * b, np.eye(9)[:, :2], 1.0, 1.0) == pytest.approx(2.0)
    assert top_outside(lambda b: 2 * b, np.eye(600)[:, :2], 1.0, 1.0) == pytest.approx(2.0)


def test_orthonormal_columns_of_anything():
    """Zero, dependent, tiny and ordinary columns: the result is orthonormal and spans them."""
    rng = np.random.default_rng(0)
    for a in (
        np.zeros((6, 3)),
        np.ones((6, 3)),
        rng.standard_normal((9, 4)) * 1e-20,
        np.vander(np.arange(1.0, 9), 6),
    ):
        q = orthonormal(a)
        np.testing.assert_allclose(q.T @ q, np.eye(a.shape[1]), atol=1e-8)
        np.testing.assert_allclose(q @ (q.T @ a), a, atol=1e-8 * max(np.abs(a).max(), 1e-30))
    extra = padding(np.eye(5)[:, :2], 2)
    np.testing.assert_allclose(extra[:2], 0, atol=1e-12)


@given(st.floats(1.0, 2.0), st.floats(1.1, 400.0))
def test_a_cycle_of_steps_shrinks_every_curvature(lowest, ratio):
    """The product of ``1 - h / L`` over one cycle is below 1 in size for every curvature h in the range."""
    cycle = np.array(chebyshev_cycle(lowest, lowest * ratio))
    h = np.linspace(lowest, lowest * ratio, 200)
    assert np.abs(np.prod(1 - h[:, None] / cycle, axis=1)).max() < 1
    assert (cycle >= lowest * 0.999).all()
