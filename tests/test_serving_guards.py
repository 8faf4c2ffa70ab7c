"""A server as a process of its own: tokens, limits, slow and hostile clients, several workers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from recunlearn.engine.server import listen, read_token, url_of
from recunlearn.engine.serving import guards, protocol
from recunlearn.engine.state import StateError
from recunlearn.models import MODELS

from .marked_state import Marked, MarkedState

TOKEN = "correct-horse-battery"  # noqa: S105  of these tests


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Return a state directory with version 1 published; its model is in the registry meanwhile."""
    MODELS[Marked.name] = Marked
    yield MarkedState(tmp_path_factory.mktemp("guards") / "state")
    del MODELS[Marked.name]


@pytest.fixture
def start():
    """Return a function that starts a server: state, further arguments -> (process, URL). All are ended."""
    started = []

    def run(state, *arguments, **environment):
        script = Path(__file__).with_name("marked_state.py")
        process = subprocess.Popen(
            [sys.executable, str(script), str(state.root), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        port = process.stdout.readline().strip()
        assert port, process.stderr.read()
        return process, f"http://127.0.0.1:{port}"

    yield run
    for process in started:
        process.terminate()
    for process in started:
        process.communicate(timeout=60)


def raw(url, request, seconds=10.0):
    """Send bytes; returns all that comes back until the server closes, or until it is silent for so long."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while chunk := connection.recv(65536):
                answer += chunk
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
        return answer


def test_without_the_token_only_health_and_the_empty_page_are_answered(state, start):
    """No token, a wrong one, two, a prefix: 401, the same for every path that holds data."""
    _, url = start(state, RECUNLEARN_TEST_TOKEN=TOKEN)
    with httpx.Client(base_url=url, timeout=60) as http:
        good = {"authorization": f"Bearer {TOKEN}"}
        for path in ("/v1/users/7/recommendations", "/metrics", "/v1/status", "/openapi.json", "/none"):
            for headers in (
                [],
                [("authorization", "Bearer wrong")],
                [("authorization", TOKEN)],
                [("authorization", f"Bearer {TOKEN[:-1]}")],
                [("authorization", good["authorization"])] * 2,
            ):
                answer = http.get(path, headers=headers)
                assert answer.status_code == 401, (path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/users/7/recommendations", headers=good).status_code == 200
        assert http.get("/healthz").status_code == 200
        assert "v1/i0" not in http.get("/").text


def test_a_token_file_is_checked(tmp_path):
    """Too short, not there, with a space, not text: refused, naming the file and never the token."""
    path = tmp_path / "token"
    for content in (b"short", b"with a space but long enough", b"\xff" * 40, "ä".encode() * 20):
        path.write_bytes(content)
        with pytest.raises(StateError, match="token") as caught:
            read_token(path)
        assert "long enough" not in str(caught.value)
    with pytest.raises(StateError, match="cannot be read"):
        read_token(tmp_path / "none")
    path.write_text(f"  {TOKEN}\n")
    assert read_token(path) == TOKEN


def test_bodies_have_a_largest_size(state, start):
    """Declared or not, a body above the limit is a 413 and the connection ends."""
    _, url = start(state)
    path = "/v1/recommendations"
    too_much = guards.MOST_BODY_BYTES + 1
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    assert b" 413 " in raw(url, head + f"content-length: {too_much}\r\n\r\n".encode())
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = raw(url, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 17)
    assert b" 413 " in answer or answer == b""  # the server may close before all was sent
    assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /v1/users/7/../../../etc/passwd HTTP/1.1", b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1",
        b"GET //evil.example/v1/status HTTP/1.1",
        b"GET /v1/users/%00/recommendations HTTP/1.1", b"GET /v1/users/%ff%fe/recommendations HTTP/1.1",
        b"BREW /v1/status HTTP/1.1", b"GET /v1/status HTTP/9.9", b"GET", b"\x16\x03\x01\x02\x00\x01", b"",
        b"CONNECT evil.example:443 HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"GET /v1/items/" + b"a" * 30_000 + b"/similar HTTP/1.1",
        b"DELETE /v1/users/7/recommendations HTTP/1.1",
    ],
)  # fmt: skip
def test_odd_requests_are_refused_and_never_fail_the_server(hostile, request_line):
    """Path tricks, other methods, no HTTP at all: a 4xx or a closed connection, and the next is answered."""
    answer = raw(hostile, request_line + b"\r\nhost: localhost\r\nconnection: close\r\n\r\n", seconds=1.0)
    status = answer.split(b" ", 2)[1:2]
    assert not status or status[0].startswith(b"4"), answer[:200]
    assert b"root:" not in answer
    assert httpx.get(f"{hostile}/healthz", timeout=60).status_code == 200


@pytest.fixture(scope="module")
def hostile(state):
    """Start one server for all odd requests; what it logged names no path."""
    script = Path(__file__).with_name("marked_state.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(state.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        assert "passwd" not in errors


def test_headers_have_a_largest_size(hostile):
    """Headers that do not end are cut off with a 431."""
    endless = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * (protocol.MOST_HEADER_BYTES + 1)
    assert raw(hostile, endless, seconds=5.0)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")


def test_slow_clients_are_let_go(state, start):
    """Headers, bodies and answers that stand still end the connection; others are served meanwhile."""
    _, url = start(state, RECUNLEARN_TEST_PATIENCE="0.5")
    host, port = url.removeprefix("http://").split(":")
    address = (host, int(port))
    post = b"POST /v1/recommendations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
    with (
        socket.create_connection(address, timeout=10) as silent,
        socket.create_connection(address, timeout=10) as dribbling,
        socket.create_connection(address, timeout=10) as half,
    ):
        dribbling.sendall(b"GET /heal")
        half.sendall(post)
        started = time.perf_counter()
        assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
        assert half.recv(4096).startswith(b"HTTP/1.1 408")
        assert silent.recv(1) == b""
        assert dribbling.recv(1) == b""
        assert time.perf_counter() - started < 8


def test_several_workers_share_the_port_the_fence_and_the_metrics(state, start):
    """Two processes answer; each refuses who is fenced; one that is killed is replaced; counts add up."""
    process, url = start(state, "2")
    pids = children(process.pid)
    deadline = time.monotonic() + 60
    while len(pids) < 2 and time.monotonic() < deadline:
        pids = children(process.pid)
    answered = ask_often(url, "/v1/users/3/recommendations", 200, deadline)
    state.fence(3)
    for _ in range(40):
        assert httpx.get(f"{url}/v1/users/3/recommendations", timeout=60).status_code == 404
    while counted(url) < answered + 40:  # an answer is counted after it is sent
        assert time.monotonic() < deadline
    os.kill(pids[0], signal.SIGKILL)
    while not set(children(process.pid)) - set(pids):
        assert time.monotonic() < deadline + 60
        assert process.poll() is None
    ask_often(url, "/v1/users/4/recommendations", 200, deadline + 60)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert children(process.pid) == []


def counted(url):
    """Add up the lists that were answered, over all workers."""
    return sum(
        float(line.split()[-1])
        for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        if line.startswith("recunlearn_http_requests_total") and "recommendations" in line
    )


def children(pid):
    """List the workers of a server: its child processes, without Python's own resource tracker."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            line = (stat.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(stat.parent.name))
    return found


def ask_often(url, path, status, deadline):
    """Ask over 20 new connections, so that more than one process gets some; how many were answered."""
    for _ in range(20):
        while True:
            try:
                answer = httpx.get(url + path, timeout=10)
                break
            except httpx.TransportError:  # a worker that was killed took the connection with it
                assert time.monotonic() < deadline
        assert answer.status_code == status
    return 20


def test_the_url_of_an_ipv6_listener_has_brackets():
    """An address with colons is written so that it is a URL."""
    try:
        listener = listen("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")
