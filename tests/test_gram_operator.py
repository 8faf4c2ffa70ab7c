"""The normalised Gram as an operator, and its kernels, against dense and slow twins."""

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.models import gram_operator
from recunlearn.models.base import canonical_interactions
from recunlearn.models.gram_kernels import (
    binary_products,
    binary_row_sums,
    row_blocks,
    weighted_products,
    weighted_row_sums,
)
from recunlearn.models.gram_operator import GramOperator, degrees, dense_is_cheaper

from . import oracle_spectral as oracle

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def counts(seed, users, items, density=0.3, most=5):
    """Draw counts, with rows and columns of every length."""
    rng = np.random.default_rng(seed)
    x = (rng.random((users, items)) < density) * rng.integers(1, most + 1, (users, items)) * 1.0
    x[0], x[:, 0] = rng.integers(0, 2), 1.0
    if users > 2:
        x[2] = 0
    return x


def slow_sums(indptr, indices, data, dense, scale):
    """Add one entry at a time, in order, in float64."""
    out = np.zeros((len(indptr) - 1, dense.shape[1]))
    for row in range(len(indptr) - 1):
        for at in range(indptr[row], indptr[row + 1]):
            out[row] += data[at] * dense[indices[at]].astype(np.float64)
        out[row] *= scale[row]
    return out


@FEW
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 9),
    st.integers(1, 8),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([np.int32, np.int64]),
)
def test_row_sums_equal_their_slow_twin(seed, rows, blocks, dtype, index):
    """Rows of any length, empty ones and multiples of four included, any split, either precision."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 11, rows)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    indices = rng.integers(0, 7, indptr[-1]).astype(index)
    dense = rng.standard_normal((7, int(rng.integers(1, 6)))).astype(dtype)
    data, scale = rng.random(indptr[-1]).astype(dtype), rng.random(rows).astype(dtype)
    split = row_blocks(indptr, blocks)
    accuracy = 1e-5 if dtype == np.float32 else 1e-13
    out = np.full((rows, dense.shape[1]), np.nan, dtype)
    binary_row_sums(indptr, indices, dense, scale, split, out)
    expected = slow_sums(indptr, indices, np.ones(indptr[-1]), dense, scale)
    np.testing.assert_allclose(out, expected, rtol=accuracy, atol=accuracy)
    out[:] = np.nan
    weighted_row_sums(indptr, indices, data, dense, scale, split, out)
    expected = slow_sums(indptr, indices, data, dense, scale)
    np.testing.assert_allclose(out, expected, rtol=accuracy, atol=accuracy)


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([np.float32, np.float64]))
def test_products_in_one_pass_equal_the_definition(seed, parts, dtype):
    """Both kernels: the parts add up to ``X' diag(scale) X dense`` by dense matrices."""
    rng = np.random.default_rng(seed)
    x = sp.csr_matrix(counts(seed, 11, 8))
    dense, scale = rng.standard_normal((8, 5)).astype(dtype), rng.random(11).astype(dtype)
    out = np.full((parts, 8, 5), np.nan, dtype)
    accuracy = 1e-4 if dtype == np.float32 else 1e-12
    weighted_products(
        x.indptr, x.indices, x.data.astype(dtype), dense, scale, row_blocks(x.indptr, parts), out
    )
    full = x.toarray()
    expected = full.T @ (scale[:, None] * (full @ dense))
    np.testing.assert_allclose(out.sum(axis=0), expected, rtol=accuracy, atol=100 * accuracy)
    binary_products(x.indptr, x.indices, dense, scale, row_blocks(x.indptr, parts), out)
    ones = (full > 0).astype(float)
    expected = ones.T @ (scale[:, None] * (ones @ dense))
    np.testing.assert_allclose(out.sum(axis=0), expected, rtol=accuracy, atol=accuracy)


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 9))
def test_blocks_cover_every_row_once_and_share_the_work(lengths, blocks):
    """Ascending edges from the first row to the last; none holds more than its share and one row."""
    indptr = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.int64))])
    edges = row_blocks(indptr, blocks)
    assert edges.size == blocks + 1
    assert (edges[0], edges[-1]) == (0, len(lengths))
    assert (np.diff(edges) >= 0).all()
    work = np.diff(indptr[edges])
    assert work.sum() == indptr[-1]
    assert work.max() <= indptr[-1] / blocks + max(lengths, default=0)


@FEW
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([1, 5]),
    st.sampled_from(["_Formed", "_OnePass", "_TwoPasses"]),
)
def test_the_operator_is_the_dense_normalised_gram(seed, user_power, item_power, most, form):
    """All three forms, binary and counts, any powers: ``X~'X~ V`` and ``X~ V`` of the definition."""
    x = counts(seed, 12, 9, most=most)
    setting = oracle.Setting(1.0, user_power, item_power)
    dense = oracle.normalised(x, setting)
    block = np.random.default_rng(seed).standard_normal((9, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_operator, "dense_is_cheaper", lambda n_items, entries: form == "_Formed")
        patch.setattr(gram_operator, "CACHE_BYTES", 0 if form == "_OnePass" else 1 << 40)
        patch.setattr(gram_operator, "STRIP_BYTES", 16)
        gram = GramOperator(canonical_interactions(sp.csr_matrix(x)), user_power, item_power)
    assert type(gram._form).__name__ == form
    np.testing.assert_allclose(gram.apply(block), dense.T @ dense @ block, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(gram.rows_times(block), dense @ block, rtol=1e-11, atol=1e-11)
    assert gram.apply(block[:, :0]).shape == (9, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_operator, "STRIP_BYTES", 16)
        narrow = gram.apply(block.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, dense.T @ dense @ block, rtol=1e-4, atol=1e-4)


def test_degrees_are_sums_with_one_for_nothing():
    """Float32 weights are summed in float64; an empty row or column has degree 1."""
    x = counts(3, 7, 5)
    x[:, 4] = 0
    matrix = sp.csr_matrix(x.astype(np.float32))
    np.testing.assert_array_equal(degrees(matrix, 0), oracle.item_degrees(x))
    np.testing.assert_array_equal(degrees(matrix, 1), oracle.item_degrees(x.T))
    large = sp.csr_matrix(np.array([[2.0**24, 1.0, 1.0]], np.float32))
    assert degrees(large, 1)[0] == 2.0**24 + 2


def test_the_same_bits_whatever_the_threads():
    """One thread and two add in the same order."""
    x = canonical_interactions(sp.csr_matrix(counts(5, 300, 90)))
    block = np.random.default_rng(0).standard_normal((90, 7))
    several, found = numba.get_num_threads(), []
    try:
        for threads in (1, several):
            numba.set_num_threads(threads)
            found.append(GramOperator(x, 0.25, 0.25).apply(block))
    finally:
        numba.set_num_threads(several)
    np.testing.assert_array_equal(*found)


def test_the_gram_is_formed_only_where_that_pays():
    """Few items and many interactions: formed; none, or many items: not."""
    assert dense_is_cheaper(100, 10_000)
    assert not dense_is_cheaper(100, 9_999)
    assert not dense_is_cheaper(0, 0)
    assert not dense_is_cheaper(10**6, 10**13)


@pytest.mark.parametrize("formed", [True, False])
def test_the_stated_chain_of_additions_is_at_least_the_real_one(monkeypatch, formed):
    """``longest``, which rounding is bounded by, covers every row and column; 0 for no interactions."""
    monkeypatch.setattr(gram_operator, "dense_is_cheaper", lambda n_items, entries: formed)
    x = canonical_interactions(sp.csr_matrix(counts(6, 30, 12)))
    longest = GramOperator(x, 0.25, 0.25).longest
    assert longest >= np.diff(x.indptr).max() + np.diff(x.tocsc().indptr).max()
    if not formed:
        assert GramOperator(sp.csr_matrix((3, 4)), 0.25, 0.25).longest == 0
