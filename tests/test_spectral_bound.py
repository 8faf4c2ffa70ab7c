"""The bounds on the distance to the spectral optimum are never below it, however a state was reached."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models.spectral_bound import (
    Residuals,
    distance_bound,
    gap,
    gap_bound,
    lipschitz_bound,
    strong_convexity_bound,
)

from . import oracle_spectral as oracle

MANY = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
FEW = settings(MANY, max_examples=40)

SPECTRA = ("any", "skewed", "repeated", "zeros and ones", "blocks", "clustered")
STATES = ("near", "anywhere", "one direction off")
THRESHOLDS = ("just above the rest", "between", "at a Ritz value", "at a singular value", "one")


def with_spectrum(rng, m, n, values):
    """Make a matrix [m, n] with these singular values."""
    q = min(m, n)
    left, right = (np.linalg.qr(rng.standard_normal((size, q)))[0] for size in (m, n))
    return (left * values[:q]) @ right.T


def matrix(rng, kind):
    """Make data whose spectrum is of a kind that might break a bound."""
    m, n = int(rng.integers(1, 18)), int(rng.integers(2, 14))
    q = min(m, n)
    if kind == "any":
        return rng.standard_normal((m, n))
    if kind == "skewed":
        return rng.standard_normal((m, n)) * np.exp(2 * rng.standard_normal(n))
    if kind == "repeated":
        return with_spectrum(rng, m, n, np.repeat(3 * rng.random(-(-q // 4)), 4))
    if kind == "zeros and ones":
        return (rng.random((m, n)) < 0.4) * 1.0
    if kind == "blocks":
        return np.kron(np.eye(2), rng.random((max(m // 2, 1), max(n // 2, 1))))
    spread = 10.0 ** rng.uniform(-8, 0)
    return with_spectrum(rng, m, n, np.abs(1 + spread * rng.standard_normal(q)))


def subspace(rng, x, kind):
    """Rayleigh-Ritz on a perturbed invariant or a random subspace: values, vectors, and the rest's basis."""
    gram, n = x.T @ x, x.shape[1]
    eigenvectors = np.linalg.eigh(gram)[1][:, ::-1]
    k, noise = int(rng.integers(1, n + 1)), 10.0 ** rng.uniform(-7, 0.5)
    basis = eigenvectors[:, :k].copy()
    if kind == "anywhere":
        basis = rng.standard_normal((n, k))
    elif kind == "near":
        basis += noise * rng.standard_normal((n, k)) / np.sqrt(n)
    else:
        basis[:, rng.integers(0, k)] += noise * eigenvectors[:, rng.integers(0, n)]
    basis = np.linalg.qr(basis)[0]
    values, rotation = np.linalg.eigh(basis.T @ gram @ basis)
    vectors = basis @ rotation[:, ::-1]
    return values[::-1], vectors, np.linalg.qr(vectors, mode="complete")[0][:, k:]


def regularization(rng, kind, values, singular, outside):
    """Put lambda where it hurts, above what is outside the subspace."""
    root, nudge = np.sqrt(outside), 10.0 ** rng.uniform(-9, -1) * rng.choice([-1.0, 0.0, 1.0])
    if kind == "just above the rest":
        return root * (1 + 10.0 ** rng.uniform(-6, 0)) + 1e-9
    if kind == "between":
        return root + rng.random() * max(np.sqrt(max(values[0], 0)) - root, 1e-3) + 1e-9
    if kind == "at a Ritz value":
        return np.sqrt(max(rng.choice(values), 1e-12)) * (1 + nudge)
    return max(rng.choice(singular), 1e-6) * (1 + nudge) if kind == "at a singular value" else 1.0


def state(seed, spectrum, kind, where):
    """Make what a bound is told, and the true distance; None if lambda does not exceed what is outside."""
    rng = np.random.default_rng(seed)
    x = matrix(rng, spectrum)
    values, vectors, rest = subspace(rng, x, kind)
    gram = x.T @ x
    outside = max(np.linalg.eigvalsh(rest.T @ gram @ rest)[-1], 0.0) if rest.size else 0.0
    outside *= 1 + rng.choice([0.0, 0.0, rng.random()])
    singular = np.linalg.svd(x, compute_uv=False)
    lam = float(regularization(rng, where, values, singular, outside))
    if lam * lam <= outside:
        return None
    residuals = gram @ vectors - vectors * values
    kept = np.where(values > lam * lam, 1 - lam / np.sqrt(np.maximum(values, lam * lam)), 0.0)
    published = x @ (vectors * kept) @ vectors.T
    truth = float(np.linalg.norm(published - oracle.thresholded(x, lam)))
    return Residuals(values, residuals.T @ residuals, lam, float(outside)), truth, np.linalg.norm(x) + 1.0


def every_bound(residuals):
    """Evaluate each bound where its condition holds."""
    slack = gap(residuals)
    bounds = {"strong convexity": strong_convexity_bound(residuals), "best": distance_bound(residuals)}
    if slack >= 0:
        bounds["Lipschitz"] = lipschitz_bound(residuals)
    if slack > 0:
        bounds["gap"] = gap_bound(residuals, slack)
    return bounds


@pytest.mark.parametrize("where", THRESHOLDS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_no_bound_is_below_the_true_distance(spectrum, where):
    """Each of the three, and the best of them, covers the distance of any state, near or far."""
    tried = 0
    for seed in range(90):
        made = state(seed, spectrum, STATES[seed % 3], where)
        if made is None:
            continue
        residuals, truth, size = made
        tried += 1
        for name, bound in every_bound(residuals).items():
            assert bound >= truth * (1 - 1e-9) - 2e-8 * size, (name, seed)
    assert tried > 15


def by_the_book(errors, residuals):
    """Evaluate gap and bounds from E itself, as docs/explanation/certificate.md states them."""
    lam, eta, theta = residuals.threshold, residuals.outside, residuals.values
    active = theta > lam**2
    e1, e0, t1, t0 = errors[:, active], errors[:, ~active], theta[active], theta[~active]
    roots, lengths = np.sqrt(t1), np.linalg.norm(e1, axis=0)
    cap = lam / (roots * (roots + lam))
    gamma = lam**2 - eta - np.linalg.norm(e0 @ np.diag(1 / (lam**2 - t0)) @ e0.T, 2)
    whole, largest = np.linalg.norm(e1), np.linalg.norm(e1, 2) if e1.size else 0.0
    convexity = np.linalg.norm(e1 / roots)  # at a gap of at least 0 there is no excess
    weighted = np.sqrt(sum(lengths**2 / (roots + lam) ** 2))
    lipschitz = np.sqrt(sum((cap * lengths) ** 2) + (weighted + largest * whole / (8 * lam**3)) ** 2)
    t = np.linalg.norm(e0 @ np.diag(1 / (lam**2 - t0) ** 2) @ e0.T, 2)
    kappa = np.sqrt(1 + t)
    rates = kappa * (roots - lam) / (t1 - lam**2 + gamma)
    rows = np.sqrt(sum((rates * lengths) ** 2)) + kappa * largest * whole / (2 * lam * gamma)
    crossing = np.linalg.norm(e1 * cap, 2) * whole / gamma if e1.size else 0.0
    columns = crossing**2
    for k, above in enumerate(t1 - lam**2):
        best = cap[k] * lengths[k]
        for share in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0):
            for delta in (share * above, share * lengths.max()):
                z = t1[k] + 1j * delta
                if delta == 0:
                    continue
                s1, tt = sum(lengths**2 / abs(z - t1)), sum(lengths**2 / abs(z - t1) ** 2)
                room = above + gamma - s1
                if room > 0:
                    stretched = np.sqrt(1 + t + tt)
                    best = min(best, cap[k] * abs(z - lam**2) * stretched * lengths[k] / room)
        columns += best**2
    return gamma, convexity, lipschitz, np.sqrt(min(columns, sum((cap * lengths) ** 2)) + rows**2)


@settings(MANY, max_examples=120)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 3), st.floats(-3, -0.5))
def test_the_bounds_are_the_formulas_that_are_proven(seed, active, inactive, size):
    """Every constant, weight and remainder is that of the proof: equal to a slow evaluation from E itself."""
    rng = np.random.default_rng(seed)
    lam = float(rng.uniform(0.5, 2))
    values = lam**2 * np.r_[1.05 + 2 * rng.random(active), 0.6 * rng.random(inactive)]
    values = np.sort(values)[::-1].copy()
    if active > 1 and seed % 3 == 0:
        values[1] = values[0]
    errors = lam**2 * 10**size * rng.standard_normal((9, active + inactive)) / 3
    residuals = Residuals(values, errors.T @ errors, lam, float(lam**2 * rng.uniform(0.1, 0.6)))
    gamma, convexity, lipschitz, gapped = by_the_book(errors, residuals)
    assert gap(residuals) == pytest.approx(gamma, rel=1e-9, abs=1e-12)
    if gamma > 0:
        assert strong_convexity_bound(residuals) == pytest.approx(convexity, rel=1e-9)
        assert lipschitz_bound(residuals) == pytest.approx(lipschitz, rel=1e-9)
        assert gap_bound(residuals, gamma) == pytest.approx(gapped, rel=1e-7)


@FEW
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e-3))
def test_near_the_optimum_the_bounds_are_tight(seed, noise):
    """To first order the gap bound is within three times the truth, and beats strong convexity."""
    rng = np.random.default_rng(seed)
    x = with_spectrum(rng, 30, 20, np.r_[np.linspace(3, 1.5, 6), np.linspace(0.8, 0.1, 14)])
    gram = x.T @ x
    exact = np.linalg.eigh(gram)[1][:, :-11:-1]
    basis = np.linalg.qr(exact + noise * rng.standard_normal(exact.shape))[0]
    values, rotation = np.linalg.eigh(basis.T @ gram @ basis)
    values, vectors = values[::-1], basis @ rotation[:, ::-1]
    rest = np.linalg.qr(vectors, mode="complete")[0][:, 10:]
    errors = gram @ vectors - vectors * values
    kept = np.maximum(1 - 1 / np.sqrt(values), 0)
    truth = np.linalg.norm(x @ (vectors * kept) @ vectors.T - oracle.thresholded(x, 1.0))
    outside = float(np.linalg.eigvalsh(rest.T @ gram @ rest)[-1])
    residuals = Residuals(values, errors.T @ errors, 1.0, outside)
    best = distance_bound(residuals)
    assert truth <= best * (1 + 1e-6) + 1e-12
    assert best <= 3 * truth
    assert best <= strong_convexity_bound(residuals)
    assert best <= lipschitz_bound(residuals)
    assert best == gap_bound(residuals, gap(residuals))


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPECTRA), st.sampled_from(STATES))
def test_knowing_less_never_gives_a_smaller_bound(seed, spectrum, kind):
    """A larger eta or a larger residual cannot make the best bound smaller."""
    made = state(seed, spectrum, kind, "between")
    if made is None:
        return
    residuals, _, size = made
    best = distance_bound(residuals)
    eta = 0.5 * (residuals.outside + residuals.threshold**2)
    assert distance_bound(replace(residuals, outside=eta)) >= best * (1 - 1e-6) - 1e-9 * size
    assert distance_bound(replace(residuals, gram=2 * residuals.gram)) >= best * (1 - 1e-6) - 1e-9 * size


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPECTRA), st.sampled_from(STATES))
def test_the_gap_is_a_lower_bound_of_the_true_gap(seed, spectrum, kind):
    """Everything outside the active Ritz vectors is at most ``lambda^2`` where the gap says so."""
    rng = np.random.default_rng(seed)
    x = matrix(rng, spectrum)
    values, vectors, rest = subspace(rng, x, kind)
    gram = x.T @ x
    outside = max(float(np.linalg.eigvalsh(rest.T @ gram @ rest)[-1]), 0.0) if rest.size else 0.0
    lam = np.sqrt(outside + rng.random() * (values[0] + 1))
    errors = gram @ vectors - vectors * values
    residuals = Residuals(values, errors.T @ errors, float(lam), outside)
    others = np.concatenate([vectors[:, residuals.active :], rest], axis=1)
    if gap(residuals) >= 0 and others.size:
        top = np.linalg.eigvalsh(others.T @ gram @ others)[-1]
        assert top <= lam**2 + 1e-9 * (1 + values[0])


@pytest.mark.parametrize("excess", [0.0, 1e-12, 0.5])
def test_nothing_is_claimed_where_the_outside_reaches_lambda(excess):
    """With eta at or above lambda squared the distance is unknown: infinite, not a guess."""
    assert distance_bound(Residuals(np.array([4.0]), np.zeros((1, 1)), 1.0, 1.0 + excess)) == np.inf


def test_without_active_pairs_zero_is_the_optimum():
    """If all of the spectrum is shown to be below lambda, S = 0 and its distance is exactly 0."""
    assert distance_bound(Residuals(np.array([0.5, 0.2]), 1e-6 * np.eye(2), 1.0, 0.1)) == 0.0


def test_a_direction_hidden_behind_an_inactive_pair_is_paid_for():
    """Where residuals allow something above lambda outside the active part, the bound has its excess."""
    residuals = Residuals(np.array([4.0, 0.9]), np.diag([0.0, 1.0]), 1.0, 0.5)
    top = 0.5 * (0.9 + 0.5 + np.sqrt(0.4**2 + 4.0))  # the 2 x 2 block [[.9, 1], [1, .5]]
    assert gap(residuals) < 0
    assert distance_bound(residuals) >= np.sqrt(top) - 1 - 1e-12
