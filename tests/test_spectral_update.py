"""The closed-form update is Rayleigh-Ritz for the new operator, without a pass over the data."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models.base import canonical_interactions
from recunlearn.models.gram_operator import GramOperator
from recunlearn.models.spectral_update import closed_form_start
from recunlearn.models.subspace import rayleigh_ritz

from . import oracle_spectral as oracle

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
USERS, ITEMS, WIDTH = 50, 40, 8


def removal(seed, most, users):
    """Draw interactions, and take whole users and parts of others out: before and after."""
    rng = np.random.default_rng(seed)
    x = (rng.random((USERS, ITEMS)) < 0.25) * rng.integers(1, most + 1, (USERS, ITEMS)) * 1.0
    touched, left = np.sort(rng.choice(USERS, users, replace=False)), x.copy()
    left[touched[::2]] = 0
    left[touched[1::2], : ITEMS // 2] = 0
    return x, left, touched


def updated(x, left, touched, powers, known_by=WIDTH):
    """Update the exact leading subspace of ``x``; the update, the new dense ``X~``, and the old vectors."""
    old = oracle.normalised(x, oracle.Setting(1.0, *powers))
    vectors = np.linalg.svd(old)[2][:known_by].T
    known = rayleigh_ritz(vectors.copy(), old.T @ (old @ vectors))
    gram = GramOperator(canonical_interactions(sp.csr_matrix(left)), *powers)
    before, after = (canonical_interactions(sp.csr_matrix(part[touched])) for part in (x, left))
    lam = float(np.linalg.svd(old)[1][4])
    scale = oracle.item_degrees(x) ** -powers[1]
    update = closed_form_start(gram, known, scale, before, after, powers[0], lam)
    return update, oracle.normalised(left, oracle.Setting(lam, *powers)), known, lam


@FEW
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 5]),
    st.sampled_from([1, 2, 7, 20]),
    st.sampled_from([(0.0, 0.0), (0.25, 0.25), (0.5, 0.1)]),
)
def test_the_update_is_rayleigh_ritz_for_the_new_operator(seed, most, users, powers):
    """Vectors are orthonormal, images those of a pass over the new data, values their Ritz values."""
    update, dense, _, _ = updated(*removal(seed, most, users), powers)
    pairs, gram = update.pairs, dense.T @ dense
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(WIDTH), atol=1e-6)
    np.testing.assert_allclose(pairs.images, gram @ pairs.vectors, atol=1e-6 * np.linalg.norm(gram))
    np.testing.assert_allclose(
        pairs.vectors.T @ gram @ pairs.vectors, np.diag(pairs.values), atol=1e-6 * np.linalg.norm(gram)
    )


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_removed_rows_bring_what_the_old_subspace_lacks(seed, users):
    """Updated Ritz values are at least those of the old subspace alone, and at most the true ones."""
    x, left, touched = removal(seed, 3, users)
    update, dense, known, _ = updated(x, left, touched, (0.25, 0.25))
    ratio = (oracle.item_degrees(left) / oracle.item_degrees(x)) ** 0.25
    old = np.linalg.qr(known.vectors * ratio[:, None])[0]
    alone = np.linalg.eigvalsh(old.T @ dense.T @ dense @ old)[::-1]
    true = np.linalg.svd(dense, compute_uv=False)[:WIDTH] ** 2
    slack = 1e-9 * true[0]
    assert (update.pairs.values >= alone - slack).all()
    assert (update.pairs.values <= true + slack).all()


@pytest.mark.parametrize("users", [1, 10])
def test_the_influence_is_estimated_from_a_few_probes(users):
    """Averaged over data sets it is the distance between the old scores and the new ones, within a fifth."""
    ratios = []
    for seed in range(12):
        x, left, touched = removal(seed, 3, users)
        update, dense, known, lam = updated(x, left, touched, (0.25, 0.25))
        ratio = (oracle.item_degrees(left) / oracle.item_degrees(x))[:, None] ** 0.25
        old, new = (np.maximum(1 - lam / np.sqrt(p.values), 0) for p in (known, update.pairs))
        before = (known.vectors * ratio * old) @ (known.vectors / ratio).T
        after = (update.pairs.vectors * new) @ update.pairs.vectors.T
        ratios.append(update.influence / np.linalg.norm(dense @ (after - before)))
    assert 0.8 <= np.mean(ratios) <= 1.2
    assert 0.4 <= min(ratios) <= max(ratios) <= 2.0


def test_a_basis_that_became_dependent_is_refused():
    """Where the old subspace was all of the space already, new directions depend on it: start afresh."""
    x, left, touched = removal(0, 3, 12)
    assert updated(x, left, touched, (0.25, 0.25), ITEMS)[0] is None
