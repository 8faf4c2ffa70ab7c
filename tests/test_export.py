"""Stores that a version is pushed to, real ones: equal to the version, swapped whole, nobody erased left."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from recunlearn import cli
from recunlearn.engine.delivery import Delivery
from recunlearn.engine.engine import Engine
from recunlearn.engine.exporters.protocol import StoreError, StoreSettings
from recunlearn.engine.exporters.registry import KINDS, open_store, store_settings
from recunlearn.engine.exporters.vectors import Block, VersionVectors, digest_of, read_vectors
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError, StatePaths
from recunlearn.engine.version import VersionError, read_current, read_manifest

from .popularity import ask, interactions
from .real import need
from .stores import redis_server
from .topics import wait_until

ROWS = [(f"person-{user:02d}", f"thing-{(user * 7 + k * k) % 23}") for user in range(30) for k in range(2, 9)]
ROWS = sorted({*ROWS, *((f"erased-unique-{k}", f"thing-{k + j}") for k in range(4) for j in range(5))})
MODELS = {"spectral_mf": {"factors": 4}, "item_knn": {"K": 5}}
HOWTO = Path(__file__).parent.parent / "docs" / "howto" / "export.md"
SCRIPT = Path(__file__).parent / "kill_stores.py"
pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture
def redis_at(tmp_path):
    """Run a Redis that writes both of its files."""
    need(redis_server.why_missing())
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server.RedisServer(folder, persistent=True, password="not told") as server:  # noqa: S106  a test's
        yield server


@pytest.fixture(params=sorted(KINDS))
def store(request, tmp_path):
    """Connect to a store of each kind."""
    if request.param == "redis":
        settings = StoreSettings("web", "redis", request.getfixturevalue("redis_at").url, "not told")
    else:
        url = request.getfixturevalue("postgres").url
        settings = StoreSettings("db", request.param, url, None, {"schema": f"t{abs(hash(tmp_path))}"})
    with_store = open_store(settings)
    yield with_store
    with_store.close()


def vectors_of(number, people=1200, width=3):
    """Make a version whose every vector says which version it is."""
    ids = [f"u{k}" for k in range(people)]
    users = Block("mf", "users", ids, np.full((people, width), number, dtype=np.float32))
    items = Block("mf", "items", ["i1", "i2"], np.full((2, width), number, dtype=np.float32))
    return VersionVectors(number, f"{number:064x}", (users, items))


def configure(state, *tables):
    """Add ``[[export]]`` tables to a state, and say where the passwords are."""
    with StatePaths(state).config.open("a") as file:
        for table in tables:
            file.write("\n[[export]]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in table.items()))


@pytest.fixture
def state(tmp_path, redis_at, monkeypatch):
    """Fit a state whose one store is the Redis."""
    fit(tmp_path / "state", interactions(ROWS), MODELS)
    monkeypatch.setenv("RECUNLEARN_EXPORT_WEB_PASSWORD", "not told")
    configure(tmp_path / "state", {"name": "web", "kind": "redis", "url": redis_at.url})
    return tmp_path / "state"


def receipts_of(state):
    """Return what each receipt states."""
    paths = StatePaths(state)
    return [open_receipt(line, state_public_key(paths))["predicate"] for line in read_lines(paths)]


def in_files(root, text):
    """Return the files under a folder that hold a text."""
    return [path for path in sorted(root.rglob("*")) if path.is_file() and text.encode() in path.read_bytes()]


def published(state):
    """Return the vectors of the published version."""
    paths = StatePaths(state)
    number, digest = read_current(paths)
    return read_vectors(paths, read_manifest(paths, number, digest), digest)


def retry(engine):
    """Let the time of waiting be over, and look again."""
    engine.delivery._not_before = 0.0
    return engine.pending()


def test_a_store_gives_back_what_was_pushed_and_nothing_else(store):
    """First, next, and the same version again: one version at a time, equal to the bit, no other left."""
    assert store.held() is None
    assert list(store.read()) == list(store.others()) == []
    for number in (1, 2, 2):
        vectors = vectors_of(number)
        store.push(vectors)
        assert store.held() == vectors.manifest_sha256
        store.purge()
        assert list(store.others()) == []
        assert digest_of(store.read()) == digest_of(vectors.blocks)


def test_the_snippets_of_the_docs_read_what_was_pushed(postgres, redis_at):
    """The howto's own lines, in Python for Redis and in SQL, find a user's vector and the best items."""
    blocks = dict(re.findall(r"^```(py|sql)\n(.*?)^```$", HOWTO.read_text(), re.MULTILINE | re.DOTALL))
    users = Block("spectral_mf", "users", ["42"], np.array([[1, 0]], dtype=np.float32))
    items = Block("spectral_mf", "items", ["7", "8"], np.array([[1, 0], [3, 1]], dtype=np.float32))
    version = VersionVectors(1, "c" * 64, (users, items))
    for kind, url, password in (("redis", redis_at.url, "not told"), ("pgvector", postgres.url, None)):
        with contextlib.closing(open_store(StoreSettings("docs", kind, url, password))) as stored:
            stored.push(version)
    names = {"client": redis_at.client()}
    exec(blocks["py"].replace("client = redis.Redis()\n", ""), names)  # noqa: S102  the docs' own
    assert names["read"]("spectral_mf", "users", "42").tolist() == [1, 0]
    assert names["read"]("spectral_mf", "users", "43") is None
    names["client"].close()
    with postgres.connect() as connection:
        assert connection.execute(blocks["sql"]).fetchall() == [("8", 3.0), ("7", 1.0)]


def test_odd_ids_and_numbers_come_back_as_they_were(store):
    """Any text is an id, and the extremes of float32 are vectors."""
    ids = ["", "a:b", "*", "[x]?", "é\u2028\U0001f600", "\\N", "\t\n", "x" * 300]
    extremes = [0.0, -0.0, 1e-45, np.finfo(np.float32).max, -1.5, 1 / 3, 2**-126, 7]
    block = Block("mf", "users", ids, np.array(extremes, dtype=np.float32).reshape(8, 1))
    store.push(VersionVectors(1, "a" * 64, (block,)))
    assert digest_of(store.read()) == digest_of([block])


def test_a_store_that_was_tampered_with_is_found_out_and_put_right(store, tmp_path):
    """A vector too many is not what was pushed; pushing again leaves the version alone."""
    vectors = vectors_of(1)
    more = Block("mf", "users", [*vectors.blocks[0].ids, "stranger"], np.ones((1201, 3), dtype=np.float32))
    store.push(VersionVectors(1, vectors.manifest_sha256, (more, vectors.blocks[1])))
    assert store.held() == vectors.manifest_sha256
    assert digest_of(store.read()) != digest_of(vectors.blocks)
    store.push(vectors)
    assert digest_of(store.read()) == digest_of(vectors.blocks)


def _redis_pair(server):
    with server.client() as client:
        while True:
            label = client.get("recunlearn:current").decode()
            user = client.hget(f"recunlearn:{label}:mf:users", "u7")
            item = client.hget(f"recunlearn:{label}:mf:items", "i1")
            if user is not None and item is not None:
                return int(np.frombuffer(user, "<f4")[0]), int(np.frombuffer(item, "<f4")[0])
            assert client.get("recunlearn:current").decode() != label  # it went while it was read: look again


def _postgres_pair(server, schema):
    with server.connect() as connection:
        return connection.execute(
            f"SELECT (u.embedding <#> '[-1,0,0]')::int, (i.embedding <#> '[-1,0,0]')::int, "  # noqa: S608
            f"(SELECT count(*) FROM {schema}.vectors) FROM {schema}.vectors u, {schema}.vectors i "
            "WHERE u.id = 'u7' AND u.side = 'users' AND i.id = 'i1' AND i.side = 'items'"
        ).fetchone()


def test_a_reader_never_sees_half_a_version(store, request):
    """While versions are pushed and purged, each reading is of one version, whole."""
    stop, seen, errors = threading.Event(), [], []
    if hasattr(store, "_schema"):
        server, schema = request.getfixturevalue("postgres"), store._schema
        look = partial(_postgres_pair, server, schema)
    else:
        server = request.getfixturevalue("redis_at")
        look = partial(_redis_pair, server)

    def read():
        try:
            while not stop.is_set():
                seen.append(look())
        except BaseException as error:  # noqa: BLE001  told below
            errors.append(error)

    store.push(vectors_of(1))
    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: seen or errors)
    for number in range(2, 12):
        store.push(vectors_of(number))
        store.purge()
    wait_until(lambda: seen[-1][0] == 11 or errors)
    stop.set()
    reader.join()
    assert errors == []
    assert all(user == item for user, item, *_ in seen)
    assert all(rest == [1202] for _, _, *rest in seen if rest)
    assert seen[0][0] == 1


def assert_stores_hold(state, vectors):
    """Read every store of a state back: it has these vectors, and nothing of another version."""
    for one in store_settings(StatePaths(state)):
        with contextlib.closing(open_store(one)) as stored:
            assert digest_of(stored.read()) == digest_of(vectors.blocks)
            assert stored.others() == []


def assert_written(user, redis, postgres):
    """Find a user's id in the files of both servers: in Redis's dump, and in its append-only file."""
    written = {path.name for path in in_files(redis.directory, user)}
    assert "dump.rdb" in written
    assert len(written) > 1  # the append-only file
    with postgres.connect() as connection:
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")
    assert in_files(postgres.directory / "base", user)


def assert_redis_serves(server, snap, gone):
    """Ask by key: the vectors of who stayed, none of who is gone, in no file either."""
    with server.client() as client:
        label = client.get("shop:current").decode()
        assert client.hget(f"shop:{label}:spectral_mf:users", gone) is None
        stored = np.frombuffer(client.hget(f"shop:{label}:spectral_mf:users", "person-03"), "<f4")
        assert np.array_equal(stored, snap.user_vector("person-03").astype("<f4"))
    assert in_files(server.directory, gone) == []


def assert_postgres_serves(server, snap, gone):
    """Ask by query: the users who stayed and the best item of one; of who is gone only the log's pages."""
    with server.connect() as connection:
        rows = connection.execute("SELECT id FROM shop.vectors WHERE side = 'users'").fetchall()
        assert {user for (user,) in rows} == {str(user) for user in snap.user_ids()}
        best = connection.execute(
            "SELECT i.id FROM shop.vectors u, shop.vectors i WHERE u.id = 'person-03' AND u.side = 'users' "
            "AND i.side = 'items' ORDER BY u.embedding <#> i.embedding LIMIT 1"
        ).fetchone()
        scores = {item: snap.user_vector("person-03") @ snap.item_vector(item) for item in snap._items.series}
        assert best == (max(scores, key=scores.get),)
    left = in_files(server.directory, gone)
    assert {path.parent.name for path in left} <= {"pg_wal"}  # as the receipt says


def assert_receipts_name_both(state, after):
    """Each receipt says of both stores what they were found to hold, and when."""
    receipts = receipts_of(state)
    assert len(receipts) == 2
    for receipt in receipts:
        assert [(one["name"], one["kind"], one["version"]) for one in receipt["stores"]] == [
            ("web", "redis", 2), ("db", "pgvector", 2),
        ]  # fmt: skip
        assert all(one["vectors_sha256"] == digest_of(after.blocks) for one in receipt["stores"])
        assert all((one["users"], one["items"]) == (33, after.count("items")) for one in receipt["stores"])
        assert receipt["stores"][0]["files"] == {"aof": "rewritten", "rdb": "rewritten"}
        assert receipt["received"] < receipt["stores"][1]["confirmed"] < receipt["erased"]


def test_a_user_who_is_forgotten_is_gone_from_both_stores_and_the_receipt_says_so(
    tmp_path, redis_at, postgres, monkeypatch
):
    """Fit, publish, both equal; forget: gone by key, by query, from the files; the receipt names both."""
    state = tmp_path / "state"
    fit(state, interactions(ROWS), MODELS)
    monkeypatch.setenv("RECUNLEARN_EXPORT_WEB_PASSWORD", "not told")
    configure(
        state,
        {"name": "web", "kind": "redis", "url": redis_at.url, "prefix": "shop"},
        {"name": "db", "kind": "pgvector", "url": postgres.url, "schema": "shop"},
    )
    with Engine.open(state) as engine:
        before = published(state)
        assert before.count("users") == 34
        assert_stores_hold(state, before)
        assert_written("erased-unique-2", redis_at, postgres)
        report = ask(engine, AccountDeletion("e-1", "erased-unique-2"), InteractionRemoval("e-2", *ROWS[-1]))
        assert report.erased == 2
        after = published(state)
        assert digest_of(after.blocks) != digest_of(before.blocks)
        assert_stores_hold(state, after)
    snap = load_snapshot(state)
    assert_redis_serves(redis_at, snap, "erased-unique-2")
    assert_postgres_serves(postgres, snap, "erased-unique-2")
    assert_receipts_name_both(state, after)
    shown = tmp_path / "receipt.json"
    invoke("receipts", "show", "0", "--state", state, "--output", shown)
    printed = invoke("receipts", "verify", shown, "--state", state).output
    assert '"name": "web"' in printed
    assert '"kind": "pgvector"' in printed
    assert "For each store that it names" in printed


@pytest.mark.parametrize(("unlogged", "left"), [(False, {"pg_wal"}), (True, set())])
def test_what_a_table_leaves_is_in_the_write_ahead_log_alone_or_nowhere(postgres, unlogged, left):
    """As the docs and the receipt say: the log keeps ids until it is recycled, unless it never got them."""
    options = {"schema": f"logged_{unlogged}".lower(), "unlogged": unlogged}
    with_store = open_store(StoreSettings("db", "pgvector", postgres.url, None, options))
    gone = Block("mf", "users", [f"gone-with-the-next-{unlogged}"], np.ones((1, 3), dtype=np.float32))
    with_store.push(VersionVectors(2, "b" * 64, (gone,)))
    with_store.push(vectors_of(3))
    assert with_store.purge()["write-ahead log"].startswith("none" if unlogged else "kept")
    with_store.close()
    found = in_files(postgres.directory, f"gone-with-the-next-{unlogged}")
    assert {path.parent.name for path in found} == left


def invoke(*arguments, rc=0):
    """Run a command in this process."""
    result = typer.testing.CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == rc, (result.output, result.exception)
    return result


def test_a_store_that_is_down_keeps_requests_from_being_erased_and_nothing_else(state, redis_at):
    """Fenced, published, purged here, the next cycles too; erased, with receipts, when it is back."""
    with Engine.open(state) as engine, contextlib.closing(Fence(state)) as fence:
        redis_at.kill()
        assert ask(engine, AccountDeletion("e-1", "erased-unique-1")).erased == 0
        assert fence.is_fenced("erased-unique-1")
        assert "web" in engine.delivery.errors["web"]
        assert (
            ask(engine, AccountDeletion("e-2", "erased-unique-2"), AccountDeletion("e-3", "who")).erased == 0
        )
        assert load_snapshot(state).version == 3
        assert not load_snapshot(state).has_user("erased-unique-2")
        assert engine.ledger.counts()["erasing"] == 3
        assert receipts_of(state) == []
        assert retry(engine) == []
        waits = engine.delivery._wait
        assert retry(engine) == []
        assert engine.delivery._wait == 2 * waits
        redis_at.start()
        assert retry(engine) == []
        assert engine.delivery.errors == {}
        assert engine.ledger.counts()["erased"] == 3
    receipts = receipts_of(state)
    assert [(receipt["version"], receipt["stores"][0]["version"]) for receipt in receipts] == [
        (2, 3), (3, 3), (3, 3),
    ]  # fmt: skip


def test_a_worker_ends_loudly_while_a_store_is_down_and_the_next_finishes(state, redis_at):
    """`run --once`: exit code 1 and the store's name; the next erases, and puts right what was altered."""
    invoke("forget", "--state", state, "--user", "erased-unique-1")
    redis_at.kill()
    said = invoke("run", "--state", state, "--once", rc=1).output
    assert "store web" in said
    assert "not told" not in said
    assert json.loads(invoke("status", "--state", state, "--json").stdout)["waiting_for_stores"] == 1
    assert "not confirmed by every store" in invoke("status", "--state", state).output
    assert "store web" in invoke("verify", "--state", state, "--stores", rc=1).output
    fit(state, None)
    assert json.loads(invoke("status", "--state", state, "--json").stdout)["requests"]["fenced"] == 1
    redis_at.start()
    invoke("run", "--state", state, "--once")
    assert json.loads(invoke("status", "--state", state, "--json").stdout)["requests"]["erased"] == 1
    assert receipts_of(state)[0]["stores"][0]["version"] == load_snapshot(state).version == 3
    checked = json.loads(invoke("verify", "--state", state, "--stores", "--json").stdout)
    assert (checked["ok"], checked["stores"]) == (True, {"web": True})
    with redis_at.client() as client:
        for odd in (b"back", b"16 bytes of them"):
            client.hset(client.keys("*:users")[0], "erased-unique-1", odd)
            assert "store web" in invoke("verify", "--state", state, "--stores", rc=1).output
            invoke("run", "--state", state, "--once")
            assert "all is well" in invoke("verify", "--state", state, "--stores").output


def test_a_store_that_was_set_back_is_at_the_published_version_after_the_next_start(state, redis_at):
    """Somebody restores yesterday's copy of the store: the erased are gone again when the worker starts."""
    with Engine.open(state) as engine:
        with redis_at.client() as client:
            copy = {key: client.dump(key) for key in client.keys("recunlearn:*")}
        ask(engine, AccountDeletion("e-1", "erased-unique-1"))
    with redis_at.client() as client:
        client.flushall()
        for key, content in copy.items():
            client.restore(key, 0, content)
        client.hset("recunlearn:staged:spectral_mf:users", "erased-unique-1", b"of a push that was cut off")
    Engine.open(state).close()
    with redis_at.client() as client:
        assert not [key for key in client.keys("*") if b"000001" in key or b"staged" in key]
        assert client.get("recunlearn:current").startswith(b"000002")
    assert in_files(redis_at.directory, "erased-unique-1") == []


def test_a_damaged_version_is_not_pushed(state, redis_at):
    """One bit of the vectors is another than was published: the file is named, and the store gets nothing."""
    path = state / "versions" / "000001" / "spectral_mf" / "user_factors.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(VersionError, match=r"user_factors\.arrow"):
        Engine.open(state)
    with redis_at.client() as client:
        assert client.keys("*") == []


def test_vectors_that_a_crash_of_postgres_emptied_are_pushed_again(tmp_path, postgres):
    """Unlogged tables are empty after a crash: the next look finds that out."""
    state = tmp_path / "state"
    fit(state, interactions(ROWS), MODELS)
    configure(
        state,
        {"name": "db", "kind": "pgvector", "url": postgres.url, "schema": "crash", "unlogged": True},
    )
    paths = StatePaths(state)
    with Delivery.of(paths) as delivery:
        assert delivery.confirm()[0].users == 34
    postgres.kill(signal.SIGQUIT)
    postgres.start()
    with postgres.connect() as connection:
        assert connection.execute("SELECT count(*) FROM crash.vectors").fetchone() == (0,)
    with Delivery.of(paths) as delivery:
        assert delivery.confirm()[0].users == 34
    with postgres.connect() as connection:
        assert connection.execute("SELECT count(*) FROM crash.vectors WHERE side = 'users'").fetchone() == (
            34,
        )


def test_a_transaction_that_reads_an_old_version_delays_its_erasure_and_is_told(postgres):
    """No version is taken from under a reader: an error that says what to do, and none once it ends."""
    settings = StoreSettings("db", "pgvector", postgres.url, None, {"schema": "held", "lock_timeout": 0.1})
    with_store = open_store(settings)
    with_store.push(vectors_of(1))
    with postgres.connect() as connection, connection.transaction():
        connection.execute("SELECT count(*) FROM held.vectors")
        with pytest.raises(StoreError, match="reads an old version"):
            with_store.push(vectors_of(2))
        assert with_store.held() == vectors_of(1).manifest_sha256
    with_store.push(vectors_of(2))
    with_store.purge()
    assert with_store.others() == []
    with_store.close()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "web", "kind": "redis"}, "has no url"),
        ({"name": "Web!", "kind": "redis", "url": "redis://h"}, "Web!"),
        ({"name": "web", "kind": "etcd", "url": "etcd://h"}, "etcd.*pgvector, redis|redis, pgvector"),
        ({"name": "web", "kind": "redis", "url": "redis://u:hunter2@h"}, "RECUNLEARN_EXPORT_WEB_PASSWORD"),
        (
            {"name": "db", "kind": "pgvector", "url": "host=h password=hunter2"},
            "RECUNLEARN_EXPORT_DB_PASSWORD",
        ),
        ({"name": "web", "kind": "redis", "url": "redis://h", "password": "hunter2"}, "password_file"),
        ({"name": "web", "kind": "redis", "url": "redis://h", "password_file": "none"}, "none"),
        ({"name": "web", "kind": "redis", "url": "http://h"}, "web"),
        ({"name": "web", "kind": "redis", "url": "redis://h", "prefix": "a*"}, r"a\*"),
        ({"name": "web", "kind": "redis", "url": "redis://h", "colour": 1}, "colour"),
        ({"name": "web", "kind": "redis", "url": "redis://h", "timeout": "soon"}, "soon"),
        ({"name": "db", "kind": "pgvector", "url": "postgresql://h", "schema": "A b"}, "A b"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused_before_anything_is_done(tmp_path, table, said):
    """The message names the store and what is wrong, and shows no password."""
    state = tmp_path / "state"
    fit(state, interactions(ROWS[:20]), {"item_knn": {"K": 5}})
    configure(state, table)
    with pytest.raises(StateError, match=said) as told:
        Engine.open(state)
    assert "hunter2" not in str(told.value)
    Path(state / "config.toml").write_text((state / "config.toml").read_text().partition("[[export]]")[0])
    Engine.open(state).close()  # the lock was given back


def test_a_password_comes_from_a_file_that_is_private_or_from_the_environment(tmp_path, monkeypatch):
    """The file has the last word; one that anybody can read is refused; neither is shown."""
    state = tmp_path / "state"
    fit(state, interactions(ROWS[:20]), {"item_knn": {"K": 5}})
    configure(state, {"name": "my-web", "kind": "redis", "url": "redis://h", "password_file": "secret"})
    (state / "secret").write_text("hunter2\n")
    (state / "secret").chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        store_settings(StatePaths(state))
    (state / "secret").chmod(0o600)
    monkeypatch.setenv("RECUNLEARN_EXPORT_MY_WEB_PASSWORD", "hunter3")
    (one,) = store_settings(StatePaths(state))
    assert one.password == "hunter2"  # noqa: S105
    assert "hunter2" not in repr(one)
    text = (state / "config.toml").read_text()
    (state / "config.toml").write_text(text.replace('password_file = "secret"', ""))
    assert store_settings(StatePaths(state))[0].password == "hunter3"  # noqa: S105


def test_stores_are_not_an_option_of_one_run(tmp_path):
    """A run that forgot a store would erase nobody there: `--config` may not name any."""
    state = tmp_path / "state"
    fit(state, interactions(ROWS[:20]), {"item_knn": {"K": 5}})
    (tmp_path / "other.toml").write_text('[[export]]\nname = "web"\n')
    said = invoke("--config", tmp_path / "other.toml", "run", "--state", state, "--once", rc=2).output
    assert "export" in said


def test_killed_at_every_step_around_a_store_the_restart_ends_as_if_nothing_had_been(redis_at, tmp_path):
    """Between staging, swapping, purging, confirming, marking: one version in the store, one receipt each."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), redis_at.url],
        capture_output=True, text=True, timeout=300, check=False,
        env={
            **os.environ, "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "RECUNLEARN_EXPORT_WEB_PASSWORD": "not told",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected, *outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert expected["problems"] == expected["remains"] == expected["stray"] == []
    assert expected["store"]["users"] == expected["users"]
    assert expected["stores"] == [[["web", 2]]] * len(expected["requests"])
    assert len(outcomes) >= 8
    for outcome in outcomes:
        assert outcome["found"] == expected, outcome["step"]
