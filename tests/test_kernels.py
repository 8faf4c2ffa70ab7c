"""Each kernel of the item models does what its slow twin does, and the same whatever the threads."""

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.models import inverse_kernels, kernels, neighbour_kernels, pair_kernels
from recunlearn.models.statistics import COARSE_UNITS, CoOccurrence, csr_arrays

from . import naive
from .removals import COUNTS, FRACTIONS, interactions

SCORES = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0, np.nan, np.inf, -np.inf])


def both_ways(matrix: sp.csr_matrix) -> tuple:
    """Return the arrays of a matrix by column and by row."""
    return *csr_arrays(matrix.tocsc()), *csr_arrays(matrix)


@given(st.lists(st.tuples(SCORES, st.booleans()), max_size=30), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_top_n_is_a_stable_sort(pairs, n):
    """The heap returns what sorting by falling score, then id, returns; NaN and the unusable never."""
    scores = np.array([score for score, _ in pairs])
    usable = np.array([use for _, use in pairs], dtype=bool)
    assert neighbour_kernels.top_n(scores, usable, min(n, scores.size)).tolist() == naive.ranked(
        scores, usable, n
    )


@pytest.mark.parametrize(("k", "m", "n"), [(1, 1, 1), (3, 7, 5), (5, 20, 255), (4, 9, 256), (6, 30, 600)])
def test_sparse_times_dense(k, m, n):
    """Blocks of columns and pairs of terms give the product, empty and odd rows included."""
    rng = np.random.default_rng(n)
    rows = sp.random(k, m, 0.5, format="csr", random_state=1)
    matrix, out = rng.standard_normal((m, n)), np.full((k, n), np.nan)
    inverse_kernels.sparse_times_dense(*csr_arrays(rows), matrix, out)
    assert np.allclose(out, rows.toarray() @ matrix, rtol=1e-14, atol=1e-14)
    inverse_kernels.sum_rows_of(rows[0].indices, rows[0].data, matrix, out[0])
    assert np.allclose(out[0], rows[0].toarray() @ matrix, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 16, 61])
@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("stripes", [1, 3, 8])
def test_add_symmetric_low_rank(n, rank, stripes):
    """The update and the product of its result with the probe, for more stripes than rows as well."""
    rng = np.random.default_rng(n)
    start = rng.standard_normal((n, n))
    start += start.T
    rows, signs, probe = rng.standard_normal((rank, n)), rng.choice([-1.0, 1.0], rank), rng.standard_normal(n)
    matrix, products = start.copy(), np.full((stripes, n), np.nan)
    inverse_kernels.add_symmetric_low_rank(matrix, rows, signs, probe, products)
    expected = start + sum(sign * np.outer(row, row) for sign, row in zip(signs, rows, strict=True))
    assert np.allclose(matrix, expected, rtol=1e-13, atol=1e-13)
    assert np.array_equal(matrix, matrix.T)
    assert np.allclose(products.sum(axis=0), expected @ probe, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 9, 191, 192, 193, 390])
@pytest.mark.parametrize("rank", [1, 7])
@pytest.mark.parametrize("stripes", [1, 3])
def test_add_symmetric_product(n, rank, stripes):
    """Both triangles get the same bits, edges included, and the result is multiplied by the probe."""
    rng = np.random.default_rng(n + rank)
    start = rng.standard_normal((n, n))
    start += start.T
    rows, signs, probe = rng.standard_normal((rank, n)), rng.choice([-1.0, 1.0], rank), rng.standard_normal(n)
    matrix, products = start.copy(), np.full((stripes, n), np.nan)
    right = np.ascontiguousarray(rows.T)
    inverse_kernels.add_symmetric_product(matrix, right * signs, right, probe, products)
    expected = start + sum(sign * np.outer(row, row) for sign, row in zip(signs, rows, strict=True))
    assert np.allclose(matrix, expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(matrix, matrix.T)
    assert np.allclose(products.sum(axis=0), expected @ probe, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 65, 130])
def test_mirror_lower(n):
    """The upper triangle becomes the transposed lower; the lower and the diagonal stay."""
    start = np.random.default_rng(n).standard_normal((n, n))
    matrix = start.copy()
    inverse_kernels.mirror_lower(matrix)
    assert np.array_equal(matrix, np.tril(start) + np.tril(start, -1).T)


@given(st.integers(1, 40), st.data())
@settings(max_examples=50, deadline=None)
def test_a_block_is_the_rows_and_columns_asked_for(n, data):
    """Any rows and columns of whole numbers or fractions, to the bit."""
    items = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), dtype=np.int64)
    for matrix in (np.arange(n * n).reshape(n, n), np.random.default_rng(n).random((n, n))):
        out = np.empty((items.size, items.size), dtype=matrix.dtype)
        inverse_kernels.select_block(matrix, items, out)
        assert out.tolist() == [[matrix[i, j] for j in items] for i in items]


def test_renumbering_leaves_freed_room_alone():
    """Columns in use are replaced by their new numbers, those behind them stay cleared."""
    columns = np.array([1, 3, 0, 3, 0, 0], dtype=np.int32)
    place = np.array([-1, 0, -1, 1], dtype=np.int32)
    pair_kernels.renumber_columns(np.array([0, 3]), np.array([2, 1]), place, columns)
    assert columns.tolist() == [0, 1, 0, 1, 0, 0]


@given(interactions(COUNTS), st.data())
@settings(max_examples=50, deadline=None)
def test_blocks_of_the_gram(x, data):
    """Any block of rows of ``X'X``, in whole numbers, in whole units with parts, and in float64."""
    n = x.shape[1]
    first = data.draw(st.integers(0, n - 1))
    rows = data.draw(st.integers(1, n - first))
    arrays, expected = both_ways(sp.csr_matrix(x)), naive.co_occurrences(x)[first : first + rows]
    plain, whole = np.full((rows, n), np.nan), np.full((rows, n), -1, dtype=np.int64)
    pair_kernels.gram_rows(first, *arrays, plain)
    assert np.array_equal(plain, expected)
    pair_kernels.exact_gram_rows(first, *arrays, 1.0, whole, np.empty((rows, 0), dtype=np.int64))
    assert np.array_equal(whole, expected)
    parts = np.full((rows, n), -1, dtype=np.int64)
    pair_kernels.exact_gram_rows(first, *arrays, COARSE_UNITS, whole, parts)
    assert np.array_equal(whole, expected * COARSE_UNITS)
    assert not parts.any()


@given(interactions(FRACTIONS))
@settings(max_examples=50, deadline=None)
def test_whole_units_are_the_integers_nearest_to_each_product(x):
    """Coarse and fine together are the sum of the products, each rounded to a multiple of 2^-62."""
    n = x.shape[1]
    whole, parts = np.empty((n, n), dtype=np.int64), np.empty((n, n), dtype=np.int64)
    pair_kernels.exact_gram_rows(0, *both_ways(sp.csr_matrix(x)), COARSE_UNITS, whole, parts)
    assert ((parts >= 0) & (parts < 2**38)).all()
    for i in range(n):
        for j in range(n):
            exact = sum(round(float(a * b) * 2**62) for a, b in zip(x[:, i], x[:, j], strict=True))
            assert int(whole[i, j]) * 2**38 + int(parts[i, j]) == exact


@given(interactions(st.sampled_from([0.0, 1.0, 0.3])))
@settings(max_examples=50, deadline=None)
def test_compressing_keeps_what_is_not_zero(x):
    """Sums that are zero, and only those, are left out; rows and columns stay in order."""
    pairs, expected = CoOccurrence.of(sp.csr_matrix(x), COARSE_UNITS), naive.co_occurrences(x)
    for i in range(x.shape[1]):
        row = range(pairs.start[i], pairs.start[i] + pairs.length[i])
        assert pairs.columns[row].tolist() == np.flatnonzero(expected[i]).tolist()
        sums = [pair_kernels.sum_of(pairs.coarse, pairs.fine, pairs.unit, at) for at in row]
        assert np.allclose(sums, expected[i, pairs.columns[row]], rtol=1e-15)
    assert np.allclose(pairs.diagonal(np.arange(x.shape[1])), np.diag(expected), rtol=1e-15)


@given(interactions(FRACTIONS), st.data())
@settings(max_examples=80, deadline=None)
def test_changing_rows_equals_summing_up_again(x, data):
    """Rows taken out of the sums and smaller ones put in: the same whole numbers as summed up afresh."""
    rows = data.draw(st.lists(st.sampled_from(range(x.shape[0])), unique=True, min_size=1))
    left = x.copy()
    for row in rows:
        left[row] *= [data.draw(st.booleans()) for _ in range(x.shape[1])]
    pairs = CoOccurrence.of(sp.csr_matrix(x), COARSE_UNITS)
    items = np.flatnonzero(x[rows].any(axis=0))
    pairs.subtract(sp.csr_matrix(x[rows]), sp.csr_matrix(left[rows]), items)
    fresh = CoOccurrence.of(sp.csr_matrix(left), COARSE_UNITS)
    assert np.array_equal(pairs.length, fresh.length)
    for i in range(x.shape[1]):
        a = slice(pairs.start[i], pairs.start[i] + pairs.length[i])
        b = slice(fresh.start[i], fresh.start[i] + fresh.length[i])
        for part in ("columns", "coarse", "fine"):
            assert np.array_equal(getattr(pairs, part)[a], getattr(fresh, part)[b])


def lists_of(n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return room for the lists of n items."""
    return np.full((n, k), -7, dtype=np.int32), np.full((n, k), np.nan), np.zeros(n, dtype=np.int64)


@given(interactions(COUNTS, max_users=10, max_items=9), st.integers(1, 6), st.data())
@settings(max_examples=120, deadline=None)
def test_ranking_and_updating_lists(x, k, data):
    """Ranked lists are sorted ones; updated lists of untouched items equal them unless marked stale."""
    n = x.shape[1]
    factors = st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 3.0]), min_size=n, max_size=n).map(np.array)
    old, sums = data.draw(factors), naive.co_occurrences(x)
    pairs = CoOccurrence.of(sp.csr_matrix(x), 1.0)
    lists, everything = lists_of(n, min(k, n)), np.arange(n)
    neighbour_kernels.rank_rows(everything, *pairs.arrays, old, *lists)
    check_lists(lists, sums * np.outer(old, old))

    is_touched = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    new, is_stale = np.where(is_touched, data.draw(factors), old), np.zeros(n, dtype=bool)
    touched, updated = np.flatnonzero(is_touched), tuple(part.copy() for part in lists)
    offered = neighbour_kernels.rank_touched(touched, is_touched, *pairs.arrays, new, old, *updated, is_stale)
    for mine, start in zip(updated, lists, strict=True):
        assert np.array_equal(mine[~is_touched], start[~is_touched])
    neighbour_kernels.put_offers(touched, *offered, *updated)
    ranked = lists_of(n, min(k, n))
    neighbour_kernels.rank_rows(everything, *pairs.arrays, new, *ranked)
    again = tuple(part.copy() for part in lists)
    neighbour_kernels.rank_rows(everything, *pairs.arrays, new, *again)
    for i in everything:  # to know the old list is faster, and changes nothing
        for mine, fresh in zip(again, ranked, strict=True):
            assert np.array_equal(mine[i], fresh[i])
    for i in np.flatnonzero(~is_stale):
        for mine, fresh in zip(updated, ranked, strict=True):
            assert np.array_equal(mine[i], fresh[i])


def check_lists(lists: tuple[np.ndarray, np.ndarray, np.ndarray], scores: np.ndarray) -> None:
    """Assert that padded lists, by id, are the best of each row of ``scores``."""
    ids, values, counts = lists
    for i, best in enumerate(naive.nearest(scores, ids.shape[1])):
        assert counts[i] == len(best)
        assert ids[i, : counts[i]].tolist() == sorted(best)
        assert np.allclose(values[i, : counts[i]], scores[i, sorted(best)], rtol=1e-14)
        assert (ids[i, counts[i] :] == -1).all()
        assert not values[i, counts[i] :].any()


@given(interactions(COUNTS), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_lists_are_unpacked_as_they_were_packed(x, k):
    """CSR lists spread over rows and collected again are the same lists."""
    lists = sp.csr_matrix(x[:, : x.shape[0]] if x.shape[0] < x.shape[1] else x)
    n = lists.shape[0]
    ids, scores, counts = lists_of(n, lists.shape[1])
    neighbour_kernels.unpack_lists(*csr_arrays(lists), ids, scores, counts)
    assert np.array_equal(counts, np.diff(lists.indptr))
    indices, data = np.empty(lists.nnz, dtype=np.int32), np.empty(lists.nnz)
    neighbour_kernels.pack_lists(ids, scores, counts, lists.indptr.astype(np.int64), indices, data)
    assert np.array_equal(indices, lists.indices)
    assert np.array_equal(data, lists.data)
    found, out = np.zeros(lists.shape[1], dtype=bool), np.zeros(lists.shape[1])
    neighbour_kernels.neighbour_scores(
        np.array([0], dtype=np.int32), np.array([2.0]), *csr_arrays(lists), out, found
    )
    assert np.array_equal(out, 2.0 * lists[0].toarray()[0])
    assert np.array_equal(found, out > 0)


def test_the_number_of_threads_changes_no_bit():
    """The same sums, lists and updates on one thread as on all."""
    x = sp.random(200, 70, 0.2, format="csr", random_state=4)
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        out = np.empty((70, 70))
        pair_kernels.gram_rows(0, *both_ways(x), out)
        products = np.empty((8, 70))
        inverse_kernels.add_symmetric_low_rank(
            out, x[:2].toarray(), np.array([1.0, -1.0]), np.ones(70), products
        )
        tiled, measured = np.zeros((500, 500)), np.empty((8, 500))
        terms = np.random.default_rng(4).standard_normal((500, 6))
        inverse_kernels.add_symmetric_product(tiled, terms, terms, np.ones(500), measured)
        pairs = CoOccurrence.of(x, COARSE_UNITS)
        lists, ones, stale = lists_of(70, 5), np.ones(70), np.zeros(70, dtype=bool)
        neighbour_kernels.rank_rows(np.arange(70), *pairs.arrays, ones, *lists)
        touched, factor = np.arange(0, 70, 3), np.where(np.arange(70) % 3, 1.0, 1.5)
        offered = neighbour_kernels.rank_touched(
            touched, factor > 1.0, *pairs.arrays, factor, ones, *lists, stale
        )
        neighbour_kernels.put_offers(touched, *offered, *lists)
        results.append([out, products, tiled, measured, pairs.coarse, pairs.fine, *lists])
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for one, many in zip(*results, strict=True):
        assert np.array_equal(one, many)


def test_small_work_stays_on_the_calling_thread():
    """`threads_for` lends threads by the amount of work and gives them back, also after an error."""
    before = numba.get_num_threads()
    with kernels.threads_for(1):
        assert numba.get_num_threads() == 1
    with pytest.raises(KeyError), kernels.threads_for(1):
        raise KeyError
    with kernels.threads_for(1e12):
        assert numba.get_num_threads() == before
    assert numba.get_num_threads() == before
