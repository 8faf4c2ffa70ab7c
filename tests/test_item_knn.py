"""ItemKNN: equal to implicit's recommenders, and after any removals equal to the bit to a fresh fit."""

import threading
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit._nearest_neighbours import NearestNeighboursScorer
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from recunlearn.models import ItemKNN
from recunlearn.models import item_knn as item_knn_module
from recunlearn.models.statistics import CoOccurrence

from . import naive
from .removals import BINARY, COUNTS, FRACTIONS, Removal, histories, interactions, same_bits

WEIGHTINGS = ["cosine", "tfidf", "bm25"]
VALUES = {"binary": BINARY, "counts": COUNTS, "fractions": FRACTIONS}
X = sp.random(300, 40, density=0.15, format="csr", random_state=5, data_rvs=lambda n: np.ones(n))


def implicits(weighting: str, k: int, x: sp.csr_matrix[Any]) -> Any:
    """Fit implicit's own recommender."""
    model = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}[weighting](K=k)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # it warns of its own COO matrix, and divides by zero norms
        model.fit(x, show_progress=False)
    return model


def equals_twin(model: ItemKNN, x: np.ndarray) -> None:
    """Assert that the lists are the K best of all similarities: values to 1e-12, neighbours up to ties."""
    expected = naive.similarity(x, model.weighting, model.K1, model.B)
    found = model.similarity.toarray()
    scale = max(1.0, expected.max(initial=0.0))
    there = found > 0
    assert np.isfinite(found).all()
    assert (model.similarity.data > 0).all()
    assert np.abs(found - expected)[there].max(initial=0.0) <= 1e-12 * scale
    for row, ids in enumerate(naive.nearest(expected, model.K)):
        best = np.sort(found[row][there[row]])[::-1]
        assert best.size == len(ids)
        assert np.allclose(best, expected[row, ids], rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("values", VALUES)
def test_a_fit_equals_the_definition(weighting, values):
    """Every similarity, list and length is that of the slow twin."""

    @given(interactions(VALUES[values]), st.integers(1, 8))
    @settings(max_examples=60, deadline=None)
    def check(x: np.ndarray, k: int) -> None:
        equals_twin(ItemKNN(k, weighting).fit(sp.csr_matrix(x)), x)

    check()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("values", ["binary", "counts"])
def test_forgetting_ends_where_implicit_would(weighting, values):
    """After removals the lists are those of implicit's recommender fitted on what is left."""
    rng = np.random.default_rng(6)
    x = X.copy()
    if values == "counts":
        x.data = rng.integers(1, 6, x.nnz).astype(float)
    model = ItemKNN(7, weighting).fit(x)
    model.forget(
        users=np.arange(0, 60, 2), pair_users=[1, 1, 3], pair_items=np.r_[x[1].indices[:2], x[3].indices[:1]]
    )
    model.forget_users([299, 7])
    theirs = implicits(weighting, 7, model.user_items)
    expected = theirs.similarity.copy()
    expected.eliminate_zeros()
    scale = max(1.0, expected.max())
    assert np.array_equal(np.diff(expected.indptr), np.diff(model.similarity.indptr))
    for row in range(40):
        a, b = model.similarity[row], expected[row]
        assert np.allclose(np.sort(a.data), np.sort(b.data), rtol=0, atol=1e-12 * scale)
        lowest = b.data.min() + 1e-12 * scale  # below that only ties
        assert {i for i, v in zip(a.indices, a.data, strict=True) if v > lowest} == {
            i for i, v in zip(b.indices, b.data, strict=True) if v > lowest
        }
    theirs.scorer = NearestNeighboursScorer(model.similarity)  # the same lists, ties and all
    for user in range(60, 70):
        ids, scores = model.recommend(user, x[user], N=5)
        other_ids, other_scores = theirs.recommend(user, x[user], N=5)
        assert np.allclose(scores, other_scores[: ids.size], rtol=1e-12)
        assert not other_scores[ids.size :].any()
        clear = np.flatnonzero(np.diff(scores) < -1e-9)
        assert set(ids[: clear[-1] + 1]) == set(other_ids[: clear[-1] + 1])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("values", VALUES)
def test_any_interleaving_equals_never_having_seen_them(weighting, values):
    """Users, pairs and mixed batches in any order: after each, the same bits as a fresh fit."""

    @given(histories(VALUES[values]), st.integers(1, 8))
    @settings(max_examples=120, deadline=None)
    def check(history: tuple[np.ndarray, list[Removal]], k: int) -> None:
        x, batches = history
        model = ItemKNN(k, weighting).fit(sp.csr_matrix(x))
        for batch in batches:
            batch.apply(model)
            fresh = ItemKNN(k, weighting).fit(sp.csr_matrix(batch.left))
            assert same_bits(model.similarity, fresh.similarity)
            assert model.similarity.has_canonical_format

    check()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_repaired_lists_equal_ranked_ones(weighting, k, monkeypatch):
    """On data where most lists are left alone, one removal after another repairs all that changed."""
    x = sp.block_diag([sp.random(40, 30, 0.15, random_state=s) for s in range(6)], format="csr")
    x = sp.csr_matrix((x + sp.random(240, 180, 0.003, random_state=9)) != 0).astype(float)
    model = ItemKNN(k, weighting).fit(x)
    monkeypatch.setattr(model, "_derive", None)  # a removal does not sum up afresh
    rng = np.random.default_rng(k)
    for user in rng.permutation(240)[:40]:
        items = model.user_items[user].indices
        if items.size and user % 3 == 0:
            model.forget_interactions([user], [items[0]])
        elif user % 3:
            model.forget_users([user])
        else:
            continue
        assert same_bits(model.similarity, ItemKNN(k, weighting).fit(model.user_items).similarity)


@given(histories(COUNTS))
@settings(max_examples=60, deadline=None)
def test_the_sums_are_those_of_what_is_left(history):
    """No zero, no trace: the pairs kept are exactly those of a fresh sum, and freed room is cleared."""
    x, batches = history
    model = ItemKNN(3).fit(sp.csr_matrix(x))
    for batch in batches:
        batch.apply(model)
    pairs, expected = model._pairs, naive.co_occurrences(batches[-1].left)
    assert pairs is not None
    used = np.zeros(pairs.columns.size, dtype=bool)
    for i in range(x.shape[1]):
        row = slice(pairs.start[i], pairs.start[i] + pairs.length[i])
        used[row] = True
        assert np.array_equal(pairs.columns[row], np.flatnonzero(expected[i]))
        assert np.array_equal(pairs.coarse[row], expected[i, pairs.columns[row]].astype(int))
    assert not pairs.columns[~used].any()
    assert not pairs.coarse[~used].any()


def test_the_order_of_removals_leaves_no_trace():
    """The same users removed one by one, in reverse, and in one batch: the same bits everywhere."""
    for weighting in WEIGHTINGS:
        models = [ItemKNN(5, weighting).fit(X) for _ in range(3)]
        for user in range(30):
            models[0].forget_users([user])
            models[1].forget_users([29 - user])
        models[2].forget_users(np.arange(30))
        for other in models[1:]:
            assert same_bits(models[0].similarity, other.similarity)
            assert np.array_equal(models[0]._factor, other._factor)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6, 1e8, 1e12])
def test_huge_and_tiny_values_are_exact_or_summed_afresh(weighting, scale):
    """Squares that overflow whole numbers, and values below their unit: still equal to a fresh fit."""
    rng = np.random.default_rng(7)
    x = X.copy()
    x.data = np.ceil(rng.random(x.nnz) * 9) * scale
    model = ItemKNN(4, weighting).fit(x)
    equals_twin(model, x.toarray())
    model.forget_users([0, 3])
    model.forget_interactions([1], [x[1].indices[0]])
    assert same_bits(model.similarity, ItemKNN(4, weighting).fit(model.user_items).similarity)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_hostile_shapes(weighting):
    """One user, one item, everybody alike, full rows, nobody at all: finite lists, and empty at the end."""
    for dense in (
        np.ones((1, 1)),
        np.ones((5, 4)),
        np.ones((1, 6)),
        np.ones((6, 1)),
        np.zeros((3, 2)),
        np.eye(4),
    ):
        model = ItemKNN(3, weighting).fit(sp.csr_matrix(dense))
        equals_twin(model, dense)
        model.forget_users(np.arange(dense.shape[0]))
        assert model.similarity.nnz == 0
        assert model.recommend(0, sp.csr_matrix((1, dense.shape[1])))[0].size == 0
        assert model.recommend(0, sp.csr_matrix(np.ones((1, dense.shape[1]))))[0].size == 0
    for shape in ((0, 0), (0, 3), (3, 0)):
        model = ItemKNN(3, weighting).fit(sp.csr_matrix(shape))
        model.forget_users(np.arange(shape[0]))
        assert model.similarity.shape == (shape[1], shape[1])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_ties_go_to_the_lower_item(weighting):
    """Of neighbours equally alike the lower ids stay, before and after a removal."""
    x = np.zeros((5, 9))
    x[:4, :5] = 1
    x[4, [2, 5]] = 1
    model = ItemKNN(3, weighting).fit(sp.csr_matrix(x))
    assert model.similarity[0].indices.tolist() in ([0, 1, 3], [0, 1, 2])
    model.forget_users([4])
    assert model.similarity[0].indices.tolist() == [0, 1, 2]
    assert model.similarity[4].indices.tolist() == [0, 1, 2]
    assert model.similar_items(4, N=2)[0].tolist() == [0, 1]


def test_an_item_that_nobody_has_any_more_is_gone():
    """It is in no list, has no list, and nobody is recommended it."""
    x = sp.csr_matrix([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0]])
    for weighting in WEIGHTINGS:
        model = ItemKNN(4, weighting).fit(x)
        model.forget_interactions([1], [3])
        assert 3 not in model.similarity.indices
        assert model.similarity[3].nnz == 0
        assert model.similar_items(3)[0].size == 0
        assert 3 not in model.recommend(0, x[0], filter_already_liked_items=False)[0]


class Interrupted(ItemKNN):
    """Does something once, between two looks at its own lists: as another thread may."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name in {"_lists", "_packed"} and (act := self.__dict__.pop("act", None)) is not None:
            act()
        return value


@pytest.mark.parametrize("is_restored", [False, True])
def test_a_removal_while_lists_are_read_leaves_them_whole(is_restored):
    """They are those of before or of after, wherever the removal falls; the next has the later ones."""
    model = Interrupted(5).fit(X)
    if is_restored:
        model = Interrupted.restore(model.settings(), model.published(), model.proof_record(), X)
    before, after = model.similarity, ItemKNN(5).fit(model.user_items)
    after.forget_users([1])
    model.act = lambda: model.forget_users([1])
    read = model.similarity
    assert same_bits(read, before) or same_bits(read, after.similarity)
    assert same_bits(model.similarity, after.similarity)


def test_a_removal_that_breaks_half_way_is_as_if_not_tried(monkeypatch):
    """The lists are those of before, and the next removal is exact again."""
    model = ItemKNN(5).fit(X)
    lists = model.similarity

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(item_knn_module, "_rank", broken)
        with pytest.raises(MemoryError):
            model.forget_users([0])
    assert model.similarity is lists
    model.forget_users([0])
    assert same_bits(model.similarity, ItemKNN(5).fit(model.user_items).similarity)


def test_unknown_and_repeated_requests_change_nothing():
    """Each is refused by name, and the lists and interactions are the very same objects."""
    model = ItemKNN(5).fit(X)
    model.forget_users([1])
    lists, kept = model.similarity, model.user_items
    for bad in ({"users": [300]}, {"users": [1]}, {"users": [0, 0]}, {"pair_users": [1], "pair_items": [0]}):
        with pytest.raises(ValueError, match=r"\d"):
            model.forget(**bad)
    with pytest.raises(ValueError, match="finite and positive"):
        model.fit(-X)
    assert model.similarity is lists
    assert model.user_items is kept


def test_a_reader_keeps_the_lists_it_has(monkeypatch):
    """Forgetting never writes into lists that were handed out: a reader has all of before or all of after."""
    model = ItemKNN(5).fit(X)
    before = model.similarity
    bits = before.copy()
    model.forget_users([0, 1, 2])
    assert same_bits(before, bits)
    assert not same_bits(model.similarity, bits)


def test_two_threads_read_while_one_forgets():
    """Whatever two readers get while users go one by one is the list of some moment, whole."""
    quiet = ItemKNN(5).fit(X)
    expected = [quiet.recommend(299, X[299])]
    for user in range(40):
        quiet.forget_users([user])
        expected.append(quiet.recommend(299, X[299]))
    allowed = {(ids.tobytes(), scores.tobytes()) for ids, scores in expected}

    model, done, seen = ItemKNN(5).fit(X), threading.Event(), set[tuple[bytes, bytes]]()

    def read() -> None:
        while not done.is_set():
            ids, scores = model.recommend(299, X[299])
            seen.add((ids.tobytes(), scores.tobytes()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for user in range(40):
            model.forget_users([user])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert seen
    assert seen <= allowed
    assert len(allowed) > 1


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_what_is_restored_serves_and_forgets_the_same(weighting):
    """Restored from read-only lists a model recommends, proves and forgets as the one it came from."""
    model = ItemKNN(5, weighting).fit(X)
    model.forget_users([4])
    lists = model.published()["similarity"].copy()
    for part in (lists.data, lists.indices, lists.indptr):
        part.flags.writeable = False
    twin = ItemKNN.restore(model.settings(), {"similarity": lists}, model.proof_record(), model.user_items)
    assert twin.proof() == model.proof()
    for N in (3, 100):
        for a, b in zip(
            twin.recommend(np.arange(20), X[:20], N), model.recommend(np.arange(20), X[:20], N), strict=True
        ):
            assert np.array_equal(a, b)
    for one in (twin, model):
        one.forget_users([5])
        one.forget_interactions([6], [X[6].indices[0]])
    assert same_bits(twin.similarity, model.similarity)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_restricting_equals_a_fit_without_empty_rows_and_columns(weighting):
    """Empty rows and columns leave; the result is the fit on the smaller matrix, and forgets on."""

    @given(histories(COUNTS))
    @settings(max_examples=40, deadline=None)
    def check(history: tuple[np.ndarray, list[Removal]]) -> None:
        x, batches = history
        model = ItemKNN(3, weighting).fit(sp.csr_matrix(x))
        for batch in batches:
            batch.apply(model)
        left = batches[-1].left
        users, items = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
        small = model.restrict(users, items)
        rest = left[np.ix_(users, items)]
        assert same_bits(small.similarity, ItemKNN(3, weighting).fit(sp.csr_matrix(rest)).similarity)
        if users.size:
            small.forget_users([0])
            rest[0] = 0.0
            assert same_bits(small.similarity, ItemKNN(3, weighting).fit(sp.csr_matrix(rest)).similarity)
            with pytest.raises(ValueError, match="has interactions"):
                model.restrict(users[1:], items)

    check()


@pytest.mark.parametrize(("weighting", "lonely"), [*((w, []) for w in WEIGHTINGS), ("cosine", [0, 7, 39])])
def test_restricting_hands_over_the_sums(weighting, lonely, monkeypatch):
    """Restricted and then forgetting: the lists of forgetting without, to the bit; nothing is summed up."""
    x = X.toarray()
    x[:, lonely] = 0.0
    x[0, lonely] = 1.0  # goes with user 0
    model, twin = (ItemKNN(5, weighting).fit(sp.csr_matrix(x)) for _ in range(2))
    model.forget_users([0])
    twin.forget_users([0])
    users = np.flatnonzero(np.diff(model.user_items.indptr))
    items = np.unique(model.user_items.indices).astype(np.int64)
    assert items.size == 40 - len(lonely)
    with monkeypatch.context() as patch:
        patch.setattr(ItemKNN, "_derive", None)
        small = model.restrict(users, items)
        for gone in ([4], [9, 10], [200]):
            small.forget_users(gone)
            twin.forget_users(users[gone])
    assert same_bits(small.similarity, sp.csr_matrix(twin.similarity[items][:, items]))
    model.forget_users(users[[1]])  # sums up again, and is right
    assert same_bits(model.similarity, ItemKNN(5, weighting).fit(model.user_items).similarity)


@given(histories(COUNTS))
@settings(max_examples=40, deadline=None)
def test_renumbered_sums_are_those_of_the_smaller_matrix(history):
    """Without the items that nobody has, the sums are the fresh sums of what is left, pair by pair."""
    x, batches = history
    model = ItemKNN(3).fit(sp.csr_matrix(x))
    for batch in batches:
        batch.apply(model)
    left = batches[-1].left
    users, items = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
    pairs = model.restrict(users, items)._pairs
    expected = naive.co_occurrences(left[np.ix_(users, items)])
    assert pairs is not None
    assert model._pairs is None
    for i in range(items.size):
        row = slice(pairs.start[i], pairs.start[i] + pairs.length[i])
        assert np.array_equal(pairs.columns[row], np.flatnonzero(expected[i]))
        assert np.array_equal(pairs.coarse[row], expected[i, pairs.columns[row]].astype(int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.bool_])
def test_any_form_of_the_same_data_is_the_same_model(dtype):
    """Dtypes, int64 indices, duplicates, explicit zeros and read-only arrays make no difference."""
    messy = sp.coo_matrix(X.astype(dtype))
    messy = sp.coo_matrix(
        (np.r_[messy.data, np.zeros(3, dtype)], (np.r_[messy.row, 0, 1, 2], np.r_[messy.col, 0, 1, 2])),
        shape=X.shape,
    )
    messy.data.flags.writeable = False
    assert same_bits(ItemKNN(5).fit(messy).similarity, ItemKNN(5).fit(X).similarity)


@pytest.mark.parametrize(
    "bad", [{"K": 0}, {"weighting": "jaccard"}, {"K1": -1.0}, {"B": 2.0}, {"K1": np.nan}]
)
def test_senseless_settings_are_refused(bad):
    """The message names the value."""
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        ItemKNN(**bad)


def test_sums_in_whole_units_are_rounded_once_a_contribution():
    """Fixed-point sums agree with float sums to 1e-15 and are carried over the same way in any split."""
    rng = np.random.default_rng(8)
    weights = sp.random(200, 15, 0.3, format="csr", random_state=8, data_rvs=rng.random)
    whole = CoOccurrence.of(weights, item_knn_module.COARSE_UNITS)
    exact = naive.co_occurrences(weights.toarray())
    assert np.allclose(whole.diagonal(np.arange(15)), np.diag(exact), rtol=1e-14)
    empty = sp.csr_matrix((0, 15))
    whole.subtract(weights[:100], empty, np.arange(15))
    rest = CoOccurrence.of(weights[100:], item_knn_module.COARSE_UNITS)
    for i in range(15):
        a = slice(whole.start[i], whole.start[i] + whole.length[i])
        b = slice(rest.start[i], rest.start[i] + rest.length[i])
        for part in ("columns", "coarse", "fine"):
            assert np.array_equal(getattr(whole, part)[a], getattr(rest, part)[b])
