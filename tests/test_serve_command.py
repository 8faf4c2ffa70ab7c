"""`recunlearn serve` on a state that `recunlearn fit` made: the process people run."""

import json
import signal
import subprocess
import sys

import httpx
import pytest
from recunlearn.engine.server import listen

COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()"]


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Fit ItemKNN to a few plays of integer users and string items."""
    folder = tmp_path_factory.mktemp("serve")
    rows = [f"{user},film {item}" for user in range(12) for item in range(9) if (user * item) % 5 < 2]
    (folder / "plays.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n", encoding="utf-8")
    arguments = ["--data", str(folder / "plays.csv"), "--state", str(folder / "state"), "--model", "item_knn"]
    subprocess.run([*COMMAND, "fit", *arguments, "--json"], check=True, capture_output=True, timeout=300)
    return folder / "state"


def run_serve(state, *options):
    """Start `recunlearn serve`."""
    return subprocess.Popen(
        [*COMMAND, "serve", "--state", str(state), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_serve_says_where_and_answers_as_documented(state):
    """The first line names version and URL; lists, status and metrics are there; SIGTERM ends it with 0."""
    with run_serve(state, "--port", "0") as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving version 1 on http://127.0.0.1:")
            with httpx.Client(base_url=line.split()[-1], timeout=60) as http:
                answer = http.get("/v1/users/1/recommendations", params={"n": 3}).json()
                assert (answer["version"], answer["model"]) == (1, "item_knn")
                assert 1 <= len(answer["items"]) <= 3
                assert all(item["item_id"].startswith("film ") for item in answer["items"])
                assert http.get("/v1/items/film%202/similar").json()["items"]
                printed = subprocess.run(
                    [*COMMAND, "status", "--state", str(state), "--json"],
                    check=True,
                    capture_output=True,
                    timeout=180,
                )
                assert http.get("/v1/status").json() == json.loads(printed.stdout)
                assert 'recunlearn_requests{state="erased"} 0.0' in http.get("/metrics").text
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        finally:
            process.kill()


def test_serve_refuses_what_it_cannot_do(state, tmp_path):
    """A port in use and a directory that is no state: exit code 1 and one line that names it."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with run_serve(state, "--port", str(port)) as process:
            _, errors = process.communicate(timeout=180)
        assert process.returncode == 1
        assert f"127.0.0.1:{port}" in errors
        assert "Traceback" not in errors
    with run_serve(tmp_path) as process:
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert str(tmp_path) in errors
    assert "Traceback" not in errors
