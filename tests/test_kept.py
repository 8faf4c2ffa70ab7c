"""Interactions that lose rows and entries, against a dense matrix that loses them."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.models import kept as kept_module
from recunlearn.models.kept import KeptInteractions, drop_entries


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.booleans(), st.sampled_from([1, 1024]))
def test_whatever_is_removed_in_whatever_order_the_rest_is_the_dense_matrix(seed, steps, ask, most):
    """Rows, entries, rows again, asking for the matrix in between or not: the entries of the dense twin."""
    rng = np.random.default_rng(seed)
    dense = (rng.random((7, 9)) < 0.5) * rng.integers(1, 5, (7, 9)) * 1.0
    kept = KeptInteractions(sp.csr_matrix(dense))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_module, "MOST_ROWS_NOTED", most)
        for _ in range(steps):
            removed = {}
            for user in rng.choice(7, rng.integers(0, 4), replace=False):
                stored = kept.positions(int(user))
                chosen = np.sort(rng.choice(stored, rng.integers(0, stored.size + 1), replace=False))
                dense[user, kept.items(chosen)] = 0
                removed[int(user)] = chosen
            before = kept.own()
            kept = kept.without(removed)
            if ask:
                before.matrix()
                kept.matrix()
    users = np.sort(rng.choice(7, 3, replace=False))
    np.testing.assert_array_equal(kept.rows(users).toarray(), dense[users])
    matrix = kept.matrix()
    np.testing.assert_array_equal(matrix.toarray(), dense)
    assert matrix.nnz == np.count_nonzero(dense)
    assert matrix.has_sorted_indices


def test_a_copy_of_ones_own_is_not_moved_by_the_others_matrix():
    """Positions taken from an own copy stay right while another thread puts the matrix together."""
    shared = KeptInteractions(sp.csr_matrix(np.ones((3, 4)))).without({0: np.array([1, 2])})
    mine = shared.own()
    positions = mine.positions(2)
    shared.matrix()
    np.testing.assert_array_equal(mine.items(positions), [0, 1, 2, 3])
    assert mine.without({2: positions}).matrix().toarray().tolist() == [[1, 0, 0, 1], [1] * 4, [0] * 4]


def test_dropping_nothing_and_everything():
    """The edges: no position, all positions."""
    x = sp.csr_matrix([[1.0, 0.0], [2.0, 3.0]])
    np.testing.assert_array_equal(drop_entries(x, np.zeros(0, np.int64)).toarray(), x.toarray())
    assert drop_entries(x, np.arange(3)).nnz == 0
