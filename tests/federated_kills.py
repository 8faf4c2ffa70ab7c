"""Kills silos and coordinator, at every step or at random times, and prints what became of the federation.

Run as a script: ``federated_kills.py FOLDER steps EVERY`` or ``... FOLDER random KILLS DELETIONS``
(see test_federated_kills.py). It imports everything once and forks a child for each start; the parent uses
neither Polars nor Numba, whose threads do not survive a fork.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from federation import Federation, rows_of
from forks import ended, forked
from recunlearn.engine import durable
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import read_state
from recunlearn.streaming.federated.message import FederationError
from recunlearn.streaming.federated.silo import Silo, ask
from recunlearn.streaming.federated.silo_state import read_state as read_silo

SILOS = ("north", "south", "east")
USERS = 60
LONGEST = 0.4
"""Seconds at most from a start to its kill: a few looks at the board."""


def users_of(name):
    """Name everybody in a silo."""
    return [f"{name}-{k}" for k in range(USERS)]


def made(folder):
    """Make the federation and its first version."""
    federation = Federation(folder, {name: rows_of(users_of(name), k) for k, name in enumerate(SILOS)})
    federation.round()


def look(folder, name):
    """Run a silo, or the coordinator, once."""
    if name == "coordinator":
        with Coordinator(folder / name) as coordinator:
            coordinator.step()
    else:
        with Silo(folder / name) as silo:
            silo.step()


def stay(folder, name):
    """Run a silo, or the coordinator, until it is killed."""
    opened = Coordinator if name == "coordinator" else Silo
    with opened(folder / name) as process:
        while True:
            process.step()
            time.sleep(0.002)


def settle(folder):
    """Let everybody look until nothing is on its way."""
    for _ in range(20):
        for name in (*SILOS, "coordinator"):
            look(folder, name)
        if not any(read_silo(folder / name).outgoing or read_silo(folder / name).pending for name in SILOS):
            return


def report(folder, gone):
    """Print what must be so, killed or not."""
    import polars as pl
    from federation import ITEMS, same_published
    from recunlearn.models import ItemKNN
    from recunlearn.streaming.federated.publication import read_version
    from recunlearn.streaming.federated.silo_state import matrix_of

    frames = [rows_of(users_of(name), k) for k, name in enumerate(SILOS)]
    left = pl.concat(frames).filter(~pl.col("user_id").is_in(gone))
    with Coordinator(folder / "coordinator") as coordinator:
        _, published = read_version(coordinator.board, coordinator._key.public)
        state = coordinator.state
        letters = [path for path in (coordinator.board.root / "inbox").rglob("*") if path.is_file()]
        sums = sorted(path.name for path in (folder / "coordinator" / "sums").iterdir())
    silos = {name: read_silo(folder / name) for name in SILOS}
    kept = {
        name: sorted(set(pl.read_parquet(folder / name / at.rows)["user_id"])) for name, at in silos.items()
    }
    outcome = {
        "exact": same_published(published, ItemKNN().fit(matrix_of(left, ITEMS))),
        "users": {name: party.users for name, party in state.parties.items()},
        "kept": all(kept[name] == sorted(set(users_of(name)) - set(gone)) for name in SILOS),
        "erased": {name: sum(one.erased for one in at.done) for name, at in silos.items()},
        "wanted": {name: len(set(users_of(name)) & set(gone)) for name in SILOS},
        "messages": {name: [one.key for one in at.done] for name, at in silos.items()},
        "receipts": sorted(state.receipts),
        "waiting": sum(len(at.pending) + len(at.outgoing) for at in silos.values()),
        "left_over": len(letters) + len(state.unanswered) + len(sums) - len(SILOS),
        "rows_files": sum(len(list((folder / name).glob("*.parquet*"))) for name in SILOS),
        "version": state.version,
    }
    print(json.dumps(outcome), flush=True)


def steps_of(folder, name):
    """Count the steps of one look."""
    read, write = os.pipe()

    def counted():
        before = durable._steps
        look(folder, name)
        os.write(write, str(durable._steps - before).encode())

    ended(forked(counted))
    return int(os.read(read, 20))


def killed_at(folder, name, step):
    """Run one look and kill it at a step."""

    def doomed():
        durable._steps = 0
        os.environ["RECUNLEARN_KILL_AT"] = str(step)
        look(folder, name)

    return ended(forked(doomed))


def every_step(folder, every):
    """Kill a silo that has a deletion to send, and the coordinator that has two to take in."""
    base = folder / "base"
    ended(forked(lambda: made(base)))
    gone = ["north-1", "north-2", "south-5"]
    ask(base / "north", gone[:2])
    ask(base / "south", gone[2:])
    for name in ("north", "coordinator"):
        if name == "coordinator":
            for silo in ("north", "south"):
                ended(forked(lambda silo=silo: look(base, silo)))
        rehearsal = folder / "rehearsal"
        moved(base, rehearsal)
        total = steps_of(rehearsal, name)
        shutil.rmtree(rehearsal)
        for step in range(1, total + 1, every):
            case = folder / f"{name}-{step}"
            moved(base, case)
            assert killed_at(case, name, step), (name, step)
            ended(forked(lambda case=case: settle(case)))
            ended(forked(lambda case=case: report(case, gone)))
            shutil.rmtree(case)


def moved(source, target):
    """Copy a federation to where it does not know that it is: the board is named by its absolute path."""
    shutil.copytree(source, target)
    for path in (target / "coordinator" / "state.json", *(target / name / "silo.json" for name in SILOS)):
        path.write_bytes(path.read_bytes().replace(str(source).encode(), str(target).encode()))


def until_published(folder, seconds):
    """Wait for another version to be published, for some time."""
    version, end = read_state(folder / "coordinator").version, time.monotonic() + seconds
    while time.monotonic() < end and read_state(folder / "coordinator").version == version:
        time.sleep(0.01)


def at_random(folder, kills, deletions):
    """Kill whoever it is while deletions come in, then let all come to rest, and report."""
    ended(forked(lambda: made(folder)))
    draw = random.Random(kills)  # noqa: S311  a seed, not a secret
    gone = draw.sample([user for name in SILOS for user in users_of(name)], deletions)
    running, killed = {}, 0
    for k in range(kills):
        for user in gone[k * deletions // kills : (k + 1) * deletions // kills]:
            ask(folder / user.partition("-")[0], [user])
        for name in (*SILOS, "coordinator"):
            if name not in running:
                running[name] = forked(lambda name=name: stay(folder, name))
        until_published(folder, seconds=20 if k % 3 == 1 else 0)
        time.sleep(draw.uniform(0.0, LONGEST))
        name = draw.choice([*SILOS, "coordinator", "coordinator"])
        child = running.pop(name)
        os.kill(child, signal.SIGKILL)
        killed += ended(child)
    for child in running.values():
        os.kill(child, signal.SIGKILL)
        killed += ended(child)
    print(
        json.dumps({"killed": killed, "versions_so_far": read_state(folder / "coordinator").version}),
        flush=True,
    )
    ended(forked(lambda: settle(folder)))
    ended(forked(lambda: report(folder, gone)))


if __name__ == "__main__":
    with suppress(FederationError):
        Coordinator(Path("nowhere"))  # whatever is imported late is imported before the first fork
    if sys.argv[2] == "steps":
        every_step(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        at_random(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4]))
