"""Kills a silo at each durable step of each phase of a round, starts it again, and prints the totals.

Run as a script: ``secure_kills.py FOLDER`` (see test_secure_sums.py). It forks a child for each start; what
runs in a child uses neither Polars nor Numba, whose threads do not survive a fork.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from forks import ended, forked
from recunlearn.engine import durable
from recunlearn.engine.signing import SigningKey, public_pem
from recunlearn.models.sums import Statistic, merge, sums_of
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.secure import exchange
from recunlearn.streaming.federated.secure.party import Identity
from recunlearn.streaming.federated.secure.terms import Terms

NAMES = ("east", "north", "south")
STATISTIC = Statistic("whole", 5)


class Folders:
    """A round of three silos in a folder that is copied and killed."""

    def __init__(self, folder):
        keys = {name: SigningKey.generate(folder / f"{name}.pem") for name in (*NAMES, "hub")}
        peers = {name: public_pem(keys[name].public).decode() for name in NAMES}
        self.silos = {name: Identity(name, keys[name], peers) for name in NAMES}
        self.hub = keys["hub"]
        self.terms = Terms(1, "test", 1, 1, "rows", STATISTIC, peers)
        self.parts = {name: sums_of(sp.csr_matrix(np.eye(5) + k), STATISTIC) for k, name in enumerate(NAMES)}

    def begin(self, folder):
        """Make the directories and the terms."""
        for name in NAMES:
            (folder / name).mkdir(parents=True)
        exchange.begin(Board(folder), self.terms, self.hub)

    def look(self, folder, name):
        """Run a silo once."""
        exchange.take_part(
            Board(folder),
            folder / name,
            self.silos[name],
            self.hub.public,
            1,
            lambda _: ("rows", self.parts[name]),
        )

    def killed(self, folder, at):
        """Run the silo in the east until its step ``at``; whether it got there."""

        def doomed():
            os.environ["RECUNLEARN_KILL_AT"] = str(durable._steps + at)
            self.look(folder, "east")

        return ended(forked(doomed))

    def everybody(self, folder):
        """Run each silo, then the coordinator."""
        for name in NAMES:
            self.look(folder, name)
        return exchange.collect(Board(folder), self.terms)


def main(folder):
    """Kill at every step of three phases; print how many kills, and how many of the totals are right."""
    folders, kills, right, rewritten = Folders(folder), 0, 0, 0
    folders.begin(folder / "phase-0")
    expected = merge(folders.parts.values(), STATISTIC)
    for phase in range(3):
        at = 1
        while True:
            copy = folder / f"{phase}-{at}"
            shutil.copytree(folder / f"phase-{phase}", copy)
            if not folders.killed(copy, at):
                break
            sent = exchange.said_path(Board(copy), "east", 1, "masked").with_suffix(".u64")
            before = sent.read_bytes() if sent.exists() else None
            total = None
            while total is None:
                total = folders.everybody(copy)
            kills, right = kills + 1, right + total.same_as(expected)
            rewritten += before is not None and before != sent.read_bytes()
            at += 1
        shutil.copytree(folder / f"phase-{phase}", folder / f"phase-{phase + 1}")
        folders.everybody(folder / f"phase-{phase + 1}")
    print(json.dumps({"kills": kills, "right": right, "masked again": rewritten}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
