"""Attacks on what is published: each finds a planted leak, and is at chance where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine.fold_in import fold_in, liked_row
from recunlearn.eval.attacks import (
    ATTACKS,
    Scene,
    SceneError,
    served,
    served_arrays,
    served_factors,
    served_weights,
)
from recunlearn.eval.attacks.answers import answers_of
from recunlearn.eval.attacks.evidence import gather
from recunlearn.eval.attacks.membership import affinity_features, list_features, score_features
from recunlearn.eval.attacks.outcome import auc, game, game_interval, mean_interval
from recunlearn.eval.attacks.scene import only_rows, split_profiles
from recunlearn.eval.generate import social_interactions
from recunlearn.models import EASE, CanonicalMF, ItemKNN, SpectralMF
from recunlearn.models.base import canonical_interactions

MEMBERSHIP = ("membership_lists", "membership_scores", "membership_embeddings")
MAKE = {
    "ease": lambda regularization=20.0: EASE(regularization=regularization),
    "item_knn": lambda regularization=None: ItemKNN(K=20),
    "spectral_mf": lambda regularization=None: SpectralMF(factors=24, regularization=regularization),
}


def scene_of(name, leavers, seed=0, forget=True):
    """Fit, forget some and fit again without them: the scene; without forgetting, the model keeps all."""
    x = canonical_interactions(social_interactions(500, 150, 8000, seed=seed))
    users = np.sort(np.random.default_rng(seed).choice(np.flatnonzero(np.diff(x.indptr) > 5), leavers, False))
    model = MAKE[name]().fit(x)
    fixed = {"regularization": model.regularization} if hasattr(model, "regularization") else {}
    before = served(model)
    if forget:
        model.forget_users(users)
    after = served(model)
    scene = Scene(before, after, x, users, fit=lambda data: served(MAKE[name](**fixed).fit(data)))
    return replace(scene, oracle=scene.fit(scene.kept))


@pytest.fixture(scope="module")
def scenes():
    """Return the scene of each model from which 40 people were forgotten."""
    return {name: scene_of(name, 40) for name in MAKE}


def keeping_all(scene):
    """Return the same scene after a method that does nothing."""
    return replace(scene, after=scene.before)


# -- areas and intervals -----------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12)
)
def test_the_area_counts_won_pairs(positive, negative):
    """The area by ranks is the share of pairs won, ties half: the definition."""
    won = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auc(np.array(positive, float), np.array(negative, float)) == pytest.approx(np.mean(won))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_the_game_compares_people_with_others_only(pairs):
    """The game is the share of won pairs of two different people."""
    first, second = np.array(pairs, float).T
    won = [(a > b) + (a == b) / 2 for i, a in enumerate(first) for j, b in enumerate(second) if i != j]
    assert game(first, second) == pytest.approx(np.mean(won))


def test_intervals_cover_at_their_rate():
    """Of 95 % intervals for a known area and a known mean, 95 % hold it (300 draws: 88 to 99 %)."""
    rng = np.random.default_rng(1)
    held_area = held_mean = 0
    for draw in range(300):
        person = rng.normal(size=40)  # what both answers about a person share
        with_them = person + rng.normal(1.0, 1.0, 40)
        low, high = game_interval(with_them, person + rng.normal(0.0, 1.0, 40), draw)
        held_area += low <= 0.6914624612740131 <= high  # Phi(1 / 2): the difference has variance 4
        low, high = mean_interval(with_them, draw)
        held_mean += low <= 1.0 <= high
    assert 0.88 <= held_area / 300 <= 0.99
    assert 0.88 <= held_mean / 300 <= 0.99


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_rounding_is_no_leak(seed):
    """Answers that differ by rounding only give chance exactly, however they are rounded."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(30) / 7
    assert game(scores * (1 + 1e-15), scores) == game(scores, scores * (1 + 1e-15)) == 0.5


# -- membership --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", MEMBERSHIP)
@pytest.mark.parametrize("model", MAKE)
def test_membership_is_found_where_nothing_was_forgotten(scenes, model, attack):
    """A method that does nothing is caught by every view: the planted leak."""
    result = ATTACKS[attack](keeping_all(scenes[model]))
    assert result.leaks
    assert result.auc == result.power > 0.6
    assert result.details["shadow_auc"] > 0.6


@pytest.mark.parametrize("attack", MEMBERSHIP)
@pytest.mark.parametrize("model", MAKE)
def test_membership_is_at_chance_after_forgetting(scenes, model, attack):
    """What our models publish after forgetting cannot be told from a retrain, by any view."""
    result = ATTACKS[attack](scenes[model])
    assert result.auc == pytest.approx(0.5, abs=0.01)
    assert result.power > 0.6


@pytest.mark.parametrize("attack", MEMBERSHIP)
def test_membership_is_at_chance_between_two_oracles(scenes, attack):
    """Oracle against oracle is 0.5 exactly: the calibration of the game."""
    scene = scenes["ease"]
    result = ATTACKS[attack](replace(scene, after=scene.oracle))
    assert (result.auc, result.excess) == (0.5, 0.0)
    assert not result.leaks


def test_a_part_of_the_influence_is_a_part_of_the_leak(scenes):
    """Weights between those of before and of the oracle leak the more, the nearer they are to before."""
    scene = scenes["ease"]
    old, new = (
        version.score(sp.identity(version.n_items, format="csr")) for version in (scene.before, scene.oracle)
    )
    areas = [
        ATTACKS["membership_scores"](replace(scene, after=served_weights(new + share * (old - new)))).auc
        for share in (0.0, 0.1, 0.3, 1.0)
    ]
    assert areas == sorted(areas)
    assert areas[0] == pytest.approx(0.5, abs=0.01)
    assert 0.52 < areas[2] < areas[3]


def test_the_same_seed_gives_the_same_figures(scenes):
    """Every attack repeats itself bit for bit; another seed draws otherwise."""
    scene = scenes["item_knn"]
    for name, attack in ATTACKS.items():
        assert attack(replace(scene)) == attack(replace(scene)), name
    other = ATTACKS["reconstruction"](replace(scene, seed=5))
    assert other.auc != ATTACKS["reconstruction"](scene).auc


# -- differencing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MAKE)
def test_one_who_leaves_alone_is_read_from_two_versions(model):
    """The leak that exactness brings: all items of a single leaver, and nothing else, from every model."""
    for seed in range(3):
        result = ATTACKS["differencing"](scene_of(model, 1, seed=seed))
        assert result.details["precision"] == result.details["precision_unlinked"] == 1.0
        assert result.auc == 1.0 > result.chance


@pytest.mark.parametrize("model", [name for name in MAKE if name != "ease"])
def test_a_batch_hides_its_members(model):
    """The more leave at once, the less of each can be read; popularity says the same throughout."""
    precision = [
        ATTACKS["differencing"](scene_of(model, batch)).details["precision"] for batch in (1, 10, 100)
    ]
    assert precision[0] > precision[1] > precision[2] + 0.1


@pytest.mark.parametrize("batch", [10, 40])
def test_no_batch_hides_who_leaves_ease(batch):
    """Two inverses are two whole sums: peeled, they give whoever has an item that no other leaver has."""
    scene = scene_of("ease", batch)
    details = ATTACKS["differencing"](scene).details
    left = scene.user_items[scene.users].toarray() > 0
    alone = left[:, left.sum(axis=0) == 1].any(axis=1)
    assert alone.mean() > 0.3
    assert details["peeled"] >= alone.mean()
    assert details["precision"] > 2 * details["precision_unlinked"]


def test_without_a_change_there_is_nothing_to_read(scenes):
    """Two equal versions give no evidence: guesses as good as blind ones, far below popularity."""
    for scene in scenes.values():
        result = ATTACKS["differencing"](keeping_all(scene))
        assert not result.leaks
        assert result.auc == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["ease", "spectral_mf"])
def test_published_sums_give_the_counts_of_what_left(scenes, name):
    """EASE's inverse and SpectralMF's scale of items tell exactly how many left each item."""
    scene = scenes[name]
    lost = scene.before.counts() - scene.after.counts()
    assert np.allclose(lost, np.asarray(scene.user_items[scene.users].sum(axis=0)).ravel(), atol=1e-6)


def test_spectral_sums_are_those_of_the_data():
    """With all directions kept, the sums read from SpectralMF's publication are X' D_u^-1/2 X."""
    rng = np.random.default_rng(3)
    x = canonical_interactions(sp.csr_matrix((rng.random((60, 12)) < 0.4).astype(float)))
    model = SpectralMF(factors=12, regularization=1e-3, dtype="float64", tolerance=1e-9).fit(x)
    scaled = x.toarray() / np.maximum(x.toarray().sum(axis=1, keepdims=True), 1.0) ** 0.25
    sums = served(model).sum_rows(np.arange(12))
    assert np.allclose(sums, scaled.T @ scaled, rtol=1e-4, atol=1e-4)


def test_vectors_alone_give_a_leaver_away():
    """Without scale and counts, how far item vectors moved still finds one leaver's items."""
    scene = scene_of("spectral_mf", 1)
    bare = [served_factors(version.items) for version in (scene.before, scene.after)]
    result = ATTACKS["differencing"](replace(scene, before=bare[0], after=bare[1]))
    assert result.auc > result.chance + 0.1


@pytest.mark.parametrize("name", MAKE)
def test_an_item_that_nobody_else_has_gives_its_only_user_away(name):
    """Where the last user of an item leaves, the item vanishes from what is published, and that is read."""
    x = canonical_interactions(social_interactions(300, 80, 4000, seed=2)).tolil()
    x[5, 7] = 1
    x[np.arange(300) != 5, 7] = 0
    model = MAKE[name]().fit(sp.csr_matrix(x))
    before, popularity = served(model), np.asarray(model.user_items.sum(axis=0)).ravel()
    model.forget_users([5])
    assert gather(before, served(model), popularity).items[7] > 0.99


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_similarities_give_the_items_of_a_leaver(seed):
    """From top-K lists, the moved norms are those of the leaver's items, where anything else stands still."""
    rng = np.random.default_rng(seed)
    x = canonical_interactions(sp.csr_matrix((rng.random((200, 60)) < 0.08).astype(float)))
    user = int(np.argmax(np.diff(x.indptr) == 4))
    model = ItemKNN(K=60).fit(x)
    before, popularity = served(model), np.asarray(x.sum(axis=0)).ravel()
    model.forget_users([user])
    found = gather(before, served(model), popularity).items
    assert set(np.flatnonzero(found > 1e-9)) == set(x[user].indices)


# -- differencing by answers only ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_answers_are_those_that_the_api_gives(name):
    """The lists that are compared are, id by id and score by score, what is served for one liked item."""
    x = canonical_interactions(social_interactions(200, 60, 3000, seed=6))
    model = MAKE[name]().fit(x)
    lists = answers_of(served(model), 8)
    for item in (0, 7, 30):
        ids, scores = fold_in(model, liked_row(np.array([item]), model), 8)
        listed = ids[0] >= 0
        given = lists[item].toarray().ravel()[ids[0][listed]]
        assert np.allclose(given, scores[0][listed], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MAKE)
def test_one_who_leaves_alone_is_read_from_answers_too(model):
    """Lists before and after, without any file, give most of a single leaver away: HTTP is no protection."""
    for seed in range(2):
        result = ATTACKS["differencing_answers"](scene_of(model, 1, seed=seed))
        assert result.details["precision"] > 0.75
        assert result.auc > 0.95 > result.chance


@pytest.mark.parametrize("model", MAKE)
def test_answers_say_less_of_a_batch(model):
    """The more leave at once, the less of each the lists give; without a change they give nothing."""
    precision = [
        ATTACKS["differencing_answers"](scene_of(model, batch)).details["precision"] for batch in (1, 10, 100)
    ]
    assert precision[0] > precision[1] > precision[2]
    unchanged = ATTACKS["differencing_answers"](keeping_all(scene_of(model, 10)))
    assert unchanged.auc == pytest.approx(0.5, abs=0.05)


def test_who_publishes_nothing_is_attacked_by_answers_only():
    """Without arrays, attacks on arrays are refused by name, and the one on answers still reads a leaver."""
    scene = scene_of("spectral_mf", 1)
    bare = [served_arrays({}, version.score, version.n_items) for version in (scene.before, scene.after)]
    hidden = replace(scene, before=bare[0], after=bare[1])
    for attack in ("differencing", "membership_embeddings"):
        with pytest.raises(SceneError, match="publishes no arrays"):
            ATTACKS[attack](hidden)
    assert ATTACKS["differencing_answers"](hidden).auc > 0.9


# -- reconstruction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MAKE)
def test_a_deleted_profile_is_reconstructed_no_better_than_from_a_retrain(scenes, model):
    """After forgetting, half a profile says as much of the other half as it does to the oracle."""
    result = ATTACKS["reconstruction"](scenes[model])
    assert abs(result.excess) < 1e-3
    assert result.power > result.chance + 0.02
    assert not result.details["rows_left"]


@pytest.mark.parametrize("model", MAKE)
def test_reconstruction_finds_what_was_kept(scenes, model):
    """A method that does nothing gives more of the profile away than taste does."""
    assert ATTACKS["reconstruction"](keeping_all(scenes[model])).leaks


def test_a_row_that_is_left_is_read(scenes):
    """A method that clears the items but keeps the person's own vector is caught, and counted."""
    scene = scenes["spectral_mf"]
    items, scores = scene.after.items, scene.after.score(scene.user_items)
    kept_row = replace(scene.after, users=np.linalg.lstsq(items, scores.T)[0].T)
    result = ATTACKS["reconstruction"](replace(scene, after=kept_row))
    assert result.leaks
    assert result.details["rows_left"] == result.subjects


# -- what is served ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MAKE, "canonical_mf"])
def test_what_is_served_is_what_the_model_ranks(scenes, name):
    """The scores an attacker gets rank as the model's own recommendations do, and stay as they were."""
    x = canonical_interactions(social_interactions(120, 60, 1500, seed=4))
    model = {**MAKE, "canonical_mf": lambda: CanonicalMF(regularization=5.0, alpha=2.0)}[name]().fit(x)
    version = served(model)
    scores = version.score(x[:20])
    for user in range(20):
        ids, _ = model.recommend(user, x[user], N=5)
        candidates = np.setdiff1d(np.arange(60), x[user].indices)
        assert scores[user][ids].min() >= np.sort(scores[user][candidates])[-ids.size] - 1e-5
    model.forget_users([0, 1, 2])
    assert np.array_equal(version.score(x[:20]), scores)


def test_features_are_what_they_say():
    """Hits, ranks and likeness of a small profile, worked out by hand."""
    weights = np.array([[0, 3, 1, 2.0], [3, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]])
    version = served_weights(weights)
    asked, hidden = [np.array([0])], [np.array([2])]
    assert list_features(version, asked, hidden).tolist() == [[1.0, 1.0, 1 / 3]]
    mean, low, high, odds = score_features(version, asked, hidden)[0]
    assert mean == low == high == pytest.approx(-np.sqrt(1.5))
    assert odds == pytest.approx(np.log((1 - 5 / 6) / (5 / 6)))
    assert affinity_features(version, asked, hidden).tolist() == [[1.0, 0.0, 1.0]]


def test_profiles_are_split_in_two():
    """Each half is of the person's items, none is in both, and who has one item only is left out."""
    x = sp.csr_matrix([[1, 1, 1, 0, 1], [0, 0, 1, 0, 0], [1, 1, 0, 0, 0]])
    users, asked, hidden = split_profiles(x, np.arange(3), seed=1)
    assert users.tolist() == [0, 2]
    for user, a, b in zip(users, asked, hidden, strict=True):
        assert np.array_equal(np.union1d(a, b), x[user].indices)
        assert a.size == b.size == x[user].nnz // 2


@given(st.integers(0, 2**16))
def test_only_the_kept_rows_stay(seed):
    """A matrix without some rows has them empty and all others as they were."""
    rng = np.random.default_rng(seed)
    x, keep = sp.random(8, 5, 0.4, "csr", rng=rng), rng.random(8) < 0.5
    assert np.array_equal(only_rows(x, keep).toarray(), x.toarray() * keep[:, None])


def test_what_a_scene_lacks_is_named(scenes):
    """No oracle, no way to fit, nobody to attack: each is refused with what is missing."""
    scene = scenes["ease"]
    with pytest.raises(SceneError, match="give the scene an oracle"):
        ATTACKS["reconstruction"](replace(scene, oracle=None))
    with pytest.raises(SceneError, match="a function that fits one"):
        ATTACKS["membership_lists"](replace(scene, fit=None))
    nobody = replace(scene, users=np.zeros(0, np.int64))
    for attack in ATTACKS.values():
        with pytest.raises(SceneError, match=r"nobody to attack|needs two people"):
            attack(nobody)
