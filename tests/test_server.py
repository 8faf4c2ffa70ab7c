"""Serving over HTTP: one version an answer, swaps that nobody notices, fenced users gone at once."""

import asyncio
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from recunlearn.engine.server import listen
from recunlearn.engine.serving.app import create_app
from recunlearn.engine.snapshot import SnapshotReader
from recunlearn.models import MODELS

from .marked_state import ITEMS, Marked, MarkedState

STATUS = {"version": 1, "requests": {"pending": 3, "erased": 5}, "oldest_pending_seconds": 1.5}


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Return a state directory with version 1 published; its model is in the registry meanwhile."""
    monkeypatch.setitem(MODELS, Marked.name, Marked)
    return MarkedState(tmp_path / "state")


class Client:
    """Asks an application in this process, without a socket."""

    def __init__(self, state):
        self._state = state

    def get(self, path, **options):
        """Ask once; returns httpx's response."""
        return self._runner.run(self._http.get(path, **options))

    def __enter__(self):
        self._reader = SnapshotReader(self._state.root)
        app = create_app(self._reader, lambda: STATUS)
        self._runner = asyncio.Runner()
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
        return self

    def __exit__(self, *error):
        self._runner.run(self._http.aclose())
        self._runner.close()
        self._reader.close()


@pytest.fixture
def client(state):
    """Return a client of the application in this process."""
    with Client(state) as client:
        yield client


@pytest.fixture
def server(state):
    """Start a server as a process of its own; yields (process, base URL)."""
    script = Path(__file__).with_name("marked_state.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(state.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    port = process.stdout.readline().strip()
    assert port, process.stderr.read()
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


def test_recommendations_have_the_documented_shape(client):
    """The answer names its version and model, and gives items with ids and scores, best first."""
    answer = client.get("/v1/users/7/recommendations", params={"n": 2})
    assert answer.status_code == 200
    assert answer.json() == {
        "version": 1,
        "model": "marked",
        "items": [{"item_id": "v1/i0", "score": 1.0}, {"item_id": "v1/i1", "score": 1.0}],
    }
    assert answer.headers["cache-control"] == "no-store"


def test_similar_items_take_ids_with_slashes(client):
    """An item id with a slash, encoded or not, is one id."""
    for path in ("v1/i3", "v1%2Fi3"):
        answer = client.get(f"/v1/items/{path}/similar", params={"n": 1, "model": "marked"})
        assert answer.json()["items"] == [{"item_id": "v1/i0", "score": 1.0}]


def test_ids_come_back_in_their_own_type(client, tmp_path):
    """Integer users and string items: each is served under its id and returned as what it is."""
    assert client.get("/v1/users/7/recommendations").status_code == 200
    assert client.get("/v1/users/007/recommendations").status_code == 404
    named = MarkedState(tmp_path / "named", users=["anna", "42 x/ä", "two\nlines"])
    with Client(named) as other:
        assert other.get("/v1/users/42%20x%2F%C3%A4/recommendations").status_code == 200
        assert other.get("/v1/users/two%0Alines/recommendations").status_code == 200
        assert other.get("/v1/users/42/recommendations").status_code == 404


def test_unknown_and_forgotten_users_get_the_same_answer(state, client):
    """Status, body and headers of somebody fenced are those of somebody who never was, byte for byte."""
    assert client.get("/v1/users/7/recommendations").status_code == 200
    state.fence(7)
    forgotten = client.get("/v1/users/7/recommendations")
    unknown = client.get("/v1/users/7777/recommendations")
    assert forgotten.status_code == unknown.status_code == 404
    assert forgotten.content == unknown.content
    assert forgotten.headers.raw == unknown.headers.raw
    assert b"7" not in unknown.content


def test_everybody_is_fenced_from_the_moment_the_ledger_has_it(state, client):
    """For each of 40 users: served, recorded, and the very next answer is a 404."""
    for user in range(40):
        path = f"/v1/users/{user}/recommendations"
        assert client.get(path).status_code == 200
        state.fence(user)
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["", "%00", "%FF", "..%2F..%2Fetc", "+7", "%207", "7.0", "9" * 5000, "%F0%9F%A6%8A", "7%0A", "%EF%BC%91"],
)
def test_odd_ids_are_unknown_users(client, path):
    """Whatever is put in the place of an id, it is the plain 404 of an unknown user."""
    answer = client.get(f"/v1/users/{path}/recommendations")
    assert (answer.status_code, answer.content) == (404, b'{"detail":"unknown user"}')


@pytest.mark.parametrize("n", ["0", "-1", "1001", "ten", "1e3", ""])
def test_bad_counts_are_refused(client, n):
    """N outside 1..1000 or not a number is a 422 that names the parameter."""
    answer = client.get("/v1/users/7/recommendations", params={"n": n})
    assert answer.status_code == 422
    assert "n" in answer.json()["detail"][0]["loc"]


def test_an_unknown_model_is_refused_alike_for_everybody(state, client):
    """The refusal names the models there are, and does not tell known users from others."""
    state.fence(8)
    answers = [client.get(f"/v1/users/{user}/recommendations?model=nope") for user in (7, 8, 9999)]
    assert {a.status_code for a in answers} == {422}
    assert len({a.content for a in answers}) == 1
    assert "marked" in answers[0].json()["detail"]


def test_an_unknown_item_is_a_404(client):
    """An item nobody has is refused without repeating it."""
    answer = client.get("/v1/items/nothing/similar")
    assert (answer.status_code, answer.json()) == (404, {"detail": "unknown item"})


def test_operations_answer(client):
    """Status, health, readiness and metrics say what they are for."""
    assert client.get("/v1/status").json() == STATUS
    assert client.get("/healthz").json() == {"ok": True}
    assert client.get("/readyz").json() == {"version": 1, "error": None}


def test_metrics_count_by_route_and_hold_no_id(client):
    """Requests are counted by pattern and status; versions, swaps and open duties are there, and no id."""
    for user in (7, 31415926):
        client.get(f"/v1/users/{user}/recommendations")
    client.get("/nowhere/31415926")
    text = client.get("/metrics").text
    route = 'route="/v1/users/{user_id:id}/recommendations"'
    assert f'recunlearn_http_requests_total{{{route},status="200"}} 1.0' in text
    assert f'recunlearn_http_requests_total{{{route},status="404"}} 1.0' in text
    assert 'recunlearn_http_requests_total{route="none",status="404"} 1.0' in text
    assert f"recunlearn_http_request_seconds_count{{{route}}} 2.0" in text
    assert "recunlearn_served_version 1.0" in text
    assert "recunlearn_swaps_total 0.0" in text
    assert 'recunlearn_requests{state="pending"} 3.0' in text
    assert "recunlearn_oldest_pending_seconds 1.5" in text
    assert "31415926" not in text


def test_an_unforeseen_error_is_a_500_that_names_nobody(client, monkeypatch, caplog):
    """A model that fails: a 500 with a plain body, counted; the log says where, and quotes no message."""
    secret = str(161800 + 3)

    def fail(self, userid, user_items, N=10, filter_already_liked_items=True):
        raise RuntimeError(f"the row of user {secret} is odd")

    monkeypatch.setattr(Marked, "recommend", fail)
    answer = client.get("/v1/users/7/recommendations")
    assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
    assert "RuntimeError" in caplog.text
    assert "in fail" in caplog.text
    assert secret not in caplog.text
    assert 'recommendations",status="500"} 1.0' in client.get("/metrics").text
    assert client.get("/v1/items/v1/i0/similar").status_code == 200


def test_readiness_tells_why_a_newer_version_is_not_served(state, client):
    """A damaged new version is not swapped in: the old one goes on, and /readyz says why."""
    (state.paths.current).write_bytes(b"000009 " + b"0" * 64 + b"\n")
    answer = wait_for(lambda: client.get("/readyz").json(), lambda body: body["error"] is not None)
    assert answer["version"] == 1
    assert "000009" in answer["error"]
    assert client.get("/v1/users/7/recommendations").json()["version"] == 1


def wait_for(ask, good):
    """Ask until the answer is good; each question is a round trip, so nothing spins idly."""
    for _ in range(20_000):
        answer = ask()
        if good(answer):
            return answer
    raise AssertionError(f"still {answer}")


def test_the_schema_is_there_and_no_page_from_elsewhere(client):
    """/openapi.json describes the routes; no page that would load scripts from another host is served."""
    schema = client.get("/openapi.json").json()
    assert "/v1/items/{item_id}/similar" in schema["paths"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def mixed(answer):
    """Tell whether an answer is put together from two versions."""
    version = answer["version"]
    return answer["items"] != [{"item_id": f"v{version}/i{k}", "score": float(version)} for k in range(ITEMS)]


def test_swaps_under_load_drop_nothing_and_mix_nothing(state, server):
    """40 versions swapped in under load from four connections: all answers 200, whole, never going back."""
    _, url = server
    done, latest = threading.Event(), [1, 1, 1, 1]

    def load(first_user):
        seen = []
        with httpx.Client(base_url=url, timeout=60) as http:
            for user in itertools.cycle(range(first_user, 40, 4)):
                answer = http.get(f"/v1/users/{user}/recommendations")
                assert answer.status_code == 200
                assert not mixed(answer.json())
                seen.append(answer.json()["version"])
                latest[first_user] = seen[-1]
                if done.is_set():
                    return seen
        raise AssertionError("unreachable")

    with ThreadPoolExecutor(4) as pool, httpx.Client(base_url=url, timeout=60) as http:
        loads = [pool.submit(load, first) for first in range(4)]
        try:
            for version in range(2, 42):
                state.publish(version)
                wait_for(lambda: http.get("/readyz") and min(latest), version.__eq__)
        finally:
            done.set()
        for seen in (future.result() for future in loads):
            assert seen == sorted(seen)
            assert {*range(2, 42)} <= {*seen}
        assert "recunlearn_swaps_total 40.0" in http.get("/metrics").text


def test_fencing_holds_in_another_process_while_versions_are_swapped(state, server):
    """A user recorded in the ledger is never served again, whatever version comes; the others always are."""
    _, url = server
    with httpx.Client(base_url=url, timeout=60) as http:
        for user in range(20):
            state.fence(user)
            state.publish(user + 2)
            codes = [http.get(f"/v1/users/{u}/recommendations").status_code for u in (0, user, user + 1, 39)]
            assert codes == [404, 404, 200, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_cleanly_and_says_nothing_personal(server, number):
    """After SIGTERM or SIGINT the process exits 0, and its whole output names no user."""
    process, url = server
    with httpx.Client(base_url=url, timeout=60) as http:
        assert http.get("/v1/users/39/recommendations").status_code == 200
        assert http.get("/v1/users/271828/recommendations").status_code == 404
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "271828" not in out + err


def test_a_foreign_host_header_is_refused(server):
    """Bound to the loopback address, the server answers to its own names only: no DNS rebinding."""
    _, url = server
    port = url.rpartition(":")[2]
    assert httpx.get(f"{url}/healthz", headers={"host": "evil.example"}, timeout=60).status_code == 400
    assert httpx.get(f"{url}/healthz", headers={"host": f"localhost:{port}"}, timeout=60).status_code == 200


def test_an_address_in_use_is_named():
    """A port that is taken gives an error that names it."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)


def test_only_the_loopback_address_is_bound():
    """The listener asked for on 127.0.0.1 is bound to that address and no other."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.family is socket.AF_INET
        assert listener.getsockname()[0] == "127.0.0.1"
        assert json.dumps(listener.getsockname()[1]).isdigit()
