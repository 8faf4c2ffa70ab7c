"""Orthonormal bases, Ritz pairs and the Chebyshev filter against their definitions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import Chebyshev
from recunlearn.models.score_distance import score_distance
from recunlearn.models.subspace import RitzPairs, chebyshev_filter, orthonormalise, rayleigh_ritz, shrinkage

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def spans_same(a, b, accuracy):
    """Tell whether two orthonormal bases span one space."""
    return np.linalg.norm(a - b @ (b.T @ a)) <= accuracy


@FEW
@given(st.integers(0, 2**32 - 1), st.floats(0, 12))
def test_columns_become_orthonormal_and_companions_follow(seed, decades):
    """Columns of any scale, well or badly conditioned: Q'Q = I, the same span, and companions times R^-1."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(4, 40)), 4
    block = rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-150, 150, k)
    mixing = np.linalg.qr(rng.standard_normal((k, k)))[0] * 10.0 ** -np.linspace(0, decades / 2, k)
    block = (np.linalg.qr(rng.standard_normal((n, k)))[0] @ mixing) if decades > 1 else block
    change = rng.standard_normal((n, n))
    q, companion = orthonormalise(block.copy(), change @ block)
    np.testing.assert_allclose(q.T @ q, np.eye(k), atol=1e-10)
    unit = block / np.linalg.norm(block, axis=0)
    assert spans_same(np.linalg.qr(unit)[0], q, 1e-8 * 10 ** (decades / 2))
    np.testing.assert_allclose(companion, change @ q, atol=1e-7 * 10 ** (decades / 2))


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 1200))
def test_float32_stays_and_is_orthonormal_to_its_rounding(seed, n):
    """In place, for more rows than are taken at once too; companions follow."""
    rng = np.random.default_rng(seed)
    block = (rng.standard_normal((n + 4, 4)) * 10.0 ** rng.uniform(-9, 9, 4)).astype(np.float32)
    start, companion = block.copy(), 2 * block
    q, follows = orthonormalise(block, companion)
    assert q is block
    assert follows is companion
    assert q.dtype == follows.dtype == np.float32
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(follows, 2 * q, atol=1e-4)
    assert spans_same(np.linalg.qr(start / np.linalg.norm(start, axis=0))[0], q, 1e-4)


@pytest.mark.parametrize("fault", ["zero column", "equal columns", "all zero"])
def test_dependent_columns_are_replaced(fault):
    """A basis comes back orthonormal even where the columns were not independent."""
    block = np.random.default_rng(1).standard_normal((9, 3))
    if fault == "zero column":
        block[:, 1] = 0
    elif fault == "equal columns":
        block[:, 2] = block[:, 0]
    else:
        block[:] = 0
    (q,) = orthonormalise(block.copy())
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(q @ (q.T @ block), block, atol=1e-12)


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 3]))
def test_ritz_pairs_diagonalise_the_operator_on_the_subspace(seed, keep):
    """From any independent columns: V'V = I, V'GV descending, images, rotation and signs right."""
    rng = np.random.default_rng(seed)
    n, k = 15, 5
    root = rng.standard_normal((n, n))
    gram, basis = root @ root.T, rng.standard_normal((n, k))
    pairs = rayleigh_ritz(basis.copy(), gram @ basis, keep)
    width = keep or k
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(width), atol=1e-9)
    np.testing.assert_allclose(pairs.vectors.T @ gram @ pairs.vectors, np.diag(pairs.values), atol=1e-8)
    np.testing.assert_allclose(pairs.vectors, basis @ pairs.rotation, atol=1e-9)
    np.testing.assert_allclose(pairs.images, gram @ pairs.vectors, atol=1e-7)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.residuals, 0, atol=1e-7)
    orthonormal = np.linalg.qr(basis)[0]
    expected = np.linalg.eigvalsh(orthonormal.T @ gram @ orthonormal)[::-1][:width]
    np.testing.assert_allclose(pairs.values, expected, rtol=1e-8)
    largest = pairs.vectors[np.abs(pairs.vectors).argmax(axis=0), np.arange(width)]
    assert (largest > 0).all()


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.floats(0.3, 2.0))
def test_the_filter_is_a_chebyshev_polynomial_of_the_operator(seed, degree, cut):
    """Its span is that of ``T_d(2 G / cut - 1)`` applied to the start, by numpy's own Chebyshev series."""
    rng = np.random.default_rng(seed)
    n, k = 20, 3
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.r_[3.0, 2.5, 2.2, cut * rng.random(n - 3)]
    gram = (vectors * values) @ vectors.T
    start = np.linalg.qr(rng.standard_normal((n, k)))[0]
    pairs = rayleigh_ritz(start.copy(), gram @ start)
    filtered = chebyshev_filter(lambda b: gram @ b, pairs, cut, degree)
    polynomial = Chebyshev.basis(degree)(2 * values / cut - 1)
    expected = np.linalg.qr((vectors * (polynomial / polynomial.max())) @ (vectors.T @ start))[0]
    np.testing.assert_allclose(filtered.T @ filtered, np.eye(k), atol=1e-9)
    projected = expected @ (expected.T @ filtered)
    assert np.linalg.norm(filtered - projected) <= 1e-4
    assert np.linalg.norm(vectors[:, 3:].T @ filtered) <= np.linalg.norm(vectors[:, 3:].T @ start) + 1e-9
    narrow = chebyshev_filter(lambda b: (gram @ b).astype(np.float32), pairs, cut, degree, np.float32)
    np.testing.assert_allclose(narrow.T @ narrow, np.eye(k), atol=1e-9)
    assert np.linalg.norm(narrow - expected @ (expected.T @ narrow)) <= 1e-3


def test_the_first_degree_needs_no_application():
    """The images are known: degree d costs d - 1 applications."""
    gram, calls = np.diag([5.0, 2.0, 1.0, 0.5]), []

    def apply(block):
        calls.append(1)
        return gram @ block

    start = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 2)))[0]
    pairs = RitzPairs(np.ones(2), start, gram @ start - start, np.eye(2))
    for degree in (1, 2, 5):
        calls.clear()
        chebyshev_filter(apply, pairs, 1.0, degree)
        assert len(calls) == degree - 1


@given(st.lists(st.floats(-1e-9, 1e6), min_size=1, max_size=6), st.floats(1e-3, 1e3))
def test_shrinkage_is_the_soft_threshold_over_the_value(values, threshold):
    """``sqrt(theta) f = (sqrt(theta) - lambda)_+``, and 0 for anything not above lambda, negative too."""
    theta = np.array(values)
    roots = np.sqrt(np.maximum(theta, 0))
    expected = np.maximum(roots - threshold, 0)
    np.testing.assert_allclose(roots * shrinkage(theta, threshold), expected, rtol=1e-9, atol=1e-9)


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(-9, 3), st.sampled_from([np.float32, np.float64]))
def test_the_distance_of_low_rank_scores_is_that_of_the_dense_ones(seed, exponent, dtype):
    """Far apart or nearly equal, of different ranks, down to 1e-9 of their norm."""
    rng = np.random.default_rng(seed)
    m, n = 17, 11
    users, items = rng.standard_normal((m, 3)).astype(dtype), rng.standard_normal((n, 3)).astype(dtype)
    moved = (users + 10.0**exponent * rng.standard_normal((m, 3))).astype(dtype)
    more = np.concatenate([moved, np.zeros((m, 1), dtype)], axis=1)
    wide = np.concatenate([items, np.ones((n, 1), dtype)], axis=1)
    exact = np.linalg.norm((users.astype(np.longdouble) - moved) @ items.T.astype(np.longdouble))
    got = score_distance(users, items, more, wide)
    np.testing.assert_allclose(got, float(exact), rtol=1e-4, atol=1e-13)
    assert score_distance(users, items, users, items) <= 1e-13
