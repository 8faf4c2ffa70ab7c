"""Kills a worker at random times while requests come in, until all are done; prints what became of the state.

Beside it the same requests are worked off in a second state without a kill, to compare with.

Run as a script: ``random_kills.py FOLDER KILLS REQUESTS`` (see test_random_kills.py). It imports everything
once and forks a child for each start; the parent uses neither Polars nor Numba, whose threads do not
survive a fork.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import polars as pl
from forks import forked
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.interactions import read_store
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import Store
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker

MODELS = {"item_knn": {"K": 5}, "spectral_mf": {"factors": 8}}
ITEMS = 40
LONGEST = float(os.environ.get("RECUNLEARN_LONGEST", "1.0"))
"""Seconds at most from a start to its kill: several cycles, most kills in the midst of one.

A machine with other work to do needs more, or no cycle ever ends between two kills.
"""


def taken_by(users):
    """Return user -> their items, ascending."""
    draw = random.Random(23)  # noqa: S311  a seed, not a secret
    return {user: sorted(draw.sample(range(ITEMS), draw.randint(2, 9))) for user in range(users)}


def plan(requests):
    """Return what everybody has, the events, and what must be left: (user, item), ascending."""
    taken = taken_by(2 * requests)
    draw = random.Random(29)  # noqa: S311  a seed, not a secret
    left, events = {user: set(items) for user, items in taken.items()}, []
    for k, user in enumerate(draw.sample(sorted(taken), requests)):
        event = {"id": f"e-{k}", "type": "account.deleted", "user_id": str(user)}
        if k % 3 == 2:
            item = draw.choice(taken[user])
            left[user].discard(item)
            event.update(type="interaction.removed", item_id=str(item))
        else:
            left[user] = set()
        events.append(json.dumps(event).encode())
    return taken, events, sorted((user, item) for user, items in left.items() for item in items)


def first_fit(state, taken):
    """Fit the models to what everybody has."""
    pairs = [(user, item) for user, items in taken.items() for item in items]
    frame = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    fit(state, frame.with_columns(value=pl.lit(1.0)), MODELS)


def work(state, once):
    """Run the worker as it is run."""
    with Engine.open(state) as engine:
        Worker(engine, lambda: Journal(state / "journal"), once=once).run()


def finished(function):
    """Run ``function`` in a fork, to its end."""
    _, status = os.waitpid(forked(function), 0)
    assert status == 0, status


def killed_after(state, seconds):
    """Start the worker, kill it after some time; returns whether it still ran then."""
    child = forked(lambda: work(state, once=False))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def digests(state):
    """Return the digest of every file of the published version that an exact model, or the ids, are in."""
    from recunlearn.engine.version import read_current, read_manifest

    paths = StatePaths(state)
    manifest = read_manifest(paths, *read_current(paths))
    exact = {name for name, model in manifest.models.items() if model.proof.exact}
    return {
        path: record.sha256
        for path, record in manifest.files.items()
        if "/" not in path or path.partition("/")[0] in exact
    }


def report(state, uninterrupted, expected):
    """Print what must be so, killed or not."""
    paths = StatePaths(state)
    found = verify_state(state, deep=True)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        counts, version = ledger.counts(), ledger.published_version()
        rows = ledger._connection.execute(
            "SELECT request_id, outcome, receipt, attempts FROM requests ORDER BY seq"
        ).fetchall()
    from recunlearn.engine.version import read_current, read_manifest

    manifest = read_manifest(paths, *read_current(paths))
    kept = read_store(paths, Store(manifest.interactions, manifest.partitions))
    outcome = {
        "problems": found.problems,
        "kept": kept.select("user_id", "item_id").rows() == [tuple(pair) for pair in expected],
        "deep": {name: [one.distance, one.allowed] for name, one in found.deep.items()},
        "erased": counts["erased"],
        "waiting": sum(counts[state] for state in ("received", "fenced", "erasing", "failed")),
        "requests": len({row[0] for row in rows}),
        "outcomes": sorted({row[1] for row in rows}),
        "receipts": len({row[2] for row in rows}),
        "valid_receipts": found.valid_receipts,
        "taken_up_again": sum(row[3] > 1 for row in rows),
        "version": version,
        "compared": len(digests(state)),
        "as_uninterrupted": digests(state) == digests(uninterrupted),
    }
    print(json.dumps(outcome), flush=True)


def main(folder, kills, requests):
    """Kill ``kills`` times while ``requests`` come in, then let the worker end, and report."""
    state, uninterrupted = folder / "state", folder / "uninterrupted"
    taken, events, expected = plan(requests)
    for each in (state, uninterrupted):
        finished(lambda each=each: first_fit(each, taken))
    append(uninterrupted / "journal", events)
    finished(lambda: work(uninterrupted, once=True))
    draw = random.Random(kills)  # noqa: S311  a seed, not a secret
    size, running = -(-len(events) // kills), 0
    for k in range(kills):
        if portion := events[k * size : (k + 1) * size]:
            append(state / "journal", portion)
        running += killed_after(state, draw.uniform(0.05, LONGEST))
    finished(lambda: work(state, once=True))
    print(json.dumps({"killed": running}), flush=True)
    finished(lambda: report(state, uninterrupted, expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
