"""Sums as values: any grouping and order gives the same bits, subtracting is never having added."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.models.base import canonical_interactions
from recunlearn.models.item_knn import weigh
from recunlearn.models.statistics import CoOccurrence
from recunlearn.models.sums import LARGEST, Statistic, Sums, SumsError, merge, sums_of
from recunlearn.models.sums_check import read_sums

from . import naive
from .removals import BINARY, COUNTS, FRACTIONS, interactions

KINDS = {
    "whole": COUNTS, "fractions": FRACTIONS, "tfidf": FRACTIONS, "bm25": BINARY, "normalised": COUNTS,
}  # fmt: skip


def statistic(kind, n_items):
    """Make the statistic of a kind, with the powers that SpectralMF has by default."""
    return Statistic(kind, n_items, user_power=0.25 if kind == "normalised" else 0.0)


def weighed(x, kind):
    """Weigh a dense matrix from the definition: what the sums are sums of."""
    sizes = np.count_nonzero(x, axis=1, keepdims=True)
    idf = np.log(x.shape[1]) - np.log1p(sizes)
    totals = np.where(sizes > 0, x.sum(axis=1, keepdims=True), 1.0)
    return {
        "whole": x,
        "fractions": x,
        "tfidf": np.sqrt(x) * idf,
        "bm25": (x > 0) * idf,
        "normalised": x / totals**0.25,
    }[kind]


@st.composite
def grouped(draw, values):
    """Draw interactions, and their rows split over parties in some order."""
    x = draw(interactions(values))
    order = draw(st.permutations(range(x.shape[0])))
    cuts = sorted(draw(st.lists(st.integers(0, x.shape[0]), max_size=4)))
    return x, [order[a:b] for a, b in pairwise([0, *cuts, x.shape[0]])]


@pytest.mark.parametrize("kind", KINDS)
def test_any_grouping_in_any_order_gives_the_same_bits(kind):
    """Merging the sums of any parts, in any order, is summing all rows at once; and they are the sums."""

    @given(grouped(KINDS[kind]))
    @settings(max_examples=60, deadline=None)
    def check(drawn):
        x, parts = drawn
        what = statistic(kind, x.shape[1])
        whole = sums_of(canonical_interactions(sp.csr_matrix(x)), what)
        merged = merge(
            (sums_of(canonical_interactions(sp.csr_matrix(x[rows])), what) for rows in parts), what
        )
        assert merged.same_as(whole)
        expected = naive.co_occurrences(weighed(x, kind))
        assert np.allclose(whole.gram(), expected, rtol=0, atol=1e-12 * max(1.0, expected.max(initial=0.0)))
        assert np.array_equal(whole.counts, np.count_nonzero(x, axis=0))
        assert whole.users == np.count_nonzero(x.any(axis=1))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_subtracting_leaves_what_was_never_added_to(kind):
    """Whatever rows are subtracted, in whatever order, the bits are those of the rows that stay."""

    @given(grouped(KINDS[kind]))
    @settings(max_examples=60, deadline=None)
    def check(drawn):
        x, parts = drawn
        what = statistic(kind, x.shape[1])
        sums = [sums_of(canonical_interactions(sp.csr_matrix(x[rows])), what) for rows in parts]
        left = merge(sums, what)
        for k, part in enumerate(sums):
            left = left.subtract(part)
            assert left.same_as(merge(sums[k + 1 :], what))
        assert left.same_as(Sums.nothing(what))

    check()


@pytest.mark.parametrize("kind", ["whole", "fractions", "tfidf", "bm25"])
def test_rows_by_pair_are_those_of_the_item_models(kind):
    """The symmetric form, entry for entry, is what ItemKNN sums up from all rows."""
    x = canonical_interactions(sp.random(60, 15, density=0.3, random_state=4, format="csr"))
    x.data = np.ceil(x.data * (1 if kind == "bm25" else 5))
    sums = sums_of(x, statistic(kind, 15))
    weights = weigh(x, kind if kind in ("tfidf", "bm25") else "cosine")
    ours, theirs = sums.co_occurrence(), CoOccurrence.of(weights, 1.0 / sums.statistic.unit)
    for field in ("start", "length", "columns", "coarse", "fine", "unit"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field


def test_totals_that_do_not_fit_are_refused_and_never_wrap():
    """The bound is held before anything is added, at the last number that fits."""
    what = Statistic("whole", 1)
    value = 2.0**26
    one = sums_of(sp.csr_matrix([[value]]), what)
    many = dataclasses.replace(one, coarse=np.array([LARGEST - 2**52 - 1]))
    assert many.add(one).coarse[0] == LARGEST - 1
    with pytest.raises(SumsError, match="squares of item 0 would sum to 2\\^61"):
        many.add(one).add(one)
    with pytest.raises(SumsError, match="users of item 0 would sum"):
        dataclasses.replace(one, counts=np.array([LARGEST - 1])).add(one)


def test_what_was_not_added_cannot_be_subtracted():
    """More users, more of an item or more of a pair than there is: refused, with its name."""
    what = Statistic("whole", 3)
    here, other = (sums_of(sp.csr_matrix([row]), what) for row in ([1.0, 1, 0], [1.0, 0, 1]))
    two = here.add(sums_of(sp.csr_matrix([[1.0, 0, 0]]), what))
    with pytest.raises(SumsError, match="2 to be subtracted, 1 there \\(users\\)"):
        here.subtract(two)
    with pytest.raises(SumsError, match="1 to be subtracted, 0 there \\(user of item 2\\)"):
        two.subtract(other)
    with pytest.raises(SumsError, match="items 0 and 1 is subtracted"):
        here.subtract(dataclasses.replace(here, coarse=np.array([1, 2, 1])))
    with pytest.raises(SumsError, match="sums of Statistic"):
        here.add(sums_of(sp.csr_matrix([[1.0, 1, 0]]), Statistic("tfidf", 3)))


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        ("whole", [0.5, 1, 0], "whole numbers"),
        ("whole", [2.0**27, 1, 0], "whole numbers up to"),
        ("normalised", [0.5, 1, 0], "whole numbers"),
        ("bm25", [2.0, 1, 0], "BM25 on values other than 1"),
        ("fractions", [1e-9, 1, 0], "do not fit the fixed point"),
        ("fractions", [1e9, 1, 0], "do not fit the fixed point"),
        ("whole", [1.0, 1], "the rows have 2 items"),
    ],
)
def test_values_that_cannot_be_summed_exactly_are_refused(kind, row, why):
    """What a fit on one machine would round or sum afresh has no additive form: refused by value."""
    with pytest.raises(SumsError, match=why):
        sums_of(sp.csr_matrix([row]), statistic(kind, 3))


@given(interactions(COUNTS), st.sampled_from(sorted(KINDS)))
@settings(max_examples=60, deadline=None)
def test_true_sums_are_always_let_in(x, kind):
    """The checks have no false alarms: whatever rows there are, their sums pass."""
    values = np.minimum(x, 1.0) if kind == "bm25" else x
    sums = sums_of(canonical_interactions(sp.csr_matrix(values)), statistic(kind, x.shape[1]))
    assert read_sums(sums.statistic, sums.users, sums.arrays).same_as(sums)


GOOD = sums_of(sp.csr_matrix([[1.0, 1, 0, 0], [0.0, 1, 3, 0]]), Statistic("whole", 4))
FINE = sums_of(sp.csr_matrix([[1.0, 1, 0, 0], [0.0, 1, 3, 0]]), Statistic("normalised", 4, 0.25))


def changed(sums, name, k, value):
    """Change one number of one array."""
    array = sums.arrays[name].copy()
    array[k] = value
    return {**sums.arrays, name: array}


@pytest.mark.parametrize(
    ("sums", "arrays", "why"),
    [
        (GOOD, {k: v for k, v in GOOD.arrays.items() if k != "keys"}, "the arrays are"),
        (GOOD, {**GOOD.arrays, "rows": GOOD.keys}, "the arrays are"),
        (GOOD, {**GOOD.arrays, "coarse": GOOD.coarse.astype(np.float64)}, "coarse is float64"),
        (GOOD, {**GOOD.arrays, "coarse": np.full(GOOD.coarse.size, np.nan)}, "coarse is float64"),
        (GOOD, {**GOOD.arrays, "coarse": list(GOOD.coarse)}, "coarse is list"),
        (GOOD, {**GOOD.arrays, "counts": GOOD.counts[None]}, "counts is int64 \\[1, 4\\]"),
        (GOOD, {**GOOD.arrays, "counts": GOOD.counts[:3]}, "counts has 3 entries; it must have 4"),
        (GOOD, {**GOOD.arrays, "coarse": GOOD.coarse[:2]}, "coarse has 2 entries"),
        (GOOD, {**GOOD.arrays, "fine": GOOD.coarse}, "fine has 5 entries; it must have 0"),
        (FINE, {**FINE.arrays, "fine": FINE.fine[:0]}, "fine has 0 entries; it must have 5"),
        (FINE, {**FINE.arrays, "degrees": FINE.degrees[:0]}, "degrees has 0 entries"),
        (GOOD, changed(GOOD, "counts", 0, -1), "counts\\[0\\] is -1"),
        (GOOD, changed(GOOD, "counts", 0, 3), "counts\\[0\\] is 3; it must be in 0 .. 2"),
        (GOOD, changed(GOOD, "coarse", 1, -1), "coarse\\[1\\] is -1"),
        (GOOD, changed(GOOD, "coarse", 1, LARGEST), "coarse\\[1\\] is"),
        (FINE, changed(FINE, "fine", 1, 2**38), "fine\\[1\\] is"),
        (GOOD, changed(GOOD, "keys", 1, GOOD.keys[0]), "pairs must ascend"),
        (GOOD, changed(GOOD, "keys", 1, 4), "no pair of items i <= j"),
        (GOOD, changed(GOOD, "keys", 4, 16), "no pair of items i <= j"),
        (GOOD, changed(GOOD, "keys", 0, -1), "no pair of items i <= j"),
        (GOOD, changed(GOOD, "coarse", 1, 0), "have a sum of zero"),
        (GOOD, changed(GOOD, "keys", 4, 15), "item 3 has a sum of squares, but no users"),
        (GOOD, changed(GOOD, "keys", 1, 3), "items 0 and 3 have the sum 1: more than the squares"),
        (GOOD, changed(GOOD, "coarse", 1, 2), "items 0 and 1 have the sum 2: more than the squares"),
        (GOOD, changed(GOOD, "coarse", 2, 1), "item 1 has 2 users, but squares that sum to 1"),
        (FINE, changed(FINE, "degrees", 1, 1), "item 1 has 2 users, but values that sum to 1"),
    ],
)  # fmt: skip
def test_sums_that_cannot_be_are_refused(sums, arrays, why):
    """Each strange array is refused by the first thing that is wrong with it."""
    with pytest.raises(SumsError, match=why):
        read_sums(sums.statistic, sums.users, arrays)


@pytest.mark.parametrize("users", [-1, 1.0, True, LARGEST, "2"])
def test_a_strange_number_of_users_is_refused(users):
    """A negative, fractional, enormous or unnumeric number of users is named."""
    with pytest.raises(SumsError, match="number of users"):
        read_sums(GOOD.statistic, users, GOOD.arrays)
