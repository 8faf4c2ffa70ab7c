"""Whether a serving process grows: memory, file descriptors and maps over many swaps by a real worker."""

import http.client
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import serving_processes as processes
import turns
from bench_cycle import frame_of
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_current

MODELS = ["item_knn", "ease"]
ROWS = 20
ASKED = 20
"""Answers asked for between two swaps, so that every version is used."""


def growth(folder: Path, swaps: int) -> dict[str, Any]:
    """Erase ``swaps`` users one by one while a server follows.

    Returns
    -------
    ``rows``: what the process holds, every twentieth of the way; ``slope``: KiB a swap of memory that is
    its own, fitted over the second half, when what is allocated once has been.
    """
    frame = frame_of(turns.generated(swaps + 200, 300, 20 * (swaps + 200)))
    state = processes.fit(folder, frame, MODELS, "growth")
    paths, users = StatePaths(state), sorted(set(frame["user_id"].to_list()))
    rows: list[dict[str, float]] = []
    own = []
    with (
        processes.started(*processes.COMMAND, "run", "--state", str(state)),
        processes.started(
            *processes.COMMAND, "serve", "--port", "0", "--state", str(state), says_url=True
        ) as server,
    ):
        assert _answers(server.url)
        for done in range(swaps + 1):
            held = server.held()
            own.append(held["memory MiB"])
            if done % max(swaps // ROWS, 1) == 0:
                rows.append({"swaps": done, **held})
            if done < swaps:
                _swap(paths, server.url, users[done], users[swaps:])
        with closing(_connect(server.url)) as connection:
            swapped = _metric(connection, "recunlearn_swaps_total")
    half = len(own) // 2
    slope = float(np.polyfit(np.arange(half, len(own)), own[half:], 1)[0]) * 1024
    return {"rows": rows, "slope": slope, "swapped": swapped}


def _connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)


def _answers(url: str) -> bool:
    """Tell whether the server is done with starting: it says where it listens before that, and lets wait."""
    with closing(_connect(url)) as connection:
        return b"version" in _get(connection, "/readyz")


def _swap(paths: StatePaths, url: str, user: str, others: list[str]) -> None:
    """Erase a user, wait until the server has the new version, and ask it."""
    before, _ = read_current(paths)
    processes.erase(paths.root, user)
    processes.await_version(paths, before)
    with closing(_connect(url)) as connection:  # the server hangs up on who is silent for five seconds
        while json.loads(_get(connection, "/readyz"))["version"] == before:
            time.sleep(0.001)
        for other in others[:ASKED]:
            for model in MODELS:
                assert b"items" in _get(connection, f"/v1/users/{other}/recommendations?model={model}")


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def _metric(connection: http.client.HTTPConnection, name: str) -> float:
    lines = _get(connection, "/metrics").decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def markdown(found: dict[str, Any]) -> str:
    """Write the table."""
    rows = found["rows"]
    lines = ["| swaps | memory of its own, MiB | with shared pages, MiB | descriptors | maps |"]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {row['swaps']:,} | {row['memory MiB']:.1f} | {row['all MiB']:.1f} | "
        f"{row['descriptors']:.0f} | {row['maps']:.0f} |"
        for row in (rows[0], rows[1], rows[len(rows) // 2], rows[-1])
    ]
    lines += ["", f"Slope over the second half: {found['slope']:.2f} KiB a swap."]
    return "\n".join(lines)
