"""EASE: exact, whatever is removed and in whatever order; never a wrong inverse."""

import threading

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recunlearn.models import EASE
from recunlearn.models import ease as ease_module
from recunlearn.models.ease import ConcurrentForgettingError
from recunlearn.models.ridge_inverse import Probes, SingularDowndateError, downdate_inverse

from . import naive
from .removals import COUNTS, FRACTIONS, histories, interactions

X = sp.random(60, 25, density=0.2, format="csr", random_state=1, data_rvs=lambda n: np.ones(n))


def close(model: EASE, x: np.ndarray, rtol: float = 1e-9) -> bool:
    """Compare the weights with those of the slow twin, relative to the largest."""
    expected = naive.ease_weights(x, model.regularization)
    return bool(np.abs(model.item_weights - expected).max() <= rtol * max(1.0, np.abs(expected).max()))


@given(histories(COUNTS), st.sampled_from([0.5, 10.0, 500.0]))
@settings(max_examples=150, deadline=None)
@example((np.ones((1, 1)), []), 1.0)
def test_any_interleaving_equals_never_having_seen_them(history, regularization):
    """Users, pairs and mixed batches, one after the other, leave the model of what is left."""
    x, batches = history
    model = EASE(regularization).fit(sp.csr_matrix(x))
    assert close(model, x)
    for batch in batches:
        batch.apply(model)
        assert close(model, batch.left)
        assert np.array_equal(model.gram, (batch.left.T @ batch.left).astype(np.int64))
        assert np.array_equal(model.user_items.toarray(), batch.left)
        assert model.proof().certified


@given(histories(FRACTIONS))
@settings(max_examples=60, deadline=None)
def test_fractional_values_are_forgotten_as_well(history):
    """With values that are no whole numbers the Gram is that of what is left, to the bit of a fresh fit."""
    x, batches = history
    model = EASE(2.0).fit(sp.csr_matrix(x))
    for batch in batches:
        batch.apply(model)
        assert close(model, batch.left)
        assert np.array_equal(model.gram, EASE(2.0).fit(model.user_items).gram)


@given(interactions(), st.data())
@settings(max_examples=60, deadline=None)
def test_downdating_equals_inverting_what_is_left(x, data):
    """Replacing any rows by others gives the inverse of the Gram with those others."""
    rows = data.draw(st.lists(st.sampled_from(range(x.shape[0])), unique=True, min_size=1))
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(x.shape[1]))
    instead = np.roll(x[rows], 1, axis=1)
    left = x.copy()
    left[rows] = instead
    downdate_inverse(inverse, sp.csr_matrix(x[rows]), sp.csr_matrix(instead))
    assert np.allclose(
        inverse, np.linalg.inv(left.T @ left + 3.0 * np.eye(x.shape[1])), rtol=1e-8, atol=1e-12
    )


def test_rows_that_were_not_there_are_refused():
    """Woodbury's small system is not positive definite: an error, and the inverse is as it was."""
    inverse = np.linalg.inv(X.T @ X + np.eye(25))
    before = inverse.copy()
    with pytest.raises(SingularDowndateError):
        downdate_inverse(inverse, sp.csr_matrix(np.full((1, 25), 50.0)))
    assert np.array_equal(inverse, before)


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_small_and_large_batches_agree(k):
    """The kernel for few rows and BLAS for many reach the same inverse, symmetric to the bit."""
    x = sp.random(400, 120, density=0.1, format="csr", random_state=2)
    x.data[:] = 1.0
    model = EASE(5.0).fit(x)
    model.forget_users(np.arange(k))
    left = x.toarray()
    left[:k] = 0.0
    assert close(model, left, 1e-12)
    assert np.array_equal(model.inverse, model.inverse.T)


def test_ten_thousand_downdates_stay_within_1e_8():
    """10,000 removals in a row, one at a time, end within 1e-8 of a fresh inverse."""
    rng = np.random.default_rng(3)
    x = sp.csr_matrix((rng.random((10_050, 12)) < 0.3).astype(float))
    model = EASE(1.0).fit(x)
    for user in range(10_000):
        model.forget_users([user])
    fresh = EASE(1.0).fit(model.user_items)
    error = np.linalg.norm(model.inverse - fresh.inverse) / np.linalg.norm(fresh.inverse)
    assert error < 1e-8
    assert error <= model.proof().bound <= model.tolerance


def test_the_bound_holds_and_drift_is_cured_by_itself():
    """An inverse that is off is measured to be off, and the next removal computes it afresh."""
    model = EASE(1.0).fit(X)
    model.inverse[3, 5] += 1e-3
    model.forget_users([0])
    left = X.toarray()
    left[0] = 0.0
    assert close(model, left, 1e-12)
    assert model.proof().certified


def test_the_bound_is_never_below_the_true_distance():
    """Perturbed inverses of many kinds: the probed bound covers the true relative distance."""
    model = EASE(1.0).fit(X)
    true, rng = model.inverse.copy(), np.random.default_rng(4)
    for scale in (1e-12, 1e-9, 1e-6):
        for kind in range(20):
            error = np.zeros_like(true)
            if kind % 2:
                error[rng.integers(25), rng.integers(25)] = scale
            else:
                error = scale * rng.standard_normal(true.shape)
            bound = Probes.of(X).bound(true + error, 1.0)
            assert bound >= np.linalg.norm(error) / np.linalg.norm(true)


def test_a_user_who_is_all_of_a_direction_is_forgotten_afresh():
    """A leverage next to one cannot be downdated in float64: the Gram is factorised again, not guessed."""
    x = np.eye(4)
    x[0, 0] = 1e6
    model = EASE(1e-3).fit(sp.csr_matrix(x))
    model.forget_users([0])
    left = x.copy()
    left[0] = 0.0
    assert close(model, left, 1e-12)


def test_an_item_that_nobody_has_any_more_is_alone_and_never_recommended():
    """Its row of P is exactly that of an empty column, its weights are zero, and it is in no list."""
    x = sp.csr_matrix([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]])
    model = EASE(2.0).fit(x)
    model.forget_interactions([1], [3])
    assert model.inverse[3].tolist() == [0, 0, 0, 0.5]
    assert not model.item_weights[3].any()
    assert not model.item_weights[:, 3].any()
    assert 3 not in model.recommend(0, x[0], N=4, filter_already_liked_items=False)[0]
    assert 3 not in model.similar_items(0, N=4)[0]


def test_huge_counts_are_refused_or_forgotten_but_never_wrong():
    """Counts whose Gram does not fit whole numbers are summed in float64; a lost lambda is named."""
    x = sp.csr_matrix(np.array([[7e7, 1.0], [7e7, 2.0], [1.0, 0.0]]))
    model = EASE(1e3).fit(x)
    assert model.gram.dtype == np.float64
    model.forget_users([0])
    left = x.toarray()
    left[0] = 0.0
    assert np.allclose(model.item_weights, naive.ease_weights(left, 1e3), rtol=1e-6)
    with pytest.raises(ValueError, match=r"regularization 1e-30 vanishes"):
        EASE(1e-30).fit(sp.csr_matrix(np.full((3, 2), 1e6)))


def test_a_failed_fit_or_removal_changes_nothing():
    """Unknown users, unknown pairs and a failing refit leave the model and its arrays as they were."""
    model = EASE(1.0).fit(X)
    model.forget_users([1])
    weights, kept = model.item_weights, model.user_items
    for bad in ({"users": [60]}, {"users": [1]}, {"users": [0, 0]}, {"pair_users": [1], "pair_items": [0]}):
        with pytest.raises(ValueError, match=r"\d"):
            model.forget(**bad)
    with pytest.raises(ValueError, match="finite and positive"):
        model.fit(-X)
    assert model.user_items is kept
    assert np.array_equal(model.item_weights, weights)


def test_a_removal_that_breaks_half_way_is_as_if_not_tried(monkeypatch):
    """Whatever is raised inside, the model afterwards is that of before, and forgets correctly."""
    model = EASE(1.0).fit(X)

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ease_module, "isolate_items", broken)
        with pytest.raises(MemoryError):
            model.forget_users([0])
    assert close(model, X.toarray(), 1e-12)
    assert np.array_equal(model.gram, (X.T @ X).toarray().astype(int))
    model.forget_users([0])
    left = X.toarray()
    left[0] = 0.0
    assert close(model, left, 1e-12)


def test_reading_while_forgetting_is_refused(monkeypatch):
    """A reader that meets a removal in progress gets the error that says so, never half an update."""
    model = EASE(1.0).fit(X)
    inside, go_on = threading.Event(), threading.Event()
    original = ease_module.isolate_items

    def waiting(*args: object) -> None:
        inside.set()
        assert go_on.wait(30)
        original(*args)

    monkeypatch.setattr(ease_module, "isolate_items", waiting)
    thread = threading.Thread(target=model.forget_users, args=([0],))
    thread.start()
    try:
        assert inside.wait(30)
        for read in (
            lambda: model.recommend(1, X[1]),
            lambda: model.similar_items(0),
            lambda: model.item_weights,
        ):
            with pytest.raises(ConcurrentForgettingError):
                read()
    finally:
        go_on.set()
        thread.join()
    assert model.recommend(1, X[1])[0].size


@given(histories(COUNTS))
@settings(max_examples=40, deadline=None)
def test_what_is_restored_serves_and_forgets_the_same(history):
    """Restored from read-only arrays a model recommends, proves and forgets as the one it came from."""
    x, batches = history
    model = EASE(3.0).fit(sp.csr_matrix(x))
    batches[0].apply(model)
    arrays = {name: array.copy() for name, array in model.published().items()}
    for array in arrays.values():
        array.flags.writeable = False
    twin = EASE.restore(model.settings(), arrays, model.proof_record(), model.user_items.copy())
    assert twin.published()["inverse"] is arrays["inverse"]
    assert twin.proof() == model.proof()
    for user in range(x.shape[0]):
        for a, b in zip(twin.recommend(user, None), model.recommend(user, None), strict=True):
            assert np.array_equal(a, b)
    gone = batches[0].users
    there = [u for u in range(x.shape[0]) if u not in gone]
    if there:
        twin.forget_users(there[:1])
        model.forget_users(there[:1])
        assert np.allclose(twin.inverse, model.inverse, rtol=1e-9, atol=1e-14)
        assert np.array_equal(twin.gram, model.gram)


@given(histories(COUNTS))
@settings(max_examples=60, deadline=None)
def test_restricting_leaves_the_same_model(history):
    """Without its empty rows and columns the model has the same weights, and forgets on independently."""
    x, batches = history
    model = EASE(3.0).fit(sp.csr_matrix(x))
    for batch in batches:
        batch.apply(model)
    left = batches[-1].left
    users, items = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
    small = model.restrict(users, items)
    weights = model.item_weights
    assert np.array_equal(small.item_weights, weights[np.ix_(items, items)])
    if users.size:
        small.forget_users([0])
        rest = left[np.ix_(users, items)]
        rest[0] = 0.0
        assert close(small, rest)
        assert np.array_equal(model.item_weights, weights)
        with pytest.raises(ValueError, match="has interactions"):
            model.restrict(users[1:], items)


@pytest.mark.parametrize("lonely", [[], [0], [3, 24]])
def test_restricted_it_forgets_to_the_same_bits(lonely, monkeypatch):
    """Restricted and then forgetting: the inverse of forgetting without, and nothing is derived."""
    x = X.toarray()
    x[:, lonely] = 0.0
    x[0, lonely] = 1.0  # goes with user 0
    model, twin = (EASE(2.0).fit(sp.csr_matrix(x)) for _ in range(2))
    model.forget_users([0])
    twin.forget_users([0])
    users, items = np.flatnonzero(np.diff(model.user_items.indptr)), np.unique(model.user_items.indices)
    assert items.size == 25 - len(lonely)
    with monkeypatch.context() as patch:
        for derivation in ("gram", "ridge_inverse"):
            patch.setattr(ease_module, derivation, None)
        patch.setattr(Probes, "of", None)
        small = model.restrict(users, items.astype(np.int64))
        small.forget_users([4])
        small.forget_interactions([7], small.user_items[7].indices[:1])
        twin.forget_users(users[[4]])
        twin.forget_interactions(users[[7]], twin.user_items[users[7]].indices[:1])
    assert np.array_equal(small.inverse, twin.inverse[np.ix_(items, items)])
    assert np.array_equal(small.gram, twin.gram[np.ix_(items, items)])
    assert small.gram.dtype == np.int64
    assert small.proof().certified


def test_an_inverse_is_copied_only_while_two_models_hold_it():
    """Restricted with all its items a model shares its memory; alone again, it is updated where it lies."""
    model = EASE(2.0).fit(X)
    everything = np.arange(60), np.arange(25)
    small = model.restrict(*everything)
    memory, weights = model.inverse, model.item_weights
    assert small.inverse is memory
    small.forget_users([1])
    assert small.inverse is not memory
    assert np.array_equal(model.item_weights, weights)
    memory = small.inverse
    del model
    small = small.restrict(*everything)  # nobody else has it any more
    small.forget_users([2])
    assert small.inverse is memory
    left = X.toarray()
    left[[1, 2]] = 0.0
    assert close(small, left)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 2)])
def test_nothing_at_all_is_a_model(shape):
    """No users, no items or no interactions: a model that recommends nothing."""
    model = EASE(4.0).fit(sp.csr_matrix(shape))
    assert np.array_equal(model.inverse, np.eye(shape[1]) / 4.0)
    model.forget_users(np.arange(shape[0]))
    assert model.recommend(0, sp.csr_matrix((1, shape[1])))[0].size == 0


def test_scores_are_the_row_times_the_weights():
    """`recommend` ranks ``x B`` over items somebody has; batches are padded with -1 and -inf."""
    model = EASE(1.0).fit(X)
    scores = X @ naive.ease_weights(X.toarray(), 1.0)
    for filtered in (True, False):
        ids, found = model.recommend(np.arange(60), X, N=40, filter_already_liked_items=filtered)
        assert ids.shape == found.shape == (60, 40)
        for user in range(60):
            alone = model.recommend(user, X[user], N=40, filter_already_liked_items=filtered)
            size = alone[0].size
            assert size == (25 - X[user].nnz if filtered else 25) * (X[user].nnz > 0)
            assert np.array_equal(ids[user, :size], alone[0])
            assert np.allclose(alone[1], scores[user, alone[0]], atol=1e-12)
            assert (np.diff(alone[1]) <= 0).all()
            assert (ids[user, size:] == -1).all()
            assert np.isneginf(found[user, size:]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.bool_])
def test_any_form_of_the_same_data_is_the_same_model(dtype):
    """Dtypes, unsorted indices, explicit zeros, int64 indptr, COO duplicates, read-only: all the same."""
    messy = X.astype(dtype)
    messy.indices = np.concatenate(
        [messy.indices[s:e][::-1] for s, e in zip(X.indptr, X.indptr[1:], strict=False)]
    )
    messy.has_sorted_indices = False
    messy.indptr = messy.indptr.astype(np.int64)
    messy = sp.csr_matrix((messy.data, messy.indices, messy.indptr), shape=X.shape)
    messy.data.flags.writeable = False
    bits = messy.data.tobytes(), messy.indices.tobytes()
    model = EASE(1.0).fit(messy)
    assert np.array_equal(model.inverse, EASE(1.0).fit(X).inverse)
    model.forget_users([2, 5])
    assert (messy.data.tobytes(), messy.indices.tobytes()) == bits


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_senseless_regularization_is_refused(bad):
    """The message names the value."""
    with pytest.raises(ValueError, match=f"regularization is {bad}"):
        EASE(bad)


def test_wrong_requests_are_named():
    """Wrong shapes, unknown ids, N below one and NaN in the caller's row: each is refused by name."""
    model = EASE(1.0).fit(X)
    for call, message in (
        (lambda: model.recommend(0, X[0], N=0), "N is 0"),
        (lambda: model.recommend(0, X), "60 x 25"),
        (lambda: model.recommend(99, None), "user 99"),
        (lambda: model.similar_items(25), "item 25"),
        (lambda: model.recommend(0, X[0] * np.nan), "NaN"),
        (lambda: EASE(1.0).recommend(0, None), "not fitted"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
