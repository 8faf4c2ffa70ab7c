"""The examples, run as their first lines say."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import load_snapshot

from .brokers.apache import free_ports
from .popularity import ask, interactions
from .real import need

EXAMPLES = Path(__file__).parent.parent / "examples"
ARROW = Path.home() / ".cache" / "recunlearn" / "arrow"
ROWS = sorted({(f"user-{u}", f"item-{(u * u + k * k * k) % 17}") for u in range(20) for k in range(8)})
MODELS = {"spectral_mf": {"factors": 4}, "item_knn": {"K": 5}}


@pytest.fixture
def state(tmp_path):
    """Fit a small state with vectors."""
    fit(tmp_path / "state", interactions(ROWS), MODELS)
    return tmp_path / "state"


def _need_java():
    """Skip, or with CI=true fail, where Java or its Arrow is missing."""
    if not shutil.which("javac"):
        need("no JDK on this machine (apt-get install openjdk-17-jdk-headless)")
    if not list(ARROW.glob("arrow-vector-*.jar")):
        need("Arrow for Java is not here; run: make arrow")


def java(state, user, n=5, rc=0):
    """Run the Java reader."""
    done = subprocess.run(
        [
            "java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", f"{ARROW}/*",
            EXAMPLES / "java" / "Recommend.java", state, "spectral_mf", user, str(n),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == rc, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] if rc == 0 else done.stderr


@pytest.mark.parametrize("as_id", [str, lambda text: int(text.rpartition("-")[2])], ids=["text", "number"])
def test_java_reads_what_python_reads(tmp_path, as_id):
    """Ids, vectors and what a user has: the same items in the same order, with the same scores."""
    _need_java()
    fit(tmp_path / "state", interactions(sorted((as_id(u), as_id(i)) for u, i in ROWS)), MODELS)
    snap = load_snapshot(tmp_path / "state")
    items, scores = snap.recommend(as_id("user-7"), N=5)
    found = java(tmp_path / "state", str(as_id("user-7")))
    assert [one["item_id"] for one in found] == [str(item) for item in items]
    assert np.allclose([one["score"] for one in found], scores, rtol=1e-5)


def test_java_refuses_a_file_that_is_not_what_was_published(state):
    """The chain from CURRENT to each file is checked in the other language too."""
    _need_java()
    path = state / "versions" / "000001" / "spectral_mf" / "item_factors.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "is not what was published" in java(state, "user-7", rc=1)


def test_workers_of_a_service_follow_by_themselves_and_refuse_the_forgotten(state):
    """Two processes of uvicorn: both swap to the version without the user, and nobody tells who left."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "uvicorn", "service:app", "--app-dir", EXAMPLES, "--workers", "2",
            "--host", "127.0.0.1", "--port", str(port), "--log-level", "error",
        ],
        env={**os.environ, "RECUNLEARN_STATE": str(state)},
    )  # fmt: skip
    try:
        _until(lambda: _get(port, "user-7").status_code == 200)
        items, scores = load_snapshot(state).recommend("user-7", N=3)
        answer = _get(port, "user-7?n=3").json()
        assert answer == {"version": 1, "items": items.tolist(), "scores": scores.tolist()}
        with Engine.open(state) as engine:
            ask(engine, AccountDeletion("e-1", "user-7"))
        gone, never = _get(port, "user-7"), _get(port, "nobody")
        assert (gone.status_code, gone.content) == (never.status_code, never.content) == (404, never.content)
        _until(lambda: {_get(port, "user-8").json()["version"] for _ in range(20)} == {2})
    finally:
        process.terminate()
        process.wait(timeout=30)


def _get(port, path):
    """Ask over a connection of its own, so that any of the workers may answer."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/for/{path}", timeout=10)
    except httpx.ConnectError:
        return httpx.Response(503)


def _until(holds, seconds=60):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
