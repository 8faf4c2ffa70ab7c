"""What the operator's page shows: requests by state, latencies, certificates over versions, receipts.

All of it is read from the ledger's counts and from the receipts that were given, which name nobody.
"""

import base64
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from .receipts import log_path
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
    count, statements = _last_receipts(paths)
    return {
        "states": _states(paths),
        "latency": {step: _quantiles(_waits(statements, step)) for step in ("fenced", "erased")},
        "certificates": _certificates(statements),
        "receipts": [
            _line(index, said) for index, said in zip(_places(count, statements), statements, strict=True)
        ][::-1],
        "receipts_count": count,
    }


def _states(paths: StatePaths) -> dict[str, dict[str, float]]:
    uri = f"{paths.ledger.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=10)
    try:
        rows = connection.execute(
            "SELECT state, count(*), min(received_at) FROM requests GROUP BY state"
        ).fetchall()
    finally:
        connection.close()
    now = time.time()
    return {
        state: {"count": count, "oldest_seconds": max(0.0, now - oldest)} for state, count, oldest in rows
    }


def _last_receipts(paths: StatePaths) -> tuple[int, list[dict[str, Any]]]:
    """Return how many receipts there are, and what the last of them state, oldest first; not checked."""
    try:
        with log_path(paths).open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _TAIL_BYTES))
            tail = log.read()
            lines = tail.split(b"\n")[(size > _TAIL_BYTES) : -1][-_MOST_RECEIPTS:]
            log.seek(0)
            count = sum(block.count(b"\n") for block in iter(lambda: log.read(_TAIL_BYTES), b""))
    except FileNotFoundError:
        return 0, []
    return count, [_predicate(line) for line in lines]


def _predicate(line: bytes) -> dict[str, Any]:
    payload = base64.b64decode(msgspec.json.decode(line)["payload"])
    predicate: dict[str, Any] = msgspec.json.decode(payload)["predicate"]
    return predicate


def _places(count: int, statements: Sequence[Any]) -> range:
    return range(count - len(statements), count)


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
