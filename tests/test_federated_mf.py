"""The peer that forgets as FedEraser does: it trains to its optimum, and replays what the paper says."""

import numpy as np
import pytest
import scipy.sparse as sp
from recunlearn.eval.federated_mf import Recipe, erase, train, users_of

RECIPE = Recipe(factors=6, regularization=2.0, rounds=12, epochs=2)
ITEMS = 25


@pytest.fixture(scope="module")
def silos():
    """Return the likes of four silos of different sizes."""
    draw = np.random.default_rng(4)
    taste = draw.random((3, ITEMS)) ** 3
    sizes = (30, 40, 50, 60)
    return {
        k: sp.csr_matrix((draw.random((size, ITEMS)) < taste[draw.integers(3, size=size)]).astype(float))
        for k, size in enumerate(sizes)
    }


def scores_of(rows, items, recipe=RECIPE):
    """Return what is served."""
    return users_of(rows, items, recipe.regularization) @ items.T


def optimum(rows, recipe=RECIPE):
    """Shrink the singular values: the optimum, from the definition."""
    left, values, right = np.linalg.svd(rows.toarray(), full_matrices=False)
    kept = np.maximum(values - recipe.regularization, 0.0)
    kept[recipe.factors :] = 0.0
    return (left * kept) @ right


def test_one_silo_reaches_the_optimum_of_its_loss(silos):
    """Trained long, the scores are the singular value decomposition with its values shrunk by lambda."""
    rows = sp.vstack(list(silos.values()), format="csr")
    recipe = Recipe(factors=6, regularization=2.0, rounds=150, epochs=2)
    expected = optimum(rows)
    found = scores_of(rows, train({0: rows}, ITEMS, recipe).items)
    assert np.linalg.norm(found - expected) <= 1e-2 * np.linalg.norm(expected)


def test_silos_that_are_alike_train_as_one(silos):
    """Four silos with the same rows give, averaged, the model of all their rows in one silo."""
    alike = dict.fromkeys(range(4), silos[3])
    together = train(alike, ITEMS, RECIPE)
    alone = train({0: sp.vstack(list(alike.values()), format="csr")}, ITEMS, RECIPE)
    assert np.allclose(together.items, alone.items, rtol=0, atol=1e-4)
    assert together.traffic.bytes == 4 * alone.traffic.bytes


def test_replaying_everything_with_nobody_gone_is_the_training_again(silos):
    """Kept every round and calibrated by as many epochs, the replay is the model to the last bits."""
    recipe = Recipe(factors=6, regularization=2.0, rounds=12, epochs=2, interval=1)
    trained = train(silos, ITEMS, recipe)
    items, traffic = erase(trained, silos, recipe, ratio=1.0)
    assert np.allclose(items, trained.items, rtol=0, atol=1e-4)
    assert vars(traffic) == vars(trained.traffic)


def test_forgetting_takes_a_quarter_of_the_epochs_and_half_the_bytes(silos):
    """An interval of two rounds and half the epochs: what the paper's fourfold speed rests on."""
    trained = train(silos, ITEMS, RECIPE)
    left = {k: rows for k, rows in silos.items() if k != 2}
    _, traffic = erase(trained, left, RECIPE)
    retraining = train(left, ITEMS, RECIPE).traffic
    assert 4 * traffic.epochs == retraining.epochs
    assert 2 * traffic.bytes == retraining.bytes
    assert traffic.bytes == 6 * 2 * 3 * 4 * (ITEMS * 6 + 6 * 6)
    assert trained.kept_bytes == 6 * 4 * 4 * ITEMS * 6


def test_of_a_silo_that_left_nothing_is_read(silos):
    """Without its kept updates and its rows the replay ends in the same bits."""
    trained = train(silos, ITEMS, RECIPE)
    left = {k: rows for k, rows in silos.items() if k != 2}
    items, _ = erase(trained, left, RECIPE)
    for updates in trained.kept:
        del updates[2]
    assert np.array_equal(erase(trained, left, RECIPE)[0], items)


def test_kept_updates_give_lengths_and_fresh_ones_directions(silos):
    """Updates kept ten times as long move a lone silo's first step ten times as far, the same way."""
    only = {0: silos[0]}
    recipe = Recipe(factors=6, regularization=2.0, rounds=1, epochs=2)
    trained = train(only, ITEMS, recipe)
    near, _ = erase(trained, only, recipe)
    trained.kept[0][0] = trained.kept[0][0] * np.float32(10.0)
    far, _ = erase(trained, only, recipe)
    assert np.allclose(far - trained.first, 10 * (near - trained.first), rtol=1e-3, atol=1e-4)
