"""Every model of the registry through the whole cycle, down to nobody, and across restarts."""

import numpy as np
import pytest
import scipy.sparse as sp
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.verification import verify_state
from recunlearn.models import MODELS

from .popularity import interactions

NAMES = [name for name in MODELS if name != "popularity"]
SETTINGS = {
    "canonical_mf": {"regularization": 1.0, "alpha": 1.0},
    "item_knn": {"K": 4},
    "spectral_mf": {"factors": 4},
}
SHAPES = {
    "one interaction": [(1, 1)],
    "one user": [(1, 1), (1, 2), (1, 3)],
    "one item": [(user, 1) for user in range(4)],
    "everybody has everything": [(user, item) for user in range(4) for item in range(3)],
    "two islands": [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (3, 4), (4, 3), (4, 4)],
}


def erase(state, *batches):
    """Carry out batches with one engine; returns the reports."""
    with Engine.open(state) as engine:
        reports = []
        for batch in batches:
            engine.ledger.record([Received(request) for request in batch])
            reports.append(engine.apply(engine.pending()))
    return reports


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_everybody_can_be_forgotten_by_every_model(tmp_path, name, shape):
    """One interaction, then one user after the other until nobody is left: none fails, all verifies."""
    rows = SHAPES[shape]
    fit(tmp_path, interactions(rows), {name: SETTINGS.get(name, {})})
    users = sorted({user for user, _ in rows})
    batches = [[InteractionRemoval("first", *rows[0])]]
    batches += [[AccountDeletion(f"user-{user}", user)] for user in users]
    reports = erase(tmp_path, *batches)
    assert [report.failed for report in reports] == [0] * len(batches)
    assert load_snapshot(tmp_path).user_ids() == []
    assert verify_state(tmp_path).problems == []


def random_rows(seed):
    """Draw interactions with counts of 30 users and 15 items."""
    draw = np.random.default_rng(seed)
    found = sp.random(30, 15, density=0.3, rng=draw, data_rvs=lambda n: draw.integers(1, 4, n)).tocoo()
    return [(int(u), int(i), float(v)) for u, i, v in zip(found.row, found.col, found.data, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_makes_no_difference(tmp_path, name):
    """A state that was reopened between batches publishes what the one that kept running publishes."""
    rows = random_rows(5)
    batches = [
        [AccountDeletion("e-1", 3), InteractionRemoval("e-2", *rows[0][:2])],
        [AccountDeletion("e-3", 7), AccountDeletion("e-4", 11)],
        [InteractionRemoval("e-5", *rows[-1][:2])],
    ]
    for folder in ("running", "restarted"):
        fit(tmp_path / folder, interactions(rows), {name: SETTINGS.get(name, {})})
    erase(tmp_path / "running", *batches)
    for batch in batches:
        erase(tmp_path / "restarted", batch)
    running, restarted = (load_snapshot(tmp_path / folder) for folder in ("running", "restarted"))
    assert running.user_ids() == restarted.user_ids()
    for user in running.user_ids():
        (ids, scores), (other_ids, other_scores) = running.recommend(user), restarted.recommend(user)
        tolerance = 1e-9 if MODELS[name].exact else 2e-3
        np.testing.assert_allclose(np.sort(scores), np.sort(other_scores), rtol=tolerance, atol=tolerance)
        assert not MODELS[name].exact or len(ids) == len(other_ids)
    assert verify_state(tmp_path / "restarted").problems == []
