"""Peeling: what it reads is right, whole and nothing else, however many left at once."""

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from recunlearn.eval.attacks.peeling import gram_of_inverse, peel
from recunlearn.models import EASE
from recunlearn.models.base import canonical_interactions
from recunlearn.models.sums import Statistic, sums_of

from .removals import COUNTS, interactions


def profiles(x):
    """List the rows of a matrix that have an item."""
    return sorted(tuple(row) for row in np.asarray(x) if row.any())


def read(found, n_items):
    """List what was read as rows."""
    rows = np.zeros((len(found), n_items))
    for row, one in zip(rows, found, strict=True):
        row[one.items] = one.values
    return profiles(rows)


@given(interactions(COUNTS, max_users=6, max_items=12))
@settings(max_examples=80, deadline=None)
def test_whoever_has_an_item_alone_is_read_right(x):
    """Each profile that is read is somebody's; whoever has an item that nobody else has is read."""
    sums = sums_of(canonical_interactions(sp.csr_matrix(x)), Statistic("whole", x.shape[1]))
    found, there = read(peel(sums.counts, sums.gram()), x.shape[1]), profiles(x)
    for one in found:
        there.remove(one)  # each at most as often as it is there
    alone = x[:, np.count_nonzero(x, axis=0) == 1].any(axis=1)
    assert all(found.count(tuple(row)) >= 1 for row in x[alone])


def test_a_hundred_who_leave_ease_at_once_are_read_from_two_published_inverses():
    """No batch closes it: the inverses give the Grams back to the last digit, and those the profiles."""
    draw = np.random.default_rng(3)
    x = canonical_interactions(sp.csr_matrix((draw.random((600, 250)) < 0.02).astype(float)))
    model = EASE(20.0).fit(x)
    before = gram_of_inverse(model.inverse, 20.0)
    users = draw.choice(600, 100, replace=False)
    model.forget_users(users)
    lost = before - gram_of_inverse(model.inverse, 20.0)
    found = read(peel(lost.diagonal().copy(), lost), 250)
    there = profiles(x[users].toarray())
    assert len(found) >= 0.9 * len(there)
    assert all(found.count(one) <= there.count(one) for one in found)


def test_what_is_no_difference_of_sums_gives_nothing():
    """Noise is no profile: it stops in place of inventing somebody."""
    noise = np.array([[1, 3], [3, 2]])
    assert peel(np.array([1, 1]), noise * 7) == []
