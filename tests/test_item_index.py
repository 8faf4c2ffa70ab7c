"""The approximate index: it narrows down what is scored, changes no score, and goes with its version."""

import asyncio
import gc
import importlib.util
import itertools
import re
import subprocess
import sys
import time
import weakref

import httpx
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from recunlearn import SnapshotReader
from recunlearn.engine import snapshot
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.item_index import LEAST_ITEMS, RECALL, build_item_index, octaves
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.serving.app import create_app
from recunlearn.engine.state import Config, StateError, StatePaths, write_config
from recunlearn.engine.version import Store, set_current, write_version
from recunlearn.eval.generate import social_interactions
from recunlearn.models import CanonicalMF, ForgettableALS, ShardedMF, SpectralMF

from .real import need


@pytest.fixture(autouse=True, scope="module")
def _faiss():
    """Find what the index is made with."""
    installed = importlib.util.find_spec("faiss") is not None
    need(None if installed else "faiss is not installed: pip install 'recunlearn[ann]'")


@pytest.fixture(scope="module")
def plays():
    """Generate a catalogue that is large enough for an index to be of use."""
    x = social_interactions(500, 5000, 50_000, seed=1)
    return x[:, np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))]


@pytest.fixture(scope="module")
def fitted(plays):
    """Fit factors; tests copy what they change."""
    return SpectralMF(32).fit(plays)


def indexed(model):
    """Return a model of the same factors with an index of them."""
    twin = type(model).restore(model.settings(), model.published(), model.proof_record(), model.user_items)
    twin.shortlist = build_item_index(twin)
    return twin


def all_top_tens(model, x, **options):
    """Ask for each user alone, as serving does."""
    return [model.recommend(user, x[user], N=10, **options) for user in range(x.shape[0])]


def test_of_the_exact_top_ten_hardly_one_is_missed(fitted, plays):
    """Over all users, not only those it was tuned on, recall is within a point of what was aimed at."""
    model = indexed(fitted)
    assert model.shortlist.recall >= RECALL
    exact, near = all_top_tens(fitted, plays), all_top_tens(model, plays)
    recall = np.mean([np.isin(a, b).mean() for (a, _), (b, _) in zip(exact, near, strict=True) if a.size])
    assert recall >= RECALL - 0.01


def test_scores_are_the_models_own(fitted, plays):
    """What an item is given is what scoring all gives it, to the last figures of single precision."""
    model = indexed(fitted)
    for user, (ids, scores) in enumerate(all_top_tens(model, plays)):
        own = fitted.item_factors[ids] @ fitted.user_factors[user]
        np.testing.assert_allclose(scores, own, rtol=2e-5, atol=1e-7)
        assert np.all(np.diff(scores) <= 0)


def test_of_the_ten_most_alike_hardly_one_is_missed(fitted):
    """Over all items, recall of similar ones is within a point of what was aimed at; each is like itself."""
    model = indexed(fitted)
    assert model.shortlist.similar_candidates is not None
    assert model.shortlist.similar_recall >= RECALL
    shares = []
    for item in range(fitted.item_factors.shape[0]):
        exact, near = fitted.similar_items(item, N=11)[0], model.similar_items(item, N=11)[0]
        assert item in near
        shares.append(np.isin(exact[exact != item], near).mean())
    assert np.mean(shares) >= RECALL - 0.01


def test_cosines_are_the_models_own(fitted):
    """What a similar item is given is the cosine of the factors themselves, best first."""
    model = indexed(fitted)
    unit = fitted.item_factors / np.linalg.norm(fitted.item_factors, axis=1)[:, None]
    for item in range(0, unit.shape[0], 50):
        ids, cosines = model.similar_items(item)
        np.testing.assert_allclose(cosines, unit[ids] @ unit[item], rtol=2e-5, atol=1e-6)
        assert ids.size == np.unique(ids).size == 10
        assert np.all(np.diff(cosines) <= 0)


def test_similar_items_are_exact_where_the_index_is_not_asked(fitted):
    """Long lists, many items at once and chosen ones: bit for bit; a few at once get what each gets alone."""
    model = indexed(fitted)
    everything = np.arange(fitted.item_factors.shape[0])
    for item, options in ((0, {"N": 1000}), (everything[:100], {}), (0, {"items": everything[:500]})):
        for ours, exact in zip(
            model.similar_items(item, **options), fitted.similar_items(item, **options), strict=True
        ):
            np.testing.assert_array_equal(ours, exact)
    ids, cosines = model.similar_items(everything[:5], N=7)
    for item in range(5):
        alone = model.similar_items(item, N=7)
        np.testing.assert_array_equal(ids[item], alone[0])
        np.testing.assert_array_equal(cosines[item], alone[1])
    with pytest.raises(ValueError, match="N is 0"):
        model.similar_items(0, N=0)


def test_what_somebody_has_is_never_recommended(fitted, plays):
    """However many items a user has, none comes back, and the list is as long as the exact one."""
    model = indexed(fitted)
    for user, (ids, _) in enumerate(all_top_tens(model, plays)):
        assert not np.isin(ids, plays[user].indices).any()
        assert ids.size == np.unique(ids).size == fitted.recommend(user, plays[user])[0].size
    seen = all_top_tens(model, plays, filter_already_liked_items=False)
    assert any(np.isin(ids, plays[user].indices).any() for user, (ids, _) in enumerate(seen))


def test_an_item_that_nobody_has_any_more_is_never_recommended(plays):
    """After its last interaction is forgotten, an item is in no list of an index that is built then."""
    model = SpectralMF(16).fit(plays)
    best = int(model.recommend(0, plays[0])[0][0])
    owners = np.flatnonzero(plays[:, [best]].toarray())
    model.forget_interactions(owners, np.full(owners.size, best))
    model.shortlist = build_item_index(model)
    assert model.shortlist is not None
    kept = model.user_items
    assert not any(best in ids for ids, _ in all_top_tens(model, kept))
    assert model.similar_items(best)[0].size == 0
    assert not any(best in model.similar_items(item)[0] for item in range(0, plays.shape[1], 10))


@pytest.mark.parametrize(
    "model",
    [
        CanonicalMF(regularization=200.0, alpha=10.0, max_factors=8, tolerance=0.3),
        ForgettableALS(factors=16, iterations=3),
        ShardedMF(shards=2, factors=16, iterations=3),
    ],
    ids=lambda model: model.name,
)
def test_every_factorisation_can_have_one(model, plays):
    """An index is built on each; where it would need too many candidates, it is none and nothing changes."""
    exact = all_top_tens(model.fit(plays), plays)
    model.shortlist = build_item_index(model)
    near = all_top_tens(model, plays)
    recall = np.mean([np.isin(a, b).mean() for (a, _), (b, _) in zip(exact, near, strict=True) if a.size])
    assert recall >= RECALL - 0.02


def test_light_items_are_found_beside_heavy_ones():
    """A few items are a thousand times as long as the rest: lists of people with other tastes are found."""
    rng = np.random.default_rng(0)
    n_users, n_items, k = 400, 8000, 16
    items = rng.standard_normal((n_items, k), dtype=np.float32)
    items[:200, : k // 2] *= 1000.0  # what half of all people like
    items[:200, k // 2 :] = 0.0
    users = rng.standard_normal((n_users, k), dtype=np.float32)
    users[::2, : k // 2] = 0.0  # what the others like
    arrays = {"user_factors": users, "item_factors": items}
    model = ForgettableALS.restore({}, arrays, {"residual": 1.0}, sp.csr_matrix((n_users, n_items)))
    x = model.user_items
    exact = all_top_tens(model, x)
    model.shortlist = build_item_index(model)
    assert model.shortlist is not None
    shares = [np.isin(a, b).mean() for (a, _), (b, _) in zip(exact, all_top_tens(model, x), strict=True)]
    assert np.mean(shares[::2]) >= RECALL - 0.02
    assert np.mean(shares[1::2]) >= RECALL - 0.02


@given(lengths=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200))
def test_octaves_hold_every_item_once(lengths):
    """Every position is in one part, no part spans more than an octave, and the next begins beyond it."""
    lengths = np.array(lengths)
    parts = octaves(lengths)
    assert sorted(np.concatenate(parts)) == list(range(lengths.size))
    for part in parts:
        assert lengths[part].min() >= lengths[part].max() / 2
    for part, following in itertools.pairwise(parts):
        assert lengths[part].max() / 2 > lengths[following].max()


def test_long_lists_and_batches_are_exact(fitted, plays):
    """Where the index would not save anything, the answer is the exact one, bit for bit."""
    model = indexed(fitted)
    for ours, exact in zip(
        model.recommend(0, plays[0], N=1000), fitted.recommend(0, plays[0], N=1000), strict=True
    ):
        np.testing.assert_array_equal(ours, exact)
    users = np.arange(100)
    for ours, exact in zip(
        model.recommend(users, plays[users]), fitted.recommend(users, plays[users]), strict=True
    ):
        np.testing.assert_array_equal(ours, exact)


def test_a_few_users_at_once_get_what_each_gets_alone(fitted, plays):
    """A small batch goes through the index too, and is padded as ever."""
    model = indexed(fitted)
    ids, scores = model.recommend(np.arange(5), plays[:5], N=7)
    for user in range(5):
        alone = model.recommend(user, plays[user], N=7)
        np.testing.assert_array_equal(ids[user], alone[0])
        np.testing.assert_array_equal(scores[user], alone[1])


def test_an_index_of_other_factors_is_never_asked(fitted, plays):
    """Once a model forgets, the index of what it was before is not looked at."""
    model = SpectralMF(32).fit(plays)

    class Tripwire:
        item_factors = model.item_factors

        def near(self, query, n, seen):
            raise AssertionError("asked")

        def alike(self, item, n):
            raise AssertionError("asked")

    model.shortlist = Tripwire()
    with pytest.raises(AssertionError, match="asked"):
        model.recommend(1, plays[1])
    with pytest.raises(AssertionError, match="asked"):
        model.similar_items(1)
    model.forget_users([0])
    assert model.similar_items(1)[0].size == 10
    assert model.recommend(1, plays[1])[0].size == 10


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 1), (4, 3), (30, LEAST_ITEMS - 1)])
def test_a_small_catalogue_has_none(shape):
    """Of no users, of one item, of fewer items than are asked for: no index, and the usual answer."""
    rng = np.random.default_rng(0)
    x = sp.csr_matrix((rng.random(shape) < 0.5).astype(float))
    model = SpectralMF(2, regularization=0.01).fit(x)
    model.shortlist = build_item_index(model)
    assert model.shortlist is None
    for user in range(shape[0]):
        assert model.recommend(user, x[user], N=10)[0].size <= 10


def test_a_user_without_factors_gets_nothing(plays):
    """Somebody whose row is empty is ranked nothing, with an index as without."""
    model = SpectralMF(16).fit(sp.vstack([plays, sp.csr_matrix((1, plays.shape[1]))]).tocsr())
    model.shortlist = build_item_index(model)
    assert model.shortlist is not None
    assert model.recommend(plays.shape[0], None)[0].size == 0


class Shop:
    """A state directory whose versions hold one factorisation."""

    def __init__(self, root, model):
        self.paths = StatePaths(root)
        self.paths.versions.mkdir(parents=True)
        write_config(self.paths, Config({"spectral_mf": {}}))
        Ledger.create(self.paths, FenceKey.create(self.paths)).close()
        self.publish(1, model)

    def write(self, number, model):
        """Write a version; returns the digest of its manifest."""
        n_users, n_items = model.user_items.shape
        users, items = pl.Series(range(n_users)), pl.Series(range(n_items))
        models = {"spectral_mf": model}
        return write_version(self.paths, number, models, users, items, Store({}, 1), software="test")

    def publish(self, number, model):
        """Write a version and name it in CURRENT."""
        set_current(self.paths, number, self.write(number, model))

    def files(self):
        """Name every file."""
        return sorted(path for path in self.paths.root.rglob("*") if path.is_file())


@pytest.fixture
def shop(tmp_path, fitted):
    """Publish the fitted model as version 1."""
    return Shop(tmp_path / "state", fitted)


def test_it_is_of_the_version_that_shows_and_goes_with_it(shop, plays, monkeypatch, request):
    """A new version shows with an index of its own factors, byte for byte; the old one's is gone."""
    shown_while_built = []

    def watched(model):
        shown_while_built.append(reader.current().version)
        return build_item_index(model)

    gc.disable()  # a server's first version is frozen: what is in a cycle there stays for ever
    request.addfinalizer(gc.enable)
    with SnapshotReader(shop.paths.root, index="pq") as reader:
        monkeypatch.setattr(snapshot, "build_item_index", watched)
        first = weakref.ref(reader.current().indexes["spectral_mf"])
        before = first().codes()
        later = SpectralMF(32).fit(plays)
        later.forget_users([0, 1, 2])
        shop.publish(2, later)
        deadline = time.monotonic() + 60
        while (current := reader.current()).version < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert (current.version, shown_while_built) == (2, [1])
        index = current.indexes["spectral_mf"]
        assert index.item_factors is current._models["spectral_mf"].item_factors
        np.testing.assert_array_equal(index.item_factors, later.item_factors)
        assert index.codes() == build_item_index(later).codes() != before
        while first() is not None:  # until the thread that follows lets go of the old version, too
            assert time.monotonic() < deadline, "the old version's index is still in memory"
            time.sleep(0.001)


def test_nothing_of_it_is_written(shop):
    """Serving with an index leaves the state directory as it was."""
    before = shop.files()
    with SnapshotReader(shop.paths.root, index="pq") as reader:
        assert reader.current().indexes["spectral_mf"] is not None
        reader.current().recommend(7)
    assert [path for path in shop.files() if not path.name.startswith("ledger")] == [
        path for path in before if not path.name.startswith("ledger")
    ]


FORK = """
import os, sys
from pathlib import Path
from recunlearn import SnapshotReader
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import set_current

root, digest = Path(sys.argv[1]), sys.argv[2]
gate, go = os.pipe()
with SnapshotReader(root, index="pq") as reader:
    assert reader.current().recommend(7)[0].size == 10
    child = os.fork()
    if not child:
        os.read(gate, 1)  # version 2 is published by now
        current = reader.current()
        index = current.indexes["spectral_mf"]
        os._exit(0 if (current.version, current.recommend(7)[0].size, index is None) == (2, 10, False) else 3)
    set_current(StatePaths(root), 2, digest)
    os.write(go, b".")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_was_forked_off_builds_its_own(shop, plays):
    """What is published after a fork is served in the child through an index that was built there."""
    later = SpectralMF(32).fit(plays)
    later.forget_users([0, 1, 2])
    command = [sys.executable, "-c", FORK, str(shop.paths.root), shop.write(2, later)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_being_asked_for_there_is_none(shop):
    """A reader scores every item by default, and the library is not even loaded."""
    program = (
        "import sys; from recunlearn import SnapshotReader\n"
        "with SnapshotReader(sys.argv[1]) as reader:\n"
        "    assert reader.current().indexes == {} and reader.current().recommend(7)[0].size\n"
        "assert 'faiss' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(shop.paths.root)], check=True, timeout=120)


def test_a_missing_library_is_named_with_its_extra(shop, monkeypatch):
    """Without faiss a reader with an index does not start, and says what to install."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StateError, match=r"pip install 'recunlearn\[ann\]'"):
        SnapshotReader(shop.paths.root, index="pq")
    SnapshotReader(shop.paths.root).close()


def test_an_unknown_index_is_refused(shop):
    """A name that is none is refused with those there are."""
    with pytest.raises(StateError, match="exact, pq"):
        SnapshotReader(shop.paths.root, index="hnsw")


def test_over_http_its_recall_is_a_metric(shop, plays):
    """Lists of one, of somebody new, of many, and similar items come from it; /metrics says its recall."""
    status = {"version": 1, "requests": {}, "oldest_pending_seconds": None}

    async def ask(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            one = await http.get("/v1/users/3/recommendations")
            new = await http.post("/v1/recommendations", json={"item_ids": plays[3].indices.tolist()})
            some = await http.post("/v1/recommendations:batch", json={"user_ids": ["3", "nobody"]})
            alike = await http.get("/v1/items/7/similar")
            return one.json(), new.json(), some.json(), alike.json(), (await http.get("/metrics")).text

    with SnapshotReader(shop.paths.root, index="pq") as reader:
        index = reader.current().indexes["spectral_mf"]
        named = index.alike(7, 10)
        one, new, some, alike, metrics = asyncio.run(ask(create_app(reader, lambda: status)))
    assert len(one["items"]) == len(new["items"]) == 10
    assert some["users"][0]["items"] == one["items"]
    assert alike["items"][0]["item_id"] == 7
    assert {item["item_id"] for item in alike["items"]} <= set(named.tolist())
    seen = set(plays[3].indices.tolist())
    assert not seen & {item["item_id"] for item in one["items"] + new["items"]}
    (recall,) = re.findall(r'^recunlearn_index_recall{model="spectral_mf"} (.+)$', metrics, re.MULTILINE)
    assert RECALL <= float(recall) <= 1
