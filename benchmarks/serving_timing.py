"""Whether the time of an answer tells somebody forgotten from somebody who never was."""

import http.client
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import serving_processes as processes
import turns
from bench_cycle import frame_of
from numpy.typing import NDArray
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.state import StatePaths
from scipy.stats import mannwhitneyu

PEOPLE = 200
AVERAGED = 100
"""An attacker who may ask again takes the median of so many times."""

UNKNOWN, ERASED, FENCED = "unknown", "erased", "fenced, not erased yet"


def timing(folder: Path, requests: int) -> dict[str, Any]:
    """Ask a server about 200 people of each kind in random order on one connection.

    Parameters
    ----------
    requests : of each kind.

    Returns
    -------
    For erased and for fenced people: the difference of the medians to that of unknown people in
    microseconds, the area under the ROC curve of one time as a classifier (.5: it says nothing) with the
    p-value of Mann and Whitney, and that of the median of 100 times. The answers were the same bytes.
    """
    frame = frame_of(turns.generated(4000, 1000, 100_000))
    # Every third user is left out: an unknown id has known ones on both sides.
    frame = frame.filter(frame["user_id"].str.slice(-6).cast(int) % 3 != 0)
    state = processes.fit(folder, frame, ["item_knn"], "timing")
    known = random.Random(0).sample(sorted(set(frame["user_id"].to_list())), 2 * PEOPLE)  # noqa: S311
    kinds = {
        UNKNOWN: [f"user-{3 * k:06d}" for k in range(1, PEOPLE + 1)],
        ERASED: known[:PEOPLE],
        FENCED: known[PEOPLE:],
    }
    for user in kinds[ERASED]:
        processes.erase(state, user)
    subprocess.run([*processes.COMMAND, "run", "--state", str(state), "--once"], check=True)
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.record([Received(AccountDeletion(f"f-{user}", user)) for user in kinds[FENCED]])
    with processes.started(
        *processes.COMMAND, "serve", "--port", "0", "--state", str(state), says_url=True
    ) as server:
        times = _times(server.url.removeprefix("http://"), kinds, requests)
    return {
        "median us": {kind: 1e6 * float(np.median(of)) for kind, of in times.items()},
        **{kind: _told_apart(times[UNKNOWN], times[kind]) for kind in (ERASED, FENCED)},
        "two halves of unknown": _told_apart(times[UNKNOWN][::2], times[UNKNOWN][1::2]),
    }


def _times(host: str, kinds: dict[str, list[str]], requests: int) -> dict[str, NDArray[np.float64]]:
    """Time the answers in seconds, by kind; all must be the same bytes."""
    connection = http.client.HTTPConnection(host, timeout=30)
    drawn = random.Random(1)  # noqa: S311
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    answers = set()
    for turn in range(requests + AVERAGED):
        for kind in drawn.sample(list(kinds), len(kinds)):
            path = f"/v1/users/{drawn.choice(kinds[kind])}/recommendations"
            start = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            took = time.perf_counter() - start
            answers.add((response.status, body, tuple(response.getheaders())))
            if turn >= AVERAGED:  # the first ones warm up
                times[kind].append(took)
    connection.close()
    assert len(answers) == 1, answers
    return {kind: np.array(of) for kind, of in times.items()}


def _told_apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, float]:
    found = mannwhitneyu(other, one)
    medians = [
        np.median(of[: of.size // AVERAGED * AVERAGED].reshape(-1, AVERAGED), axis=1) for of in (one, other)
    ]
    averaged = mannwhitneyu(medians[1], medians[0])
    return {
        "difference us": 1e6 * float(np.median(other) - np.median(one)),
        "auc": float(found.statistic) / (one.size * other.size),
        "p": float(found.pvalue),
        "auc of medians": float(averaged.statistic) / (medians[0].size * medians[1].size),
    }


def markdown(found: dict[str, Any]) -> str:
    """Write the table."""
    lines = ["| beside unknown people | difference of medians, µs | AUC | p | AUC of medians of 100 |"]
    lines.append("|---|---|---|---|---|")
    for kind in (ERASED, FENCED, "two halves of unknown"):
        row = found[kind]
        lines.append(
            f"| {kind} | {row['difference us']:+.1f} | {row['auc']:.3f} | {row['p']:.2g} | "
            f"{row['auc of medians']:.2f} |"
        )
    lines += ["", f"Median of an answer about somebody unknown: {found['median us'][UNKNOWN]:.0f} µs."]
    return "\n".join(lines)
