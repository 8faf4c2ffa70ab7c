"""What the operator's page shows: requests by state, latencies, certificates over versions, receipts.

All of it is read from the ledger's counts and from the receipts that were given, which name nobody.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import numpy as np

from .key_ring import is_rotation
from .ledger_connection import connect
from .receipts import predicate_of
from .state import StatePaths

_TAIL_BYTES = 1 << 20
_MOST_RECEIPTS = 200


def overview(paths: StatePaths) -> dict[str, Any]:
    """Sum up what happened lately, JSON-ready; read-only, so it may run beside a writer.

    Returns
    -------
    ``states``: of each state that a request is in, how many, and the age of the oldest in seconds;
    ``latency``: of the last receipts, seconds from received to fenced and to erased (median, p99, slowest);
    ``certificates``: of each version that they name, what its models proved, oldest first; ``receipts``: the
    last of them, newest first; ``receipts_count``: how many there are.
    """
    states, count, places = _of_ledger(paths)
    last = _last_receipts(paths, places)
    statements = list(last.values())
    return {
        "states": states,
        "latency": {step: _quantiles(_waits(statements, step)) for step in ("fenced", "erased")},
        "certificates": _certificates(statements),
        "receipts": [_line(place, said) for place, said in reversed(last.items())],
        "receipts_count": count,
    }


def _of_ledger(paths: StatePaths) -> tuple[dict[str, dict[str, float]], int, dict[int, int]]:
    """Return the states with ages, how many receipts there are, and of the last: request -> place."""
    with closing(connect(paths.ledger, read_only=True)) as connection:
        rows = connection.execute("SELECT state, count(*), min(received_at) FROM requests GROUP BY state")
        now = time.time()
        states = {
            state: {"count": count, "oldest_seconds": max(0.0, now - oldest)} for state, count, oldest in rows
        }
        (count,) = connection.execute("SELECT count(receipt) FROM requests").fetchone()
        places = connection.execute(
            "SELECT seq, receipt FROM requests WHERE receipt IS NOT NULL ORDER BY receipt DESC LIMIT ?",
            (_MOST_RECEIPTS,),
        )
        return states, count, dict(places.fetchall())


def _last_receipts(paths: StatePaths, places: Mapping[int, int]) -> dict[int, dict[str, Any]]:
    """Return what the last receipts state, by their places, ascending; not checked.

    Only the end of the log is read, however long it is.
    """
    try:
        with paths.receipt_log.open("rb") as log:
            start = max(0, log.seek(0, 2) - _TAIL_BYTES)
            log.seek(start)
            lines = log.read().split(b"\n")[(start > 0) : -1]
    except FileNotFoundError:
        return {}
    said = [predicate_of(line) for line in lines[-_MOST_RECEIPTS:] if not is_rotation(line)]
    return {places[one["request"]["seq"]]: one for one in said if one["request"]["seq"] in places}


def _waits(statements: Iterable[Mapping[str, Any]], step: str) -> list[float]:
    return [
        (datetime.fromisoformat(said[step]) - datetime.fromisoformat(said["received"])).total_seconds()
        for said in statements
        if said.get(step)
    ]


def _quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Sum up a list of times; None if it is empty.

    Examples
    --------
    >>> _quantiles([1.0, 2.0, 6.0])
    {'median': 2.0, 'p99': 5.92, 'slowest': 6.0}
    """
    if not seconds:
        return None
    median, p99, slowest = np.quantile(seconds, [0.5, 0.99, 1.0]).round(6).tolist()
    return {"median": median, "p99": p99, "slowest": slowest}


def _certificates(statements: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    proved: dict[int, Any] = {}
    for said in statements:
        if said["models"]:
            proved[said["version"]] = said["models"]
    return [{"version": version, "models": proved[version]} for version in sorted(proved)]


def _line(index: int, said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": index,
        "id": said["request"]["id"],
        "kind": said["request"]["kind"],
        "outcome": said["outcome"],
        "version": said["version"],
        "received": said["received"],
        "fenced": said["fenced"],
        "done": said.get("done") or said.get("erased"),
        "stores": said.get("stores"),
    }
