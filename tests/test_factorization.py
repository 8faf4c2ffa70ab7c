"""What the factorisations share: the best of what is left, found without a copy of the factors."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from recunlearn.models import ForgettableALS

N_USERS, N_ITEMS, K = 40, 20_000, 32


def model_with_empty(share):
    """Return a model some of whose items are empty, rows of its users, and which items are not."""
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, K), dtype=np.float32) for n in (N_USERS, N_ITEMS))
    here = np.flatnonzero(rng.random(N_ITEMS) >= share)
    items[np.setdiff1d(np.arange(N_ITEMS), here)] = 0.0
    x = sp.csr_matrix((np.ones(N_USERS), (np.arange(N_USERS), here[:N_USERS])), shape=(N_USERS, N_ITEMS))
    arrays = {"user_factors": users, "item_factors": items}
    return ForgettableALS.restore({}, arrays, {"residual": 1.0}, x), x, here


def best(scores, allowed, n):
    """Sort all that is allowed: the slow twin."""
    return allowed[np.argsort(-scores[allowed], kind="stable")][:n]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_however_many_items_are_empty_the_best_others_are_ranked(share):
    """One user, a few, many, and similar items: as sorting every score does, with the scores themselves."""
    model, x, here = model_with_empty(share)
    scores = model.user_factors.astype(np.float64) @ model.item_factors.T.astype(np.float64)
    for users in ([3], [3, 4, 5], range(N_USERS)):
        ids, found = model.recommend(np.array(users), x[list(users)], N=10)
        for row, user in enumerate(users):
            allowed = np.setdiff1d(here, x[user].indices)
            assert ids[row].tolist() == best(scores[user], allowed, 10).tolist()
            np.testing.assert_allclose(found[row], scores[user, ids[row]], rtol=1e-4)
    unit = model.item_factors / np.maximum(np.linalg.norm(model.item_factors, axis=1), 1e-30)[:, None]
    ids, found = model.similar_items(here[7], N=10)
    cosines = unit.astype(np.float64) @ unit[here[7]].astype(np.float64)
    assert ids.tolist() == best(cosines, here, 10).tolist()
    np.testing.assert_allclose(found, cosines[ids], rtol=1e-4)


def test_an_empty_item_costs_no_copy_of_the_factors():
    """A query takes memory for its scores, not for the factors: a fifth of them at the most."""
    model, x, here = model_with_empty(0.001)
    for ask in (lambda: model.recommend(3, x[3]), lambda: model.similar_items(here[7])):
        ask()  # what is worked out once for all queries
        tracemalloc.start()
        try:
            ask()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < model.item_factors.nbytes / 5
