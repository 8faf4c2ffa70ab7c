"""What answers are held against: each version's own answers, computed apart, and the ledger's stamps."""

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from load import Exchange
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.ledger_connection import connect
from recunlearn.engine.snapshot import Snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_ids, read_manifest, read_models


@dataclass
class Kept:
    """Published versions, copied to ``paths``, since the worker purges them.

    No link to a file is kept: what it takes to give a removed file back to the disk is to be measured, too.
    A version is copied from links by a process that takes what processor time is left over, then they go.

    Attributes
    ----------
    digests : version -> digest of its manifest.
    published : version -> when CURRENT was seen to name it, Unix seconds.
    """

    paths: StatePaths
    digests: dict[int, str] = field(default_factory=dict)
    published: dict[int, float] = field(default_factory=dict)
    _copying: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def keep(self, source: StatePaths, number: int, digest: str, seen: float) -> None:
        """Copy a version that is published now."""
        kept = self.paths.version(number)
        links = kept.with_name(f"{kept.name}-links")
        shutil.copytree(source.version(number), links, copy_function=os.link)
        copy = ("chrt", "--idle", "0", "sh", "-c", 'cp -r "$0" "$1" && rm -r "$0"', links, kept)
        self._copying.append(subprocess.Popen(copy))
        self.digests[number], self.published[number] = digest, seen

    def load(self, number: int) -> Snapshot:
        """Load a version by itself, without a fence: it answers for everybody who is in it."""
        while self._copying:
            if self._copying.pop().wait():
                raise RuntimeError("a version could not be copied; is its directory on the same file system?")
        manifest = read_manifest(self.paths, number, self.digests[number])
        directory = self.paths.version(number)
        return Snapshot(
            manifest, read_models(directory, manifest, mapped=True), *read_ids(directory, manifest)
        )


def wrong_answers(exchanges: Iterable[Exchange], kept: Kept, n: int) -> list[str]:
    """Compare each answer with its version's own; returns what differs, a line each."""
    asked: dict[int, dict[str, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for exchange in exchanges:
        if exchange.status == 200:
            asked[json.loads(exchange.body)["version"]][exchange.key].add(exchange.body)
    wrong = []
    for version, users in sorted(asked.items()):
        if version not in kept.digests:
            wrong.append(f"version {version} was never published")
            continue
        snapshot = kept.load(version)
        for user, bodies in users.items():
            expected = answer(snapshot, user, n)
            wrong.extend(
                f"version {version}, {user}: {body.decode()}"
                for body in bodies
                if json.loads(body) != expected
            )
    return wrong


def answer(snapshot: Snapshot, user: str, n: int) -> dict[str, Any] | None:
    """Write the answer about a user as the server words it; None for who is not in the version."""
    if not snapshot.has_user(user):
        return None
    items, scores = snapshot.recommend(user, n)
    listed = [{"item_id": i, "score": s} for i, s in zip(items.tolist(), scores.tolist(), strict=True)]
    return {"version": snapshot.version, "model": snapshot.models[0], "items": listed}


def fenced_at(paths: StatePaths, users: Iterable[str]) -> dict[str, float]:
    """Return the ledger's stamp of when each user was fenced, Unix seconds."""
    key = FenceKey.load(paths)
    with closing(connect(paths.ledger, read_only=True)) as ledger:
        stamps = dict(ledger.execute("SELECT subject, fenced_at FROM requests"))
    return {user: stamps[key.user(user)] for user in users}


def fence_record(
    exchanges: Iterable[Exchange], seen: Mapping[str, float], stamps: Mapping[str, float]
) -> dict[str, float]:
    """Hold every answer about somebody forgotten against when they were fenced.

    Parameters
    ----------
    seen : when a third process saw each user fenced: from there on nobody may be served.
    stamps : the ledger's, taken just before the transaction that fences.
    """
    about = [exchange for exchange in exchanges if exchange.key in stamps]
    served = [exchange for exchange in about if exchange.status == 200]
    late = [exchange.sent - stamps[exchange.key] for exchange in served]
    return {
        "asked after seen fenced": sum(e.sent > seen[e.key] for e in about),
        "served after seen fenced": sum(e.sent > seen[e.key] for e in served),
        "served after the ledger's stamp": sum(by > 0 for by in late),
        "... by at most, ms": 1e3 * max([0.0, *late]),
        "refused before the stamp": sum(e.status == 404 and e.received < stamps[e.key] for e in about),
    }
