"""Kills a process at each step of a piece of work, starts it again, and reports what became of the state.

Run as a script (see test_cycle_kill.py). It imports everything once and forks a child for each step, so
that a step costs a tenth of a second; the parent never uses Polars, whose threads do not survive a fork.
"""

import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

import polars as pl
from recunlearn.engine import durable
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.interactions import read_store
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import Store, VersionError
from recunlearn.streaming.formats import Reader
from recunlearn.streaming.intake import resume, take_in
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker

if __package__:
    from .popularity import files_with, interactions
else:
    sys.path.insert(0, str(Path(__file__).parent))
    from popularity import files_with, interactions

ROWS = [(user, item) for user in ("anna", "bob", "cleo", "dora") for item in ("x", "y", "z")]
ROWS += [("erin-unique", f"item-of-erin-{k}") for k in range(3)]
EVENTS = [
    b'{"id": "e-1", "type": "account.deleted", "user_id": "erin-unique"}',
    b'{"id": "e-2", "type": "interaction.removed", "user_id": "bob", "item_id": "y"}',
    b"{this is not an event",
    b'{"id": "e-3", "type": "account.deleted", "user_id": "nobody-here"}',
    b'{"id": "e-1", "type": "account.deleted", "user_id": "erin-unique"}',
    b'{"id": "e-4", "type": "account.deleted", "user_id": "anna"}',
]
MODELS = {"popularity": {"weight": 2.0}}


def first_fit(state):
    """Fit a state that may be there already, as one does again after a crash."""
    fit(state, interactions(ROWS), MODELS)


def refit(state):
    """Fit again from what the state keeps, after an erasure that is not finished."""
    fit(state, None)


def cycle(state):
    """Take in what is in the journal, then carry it out: one thread, so the steps come in one order."""
    with Engine.open(state) as engine:
        read_journal(state, engine.ledger)
        engine.apply(engine.ledger.pending())


def read_journal(state, ledger):
    """Record what is in the journal."""
    journal = Journal(state / "journal")
    resume(journal, "journal", ledger)
    while records := journal.poll(0, 4):
        take_in(journal, "journal", ledger, records, Reader())


def take_in_all(state):
    """Record what is in the journal, and carry nothing out."""
    with Engine.open(state) as engine:
        read_journal(state, engine.ledger)


def work(state):
    """Run the worker as it is run, with its two threads."""
    with Engine.open(state) as engine:
        Worker(engine, lambda: Journal(state / "journal"), once=True).run()


def cancel(state):
    """Take a request back that was read, purge its id, carry the others out."""
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.cancel("e-1")
        ledger.purge()
    cycle(state)


WORKS = {"fit": first_fit, "refit": refit, "cycle": cycle, "work": work, "cancel": cancel}


def prepare(name, state):
    """Make the state that a piece of work begins from."""
    if name == "fit":
        return
    first_fit(state)
    append(state / "journal", EVENTS)
    if name == "cancel":
        take_in_all(state)
    if name == "refit":
        cycle(state)
        append(state / "journal", [b'{"id": "e-5", "type": "account.deleted", "user_id": "dora"}'])


def describe(state):
    """Say all that must be the same, killed or not."""
    paths = StatePaths(state)
    snap = load_snapshot(state, mapped=False)
    model = snap._models["popularity"]
    frame = read_store(paths, Store(snap.manifest.interactions, snap.manifest.partitions))
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        requests = ledger._connection.execute(
            "SELECT coalesce(open_ids.request_id, requests.request_id), state, outcome, user_id, item_id "
            "FROM requests LEFT JOIN open_ids USING (seq) ORDER BY seq"
        ).fetchall()
        counts, positions = ledger.counts(), ledger.positions("journal")
    verified = verify_state(state)
    return {
        "users": snap.user_ids(),
        "items": snap._items.series.to_list(),
        "rows": frame.rows(),
        "user_items": model.user_items.toarray().tolist(),
        "item_counts": model.item_counts.tolist(),
        "requests": requests,
        "dead_letters": counts["dead_letters"],
        "positions": positions,
        "problems": verified.problems,
        "receipts": [verified.receipts, verified.valid_receipts],
        "remains": files_with(state, "erin-unique", "item-of-erin", "anna", "nobody-here")
        if requests
        else [],
        "stray": sorted(path.name for path in state.rglob("*.partial")),
    }


def served_in_between(state):
    """Return the version that a reader finds right after the kill; 0 if a first fit has not published."""
    try:
        return load_snapshot(state).version
    except VersionError as error:
        return 0 if "no published version" in str(error) else str(error)


def in_child(function):
    """Run ``function`` in a fork; returns its exit status and what it printed last as JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            result = json.dumps(function()).encode()
            os.write(writing, result)
            os._exit(0)
        except BaseException:
            logging.exception("the child failed")
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(content) if content else None


def killed_at(name, step, state):
    """Do a piece of work with a kill at ``step``; returns whether it came to that."""

    def killed():
        durable._steps = 0
        os.environ["RECUNLEARN_KILL_AT"] = str(step)
        WORKS[name](state)

    status, _ = in_child(killed)
    assert status in (0, signal.SIGKILL), (name, step, status)
    return status == signal.SIGKILL


def main(name, folder, steps):
    """Kill at each of ``steps`` (or at all of them) and print a line of JSON for each."""
    template = folder / "template"
    in_child(lambda: prepare(name, template))
    uninterrupted = folder / "uninterrupted"
    if template.exists():
        shutil.copytree(template, uninterrupted)
    in_child(lambda: WORKS[name](uninterrupted))
    _, expected = in_child(lambda: describe(uninterrupted))
    print(json.dumps(expected), flush=True)
    for step in steps:
        state = folder / f"step-{step}"
        if template.exists():
            shutil.copytree(template, state)
        was_killed = killed_at(name, step, state)
        if not was_killed:
            break
        _, version = in_child(lambda state=state: served_in_between(state))
        status, found = in_child(lambda state=state: (WORKS[name](state), describe(state))[1])
        print(json.dumps({"step": step, "version": version, "status": status, "found": found}), flush=True)
        shutil.rmtree(state)


if __name__ == "__main__":
    chosen = [int(step) for step in sys.argv[3:]] or range(1, 10_000)
    assert isinstance(pl.__version__, str)
    main(sys.argv[1], Path(sys.argv[2]), chosen)
