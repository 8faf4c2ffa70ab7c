"""Named properties that hold for every model in the registry; a new model inherits them with one line."""

import itertools
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recunlearn.models
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models import MODELS
from recunlearn.models.ease import ConcurrentForgettingError

from . import naive
from .conformance import (
    CASES,
    again,
    assert_unchanged,
    carried_over,
    matrices,
    state,
    to_the_bit,
    within_the_certificates,
    worlds,
)

FEW = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LARGE = (np.random.default_rng(0).random((40, 75)) < 0.15) * np.random.default_rng(1).integers(1, 4, (40, 75))
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_registered_model_is_in_the_suite():
    """The suite runs over the whole registry."""
    shipped = {name for name, model in MODELS.items() if model.__module__.startswith("recunlearn.")}
    assert {case.make().name for case in CASES} == shipped  # other tests register a double of their own
    for case in CASES:
        assert type(case.make()) is MODELS[case.make().name]


@every_case
@FEW
@given(world=worlds())
def test_any_interleaving_of_removals_equals_never_having_seen_them(case, world):
    """After each batch of accounts and pairs the model is what a fit on the rest gives."""
    model = case.fit(world.x)
    for batch in world.batches:
        batch.apply(model)
        np.testing.assert_array_equal(model.user_items.toarray(), batch.left)
        assert model.user_items.nnz == np.count_nonzero(batch.left)
        case.same(model, again(model, batch.left))


@every_case
@FEW
@given(world=worlds())
def test_one_batch_equals_many(case, world):
    """The same removals at once, or one account and one pair at a time, end in the same model."""
    together, apart = case.fit(world.x), case.fit(world.x)
    users = [u for batch in world.batches for u in batch.users]
    pairs = [p for batch in world.batches for p in batch.pairs]
    together.forget(users=users, pair_users=[u for u, _ in pairs], pair_items=[i for _, i in pairs])
    for user, item in pairs:
        apart.forget_interactions([user], [item])
    for user in users:
        apart.forget_users([user])
    case.same(together, apart)


@every_case
@FEW
@given(world=worlds(1))
def test_forgetting_nothing_changes_nothing(case, world):
    """An empty batch leaves every array, what is kept and the proof as they were, to the bit."""
    model = case.fit(world.x)
    for _ in range(2):
        before = state(model)
        model.forget()
        model.forget_users([])
        model.forget_interactions(np.array([], dtype=int), [])
        assert_unchanged(before, model)
        world.batches[0].apply(model)
        world.batches[0].users, world.batches[0].pairs = [], []


@every_case
@FEW
@given(x=matrices(), at_once=st.booleans())
def test_forgetting_everybody_gives_the_empty_model(case, x, at_once):
    """Nobody is left: nothing is kept, recommended or similar, and it is the model of no interactions."""
    model = case.fit(x)
    users = np.arange(x.shape[0])
    for batch in [users] if at_once else [users[::2], users[1::2]]:
        model.forget_users(batch)
    assert model.user_items.nnz == 0
    case.same(model, again(model, np.zeros_like(x)))
    assert model.proof().certified, model.proof()
    ids, scores = model.recommend(users, None, N=3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    everything = sp.csr_matrix(np.ones((1, x.shape[1])))
    assert model.recommend(0, everything, filter_already_liked_items=False)[0].size == 0


def _refusals(model: Any, x: Any) -> list[tuple[dict[str, Any], str]]:
    """Make wrong batches, each with something good beside it, and what the message names."""
    user, item = (int(k) for k in np.argwhere(x)[0])
    other, missing = int(np.argwhere(x)[-1][0]), np.argwhere(x == 0)
    n_users, n_items = x.shape
    good = {"pair_users": [user], "pair_items": [item]}
    wrong = [
        ({"users": [n_users], **good}, f"user {n_users} is not"),
        ({"users": [-1], **good}, "user -1 is not"),
        ({"users": [other, other], **good}, f"user {other} is named twice"),
        ({"users": [0.5], **good}, "dtype float64"),
        ({"users": [other], "pair_users": [user, user], "pair_items": [item, item]}, f"item {item} is named"),
        ({"users": [other], "pair_users": [user], "pair_items": [n_items]}, f"item {n_items} is not"),
        ({"users": [other], "pair_users": [n_users], "pair_items": [item]}, f"user {n_users} is not"),
        ({"users": [other], "pair_users": [user], "pair_items": []}, "1 user ids and 0 item ids"),
    ]
    if len(missing):
        u, i = (int(k) for k in missing[0])
        pairs = {"pair_users": [user, u], "pair_items": [item, i]}
        wrong.append(({"users": [other], **pairs}, f"user {u} has no interaction with item {i}"))
    return wrong


@every_case
@settings(FEW, max_examples=4)
@given(x=matrices().filter(lambda x: np.count_nonzero(x) > 1))
def test_a_wrong_batch_raises_and_changes_nothing(case, x):
    """Unknown, repeated, mistyped ids are named; what was good beside them is not forgotten either."""
    model = case.fit(x)
    before = state(model)
    for request, message in _refusals(model, x):
        with pytest.raises(ValueError, match=message):
            model.forget(**request)
        assert_unchanged(before, model)
    user = int(np.argwhere(x)[0][0])
    model.forget_users([user])
    before = state(model)
    with pytest.raises(ValueError, match=f"user {user} is already forgotten"):
        model.forget_users([user])
    assert_unchanged(before, model)
    case.same(model, again(model, naive.without(x, [user], [])))


@every_case
@FEW
@given(x=matrices().filter(np.any), data=st.data())
def test_a_user_and_their_interactions_in_one_batch_count_once(case, x, data):
    """Naming an account and pairs of the same account is forgetting the account, to the bit."""
    user = data.draw(st.sampled_from(np.flatnonzero(x.any(axis=1)).tolist()))
    items = np.flatnonzero(x[user])
    both, account = case.fit(x), case.fit(x)
    both.forget(users=[user], pair_users=[user] * items.size, pair_items=items)
    account.forget_users([user])
    to_the_bit(both, account)
    assert both.proof() == account.proof()


@every_case
@FEW
@given(world=worlds(1))
def test_the_callers_arrays_are_neither_kept_nor_written_to(case, world):
    """Interactions, ids and rows stay as they were; overwriting them afterwards changes no model."""
    matrix = sp.csr_matrix(world.x)
    model = case.make().fit(matrix)
    batch = world.batches[0]
    users = np.array(batch.users, dtype=np.int64)
    pair_users, pair_items = (np.array([p[k] for p in batch.pairs], dtype=np.int64) for k in (0, 1))
    model.forget(users=users, pair_users=pair_users, pair_items=pair_items)
    np.testing.assert_array_equal(matrix.toarray(), world.x)
    assert (users.tolist(), list(zip(pair_users, pair_items, strict=True))) == (batch.users, batch.pairs)
    before = state(model)
    for array in (matrix.data, matrix.indices, matrix.indptr, users, pair_users, pair_items):
        array[:] = 0
    assert_unchanged(before, model)


@every_case
@FEW
@given(world=worlds())
def test_what_is_recommended_after_removals_is_real(case, world):
    """Finite, falling scores; no item twice, none that is liked, none that nobody has; no NaN anywhere."""
    model = case.fit(world.x)
    for batch in world.batches:
        batch.apply(model)
    left = world.batches[-1].left
    alive = np.flatnonzero(left.any(axis=0))
    for user in range(left.shape[0]):
        for liked in (True, False):
            ids, scores = model.recommend(user, None, N=left.shape[1] + 2, filter_already_liked_items=liked)
            assert np.isfinite(scores).all()
            assert (np.diff(scores) <= 0).all()
            assert np.unique(ids).size == ids.size
            assert set(ids.tolist()) <= set(alive.tolist())
            assert not liked or not left[user, ids].any()
            assert left[user].any() or not ids.size
    for item in range(left.shape[1]):
        ids, scores = model.similar_items(item, N=3)
        assert np.isfinite(scores).all()
        assert set(ids.tolist()) <= set(alive.tolist())
        assert left[:, item].any() or not ids.size
    for array in model.published().values():
        assert np.isfinite(array.data if sp.issparse(array) else array).all()


@every_case
@FEW
@given(world=worlds(1), n=st.integers(1, 9))
def test_batches_and_single_users_are_recommended_the_same(case, world, n):
    """A batch's rows are the single answers, padded with -1 and -inf; the same for similar items."""
    model = case.fit(world.x)
    world.batches[0].apply(model)
    left = world.batches[0].left
    users, rows = np.arange(left.shape[0]), sp.csr_matrix(left)
    answers = [
        (model.recommend(users, rows, N=n), [model.recommend(u, rows[u], N=n) for u in users]),
        (model.recommend(users, None, N=n), [model.recommend(u, None, N=n) for u in users]),
        (
            model.similar_items(np.arange(left.shape[1]), N=n),
            [model.similar_items(i, N=n) for i in range(left.shape[1])],
        ),
    ]
    for (ids, scores), single in answers:
        assert ids.shape == scores.shape == (len(single), n)
        for row, (one, one_scores) in enumerate(single):
            np.testing.assert_allclose(scores[row, : one.size], one_scores, rtol=1e-4, atol=1e-7)
            assert (ids[row, one.size :] == -1).all()
            assert np.isneginf(scores[row, one.size :]).all()
            differ = ids[row, : one.size] != one  # only where scores are tied, up to rounding
            tied = (
                np.abs(scores[row, : one.size] - one_scores)
                <= 1e-5 * np.abs(one_scores).max(initial=0) + 1e-7
            )
            assert tied[differ].all()


@every_case
@FEW
@given(world=worlds(2))
def test_what_is_restored_is_the_model(case, world):
    """From read-only arrays and strict JSON: the same proof, arrays and answers, and it forgets the same."""
    model = case.fit(world.x)
    world.batches[0].apply(model)
    restored = carried_over(model)
    to_the_bit(model, restored)
    assert restored.proof() == model.proof()
    assert dict(restored.settings()) == dict(model.settings())
    for user in range(min(4, world.x.shape[0])):
        for ours, theirs in zip(model.recommend(user, None), restored.recommend(user, None), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for batch in world.batches[1:]:
        batch.apply(restored)
        batch.apply(model)
        case.same(restored, model)
        case.same(restored, again(model, batch.left))
        assert model.proof().exact == restored.proof().exact


@every_case
@FEW
@given(world=worlds(2))
def test_restricting_drops_what_is_empty_and_nothing_else(case, world):
    """Without empty rows and columns: the same answers under new numbers, the same forgetting."""
    model = case.fit(world.x)
    world.batches[0].apply(model)
    left = world.batches[0].left
    users, items = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
    before = state(model)
    small = model.restrict(users, items)
    np.testing.assert_array_equal(small.user_items.toarray(), left[users][:, items])
    if getattr(model, "weighting", "cosine") == "cosine":  # the others count the items that there are
        for row, user in enumerate(users[:5]):
            ids, scores = small.recommend(row, None, N=50)
            expected, known = model.recommend(user, None, N=50)
            np.testing.assert_allclose(scores, known, rtol=1e-4, atol=1e-6)
            assert set(items[ids].tolist()) == set(expected.tolist())
    if users.size:
        with pytest.raises(ValueError, match=f"user {users[0]} has interactions"):
            model.restrict(users[1:], items)
        with pytest.raises(ValueError, match=f"item {items[-1]} has interactions"):
            model.restrict(users, items[:-1])
        small.forget_users([0])
        assert_unchanged(before, model)
        if model.name != "sharded_mf":  # a fresh fit would draw the shards of new row numbers
            case.same(small, again(small, naive.without(left[users][:, items], [0], [])))


@every_case
@FEW
@given(world=worlds(1), seed=st.integers(0, 9))
def test_rows_may_change_places(case, world, seed):
    """The same model under other row numbers: same matrix, same answers, same proof, same forgetting."""
    model = case.fit(world.x)
    users = np.flatnonzero(world.x.toarray().any(axis=1) if sp.issparse(world.x) else world.x.any(axis=1))
    items = np.flatnonzero(model.user_items.toarray().any(axis=0))
    users = np.random.default_rng(seed).permutation(users).astype(np.int64)
    dense = model.user_items.toarray()
    proof = model.proof()
    answers = [model.recommend(user, None, N=50) for user in users[:5]]
    moved = model.restrict(users, items)
    np.testing.assert_array_equal(moved.user_items.toarray(), dense[users][:, items])
    assert moved.user_items.has_canonical_format
    assert moved.proof() == proof
    if getattr(model, "weighting", "cosine") == "cosine":
        for row, (expected, known) in enumerate(answers):
            ids, scores = moved.recommend(row, None, N=50)
            np.testing.assert_allclose(scores, known, rtol=1e-4, atol=1e-6)
            assert set(items[ids].tolist()) == set(expected.tolist())
    if users.size > 1:
        moved.forget_users([0])
        np.testing.assert_array_equal(moved.user_items.toarray()[1:], dense[users[1:]][:, items])


def _forms(x: Any) -> dict[str, Any]:
    """Give the same binary data in every form a caller may have it in."""
    csr = sp.csr_matrix(x)
    order = np.random.default_rng(0).permutation(csr.nnz)
    coo = csr.tocoo()
    shuffled = sp.csr_matrix(x)
    for row in range(x.shape[0]):
        part = slice(*shuffled.indptr[row : row + 2])
        shuffled.indices[part], shuffled.data[part] = shuffled.indices[part][::-1], shuffled.data[part][::-1]
    shuffled.has_sorted_indices = False
    halves = sp.coo_matrix(
        (np.r_[coo.data, coo.data] / 2, (np.r_[coo.row, coo.row], np.r_[coo.col, coo.col])), x.shape
    )
    zeros = sp.csr_matrix(
        (np.append(csr.data, 0), np.append(csr.indices, 0), np.append(csr.indptr[:-1], csr.nnz + 1)), x.shape
    )
    wide = sp.csr_matrix(x)
    wide.indptr, wide.indices = wide.indptr.astype(np.int64), wide.indices.astype(np.int64)
    locked = sp.csr_matrix(x)
    for array in (locked.data, locked.indices, locked.indptr):
        array.flags.writeable = False
    return {
        "COO": sp.coo_matrix((coo.data[order], (coo.row[order], coo.col[order])), x.shape),
        "CSC": csr.tocsc(),
        "unsorted": shuffled,
        "duplicates": halves,
        "explicit zeros": zeros,
        "int64 indices": wide,
        "read-only": locked,
        "float32": csr.astype(np.float32),
        "int8": csr.astype(np.int8),
        "uint16": csr.astype(np.uint16),
        "int64": csr.astype(np.int64),
        "bool": csr.astype(np.bool_),
        "sparse array": sp.csr_array(x),
    }


@every_case
@settings(FEW, max_examples=3)
@given(x=matrices())
def test_any_form_of_the_same_data_gives_the_same_model(case, x):
    """Formats, dtypes, order, duplicates, explicit zeros, wide and read-only indices: one model."""
    x = (x > 0) * 1.0
    plain = case.fit(x)
    plain.forget_users([0])
    for form, matrix in _forms(x).items():
        model = case.make().fit(matrix)
        model.forget_users([0])
        np.testing.assert_array_equal(model.user_items.toarray(), plain.user_items.toarray(), err_msg=form)
        if form == "float32" and case.same is within_the_certificates:
            case.same(model, plain)
        else:
            to_the_bit(model, plain)


@every_case
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_values_that_are_none_are_refused_by_name(case, bad):
    """Negative, NaN and infinite values are named by user and item; a fitted model stays as it was."""
    x = LARGE.astype(float)
    model = case.fit(x[:10, :6])
    before = state(model)
    x[3, 5] = bad
    with pytest.raises(ValueError, match="user 3, item 5"):
        model.fit(sp.csr_matrix(x))
    with pytest.raises(TypeError, match="ndarray"):
        model.fit(x)
    assert_unchanged(before, model)


@every_case
@FEW
@given(world=worlds())
def test_a_proof_is_consistent(case, world):
    """Exact models say so; a share erased only after a removal; no certificate has a reason."""
    model = case.fit(world.x)
    assert model.proof().exact == model.exact == MODELS[model.name].exact
    assert model.proof().erased_at_least is None
    for batch in world.batches:
        removes = model.user_items.nnz != np.count_nonzero(batch.left)
        batch.apply(model)
        proof = model.proof()
        assert proof.exact == model.exact
        assert proof.bound is None or proof.bound >= 0
        assert proof.certified == (proof.reason == "")
        assert not removes or proof.erased_at_least is not None
        assert proof.erased_at_least is None or 0 <= proof.erased_at_least <= 1
        assert not (removes and proof.exact) or proof.erased_at_least == 1.0


class _FaultError(Exception):
    """Raised from inside a removal."""


def _calls_of(action: Any, stop_at: int | None) -> int:
    """Run ``action`` and count the calls into the models' code; raise at call ``stop_at``."""
    folder, count = str(Path(recunlearn.models.__file__).parent), itertools.count()
    seen = 0

    def trace(frame: Any, event: str, argument: Any) -> None:
        nonlocal seen
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            seen = next(count)
            if seen == stop_at:
                raise _FaultError

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(outer)
    return seen


@every_case
def test_a_removal_cut_off_anywhere_is_as_if_not_tried(case):
    """An error at any call inside leaves all that is published as it was, and the next try is right."""
    x = LARGE.astype(float)
    request = {"users": [3, 7], "pair_users": [9], "pair_items": [int(np.flatnonzero(x[9])[0])]}
    left = naive.without(x, [3, 7], [(9, request["pair_items"][0])])
    calls = _calls_of(lambda: case.fit(x).forget(**request), None) - _calls_of(lambda: case.fit(x), None)
    assert calls > 3
    for stop in sorted({*range(0, calls, max(1, calls // 6)), calls - 1, calls - 2}):
        model = case.fit(x)
        before = state(model)
        with pytest.raises(_FaultError):
            _calls_of(lambda model=model: model.forget(**request), stop)
        assert_unchanged(before, model)
        assert np.array_equal(model._forgotten, np.zeros(40, dtype=bool))
        model.forget(**request)
        case.same(model, again(model, left))


@every_case
def test_reading_while_another_thread_forgets(case):
    """Every answer is that of before or after a removal, whole; or it is refused, where the class says so."""
    x, batches = LARGE.astype(float), [[u, u + 1] for u in range(0, 24, 2)]
    twin, versions = case.fit(x), []
    rows = sp.csr_matrix(x[30:34])

    def answers(model: Any) -> tuple[Any, ...]:
        ids, scores = model.recommend([30, 31, 32, 33], rows, N=5)  # a batch is answered user by user
        return (
            *zip(ids, scores, strict=True),
            model.recommend(31, None, N=5),
            model.similar_items(2, N=5),
        )

    versions.append(answers(twin))
    for batch in batches:
        twin.forget_users(batch)
        versions.append(answers(twin))
    model, faults, seen, done = case.fit(x), [], [], threading.Event()
    model.recommend(30, None)

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(answers(model))
            except ConcurrentForgettingError:
                seen.append(None)
            except BaseException as error:  # noqa: BLE001  whatever it is, it is the finding
                faults.append(error)
                return

    readers, interval = [threading.Thread(target=read) for _ in range(2)], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for batch in batches:
            model.forget_users(batch)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert not faults
    assert seen
    assert case.refuses_readers or None not in seen
    for answer in [*filter(None, seen), answers(model)]:
        for part, (ids, scores) in enumerate(answer):
            assert any(_alike(ids, scores, *version[part]) for version in versions), (part, ids)
    for (ids, scores), known in zip(answers(model), versions[-1], strict=True):
        assert _alike(ids, scores, *known)


def _alike(ids: Any, scores: Any, known_ids: Any, known_scores: Any) -> bool:
    return np.array_equal(ids, known_ids) and np.allclose(scores, known_scores, rtol=1e-5)
