"""SpectralMF against a dense oracle: its certificate is never violated, whatever the data."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models import SpectralMF

from . import oracle_spectral as oracle

FEW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
NARROW, WIDE = 20, 75
"""Items: up to 2 (factors + 32) the whole space is decomposed; beyond, a subspace is iterated."""


def random_counts(seed, users=60, items=WIDE, density=0.15, most=4):
    """Draw counts with popular items and a handful of heavy users."""
    rng = np.random.default_rng(seed)
    popularity, activity = rng.random(items) ** 2 + 0.05, rng.random(users) ** 2 + 0.1
    chance = np.outer(activity, popularity)
    return (
        (rng.random((users, items)) < chance * density / chance.mean())
        * rng.integers(1, most + 1, (users, items))
        * 1.0
    )


def _lonely(items):
    x = random_counts(3, items=items)
    x[:, 7], x[:2, 7] = 0, 5
    return x


def _dense_row(items):
    x = random_counts(4, items=items)
    x[0] = 1
    return x


def _skewed(items):
    x = random_counts(5, items=items)
    x[:, 0], x[0] = 1, 9
    x[:, 1] = 0
    x[0, 1] = 1e4
    return x


HOSTILE = {
    "huge counts": lambda n: random_counts(1, items=n) * np.where(np.arange(60) % 9 == 4, 1e6, 1.0)[:, None],
    "huge counts leave": lambda n: random_counts(1, items=n) * np.where(np.arange(60) < 1, 1e6, 1.0)[:, None],
    "tiny values": lambda n: 1e-9 * random_counts(2, items=n),
    "rank one": lambda n: np.outer(np.ones(30), np.arange(n) % 2),
    "blocks": lambda n: np.kron(np.eye(5), np.ones((8, n // 5))),
    "repeated singular values": lambda n: np.kron(np.eye(n // 5), np.ones((6, 5))),
    "identity": np.eye,
    "users identical": lambda n: np.tile(random_counts(2, items=n)[:1], (30, 1)),
    "lonely item": _lonely,
    "one user": lambda n: random_counts(6, items=n)[:1],
    "one item": lambda n: (np.arange(40)[:, None] % 3 > 0) * (np.arange(n) == 3) * 1.0,
    "one column": lambda n: (np.arange(n)[:, None] % 3 > 0) * 1.0,
    "one interaction": lambda n: (np.arange(5 * n).reshape(5, n) == 3) * 1.0,
    "empty": lambda n: np.zeros((5, n)),
    "no users": lambda n: np.zeros((0, n)),
    "dense row": _dense_row,
    "skewed degrees": _skewed,
    "tall": lambda n: random_counts(7, users=150, items=n),
}


@dataclass
class Compared:
    """A model's published ``S~``, the optimum, and what the oracle may be off by itself."""

    published: np.ndarray
    optimum: np.ndarray
    rounding: float

    @property
    def error(self):
        """Distance of the two."""
        return np.linalg.norm(self.published - self.optimum)

    @property
    def size(self):
        """Norm of the smaller."""
        return min(np.linalg.norm(self.published), np.linalg.norm(self.optimum))


def compare(model, x):
    """Assert what a certificate claims of the distance, and return both sides."""
    setting, c = oracle.setting_of(model), model.certificate
    best, found = oracle.optimum(x, setting), oracle.published(model, x, setting.values)
    both = Compared(found, best, 1e-12 * float(np.linalg.norm(oracle.normalised(x, setting))))
    assert np.isfinite(found).all()
    if np.isfinite(c.bound):
        assert both.error <= c.bound * both.size * (1 + 1e-9) + both.rounding, c
    assert not c.certified or c.bound <= model.tolerance
    assert c.certified == (not c.reason)
    assert c.rank <= int((oracle.singular_values(x, setting) > setting.regularization * 0.999999).sum())
    return both


def forget_and_compare(model, x, gone):
    """Forget users, and assert that no more is claimed erased than is, on the rows that stay."""
    before = model.user_factors.astype(float) @ model.item_factors.astype(float).T
    model.forget_users(gone)
    left = x.copy()
    left[gone] = 0
    both, shown = compare(model, left), model.certificate.erased_at_least
    stay = np.setdiff1d(np.arange(len(x)), gone)
    scale = oracle.item_degrees(left, model.values) ** model.item_power
    influence = np.linalg.norm((before / scale - both.optimum)[stay])
    remaining = np.linalg.norm((both.published - both.optimum)[stay])
    if shown is not None and stay.size:
        assert 0 <= shown <= 1
    if shown and stay.size:  # 0 claims nothing: rounding alone may be more than the influence was
        assert remaining <= (1 - shown) * influence + both.rounding, model.certificate
    assert not model.certificate.certified or shown is None or shown >= model.erasure
    return left


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("items", [NARROW, WIDE])
@pytest.mark.parametrize("regularization", [None, 1.0])
def test_hostile_data_never_breaks_the_certificate(kind, items, regularization):
    """On each kind of hostile data, fitted and then without a user, bound and share erased are true."""
    x = HOSTILE[kind](items) * 1.0
    model = SpectralMF(2, regularization, dtype="float64").fit(sp.csr_matrix(x))
    compare(model, x)
    at_lambda = kind == "identity" and regularization == 1.0  # S* = 0, but for rounding: no relative bound
    assert model.certificate.certified or at_lambda, model.certificate
    if len(x):
        forget_and_compare(model, x, [0])


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_data_in_float32(kind):
    """The certificate is of the factors as published: rounding to float32 is inside."""
    x = HOSTILE[kind](WIDE) * 1.0
    model = SpectralMF(2, dtype="float32").fit(sp.csr_matrix(x.astype(np.float32)))
    x = x.astype(np.float32).astype(float)
    compare(model, x)
    if len(x):
        forget_and_compare(model, x, [0])


@FEW
@given(
    st.integers(0, 10_000),
    st.sampled_from([(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.5, 0.25), (1.0, 0.0)]),
    st.sampled_from(["counts", "binary", "log"]),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([NARROW, WIDE]),
    st.sampled_from([None, 0.3, 1.0, 1.7]),
)
def test_any_setting_keeps_its_word(seed, powers, values, dtype, items, share):
    """Random data, powers, values, dtypes, lambda given or chosen: bounds hold after a fit and a removal."""
    x = random_counts(seed, items=items)
    user_power, item_power = powers
    lam = None
    if share:
        lam = share * oracle.singular_values(x, oracle.Setting(1.0, user_power, item_power, values))[3]
    model = SpectralMF(3, lam, user_power, item_power, values=values, dtype=dtype).fit(sp.csr_matrix(x))
    compare(model, x)
    assert model.certificate.certified, model.certificate
    gone = np.random.default_rng(seed).choice(60, int(1 + seed % 7), replace=False)
    forget_and_compare(model, x, gone)
    assert model.certificate.certified or "rounding" in model.certificate.reason


def test_a_work_subspace_wider_than_the_rank_of_the_data():
    """Widening runs out of independent directions, 58 of 68: the basis is completed, the fit certified."""
    x = random_counts(2, items=75)
    model = SpectralMF(2, 0.4177, 0.5, 0.0, tolerance=0.1, values="binary", dtype="float64")
    compare(model.fit(sp.csr_matrix(x)), x)
    assert model.certificate.certified, model.certificate
    forget_and_compare(model, x, [5])


@pytest.mark.parametrize("items", [NARROW, WIDE])
@pytest.mark.parametrize("nudge", [-1e-3, -1e-9, -1e-15, 0.0, 1e-15, 1e-9, 1e-3])
def test_lambda_on_a_singular_value(items, nudge):
    """With lambda at a singular value, single or repeated, or a hair off, the bounds hold."""
    single = random_counts(8, items=items)
    lam = float(oracle.singular_values(single, oracle.Setting(1.0))[2]) * (1 + nudge)
    model = SpectralMF(2, lam).fit(sp.csr_matrix(single))
    compare(model, single)
    assert model.certificate.certified, model.certificate
    forget_and_compare(model, single, [1])
    repeated = np.kron(np.eye(4), np.ones((5, items // 4)))
    repeated[0] *= 3
    lam = float(oracle.singular_values(repeated, oracle.Setting(1.0))[2]) * (1 + nudge)
    model = SpectralMF(2, lam).fit(sp.csr_matrix(repeated))
    compare(model, repeated)
    forget_and_compare(model, repeated, [6])


@FEW
@given(st.integers(0, 10_000), st.data())
def test_one_removal_after_another_stays_certified(seed, data):
    """Batches of users and pairs: after each the bound is true, and what stays has all influence removed."""
    x = random_counts(seed)
    model = SpectralMF(3, dtype="float64").fit(sp.csr_matrix(x))
    for _ in range(3):
        alive = np.flatnonzero(x.any(axis=1) & ~model._forgotten).tolist()
        users = data.draw(st.lists(st.sampled_from(alive), unique=True, min_size=1, max_size=9))
        pairs = [p for p in np.argwhere(x > 0).tolist() if p[0] not in users]
        pairs = data.draw(st.lists(st.sampled_from(pairs), unique_by=tuple, max_size=4))
        before = model.user_factors @ model.item_factors.T
        model.forget(users=users, pair_users=[p[0] for p in pairs], pair_items=[p[1] for p in pairs])
        x[users] = 0
        x[tuple(np.array(pairs, dtype=int).reshape(-1, 2).T)] = 0
        both = compare(model, x)
        assert model.certificate.certified, model.certificate
        stay = np.setdiff1d(np.arange(60), [*users, *(p[0] for p in pairs)])
        moved = (before / oracle.item_degrees(x) ** 0.25 - both.optimum)[stay]
        remaining = (both.published - both.optimum)[stay]
        assert model.certificate.erased_at_least >= 0.999
        assert np.linalg.norm(remaining) <= 1.001e-3 * np.linalg.norm(moved) + both.rounding


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
def test_the_share_erased_is_what_bound_and_movement_show(tolerance):
    """With b the absolute bound and d the distance moved on the rows that stay: ``1 - b / (d - b)``."""
    x = random_counts(20, 200, 110)
    model = SpectralMF(8, tolerance=tolerance, erasure=0.5, dtype="float64").fit(sp.csr_matrix(x))
    before = model.user_factors @ model.item_factors.T
    model.forget_users(np.arange(40))
    x[:40] = 0
    found, c = oracle.published(model, x), model.certificate
    distance = c.bound / (1 + c.bound) * np.linalg.norm(found)
    moved = np.linalg.norm((before / oracle.item_degrees(x) ** 0.25 - found)[40:])
    assert distance > 1e-9 * moved
    assert c.erased_at_least == pytest.approx(1 - distance / (moved - distance), rel=1e-9)


def test_the_bound_is_tight():
    """Whatever the tolerance, a bound that was iterated to is within ten times the true distance."""
    x = random_counts(9, 200, 110)
    ratios = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        model = SpectralMF(8, tolerance=tolerance, dtype="float64").fit(sp.csr_matrix(x))
        both = compare(model, x)
        ratios.append(model.certificate.bound * both.size / both.error)
        model.forget_users(np.arange(10))
        left = x.copy()
        left[:10] = 0
        both = compare(model, left)
        ratios.append(model.certificate.bound * both.size / both.error)
    assert max(ratios) < 10


def test_a_tolerance_out_of_reach_is_not_certified():
    """What float32 cannot hold is not claimed: uncertified, with the reason, and a record that is JSON."""
    x = random_counts(10)
    model = SpectralMF(3, tolerance=1e-9).fit(sp.csr_matrix(x))
    assert not model.certificate.certified
    assert "1e-09" in model.certificate.reason
    compare(model, x)


def test_lambda_is_chosen_by_rank_and_kept():
    """The (factors + 1)-th singular value of the data, rounded up to three digits, stays across removals."""
    x = random_counts(11)
    model = SpectralMF(5).fit(sp.csr_matrix(x))
    sixth = oracle.singular_values(x, oracle.Setting(1.0))[5]
    assert sixth * (1 - 2e-3) <= model.regularization <= sixth * 1.012
    assert model.regularization == float(f"{model.regularization:.3g}")
    chosen = model.regularization
    model.forget_users([1, 2, 3])
    assert model.regularization == chosen
    assert SpectralMF(5).fit(sp.csr_matrix(2 * x)).regularization > chosen


@pytest.mark.parametrize("items", [NARROW, WIDE])
@pytest.mark.parametrize("kind", ["random", "one interaction", "empty", "blocks"])
def test_lambda_chosen_on_held_out_data(kind, items):
    """'auto' gives a certified fit at a rank of at most ``factors``, for data of any size."""
    x = random_counts(12, items=items) if kind == "random" else HOSTILE[kind](items) * 1.0
    model = SpectralMF(6, "auto").fit(sp.csr_matrix(x))
    compare(model, x)
    assert model.certificate.certified, model.certificate
    assert model.certificate.rank <= 6


def test_nothing_is_above_a_strong_lambda():
    """Where lambda exceeds everything, S* = 0 is found, certified and forgotten from, exactly."""
    for items in (NARROW, WIDE):
        x = random_counts(13, items=items)
        model = SpectralMF(2, 1e4).fit(sp.csr_matrix(x))
        c = model.certificate
        assert (c.rank, c.bound, c.certified) == (0, 0.0, True)
        model.forget_users([1])
        assert (model.certificate.certified, model.certificate.erased_at_least) == (True, 1.0)
        assert model.recommend(2, None)[0].size == 0


@pytest.mark.parametrize("items", [NARROW, WIDE])
def test_the_last_account_leaves_nothing(items):
    """When everybody is forgotten, every factor is zero, the certificate exact."""
    model = SpectralMF(2).fit(sp.csr_matrix(random_counts(14, items=items)))
    model.forget_users(np.arange(60))
    assert not model.user_factors.any()
    assert not model.item_factors.any()
    assert (model.certificate.certified, model.certificate.bound) == (True, 0.0)


@pytest.mark.parametrize("items", [NARROW, WIDE])
def test_the_same_data_gives_the_same_bits(items):
    """Fits and removals repeat to the bit; singular values descend; a column's largest entry is positive."""
    x = sp.csr_matrix(random_counts(15, items=items))
    one, two = (SpectralMF(4).fit(x) for _ in range(2))
    np.testing.assert_array_equal(one.user_factors, two.user_factors)
    np.testing.assert_array_equal(one.item_factors, two.item_factors)
    for model in (one, two):
        model.forget_users([4, 9])
    np.testing.assert_array_equal(one.user_factors, two.user_factors)
    np.testing.assert_array_equal(one.item_factors, two.item_factors)
    unscaled = one.item_factors / oracle.item_degrees(one.user_items.toarray())[:, None] ** 0.25
    assert (np.diff(np.linalg.norm(unscaled, axis=0)) <= 1e-6).all()
    largest = unscaled[np.abs(unscaled).argmax(axis=0), np.arange(unscaled.shape[1])]
    assert (largest > 0).all()


@pytest.mark.parametrize("items", [NARROW, WIDE])
def test_the_order_of_users_makes_no_difference_beyond_the_bound(items):
    """With rows and columns permuted the scores are permuted: two models within their two bounds."""
    x, rng = random_counts(16, items=items), np.random.default_rng(0)
    rows, columns = rng.permutation(60), rng.permutation(items)
    lam = 1.5
    one = SpectralMF(4, lam).fit(sp.csr_matrix(x))
    two = SpectralMF(4, lam).fit(sp.csr_matrix(x[rows][:, columns]))
    first = oracle.published(one, x)
    second = oracle.published(two, x[rows][:, columns])
    apart = np.linalg.norm(first[rows][:, columns] - second)
    assert apart <= (one.certificate.bound + two.certificate.bound) * np.linalg.norm(first) * 1.001


@pytest.mark.parametrize("values", ["counts", "binary", "log"])
@pytest.mark.parametrize("removed", [False, True])
def test_a_new_user_is_folded_in_as_if_they_had_been_there(values, removed):
    """The factors of a row folded in are those of a user with the same row, after removals too."""
    x = random_counts(17)
    x[50] = x[20]
    model = SpectralMF(4, values=values, dtype="float64").fit(sp.csr_matrix(x))
    if removed:
        model.forget_users([3, 50])
    folded = model.recalculate_user([0, 1, 2], sp.csr_matrix(x[[20, 21, 22]]))
    np.testing.assert_allclose(folded, model.user_factors[20:23], atol=2e-4 * np.abs(folded).max())
    tight = SpectralMF(4, values=values, dtype="float64", tolerance=1e-9).fit(sp.csr_matrix(x))
    folded = tight.recalculate_user(0, sp.csr_matrix(x[20:21]))
    np.testing.assert_allclose(folded, tight.user_factors[20], atol=1e-8 * np.abs(folded).max())
    ids, scores = tight.recommend(0, sp.csr_matrix(x[20:21]), recalculate_user=True)
    known, expected = tight.recommend(20, sp.csr_matrix(x[20:21]))
    np.testing.assert_array_equal(ids, known)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_recommendations_rank_the_scores_of_the_factors():
    """Order, scores, ``items``, ``filter_items`` and padding are those of the dense products."""
    x = random_counts(18)
    x[:, 4] = 0
    model = SpectralMF(4, dtype="float64").fit(sp.csr_matrix(x))
    dense = model.user_factors @ model.item_factors.T
    usable = [i for i in np.argsort(-dense[2], kind="stable") if not x[2, i] and x[:, i].any()]
    ids, scores = model.recommend(2, None, N=200)
    np.testing.assert_array_equal(ids, usable)
    np.testing.assert_allclose(scores, dense[2][usable], rtol=1e-6, atol=1e-9)
    ids, _ = model.recommend(2, None, N=5, filter_items=usable[:2])
    np.testing.assert_array_equal(ids, usable[2:7])
    ids, _ = model.recommend(2, None, N=5, items=[*usable[3:6], 4])
    np.testing.assert_array_equal(ids, usable[3:6])
    cosine = model.item_factors @ model.item_factors[7]
    cosine /= np.maximum(np.linalg.norm(model.item_factors, axis=1), 1e-300) * np.linalg.norm(
        model.item_factors[7]
    )
    cosine[~x.any(axis=0)] = -9
    ids, scores = model.similar_items(7, N=6)
    np.testing.assert_array_equal(ids, np.argsort(-cosine, kind="stable")[:6])
    np.testing.assert_allclose(scores, np.sort(cosine)[::-1][:6], rtol=1e-6)
    assert model.similar_users(9, N=3)[0][0] == 9


def test_a_saved_model_forgets_as_the_one_it_was(tmp_path):
    """The work subspace is published: a loaded model starts from it, and ends certified at the same place."""
    x = random_counts(19)
    model = SpectralMF(3).fit(sp.csr_matrix(x))
    model.save(str(tmp_path / "m.npz"))
    again = SpectralMF.load(str(tmp_path / "m"))
    assert again.certificate == model.certificate
    for one in (model, again):
        forget_and_compare(one, x, [8, 9])
        assert one.certificate.certified, one.certificate
        assert one.certificate.iterations <= 8
    np.testing.assert_allclose(model.item_factors, again.item_factors, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factors": 0}, "factors is 0"),
        ({"regularization": 0.0}, r"regularization is 0\.0"),
        ({"regularization": -1}, "regularization is -1"),
        ({"regularization": "none"}, "regularization is 'none'"),
        ({"tolerance": 0.0}, r"tolerance is 0\.0"),
        ({"erasure": 1.0}, r"erasure is 1\.0"),
        ({"values": "idf"}, "values is 'idf'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    """A setting out of range is refused with its name and value."""
    with pytest.raises(ValueError, match=message):
        SpectralMF(**wrong)
