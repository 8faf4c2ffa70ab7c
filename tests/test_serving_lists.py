"""Lists for many at once, for somebody new, and with reasons: each of one version, nothing stored."""

import asyncio

import httpx
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from recunlearn.engine import durable
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.serving.app import create_app
from recunlearn.engine.snapshot import SnapshotReader
from recunlearn.engine.state import Config, StatePaths, write_config
from recunlearn.engine.version import Store, set_current, write_version
from recunlearn.models import EASE, CanonicalMF, ItemKNN, SpectralMF

STATUS = {"version": 1, "requests": {"pending": 0}, "oldest_pending_seconds": 0.0}
MODELS = {
    "spectral_mf": SpectralMF(factors=6),
    "canonical_mf": CanonicalMF(regularization=1.0, alpha=2.0, max_factors=8),
    "ease": EASE(regularization=2.0),
    "item_knn": ItemKNN(K=12),
}


def rows():
    """Make interactions of two tastes: 30 users, 14 items."""
    rng = np.random.default_rng(5)
    taste = np.arange(30)[:, None] % 2 == np.arange(14)[None, :] // 7
    return sp.csr_matrix((rng.random((30, 14)) < np.where(taste, 0.7, 0.08)).astype(float))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Publish a version of four models with integer users and string items."""
    paths = StatePaths(tmp_path_factory.mktemp("lists") / "state")
    for folder in (paths.root, paths.versions):
        durable.make_directory(folder)
    write_config(paths, Config(models={name: {} for name in MODELS}))
    Ledger.create(paths, FenceKey.create(paths)).close()
    models = {name: model.fit(rows()) for name, model in MODELS.items()}
    users, items = pl.Series(range(100, 130)), pl.Series([f"film {k:02}" for k in range(14)])
    digest = write_version(paths, 1, models, users, items, Store({}, 1), software="test")
    set_current(paths, 1, digest)
    return paths


@pytest.fixture(scope="module")
def ask(paths):
    """Return a function that asks the application: method, path, JSON -> response."""
    with asyncio.Runner() as runner, SnapshotReader(paths.root) as reader:
        transport = httpx.ASGITransport(create_app(reader, lambda: STATUS))
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        yield lambda method, path, **options: runner.run(client.request(method, path, **options))
        runner.run(client.aclose())


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_gives_what_single_questions_give(ask, name):
    """For known and unknown users, as numbers and as text: the lists of single answers, in order."""
    batch = ask(
        "POST", "/v1/recommendations:batch", json={"user_ids": [103, "110", 9, "x"], "n": 4, "model": name}
    )
    assert batch.status_code == 200
    said = batch.json()
    assert (said["version"], said["model"], said["unknown"]) == (1, name, [9, "x"])
    assert [user["user_id"] for user in said["users"]] == [103, "110"]
    for user in said["users"]:
        single = ask("GET", f"/v1/users/{user['user_id']}/recommendations?n=4&model={name}").json()
        assert [i["item_id"] for i in user["items"]] == [i["item_id"] for i in single["items"]]
        np.testing.assert_allclose(
            [i["score"] for i in user["items"]], [i["score"] for i in single["items"]], rtol=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_somebody_new_is_folded_into_every_model(ask, name):
    """Who likes items of one taste is shown another of it first, and none of the liked; others: nothing."""
    liked = ["film 00", "film 02", "film 04", "no such film"]
    said = ask("POST", "/v1/recommendations", json={"item_ids": liked, "n": 3, "model": name}).json()
    got = [item["item_id"] for item in said["items"]]
    assert len(got) == 3
    assert not set(got) & set(liked)
    assert int(got[0][-2:]) < 7


def test_who_likes_nothing_known_gets_an_empty_list(ask):
    """There is nothing to go by, and nobody is told what others like most."""
    said = ask("POST", "/v1/recommendations", json={"item_ids": ["nothing", 5]})
    assert (said.status_code, said.json()["items"]) == (200, [])


def test_folding_in_equals_the_users_own_list(ask):
    """Where a model scores rows, a known user's items folded in give that user's list."""
    own = rows()[3].indices
    for name in ("ease", "item_knn"):
        new = ask(
            "POST", "/v1/recommendations", json={"item_ids": [f"film {k:02}" for k in own], "model": name}
        ).json()
        assert new["items"] == ask("GET", f"/v1/users/103/recommendations?model={name}").json()["items"]


def test_nothing_of_a_session_is_stored(ask, paths):
    """After a session is folded in, no file of the state has changed."""
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*") if path.is_file()}
    ask("POST", "/v1/recommendations", json={"item_ids": ["film 01"]})
    assert {path: path.stat().st_mtime_ns for path in paths.root.rglob("*") if path.is_file()} == before


def test_similar_items_of_many(ask):
    """Each item's list is its single answer; items that are not there are named."""
    said = ask("POST", "/v1/items:similar", json={"item_ids": ["film 03", "none"], "n": 2}).json()
    assert said["unknown"] == ["none"]
    single = ask("GET", "/v1/items/film 03/similar?n=2").json()
    assert said["items"] == [{"item_id": "film 03", "items": single["items"]}]


@pytest.mark.parametrize("name", ["ease", "item_knn"])
def test_reasons_of_linear_models_add_up_to_the_score(ask, name):
    """All of a user's items asked one by one: what they say alone sums to what is recommended."""
    model, row = MODELS[name], rows()[4]
    said = ask("GET", f"/v1/users/104/reasons?n=2&model={name}").json()["items"]
    ids = np.array([int(item["item_id"][-2:]) for item in said])
    from recunlearn.engine.fold_in import support

    found = support(model, row, ids, 14)
    for item, (_, alone) in zip(said, found, strict=True):
        assert [b["score"] for b in item["because"]] == pytest.approx(alone[:3].tolist())
        assert alone.sum() >= item["score"] - 1e-9  # only what speaks for it is told


@pytest.mark.parametrize("name", MODELS)
def test_reasons_are_items_that_the_user_has(ask, name):
    """Each reason is an item of the user's own, and speaks for the recommended one."""
    own = {f"film {k:02}" for k in rows()[5].indices}
    for item in ask("GET", f"/v1/users/105/reasons?model={name}").json()["items"]:
        assert {because["item_id"] for because in item["because"]} <= own
        assert all(because["score"] > 0 for because in item["because"])


def test_a_fenced_user_is_unknown_in_batches_and_reasons(ask, paths):
    """From the ledger's record on, nobody can tell them from somebody who never was."""
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.record([Received(AccountDeletion("r-1", 129))])
    said = ask("POST", "/v1/recommendations:batch", json={"user_ids": [129, 100]}).json()
    assert (said["unknown"], [user["user_id"] for user in said["users"]]) == ([129], [100])
    gone, never = ask("GET", "/v1/users/129/reasons"), ask("GET", "/v1/users/9/reasons")
    assert (gone.status_code, gone.content) == (never.status_code, never.content) == (404, gone.content)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b'{"user_ids": []}', b'{"user_ids": [1.5]}', b'{"user_ids": [true]}',
        b'{"user_ids": [[1]]}', b'{"user_ids": [null]}', b'{"user_ids": 7}', b'{"user_ids": [7], "n": 0}',
        b'{"user_ids": [7], "n": 1e999}', b'{"user_ids": [7], "n": "5"}', b'{"user_ids": [7], "x": 1}',
        b'{"user_ids": [7], "model": "nope"}', b'{"user_ids": [7], "n": 1001}', b"\xff\xfe",
        b"[" * 100_000, b'{"user_ids": [' + b"9" * 5000 + b"]}",
        b'{"user_ids": [' + b"7," * 1000 + b"7]}",
    ],
)  # fmt: skip
def test_bodies_that_are_not_as_they_must_be_are_refused(ask, body):
    """Whatever is wrong: 422 or 400, and nothing of what was sent is repeated."""
    answer = ask(
        "POST", "/v1/recommendations:batch", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert b"99999" not in answer.content
    assert len(answer.content) < 2000


def test_an_answer_has_a_largest_size(ask):
    """A thousand lists of a thousand items are refused before anything is ranked."""
    for path, key in (("/v1/recommendations:batch", "user_ids"), ("/v1/items:similar", "item_ids")):
        answer = ask("POST", path, json={key: list(range(1000)), "n": 1000})
        assert answer.status_code == 422
        assert "100000" in answer.json()["detail"]
