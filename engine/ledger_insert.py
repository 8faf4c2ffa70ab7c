"""Many requests into the ledger's tables at once: one statement a table, whatever their number.

The rows go to SQLite as one JSON text and runs of keyed hashes, and it takes them apart itself. A statement
is then one call, in which no lock of the interpreter is held: what comes next can be read meanwhile.
"""

from collections.abc import Sequence

import msgspec

from .ledger_connection import Connection
from .requests import InteractionRemoval, Request, canonical_id

# A keyed hash has 32 bytes.
_REQUESTS = """INSERT INTO requests (seq, request_key, kind, subject, source_partition, source_offset,
    requested_at, received_at, fenced_at, state)
SELECT ?1 + key, substr(?2, 32 * key + 1, 32), value ->> 0, substr(?3, 32 * key + 1, 32),
    value ->> 1, value ->> 2, value ->> 3, ?4, iif(value ->> 0 = 'readmission', NULL, ?4),
    iif(value ->> 0 = 'readmission', 'received', 'fenced')
FROM jsonb_each(?5)"""

_OPEN_IDS = """INSERT INTO open_ids (seq, request_id, user_id, item_id)
SELECT ?1 + key, value ->> 4, value ->> 5, value ->> 6 FROM jsonb_each(?2)"""

# Page by page, as the hashes are in no order; of one subject the last request is the last.
_FENCE = """INSERT INTO fence (subject, owner, kind, first, last)
SELECT subject, substr(?2, 32 * (seq - ?1) + 1, 32),
    iif(kind = 'interaction', 'interaction', 'account'), seq, seq
FROM requests WHERE seq >= ?1 AND kind != 'readmission' ORDER BY subject, seq
ON CONFLICT (subject) DO UPDATE SET last = excluded.last, erased = 0"""

# Their ids are known again until they are admitted.
_KNOWN_AGAIN = """UPDATE fence SET erased = 0
WHERE subject IN (SELECT subject FROM requests WHERE seq >= ? AND kind = 'readmission')"""

_KNOWN = """WITH RECURSIVE place (at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM place WHERE at + 1 < ?1)
SELECT json_group_array(json_array(hex(request_key), kind, hex(subject))) FROM requests
WHERE request_key IN (SELECT substr(?2, 32 * at + 1, 32) FROM place)"""


class Hashed(msgspec.Struct, frozen=True, gc=False):
    """A request with its keyed hashes: of its id, of its subject, of its user; and where it was read."""

    request: Request
    key: bytes
    subject: bytes
    owner: bytes
    partition: str | None
    offset: int | None


def known_requests(connection: Connection, hashed: Sequence[Hashed]) -> dict[bytes, tuple[str, bytes]]:
    """Look up which of these ids are recorded: keyed hash of the id -> kind and subject."""
    if not hashed:
        return {}
    keys = b"".join([one.key for one in hashed])
    ((found,),) = connection.execute(_KNOWN, (len(hashed), keys)).fetchall()
    rows = msgspec.json.decode(found, type=list[tuple[str, str, str]])
    return {bytes.fromhex(key): (kind, bytes.fromhex(subject)) for key, kind, subject in rows}


def insert_requests(connection: Connection, new: Sequence[Hashed], now: float) -> int:
    """Insert requests with their clear ids and their fences, within a transaction.

    Returns
    -------
    The first one's number; the others follow it.
    """
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'requests'").fetchone()
    first = 1 + (0 if row is None else int(row[0]))
    if new:
        rows = msgspec.json.encode([_row(one) for one in new]).decode()
        keys, subjects = b"".join([one.key for one in new]), b"".join([one.subject for one in new])
        owners = b"".join([one.owner for one in new])
        connection.execute(_REQUESTS, (first, keys, subjects, now, rows))
        connection.execute(_OPEN_IDS, (first, rows))
        connection.execute(_FENCE, (first, owners))
        connection.execute(_KNOWN_AGAIN, (first,))
    return first


def _row(one: Hashed) -> tuple[object, ...]:
    request, at = one.request, one.request.requested_at
    return (
        request.kind,
        one.partition,
        one.offset,
        None if at is None else at.timestamp(),
        request.request_id,
        canonical_id(request.user_id),
        canonical_id(request.item_id) if type(request) is InteractionRemoval else None,
    )
