"""The bound on the spectrum outside a subspace is never below that spectrum."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import Chebyshev
from recunlearn.models.outside import SEED, outside_bound
from scipy import optimize, stats

MANY = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

SPECTRA = ("flat", "repeated", "one far above", "decaying", "zero", "ones", "tiny", "spread")


def spectrum(rng, kind, n):
    """Eigenvalues of the part outside, some of a kind that might hide its top."""
    if kind == "flat":
        return np.sort(rng.random(n))
    if kind == "repeated":
        return np.repeat(rng.random(-(-n // 5)), 5)[:n]
    if kind == "one far above":
        return np.r_[1e-3 * rng.random(n - 1), 1.0]
    if kind == "decaying":
        return np.exp(-0.3 * np.arange(n))
    if kind == "zero":
        return np.zeros(n)
    if kind == "ones":
        return np.ones(n)
    return rng.random(n) * 1e-12 if kind == "tiny" else 10.0 ** rng.uniform(-12, 0, n)


@MANY
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPECTRA), st.floats(1e-3, 3.0), st.sampled_from([1, 4, 16]))
def test_the_bound_is_above_everything_outside(seed, kind, guess, width):
    """Whatever level is guessed, too low or too high, the largest eigenvalue outside is covered."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    k = int(rng.integers(0, n))
    inside = 1.0 + 10.0 ** rng.uniform(-3, 6) * rng.random(k)
    outside = spectrum(rng, kind, n - k)
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    gram = (vectors * np.r_[inside, outside]) @ vectors.T
    level = max(guess * outside.max(), 1e-9)
    bound = outside_bound(lambda b: gram @ b, vectors[:, :k].copy(), level, 1.02 * level, width=width)
    assert bound >= outside.max() * (1 - 1e-9) - 1e-10
    assert bound >= level


@settings(MANY, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_subspace_that_is_not_invariant_is_compressed(seed, noise):
    """With any orthonormal columns known, the bound is of ``(I - VV') G (I - VV')``."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(3, 40)), 2
    root = rng.standard_normal((n, n))
    gram = root @ root.T
    leading = np.linalg.eigh(gram)[1][:, -k:]
    known = np.linalg.qr(leading + noise * rng.standard_normal((n, k)))[0]
    project = np.eye(n) - known @ known.T
    top = np.linalg.eigvalsh(project @ gram @ project)[-1]
    level = float(rng.uniform(0.2, 1.2)) * top
    assert outside_bound(lambda b: gram @ b, known, level, 1.05 * level) >= top * (1 - 1e-9)


@pytest.mark.parametrize("top", [1.0, 1.5, 4.0])
def test_a_level_too_low_is_found_out(top):
    """One direction above the level is found and bounded closely."""
    values = np.r_[top, np.linspace(0, 1, 399)]
    bound = outside_bound(lambda b: values[:, None] * b, np.zeros((400, 0)), 1.0, 1.0)
    assert top <= bound <= 1.15 * top


def test_work_is_spent_until_the_target_and_no_further():
    """A generous target takes one application, a closer one more, and none more than is allowed."""
    values, calls = np.linspace(0, 1, 500), []

    def apply(block):
        calls.append(block.shape[1])
        return values[:, None] * block

    spent = []
    for target in (1e6, 1.3, 1.0):
        calls.clear()
        bound = outside_bound(apply, np.zeros((500, 0)), 1.0, target, most_steps=12)
        assert bound >= 1.0
        assert bound <= target or len(calls) == 12
        spent.append(len(calls))
    assert spent[0] == 1 < spent[1] < spent[2] == 12


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("level", [0.3, 1.0, 1.4])
def test_the_bound_is_the_formula_that_is_proven(steps, level):
    """It is the smallest z with ``z T_d(2 z / level - 1) = N / t`` over the degrees, by dense algebra."""
    values = np.r_[1.2, np.linspace(0, 1, 59)]
    block = np.random.default_rng(SEED).standard_normal((60, 4))
    missed = np.sqrt(stats.chi2(4).ppf(1e-4 / steps))
    found = []
    for degree in range(steps):
        polynomial = Chebyshev.basis(degree)
        grown = np.linalg.norm((values * polynomial(2 * values / level - 1))[:, None] * block, 2) / missed

        def excess(z, polynomial=polynomial, grown=grown):
            return z * polynomial(2 * z / level - 1) - grown

        found.append(level if excess(level) >= 0 else optimize.brentq(excess, level, level + grown))
    bound = outside_bound(
        lambda b: values[:, None] * b, np.zeros((60, 0)), level, 0.0, failure=1e-4, width=4, most_steps=steps
    )
    assert bound == pytest.approx(min(found), rel=1e-6)
