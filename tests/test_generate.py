"""Generated interactions: as many as asked for, from the seed alone, and social in the ways promised."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.eval.generate import apportion, draw_tastes, social_interactions


@st.composite
def sizes(draw):
    """Any feasible (users, items, interactions), up to the full matrix."""
    users, items = draw(st.integers(1, 25)), draw(st.integers(1, 25))
    return users, items, draw(st.integers(users, users * items))


@settings(max_examples=150, deadline=None)
@given(sizes(), st.integers(0, 2**40), st.floats(0, 1), st.booleans())
def test_any_feasible_size_is_met_exactly(size, seed, loyalty, counts):
    """Exactly the asked-for number of distinct pairs, no empty user, canonical, values of at least one."""
    users, items, interactions = size
    x = social_interactions(users, items, interactions, loyalty=loyalty, counts=counts, seed=seed)
    assert x.shape == (users, items)
    assert isinstance(x, sp.csr_matrix)
    dense = x.toarray()
    assert (dense != 0).sum() == x.nnz == interactions
    assert (dense != 0).sum(axis=1).min() >= 1
    assert sp.csr_matrix((x.data, x.indices, x.indptr), shape=x.shape).has_canonical_format
    assert x.data.dtype == np.float64
    assert x.data.min() >= 1
    assert x.data.max() <= (1000 if counts else 1)
    assert np.array_equal(x.data, np.floor(x.data))


def test_the_seed_decides_everything():
    """The same arguments give the same matrix, another seed another one; global state does not matter."""
    np.random.seed(1)  # noqa: NPY002 - the state that must not matter
    one = social_interactions(200, 100, 3000, counts=True, seed=5)
    np.random.seed(2)  # noqa: NPY002
    same = social_interactions(200, 100, 3000, counts=True, seed=5)
    other = social_interactions(200, 100, 3000, counts=True, seed=6)
    assert (one != same).nnz == 0
    assert (one != other).nnz > 1000


@pytest.fixture(scope="module")
def social():
    """Generate a set large enough for its laws to show."""
    return social_interactions(20_000, 3_000, 600_000, communities=12, seed=7)


def test_activity_follows_its_power_law(social):
    """The share of users above a degree d falls as d^-1.5 for a density exponent of 2.5."""
    degrees = np.diff(social.indptr)
    low, high = 30, 300
    slope = np.log((degrees > high).mean() / (degrees > low).mean()) / np.log(high / low)
    assert slope == pytest.approx(-1.5, abs=0.1)
    assert degrees.max() <= 3_000 // 4
    shuffled = np.corrcoef(np.arange(degrees.size), degrees)[0, 1]
    assert abs(shuffled) < 0.05


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.8])
def test_popularity_follows_its_zipf_law(exponent):
    """Popularity falls with rank as rank^-exponent (below the very top, where users run out of it)."""
    x = social_interactions(20_000, 1_000, 400_000, loyalty=0.0, item_exponent=exponent, seed=1)
    popularity = np.sort(np.bincount(x.indices, minlength=1_000))[::-1]
    ranks = np.arange(1, 1_001)
    middle = slice(50, 800)
    slope = np.polyfit(np.log(ranks[middle]), np.log(popularity[middle]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.12)


def test_heavier_tails_are_heavier():
    """A smaller exponent gives the most active hundredth of users a larger share of everything."""
    shares = []
    for exponent in (3.5, 2.5, 1.8):
        degrees = np.diff(social_interactions(5_000, 2_000, 100_000, user_exponent=exponent, seed=2).indptr)
        shares.append(np.sort(degrees)[-50:].sum() / degrees.sum())
    assert shares[0] < 0.7 * shares[1] < 0.7 * shares[2]


def inside(x, tastes):
    """Share of interactions with an item of one of the user's communities."""
    users = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    return (tastes.favourites[users] == tastes.home[x.indices][:, None]).any(axis=1).mean()


def test_users_like_items_of_their_communities(social):
    """Most interactions lie in a user's communities; without loyalty, as many as chance gives."""
    tastes = draw_tastes(20_000, 3_000, 12, seed=7)
    strangers = tastes._replace(favourites=np.roll(tastes.favourites, 1, axis=0))
    aloof = social_interactions(20_000, 3_000, 600_000, communities=12, loyalty=0.0, seed=7)
    assert inside(social, tastes) > 0.7
    assert inside(social, strangers) < 0.4
    assert inside(aloof, tastes) == pytest.approx(inside(aloof, strangers), abs=0.02)


def test_the_first_favourite_is_visited_most(social):
    """Among users with three different favourites, visits fall from the first to the third."""
    tastes = draw_tastes(20_000, 3_000, 12, seed=7)
    users = np.repeat(np.arange(20_000), np.diff(social.indptr))
    a, b, c = tastes.favourites.T
    light = (a != b) & (b != c) & (a != c) & (np.diff(social.indptr) < 40)
    hits = tastes.favourites[users] == tastes.home[social.indices][:, None]
    first, second, third = hits[light[users]].mean(axis=0)
    assert first > 1.4 * second > 1.4 * 1.4 * third


def test_every_community_has_an_item():
    """However many communities there are, none is empty, and favourites are communities there are."""
    for communities in (1, 7, 40):
        tastes = draw_tastes(30, 40, communities, seed=3)
        assert set(tastes.home.tolist()) == set(range(communities))
        assert tastes.favourites.min() >= 0
        assert tastes.favourites.max() < communities


def test_counts_are_heavy_tailed_and_leave_the_pairs_alone(social):
    """Counts change values only: mostly one, some large, tail exponent 1.5."""
    counted = social_interactions(20_000, 3_000, 600_000, communities=12, counts=True, seed=7)
    assert np.array_equal(counted.indices, social.indices)
    assert (counted.data == 1).mean() == pytest.approx(1 - 2**-1.5, abs=0.01)
    assert (counted.data >= 16).mean() == pytest.approx(16**-1.5, rel=0.1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_shares_are_dealt_fairly_and_to_the_last(data):
    """Dealt shares sum exactly, stay within their bounds and never favour the lighter."""
    weights = np.array(data.draw(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30)))
    most = data.draw(st.integers(1, 50))
    total = data.draw(st.integers(weights.size, weights.size * most))
    dealt = apportion(weights, total, most)
    assert dealt.sum() == total
    assert dealt.min() >= 1
    assert dealt.max() <= most
    assert (np.diff(dealt[np.argsort(weights, kind="stable")]) >= -1).all()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"users": 0}, "0 users and 10 items"),
        ({"items": 0}, "10 users and 0 items"),
        ({"interactions": 9}, "9 interactions for 10 users and 10 items; choose between 10"),
        ({"interactions": 101}, r"101 interactions .* and 100 \(all pairs\)"),
        ({"communities": 0}, "communities is 0; choose between 1 and the number of items, 10"),
        ({"communities": 11}, "communities is 11"),
        ({"loyalty": 1.5}, "loyalty is 1.5"),
        ({"loyalty": float("nan")}, "loyalty is nan"),
        ({"user_exponent": 1.0}, "user_exponent is 1.0"),
        ({"item_exponent": -0.1}, "item_exponent is -0.1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, complaint):
    """What cannot be generated is refused with the argument, its value and the range."""
    usual = {"users": 10, "items": 10, "interactions": 30} | arguments
    with pytest.raises(ValueError, match=complaint):
        social_interactions(usual.pop("users"), usual.pop("items"), usual.pop("interactions"), **usual)


def test_what_cannot_be_dealt_is_refused():
    """Fewer than one each, or more than the most for each, is an error and not an endless loop."""
    for total in (1, 7):
        with pytest.raises(ValueError, match=f"{total} cannot be dealt to 2 with 1 to 3 each"):
            apportion(np.ones(2), total, 3)
