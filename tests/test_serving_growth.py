"""A server that swaps for a long time holds what it held at first: `benchmarks/bench_serving.py` in small."""

import itertools
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import httpx
import polars as pl
import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.requests import AccountDeletion

from .popularity import ask

COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()"]
SWAPS, SETTLED = 60, 20


@pytest.fixture
def state(tmp_path):
    """Fit ItemKNN to 100 users."""
    plays = [(user, item) for user in range(100) for item in range(60) if (user * item) % 7 < 2]
    frame = pl.DataFrame(plays, schema=["user_id", "item_id"], orient="row")
    fit(tmp_path / "state", frame.with_columns(value=1.0), {"item_knn": {}})
    return tmp_path / "state"


@pytest.fixture
def served(state):
    """Start `recunlearn serve` on it; yields (process id, client)."""
    command = [*COMMAND, "serve", "--state", str(state), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            with httpx.Client(base_url=process.stdout.readline().split()[-1], timeout=30) as http:
                yield process.pid, http
        finally:
            process.send_signal(signal.SIGKILL)


def held(pid, state):
    """Return a process's own memory in KiB, all its maps, its file descriptors, its maps of versions."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    maps = (folder / "maps").read_text().splitlines()
    of_versions = sum(str(state / "versions") in line for line in maps)
    descriptors = len(list((folder / "fd").iterdir()))
    return int(status["RssAnon"].split()[0]), len(maps), descriptors, of_versions


def at_rest(pid, state):
    """Return the same once it is over with the swap: a version shows before the one before it is closed."""
    looks = deque([held(pid, state)], maxlen=20)
    while len(looks) < 20 or len({look[2:] for look in looks}) > 1:
        time.sleep(0.01)
        looks.append(held(pid, state))
    return looks[-1]


def test_sixty_swaps_leave_memory_descriptors_and_maps_as_they_were(state, served):
    """Between the 20th and the 60th swap of a real server at most 2 MiB and 4 maps of the heap are added."""
    pid, http = served
    with Engine.open(state) as engine:
        for user in range(SWAPS):
            ask(engine, AccountDeletion(f"e-{user}", str(user)))
            for _ in itertools.count():
                if http.get("/readyz").json()["version"] == user + 2:
                    break
            assert http.get("/v1/users/99/recommendations").status_code == 200
            assert http.get(f"/v1/users/{user}/recommendations").status_code == 404
            if user + 1 == SETTLED:
                memory, maps, *settled = at_rest(pid, state)
    memory_now, maps_now, *settled_now = at_rest(pid, state)
    assert settled_now == settled
    assert memory_now - memory < 2048
    assert maps_now - maps <= 4
    assert "recunlearn_swaps_total 60.0" in http.get("/metrics").text
