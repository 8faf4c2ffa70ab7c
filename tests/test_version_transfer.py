"""A version on its way to another host: whole and as announced, or refused while the old one is served."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from fastapi import FastAPI
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.serving.versions import offer_versions
from recunlearn.engine.snapshot import SnapshotReader, load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import VersionError, read_current, set_current
from recunlearn.engine.version_transfer import offered_file, pull
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker

from .cut_off import is_cut_off
from .popularity import files_with, interactions
from .test_cli import invoke

ROWS = [(f"customer-{user}", item) for user in range(1, 9) for item in range(user % 3, 5)]


@pytest.fixture
def leader(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "leader", interactions(ROWS), {"popularity": {}})
    return tmp_path / "leader"


def erase(state, user):
    """Publish a version without a user."""
    append(
        state / "journal",
        [json.dumps({"id": f"e-{user}", "type": "account.deleted", "user_id": user}).encode()],
    )
    with Engine.open(state) as engine:
        Worker(engine, lambda: Journal(state / "journal"), once=True).run()


def current(state):
    """Return what is announced of a state."""
    return read_current(StatePaths(state))


class Offering(BaseHTTPRequestHandler):
    """Offers the published version of a state, as the server of a leader does; may do harm on the way."""

    def do_GET(self):
        """Answer one request."""
        _, _, _, number, name = self.path.split("/", 4)
        if self.headers.get("Authorization") not in self.server.tokens:
            return self.send_error(401)
        try:
            content = offered_file(StatePaths(self.server.state), int(number), name).read_bytes()
        except VersionError:
            return self.send_error(404)
        content, promised = self.server.harm(name, content)
        self.send_response(200)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(content)
        return None

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serving(state, harm=lambda name, content: (content, len(content)), tokens=(None,)):
    """Serve a state's version over HTTP; yields the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Offering)
    server.state, server.harm, server.tokens = state, harm, tokens
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_replica_serves_what_it_pulled_and_follows(leader, tmp_path):
    """The same recommendations from the same bytes; after an erasure nothing of the user is left there."""
    replica = tmp_path / "replica"
    with serving(leader) as url:
        first = pull(url, replica, *current(leader))
        assert (first.version, first.files > 5) == (1, True)
        assert pull(url, replica, *current(leader)).files == 0
        with SnapshotReader(replica, poll_seconds=0.01) as reader:
            assert (
                reader.current().recommend("customer-1", 3)[0]
                == load_snapshot(leader).recommend("customer-1", 3)[0]
            )
            erase(leader, "customer-1")
            assert pull(url, replica, *current(leader)).version == 2
            for _ in range(1000):
                if reader.current().version == 2:
                    break
                threading.Event().wait(0.01)
            assert reader.current().version == 2
            assert not reader.current().has_user("customer-1")
    assert files_with(replica, "customer-1") == []
    assert current(replica) == current(leader)


def test_an_older_version_never_comes_back(leader, tmp_path):
    """Neither by a late announcement, nor after CURRENT was set back by hand."""
    old, replica = current(leader), tmp_path / "replica"
    with serving(leader) as url:
        pull(url, replica, *old)
        erase(leader, "customer-1")
        pull(url, replica, *current(leader))
        with pytest.raises(VersionError, match=r"version 1 is refused: .* has published version 2"):
            pull(url, replica, *old)
        set_current(StatePaths(replica), *old)
        with pytest.raises(VersionError, match="version 1"):
            pull(url, replica, 1, "0" * 64)
        with pytest.raises(VersionError):
            load_snapshot(replica, _fence(replica))


def _fence(state):
    from recunlearn.engine.fence import Fence

    return Fence(state)


def cut(name, content):
    """Close the connection in the middle of a file."""
    return (
        (content[: len(content) // 2], len(content))
        if name.endswith("data.arrow")
        else (content, len(content))
    )


def shortened(name, content):
    """Lose the end of a file, and say so nowhere."""
    return (content[:-1], len(content) - 1) if name == "users.arrow" else (content, len(content))


def lengthened(name, content):
    """Add to a file."""
    return (content + b"x", len(content) + 1) if name == "users.arrow" else (content, len(content))


def flipped(name, content):
    """Flip one bit of a file."""
    changed = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    return (changed, len(changed)) if name == "popularity/item_counts.arrow" else (content, len(content))


def other_manifest(name, content):
    """Give another manifest, sound in itself."""
    changed = content.replace(b'"users": 7', b'"users": 9')
    return (changed, len(changed)) if name == "manifest.json" else (content, len(content))


@pytest.mark.parametrize("harm", [cut, shortened, lengthened, flipped, other_manifest])
def test_a_version_that_is_not_what_was_announced_is_refused(leader, tmp_path, harm):
    """One bit, one byte too few or too many: the version before goes on being served until it is right."""
    replica = tmp_path / "replica"
    pull(str(leader), replica, *current(leader))
    before = current(replica)
    erase(leader, "customer-1")
    with serving(leader, harm) as url, pytest.raises((VersionError, OSError)):
        pull(url, replica, *current(leader))
    assert current(replica) == before
    assert load_snapshot(replica).version == 1
    with serving(leader) as url:
        assert pull(url, replica, *current(leader)).version == 2


def test_a_pull_that_is_cut_off_goes_on_where_it_was(leader, tmp_path, monkeypatch):
    """Killed at each step in turn: the next pull ends as if nothing had been."""
    erase(leader, "customer-1")
    steps = 1
    while is_cut_off(
        partial(pull, str(leader), replica := tmp_path / f"replica-{steps}", *current(leader)),
        steps,
        monkeypatch,
    ):
        steps += 1
        pull(str(leader), replica, *current(leader))
        assert current(replica) == current(leader)
        assert load_snapshot(replica, _fence(replica)).version == 2
    assert steps > 30


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", "a/../../escaped", "", "./users.arrow"])
def test_a_manifest_that_names_files_elsewhere_is_refused(leader, tmp_path, name):
    """Even if its digest is the announced one: nothing is written outside the version's directory."""
    paths = StatePaths(leader)
    manifest = json.loads((paths.version(1) / "manifest.json").read_bytes())
    manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    content = json.dumps(manifest).encode()
    (paths.version(1) / "manifest.json").write_bytes(content)
    with pytest.raises(VersionError, match="none of a version"):
        pull(str(leader), tmp_path / "replica", 1, hashlib.sha256(content).hexdigest())
    assert not (tmp_path / "replica" / "CURRENT").exists()


def test_only_files_of_the_published_version_are_offered(leader):
    """Not the keys, not the ledger, not another version, however the path is written."""
    paths = StatePaths(leader)
    assert offered_file(paths, 1, "users.arrow").exists()
    for number, name in [(1, "../../keys/fence.key"), (1, "users.arrow/"), (2, "users.arrow"), (1, "")]:
        with pytest.raises(VersionError, match="no file"):
            offered_file(paths, number, name)


def test_the_server_offers_the_published_version_only_when_asked_to(leader):
    """Byte for byte the files that the manifest names; anything else is not there."""
    app = FastAPI()
    offer_versions(app, StatePaths(leader))
    number, digest = current(leader)

    async def get(path):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://leader") as client:
            return await client.get(f"/v1/versions/{path}")

    manifest = asyncio.run(get(f"{number}/manifest.json"))
    assert hashlib.sha256(manifest.content).hexdigest() == digest
    for name, record in manifest.json()["files"].items():
        content = asyncio.run(get(f"{number}/{name}")).content
        assert hashlib.sha256(content).hexdigest() == record["sha256"]
    for path in ("1/..%2f..%2fkeys%2ffence.key", "2/users.arrow", "1/", "1/CURRENT"):
        assert asyncio.run(get(path)).status_code == 404
    assert asyncio.run(get("x/users.arrow")).status_code == 422


def test_what_the_server_answers_is_said_in_one_line(leader, tmp_path):
    """A token that is missing, a version that is gone, nobody there, another kind of URL."""
    with serving(leader, tokens=("Bearer secret",)) as url:
        with pytest.raises(OSError, match="answers 401: it wants a token"):
            pull(url, tmp_path / "r", *current(leader))
        assert pull(url, tmp_path / "r", *current(leader), "secret").version == 1
        with pytest.raises(OSError, match="answers 404"):
            pull(url, tmp_path / "r", 7, "0" * 64, "secret")
    with pytest.raises(OSError, match="cannot be fetched"):
        pull(url, tmp_path / "r", 7, "0" * 64)
    with pytest.raises(VersionError, match="neither an http nor an https URL"):
        pull("file:///etc", tmp_path / "r", 7, "0" * 64)


def test_the_command_pulls_from_a_directory_and_from_a_server(leader, tmp_path):
    """A directory says itself what is published; of a server the announcement has to be given."""
    told = invoke("pull", "--from", leader, "--to", tmp_path / "r", "--json")
    assert json.loads(told.stdout)["version"] == 1
    number, digest = current(leader)
    with serving(leader) as url:
        invoke("pull", "--from", url, "--to", tmp_path / "r", rc=2)
        invoke("pull", "--from", url, "--to", tmp_path / "r", "--version", number, rc=2)
        done = invoke("pull", "--from", url, "--to", tmp_path / "r2", "--version", number, "--digest", digest)
    assert "has version 1" in done.stdout


def test_a_replica_pulls_from_a_leaders_server_with_its_token(leader, tmp_path):
    """The real server, the real command; without a token nobody is offered anything."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef-token\n")
    invoke("serve", "--state", leader, "--offer-versions", rc=2)
    state = tmp_path / "plain"
    fit(state, interactions(ROWS), {"item_knn": {}})
    number, digest = current(state)
    server = [sys.executable, "-m", "recunlearn.cli", "serve", "--state", state, "--port", "0"]
    options = ["--offer-versions", "--token-file", token]
    with subprocess.Popen([*server, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            pulling = ("pull", "--from", url, "--version", number, "--digest", digest, "--to", tmp_path / "r")
            refused = invoke(*pulling, rc="raises")
            assert "it wants a token" in str(refused.exception)
            assert "has version 1" in invoke(*pulling, "--token-file", token).stdout
        finally:
            process.kill()
    assert current(tmp_path / "r") == (number, digest)
