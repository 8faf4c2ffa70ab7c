"""Kills silos and coordinator, at every step or at random times, and prints what became of the federation.

Run as a script: ``federated_kills.py FOLDER steps EVERY HOW`` or ``... FOLDER random KILLS DELETIONS HOW``:
HOW is ``open``, ``secure`` (sums are masked) or ``products`` (there are none); see test_federated_kills.py.
It imports everything once and forks a child for each start; the parent uses neither Polars nor Numba, whose
threads do not survive a fork.
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

from federation import ITEMS, MANY_ITEMS, Federation, rows_of
from forks import ended, forked
from recunlearn.engine import durable
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import read_state
from recunlearn.streaming.federated.message import FederationError
from recunlearn.streaming.federated.secure.adding import ROUND_ASKED, ask_for_round
from recunlearn.streaming.federated.silo import Silo
from recunlearn.streaming.federated.silo_state import ask
from recunlearn.streaming.federated.silo_state import read_state as read_silo

SILOS = ("north", "south", "east")
USERS = 60
LONGEST = 0.4
"""Seconds at most from a start to its kill: a few looks at the board."""
PATIENCE = 600.0
"""Seconds at most until everything is at rest."""


def users_of(name):
    """Name everybody in a silo."""
    return [f"{name}-{k}" for k in range(USERS)]


def made(folder, how):
    """Make the federation and its first version."""
    ended(forked(lambda: founded(folder, how)))
    if how == "products":
        settle(folder)


def founded(folder, how):
    """Make the federation; with sums, its first version too."""
    if how == "products":
        settings, more = {"factors": 4}, {"products": True, "items": MANY_ITEMS}
        Federation(folder, frames(MANY_ITEMS), "spectral_mf", settings, **more)
    else:
        Federation(folder, frames(ITEMS), secure=how == "secure").round()


def frames(items):
    """Draw everybody's rows."""
    return {name: rows_of(users_of(name), k, items) for k, name in enumerate(SILOS)}


def look(folder, name):
    """Run a silo, or the coordinator, once."""
    if name == "coordinator":
        with Coordinator(folder / name) as coordinator:
            coordinator.step()
    else:
        with Silo(folder / name) as silo:
            silo.step()


def stay(folder, name):
    """Run a silo, or the coordinator, until it is killed; round after round, under masks."""
    opened = Coordinator if name == "coordinator" else Silo
    with opened(folder / name) as process:
        while True:
            if name == "coordinator" and process.state.rounds is not None:
                ask_for_round(folder / name)
            process.step(**({} if name == "coordinator" else {"stay": 1.0}))
            time.sleep(0.002)


def waits(folder):
    """Tell whether anything is on its way; requests first, as silos take them up into their states."""
    if any(list((folder / name / "requests").iterdir()) for name in SILOS):
        return True
    silos = [read_silo(folder / name) for name in SILOS]
    return any(at.outgoing or at.pending for at in silos)


def is_between_rounds(folder):
    """Tell whether no round is open, nor asked for; so it always is where sums are in the open."""
    rounds = read_state(folder / "coordinator").rounds
    return rounds is None or not (rounds.asked or (folder / "coordinator" / ROUND_ASKED).exists())


def settle(folder, running=None):
    """Let everybody look until nothing is on its way, and no round or solve is open."""
    if read_state(folder / "coordinator").solves is not None:
        settle_together(folder, running or {})
        return
    ended(forked(lambda: settle_in_turns(folder)))


def is_at_rest(folder):
    """Tell whether a version is published and nothing is on its way; of products: no solve is open either."""
    if waits(folder):
        return False
    at = read_state(folder / "coordinator")
    return at.version > 0 and not at.solves.asked


def settle_together(folder, running):
    """Let all run at once, as processes, until nothing is on its way; then look once more."""
    deadline = time.monotonic() + PATIENCE
    for name in {*SILOS, "coordinator"} - {*running}:
        running[name] = forked(lambda name=name: stay(folder, name))
    while not is_at_rest(folder):
        assert time.monotonic() < deadline, "not at rest"
        time.sleep(0.02)
    stop(running)
    ended(forked(lambda: [look(folder, name) for name in (*SILOS, "coordinator")]))


def stop(running):
    """Kill whoever is running; how many were."""
    for child in running.values():
        os.kill(child, signal.SIGKILL)
    return sum(ended(child) for child in running.values())


def settle_in_turns(folder):
    """Let everybody look, one after the other, until nothing is on its way."""
    for _ in range(60):
        if is_between_rounds(folder) and not waits(folder):
            return
        if is_between_rounds(folder) and read_state(folder / "coordinator").rounds is not None:
            ask_for_round(folder / "coordinator")
        for name in (*SILOS, "coordinator"):
            look(folder, name)


def report(folder, gone):
    """Print what must be so, killed or not."""
    import polars as pl
    from federation import is_within_certificate, same_published
    from recunlearn.models import ItemKNN
    from recunlearn.streaming.federated.publication import read_version
    from recunlearn.streaming.federated.silo_rows import matrix_of

    with Coordinator(folder / "coordinator") as coordinator:
        _, published = read_version(coordinator.board, coordinator._key.public)
        state = coordinator.state
        rounds, board = state.rounds, coordinator.board.root
        letters = [*board.glob("inbox/*/*"), *board.glob("secure/*"), *board.glob("solves/*")]
        sums = sorted(path.name for path in (folder / "coordinator" / "sums").iterdir())
    silos = {name: read_silo(folder / name) for name in SILOS}
    kept = {
        name: sorted(set(pl.read_parquet(folder / name / at.rows)["user_id"])) for name, at in silos.items()
    }
    left = pl.concat(frames(state.items).values()).filter(~pl.col("user_id").is_in(gone))
    rows, files = matrix_of(left, state.items), 1 if rounds else 0 if state.solves else len(SILOS)
    outcome = {
        "exact": is_within_certificate(published, rows)
        if state.solves
        else same_published(published, ItemKNN().fit(rows)),
        "users": sum(party.users for party in state.parties.values()) if rounds is None else rounds.users,
        "kept": all(kept[name] == sorted(set(users_of(name)) - set(gone)) for name in SILOS),
        "erased": {name: sum(one.erased for one in at.done) for name, at in silos.items()},
        "wanted": {name: len(set(users_of(name)) & set(gone)) for name in SILOS},
        "messages": {name: [one.key for one in at.done] for name, at in silos.items()},
        "receipts": receipts_of(folder),
        "waiting": sum(len(at.pending) + len(at.outgoing) for at in silos.values()),
        "left_over": len(letters) + len(state.unanswered) + len(sums) - files,
        "rows_files": sum(len(list((folder / name).glob("*.parquet*"))) for name in SILOS),
        "version": state.version,
    }
    print(json.dumps(outcome), flush=True)


def receipts_of(folder):
    """Name the messages whose receipts the coordinator keeps."""
    kept = (folder / "coordinator" / "receipts").glob("*/*.json")
    places = ((path.parent.name, *path.stem.split("-", 1)) for path in kept)
    return sorted(f"{name}/{int(epoch)}/{last.lstrip('0')}" for name, epoch, last in places)


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


def every_step(folder, every, how):
    """Kill a silo that has a deletion to send, and the coordinator that has two to take in.

    Under masks a silo and the coordinator look three times and more in a round; each time is killed.
    """
    base, secure = folder / "base", how == "secure"
    made(base, how)
    gone = ["north-1", "north-2", "south-5"]
    ask(base / "north", gone[:2])
    ask(base / "south", gone[2:])
    if how == "products":
        for name in ("north", "coordinator"):
            killed_while_others_run(folder, name, every, gone)
        return
    if secure:
        ask_for_round(base / "coordinator")
    order = ["coordinator", *SILOS] * 4 if secure else ["north", "south", "coordinator"]
    for turn, name in enumerate(order):
        if name in ("north", "coordinator"):
            killed_at_every(folder, name, turn, every, gone)
        ended(forked(lambda name=name: look(base, name)))


def killed_at_every(folder, name, turn, every, gone):
    """Kill whoever looks next at steps of that look, each time in a copy, and report what became of it."""
    rehearsal = folder / "rehearsal"
    moved(folder / "base", rehearsal)
    total = steps_of(rehearsal, name)
    shutil.rmtree(rehearsal)
    for step in range(1 + turn % every, total + 1, every):
        case = folder / f"{name}-{turn}-{step}"
        moved(folder / "base", case)
        assert killed_at(case, name, step), (name, step)
        settle(case)
        ended(forked(lambda case=case: report(case, gone)))
        shutil.rmtree(case)


def killed_while_others_run(folder, name, every, gone):
    """Kill a silo or the coordinator at steps of a whole deletion, the others running, and report.

    How many steps there are depends on who waits for whom: it ends with a run that came to its end.
    """
    step = 1 + every // 2
    while killed_in_company(folder, name, step, gone):
        step += every


def killed_in_company(folder, name, step, gone):
    """Kill somebody at a step while the others run, let all come to rest, report; whether it was killed."""
    case = folder / f"{name}-{step}"
    moved(folder / "base", case)
    others = {*SILOS, "coordinator"} - {name}
    running = {other: forked(lambda other=other: stay(case, other)) for other in others}
    was_killed = ended(forked(lambda: until_at_rest_or_killed(case, name, step)))
    settle(case, running)
    ended(forked(lambda: report(case, gone)))
    shutil.rmtree(case)
    return was_killed


def until_at_rest_or_killed(folder, name, step):
    """Run a silo or the coordinator until it is killed at a step, or nothing is left to do."""
    durable._steps, deadline = 0, time.monotonic() + PATIENCE
    os.environ["RECUNLEARN_KILL_AT"] = str(step)
    with (Coordinator if name == "coordinator" else Silo)(folder / name) as process:
        while not is_at_rest(folder):
            assert time.monotonic() < deadline, "not at rest"
            process.step()
            time.sleep(0.002)


def moved(source, target):
    """Copy a federation to where it does not know that it is: the board is named by its absolute path."""
    shutil.copytree(source, target)
    for path in (target / "coordinator" / "state.json", *(target / name / "silo.json" for name in SILOS)):
        path.write_bytes(path.read_bytes().replace(str(source).encode(), str(target).encode()))


def until_published(folder, seconds):
    """Wait for another version to be published, for some time, while anything is on its way."""
    version, end = read_state(folder / "coordinator").version, time.monotonic() + seconds
    while time.monotonic() < end and read_state(folder / "coordinator").version == version and waits(folder):
        time.sleep(0.01)


def at_random(folder, kills, deletions, how):
    """Kill whoever it is while deletions come in, then let all come to rest, and report."""
    made(folder, how)
    draw = random.Random(kills)  # noqa: S311  a seed, not a secret
    gone = draw.sample([user for name in SILOS for user in users_of(name)], deletions)
    running, killed = {}, 0
    for k in range(kills):
        for user in gone[k * deletions // kills : (k + 1) * deletions // kills]:
            ask(folder / user.partition("-")[0], [user])
        for name in (*SILOS, "coordinator"):
            if name not in running:
                running[name] = forked(lambda name=name: stay(folder, name))
        until_published(folder, seconds=PATIENCE if k % 3 == 1 else 0)
        time.sleep(draw.uniform(0.0, LONGEST))
        name = draw.choice([*SILOS, "coordinator", "coordinator"])
        child = running.pop(name)
        os.kill(child, signal.SIGKILL)
        killed += ended(child)
    killed += stop(running)
    print(
        json.dumps({"killed": killed, "versions_so_far": read_state(folder / "coordinator").version}),
        flush=True,
    )
    settle(folder)
    ended(forked(lambda: report(folder, gone)))


if __name__ == "__main__":
    with suppress(FederationError):
        Coordinator(Path("nowhere"))  # whatever is imported late is imported before the first fork
    where, way = Path(sys.argv[1]), sys.argv[-1]
    if sys.argv[2] == "steps":
        every_step(where, int(sys.argv[3]), way)
    else:
        at_random(where, int(sys.argv[3]), int(sys.argv[4]), way)
