"""Who plays which part in the demo."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.eval.cast import choose_cast


def choices(seed, users=40, items=30):
    """Draw users of very different activity."""
    rng = np.random.default_rng(seed)
    x = (rng.random((users, items)) < rng.random((users, 1)) * 0.8).astype(float)
    x[:, 0] = 1.0
    return sp.csr_matrix(x)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_parts_are_disjoint_and_as_many_as_asked(data_seed, seed):
    """Person, neighbour, crowd and the users of single pairs are different people; the pairs are real."""
    x = choices(data_seed)
    cast = choose_cast(x, accounts=6, interactions=12, seed=seed)
    activity = np.diff(x.indptr)
    assert activity[cast.crowd].max() == activity.max()
    assert len(set(cast.crowd)) == 6
    assert cast.pair_users.size == len(set(zip(cast.pair_users, cast.pair_items, strict=True))) == 12
    assert all(x[u, i] > 0 for u, i in zip(cast.pair_users, cast.pair_items, strict=True))
    parts = [{cast.person}, {cast.neighbour}, set(cast.crowd.tolist()), set(cast.pair_users.tolist())]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_nobody_loses_their_last_interaction_to_single_removals():
    """However many single interactions go, each of those users keeps one."""
    x = choices(3)
    cast = choose_cast(x, accounts=2, interactions=60, seed=5)
    lost = np.bincount(cast.pair_users, minlength=40)
    assert (np.diff(x.indptr) - lost)[cast.pair_users].min() >= 1


def test_the_neighbour_has_the_closest_taste():
    """Of all others but the most active, the neighbour's cosine with the person is the largest."""
    x = choices(4)
    cast = choose_cast(x, accounts=3, interactions=5, seed=1)
    rows = x.toarray()
    cosine = rows @ rows[cast.person] / np.linalg.norm(rows, axis=1)
    cosine[[cast.person, int(np.argmax(np.diff(x.indptr)))]] = -1
    assert cosine[cast.neighbour] == cosine.max()


def test_the_same_seed_plays_the_same_story():
    """Choices depend on the data and the seed alone."""
    first, second, other = (choose_cast(choices(5), 4, 9, seed) for seed in (1, 1, 2))
    assert first.person == second.person
    np.testing.assert_array_equal(first.pair_items, second.pair_items)
    np.testing.assert_array_equal(first.crowd, second.crowd)
    assert (first.person, *first.crowd) != (other.person, *other.crowd)


def test_too_few_people_or_interactions_are_named():
    """What is too small for the story says how much there is and the way out."""
    with pytest.raises(ValueError, match="40 users are too few"):
        choose_cast(choices(6), accounts=37, interactions=1, seed=0)
    with pytest.raises(ValueError, match="name fewer"):
        choose_cast(choices(6), accounts=2, interactions=100_000, seed=0)
