"""The battery is calibrated: clean is clean, planted is found, intervals cover, faults are named."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from implicit.evaluation import ranking_metrics_at_k
from recunlearn.eval.attacks.outcome import mean_interval
from recunlearn.eval.battery.cell import Setting, measure_cell
from recunlearn.eval.battery.completeness import residue_signs
from recunlearn.eval.battery.methods import METHODS, make_method
from recunlearn.eval.battery.protocol import Removal, kept_after
from recunlearn.eval.battery.questions import split_interactions
from recunlearn.eval.battery.ranking import ndcg, recall, top_items
from recunlearn.eval.battery.regimes import Regime, StudyError, checkpoints_of, chosen_users, removal_of
from recunlearn.eval.battery.resources import used_by
from recunlearn.eval.battery.summary import draw_interval
from recunlearn.eval.generate import social_interactions
from recunlearn.models import EASE
from recunlearn.models.base import canonical_interactions

from .unlearners import Blend, Counts, KeepsItems, NothingDone, RowLeft, RowOnlyCounts, ZeroInPattern

SETTINGS = {
    "spectral_mf": {"factors": 16},
    "ease": {"regularization": 50.0},
    "item_knn": {"K": 20},
    "canonical_mf": {"regularization": 10.0, "alpha": 2.0},
    "sharded_mf": {"shards": 3, "factors": 6, "num_threads": 1},
    "balanced_shards": {"shards": 3, "factors": 6, "num_threads": 1},
}
EXACT = {"ease", "item_knn", "sharded_mf", "balanced_shards", "implicit_als_retrain"}
ROW_ONLY = {"implicit_als_row", "implicit_bpr_row", "cornac_row"}


@functools.cache
def interactions():
    """Return a small social-like set, values 1."""
    x = canonical_interactions(social_interactions(200, 90, 5000))
    x.data[:] = 1.0
    return x


def measured(method, seed=0, regime=None, attacks=()):
    """Measure one cell on the small set."""
    regime = regime or Regime(name="r", share=0.1)
    split = split_interactions(interactions(), 0.2, seed)
    users = chosen_users(split.train, regime, seed)
    return measure_cell(method, Setting(split, users, regime, seed, attacks=attacks))


def test_a_retrain_leaves_nothing():
    """Oracle against oracle: no influence, residue and membership 0.5, no fault; doing nothing is far off."""
    result = measured(make_method("implicit_als_retrain", {"factors": 8}))
    left, nothing = (result["completeness"][name] for name in ("method", "do nothing"))
    assert (left["influence_left"], left["residue"], left["membership"]) == (0.0, 0.5, 0.5)
    assert result["faults"] == []
    assert nothing["influence_left"] == 1.0
    assert nothing["residue_low"] > 0.5


def test_another_seed_gives_no_residue_over_draws():
    """Over draws, the residue of another seed's retrain is 0.5 within its interval; not doing nothing's."""
    cells = [measured(make_method("implicit_als_retrain", {"factors": 6}), seed) for seed in range(8)]
    for treatment, clean in (("another seed's retrain", True), ("do nothing", False)):
        residues = [cell["completeness"][treatment]["residue"] for cell in cells]
        _, low, high = draw_interval(residues, 0.95)
        assert (low <= 0.5 <= high) == clean, (treatment, residues)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_planted_residue_is_measured_at_its_size(share):
    """A model that keeps a known share of the influence is measured to keep that share, and is flagged."""
    result = measured(Blend(share))
    left = result["completeness"]["method"]
    assert left["influence_left"] == pytest.approx(share, rel=1e-9)
    assert left["residue_size"] == pytest.approx(
        share, rel=0.3
    )  # margins are divided by a spread, which moves too
    assert {"influence left", "residue"} <= set(result["faults"])


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (NothingDone, {"nothing done", "row left", "zero in a pattern"}),
        (RowOnlyCounts, {"row only", "zero in a pattern"}),  # pairs that only the forgotten had are stored
        (RowLeft, {"row left"}),
        (ZeroInPattern, {"zero in a pattern"}),
        (lambda: KeepsItems(factors=8), {"keeps the item factors"}),
    ],
)
def test_a_broken_unlearner_is_caught_by_name(broken, named):
    """Each known fault is named, and no structural one that is not there."""
    structural = {"row only", "keeps the item factors", "zero in a pattern", "nothing done", "row left"}
    assert set(measured(broken())["faults"]) & structural == named


def test_a_sound_unlearner_has_no_fault():
    """The same counts, forgotten properly, pass."""
    assert measured(Counts())["faults"] == []


def test_intervals_over_draws_cover_at_their_rate():
    """Of 95 % intervals over five draws of a real figure, about 95 % hold its mean over all draws."""
    x, figures = interactions(), []
    for seed in range(250):
        split = split_interactions(x, 0.2, seed)
        users = chosen_users(split.train, Regime(name="r", share=0.1), seed)
        model = EASE(50.0).fit(split.train)
        model.forget_users(np.sort(users))
        rows = np.setdiff1d(np.flatnonzero(np.diff(split.wanted.indptr)), users)
        scores = split.train[rows] @ model.item_weights
        figures.append(ndcg(top_items(scores, split.train[rows]), split.wanted[rows]).mean())
    rng, truth = np.random.default_rng(0), np.mean(figures)
    intervals = [draw_interval(rng.choice(figures, 5, replace=False), 0.95) for _ in range(2000)]
    covered = np.mean([low <= truth <= high for _, low, high in intervals])
    assert 0.93 <= covered <= 0.975


@pytest.mark.parametrize("rate", [0.5, 0.6, 0.8])
def test_intervals_over_people_cover_at_their_rate(rate):
    """Of 95 % bootstrap intervals of a residue over 100 people, about 95 % hold the truth."""
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(250):
        signs = residue_signs(np.where(rng.random(100) < rate, 1.0, -1.0))
        low, high = mean_interval(signs, trial, 0.95)
        held += low <= rate <= high
    assert 0.915 <= held / 250 <= 0.98


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_registry_can_be_measured(name):
    """Shapes, copies, a stream in two batches; exact methods leave nothing, droppers of rows are named."""
    regime = Regime(name="stream", users=8, batch=4, checkpoints=2)
    settings = SETTINGS.get(name, {"factors": 6})
    result = measured(make_method(name, settings), regime=regime)
    left = result["completeness"]["method"]["influence_left"]
    assert [stop["requests"] for stop in result["drift"]] == [4.0, 8.0]
    assert result["efficiency"]["retrain_seconds"] > 0
    if name in EXACT:
        assert left < 1e-6
        assert result["faults"] == []
    if name in ROW_ONLY:
        assert "row only" in result["faults"]
    if (shown := result["claim"]["erased_at_least"]) is not None:
        assert 1 - shown >= left - 1e-6


def test_the_influence_step_goes_most_of_the_way_to_the_nearby_optimum():
    """From a settled fit, one step leaves under half of the way to where sweeps on what is kept would end."""
    x = interactions()
    method = make_method("influence_mf", {"factors": 4, "regularization": 5.0, "settle": 200})
    method.fit(x, 0)
    removal = Removal.of_users(np.arange(4, dtype=np.int64))
    users, items = method.loss.swept(kept_after(x, removal), method.users, method.items, 400)
    others = np.arange(4, 200)
    truth, before = users[others] @ items.T, method.scores(others)
    method.forget(removal)
    assert np.linalg.norm(method.scores(others) - truth) < 0.5 * np.linalg.norm(before - truth)


def test_same_work_with_nobody_removed_moves_an_iterative_method():
    """The control of warm sweeps is its own: not the model before, and not the method."""
    result = measured(make_method("alternating_als", {"factors": 6}))["completeness"]
    idle, method = result["same work, nobody removed"], result["method"]
    assert idle["influence_left"] not in (1.0, method["influence_left"])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says how much memory is used")
def test_the_peak_counts_memory_that_was_free_before():
    """A call that fills 60 MiB is seen to, even where as much was freed just before and stayed resident."""

    def filled():
        return [np.ones(2**13) for _ in range(960)]  # 64 KiB each: from the heap

    blocks = filled()
    pin = np.ones(2**13)  # above the others: the heap cannot shrink by itself when they go
    del blocks
    assert used_by(filled).peak_mib > 50
    assert pin.sum() == 2**13


def test_ranking_agrees_with_implicit():
    """NDCG of ours, a person each, has the mean that implicit's own evaluation gives."""
    split = split_interactions(interactions(), 0.2, 3)
    model = EASE(50.0).fit(split.train)
    rows = np.flatnonzero(np.diff(split.wanted.indptr))
    listed = top_items(split.train[rows] @ model.item_weights, split.train[rows])
    theirs = ranking_metrics_at_k(
        model,
        *(_as_implicit(part) for part in (split.train, split.wanted)),
        K=10,
        show_progress=False,
    )
    assert ndcg(listed, split.wanted[rows]).mean() == pytest.approx(theirs["ndcg"], abs=1e-6)
    assert 0 < recall(listed, split.wanted[rows]).mean() < 1


def _as_implicit(matrix):
    """Give the index types that implicit's evaluation takes."""
    parts = (matrix.data.astype(np.float32), matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32))
    return sp.csr_matrix(parts, shape=matrix.shape)


def test_regimes_choose_whom_they_say():
    """The core are more active than random people, the edge less; every draw is another."""
    x = interactions()
    sizes = np.diff(x.indptr)
    mean = {
        who: sizes[chosen_users(x, Regime(name=who, who=who, users=15), 0)].mean()
        for who in ("core", "random", "edge")
    }
    assert mean["core"] > mean["random"] > mean["edge"]
    first, second = (set(chosen_users(x, Regime(name="c", who="core", users=15), s)) for s in (0, 1))
    assert first != second


def test_half_of_the_interactions_can_be_removed():
    """A regime of single interactions leaves the people there, and is measured like any other."""
    regime = Regime(name="pairs", users=10, interactions=True)
    removal = removal_of(interactions(), regime, chosen_users(interactions(), regime, 0), 0)
    assert removal.users.size == 0
    assert np.unique(removal.pair_users).size == 10
    result = measured(make_method("ease", {"regularization": 50.0}), regime=regime)
    assert result["completeness"]["method"]["influence_left"] < 1e-9
    assert result["completeness"]["do nothing"]["influence_left"] == 1.0


def test_the_last_checkpoint_is_the_end():
    """However few batches there are, the end is compared with a retrain."""
    for batches in range(1, 12):
        for checkpoints in (1, 3, 20):
            regime = Regime(name="a", users=12, checkpoints=checkpoints)
            assert max(checkpoints_of(batches, regime)) == batches


def test_an_attack_is_run_beside_the_rest():
    """A membership attack tells the model before from the oracle, and an exact model after not at all."""
    result = measured(make_method("ease", {"regularization": 50.0}), attacks=("membership_scores",))
    attack = result["attacks"]["membership_scores"]
    assert attack["auc"] == pytest.approx(0.5, abs=0.01)
    assert attack["power"] > 0.7


@pytest.mark.parametrize("name", ["ease", "item_knn", "spectral_mf"])
def test_differencing_sees_all_that_is_published(name):
    """In the battery as outside, one leaver of ours is read in full from two versions: no leak is hidden."""
    regime = Regime(name="one", who="core", users=1)
    attack = measured(make_method(name, SETTINGS[name]), regime=regime, attacks=("differencing",))
    assert attack["attacks"]["differencing"]["details"]["precision"] == 1.0


def test_what_a_method_serves_stays_as_it_was():
    """The attacker's copy of a peer's version answers as before when the method goes on to forget."""
    method = make_method("implicit_als_row", {"factors": 6})
    method.fit(interactions(), 0)
    version = method.served()
    factors, scores = version.users.copy(), version.score(interactions()[:9])
    method.forget(Removal.of_users(np.arange(5, dtype=np.int64)))
    assert version.kind == "vectors"
    assert np.array_equal(version.users, factors)
    assert np.array_equal(version.score(interactions()[:9]), scores)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("eese", {}, "choose one of"),
        ("ease", {"lambda": 3}, "ease"),
        ("json:Nobody", {}, "has no Nobody"),
        ("json:JSONDecoder", {}, "subclass"),
        ("nowhere.py:Method", {}, "no file"),
    ],
)
def test_a_method_that_cannot_be_made_is_refused_with_a_way_out(name, settings, says):
    """The message names the method and what to do."""
    with pytest.raises(StudyError, match=says):
        make_method(name, settings)


def test_too_many_people_are_refused():
    """Nobody left to ask is an error before anything is fitted."""
    with pytest.raises(StudyError, match="at most half"):
        chosen_users(interactions(), Regime(name="all", users=150), 0)


def test_measuring_changes_neither_the_data_nor_the_split():
    """Methods share the split: it is the same after a cell as before."""
    split = split_interactions(interactions(), 0.2, 0)
    before = copy.deepcopy(split.train)
    regime = Regime(name="r", users=5)
    measure_cell(Counts(), Setting(split, chosen_users(split.train, regime, 0), regime, 0))
    assert (before != split.train).nnz == 0
    assert sp.issparse(split.train)
