"""Models made of sums: the bits of a fit on all rows, however the rows were spread, also after deletions."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from recunlearn.models import EASE, MODELS, SpectralMF
from recunlearn.models.base import canonical_interactions
from recunlearn.models.summed import model_at_home, published_from_sums, statistic_of
from recunlearn.models.sums import Statistic, SumsError, merge, sums_of

from .federation import same_published
from .removals import BINARY, COUNTS, interactions

EXACT = {
    "ease": ("ease", {"regularization": 5.0}),
    "cosine": ("item_knn", {"K": 6}),
    "tfidf": ("item_knn", {"K": 6, "weighting": "tfidf"}),
    "bm25": ("item_knn", {"K": 6, "weighting": "bm25"}),
}
RNG = np.random.default_rng(8)
TASTE = np.exp(RNG.normal(size=(400, 6)) @ RNG.normal(size=(6, 60)))
LIKES = canonical_interactions(sp.csr_matrix(RNG.random((400, 60)) < TASTE / (8 + TASTE)))
COUNTED = LIKES.copy()
COUNTED.data = RNG.integers(1, 6, LIKES.nnz).astype(float)


def data_of(case):
    """BM25 has sums for values of 1 alone; the others get counts."""
    return LIKES if case == "bm25" else COUNTED


@pytest.mark.parametrize("parties", [1, 3, 50])
@pytest.mark.parametrize("case", EXACT)
def test_exact_models_of_any_number_of_parties_equal_the_pooled_fit(case, parties):
    """Before and after 100 users spread over the parties are forgotten: the bits of a pooled fit."""
    name, options = EXACT[case]
    data = data_of(case)
    what = statistic_of(name, options, data.shape[1])
    home = np.random.default_rng(parties).integers(parties, size=data.shape[0])
    held = [sums_of(data[home == p], what) for p in range(parties)]
    total = merge(held, what)
    assert same_published(published_from_sums(name, options, total), MODELS[name](**options).fit(data))
    gone = np.random.default_rng(1).permutation(data.shape[0])[:100]
    for p in range(parties):
        total = total.subtract(sums_of(data[gone[home[gone] == p]], what))
    stay = np.setdiff1d(np.arange(data.shape[0]), gone)
    assert same_published(published_from_sums(name, options, total), MODELS[name](**options).fit(data[stay]))


@pytest.mark.parametrize("case", EXACT)
def test_exact_models_equal_the_pooled_fit_on_odd_data(case):
    """Empty rows and items, full rows, one user, one item: the same bits as a fit."""
    name, options = EXACT[case]

    @given(interactions(BINARY if case == "bm25" else COUNTS))
    @settings(max_examples=40, deadline=None)
    def check(x):
        data = canonical_interactions(sp.csr_matrix(x))
        sums = sums_of(data, statistic_of(name, options, x.shape[1]))
        assert same_published(published_from_sums(name, options, sums), MODELS[name](**options).fit(data))

    check()


def test_fractions_are_summed_in_fixed_point_as_a_fit_does():
    """Cosine over values that are not whole numbers: the bits of a fit."""
    data = COUNTED.copy()
    data.data = data.data / 3
    what = statistic_of("item_knn", {}, 60, fractions=True)
    published = published_from_sums(
        "item_knn", {}, merge((sums_of(data[k::7], what) for k in range(7)), what)
    )
    assert same_published(published, MODELS["item_knn"]().fit(data))


@pytest.mark.parametrize("values", ["counts", "binary"])
@pytest.mark.parametrize("factors", [4, 40])
def test_spectral_mf_of_sums_is_within_its_certificate(values, factors):
    """The scores served at home are within the bound of the optimum that a fit in float64 finds."""
    options = {"factors": factors, "values": values}
    what = statistic_of("spectral_mf", options, 60)
    parts = [COUNTED[k::3] for k in range(3)]
    published = published_from_sums("spectral_mf", options, merge((sums_of(p, what) for p in parts), what))
    optimum = SpectralMF(**{**published.settings, "dtype": "float64", "tolerance": 1e-10}).fit(COUNTED)
    homes = [model_at_home(published, part) for part in parts]
    proof = homes[0].proof()
    assert proof.certified, proof.reason
    assert published.settings["regularization"] == SpectralMF(**options).fit(COUNTED).regularization
    scale = optimum.published()["item_scale"]
    found = np.vstack([home.user_factors @ home.item_factors.T for home in homes]) * scale
    wanted = np.vstack([optimum.user_factors[k::3] for k in range(3)]) @ optimum.item_factors.T * scale
    distance = np.linalg.norm(found - wanted) - optimum.certificate.bound * np.linalg.norm(wanted)
    assert 0 < distance <= proof.bound * np.linalg.norm(found)
    assert proof.bound <= 1e-4


@pytest.mark.parametrize("name", ["ease", "item_knn", "spectral_mf"])
def test_a_home_serves_its_rows_as_the_pooled_model_does(name):
    """Recommendations at home, from a part of the rows, are those of the model of all rows."""
    options = {"factors": 8} if name == "spectral_mf" else {}
    published = published_from_sums(name, options, sums_of(LIKES, statistic_of(name, options, 60)))
    rows = canonical_interactions(LIKES[10:14])
    home, pooled = model_at_home(published, rows), MODELS[name](**options).fit(LIKES)
    for k in range(4):
        ours, theirs = home.recommend(k, None, 5), pooled.recommend(10 + k, None, 5)
        assert np.allclose(ours[1], theirs[1], rtol=1e-3)
        if name != "spectral_mf":
            assert np.array_equal(ours[0], theirs[0])


def test_a_home_recommends_items_that_only_others_have():
    """EASE at home ranks what anybody has, and nothing that nobody has."""
    x = canonical_interactions(sp.csr_matrix([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]))
    published = published_from_sums("ease", {"regularization": 1.0}, sums_of(x, statistic_of("ease", {}, 4)))
    ids, _ = model_at_home(published, canonical_interactions(x[:1])).recommend(0, None)
    assert ids.tolist() == [2]
    assert EASE(1.0).fit(x).recommend(0, None)[0].tolist() == [2]


def test_no_rows_at_all_make_a_model_too():
    """When everybody has left, the model is the one of no interactions."""
    for name in ("ease", "item_knn", "spectral_mf"):
        what = statistic_of(name, {}, 5)
        published = published_from_sums(name, {}, merge([], what))
        home = model_at_home(published, sp.csr_matrix((1, 5)))
        assert home.recommend(0, None)[0].size == 0
        assert home.proof().certified


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("als", {}, "not made of sums"),
        ("canonical_mf", {}, "not made of sums"),
        ("spectral_mf", {"regularization": "auto"}, "needs rows"),
        ("spectral_mf", {"values": "log"}, "needs rows"),
    ],
)
def test_models_that_are_no_function_of_sums_are_refused(name, options, why):
    """A model, or a setting, that needs rows says so."""
    with pytest.raises(ValueError, match=why):
        statistic_of(name, options, 5)


def test_sums_of_something_else_are_refused():
    """Sums for TF-IDF make no EASE, and fractions are no matter for it."""
    with pytest.raises(SumsError, match="ease is made of sums of"):
        published_from_sums("ease", {}, merge([], Statistic("tfidf", 5)))
    with pytest.raises(ValueError, match="whole numbers"):
        statistic_of("ease", {}, 5, fractions=True)
