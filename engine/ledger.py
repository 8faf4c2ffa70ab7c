"""The durable request ledger (SQLite): what was asked, how far it is, who is fenced, how far was read.

States and who may cause them, as data (:data:`TRANSITIONS`)::

    received -> fenced      the intake, in the transaction that records the request
    fenced   -> erasing     a cycle takes it up
    erasing  -> erased      the cycle published a version without it and purged what still held it
    erasing  -> fenced      the cycle was cut off before it published; it is done again
    fenced, erasing -> failed   a model could not forget it; loud, and tried again by the next run
    failed   -> fenced      the next run
    received, fenced, failed -> cancelled   whoever asked for it took it back, before erasing

Clear ids are here from *received* to *erased* only; then a keyed hash is left. ``secure_delete`` zeroes
what is freed, and :meth:`Ledger.purge` empties the write-ahead log.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from . import durable
from .fence import FenceKey
from .requests import AccountDeletion, InteractionRemoval, Request, canonical_id
from .state import StateError, StatePaths

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "received": frozenset({"fenced", "cancelled"}),
    "fenced": frozenset({"erasing", "failed", "cancelled"}),
    "erasing": frozenset({"erased", "fenced", "failed"}),
    "failed": frozenset({"fenced", "cancelled"}),
    "erased": frozenset(),
    "cancelled": frozenset(),
}
"""State -> the states that may follow it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('account', 'interaction')),
    user_id TEXT, item_id TEXT,              -- cleared when erased
    subject BLOB NOT NULL,                   -- keyed hash of the user, or of the user and the item
    source_partition TEXT, source_offset INTEGER,
    requested_at REAL, received_at REAL NOT NULL, fenced_at REAL, erased_at REAL,
    state TEXT NOT NULL,
    outcome TEXT CHECK (outcome IN ('removed', 'nothing')),
    cycle INTEGER REFERENCES cycles (cycle),
    reason TEXT, attempts INTEGER NOT NULL DEFAULT 0,
    receipt INTEGER                          -- its index in the receipt log
);
CREATE INDEX IF NOT EXISTS requests_by_state ON requests (state, seq);
CREATE INDEX IF NOT EXISTS requests_by_cycle ON requests (cycle);
CREATE INDEX IF NOT EXISTS requests_without_receipt ON requests (seq)
    WHERE state = 'erased' AND receipt IS NULL;
CREATE INDEX IF NOT EXISTS requests_by_receipt ON requests (receipt);
CREATE TABLE IF NOT EXISTS fence (
    subject BLOB PRIMARY KEY, owner BLOB NOT NULL,    -- keyed hash of the user: the subject of an account
    kind TEXT NOT NULL, seq INTEGER NOT NULL, erased INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cycles (
    cycle INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'published', 'finished')),
    record BLOB                              -- JSON: what was published and what was purged, for the receipts
);
CREATE TABLE IF NOT EXISTS positions (
    source TEXT NOT NULL, partition TEXT NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (source, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters (
    source TEXT NOT NULL, partition TEXT NOT NULL, offset INTEGER NOT NULL,
    reason TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (source, partition, offset)
) WITHOUT ROWID;
"""


class LedgerError(StateError):
    """The ledger cannot be read, or was asked for a transition that is not allowed."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request with where it was read."""

    request: Request
    partition: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read as a request: a duty that is not fulfilled."""

    partition: str
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits to be erased; ``seq`` is its number in the ledger."""

    seq: int
    request: Request


@dataclass(frozen=True, slots=True)
class ErasedRequest:
    """What the ledger keeps of a request that is done; times are Unix seconds."""

    seq: int
    request_id: str
    kind: str
    subject: bytes
    partition: str | None
    offset: int | None
    requested_at: float | None
    received_at: float
    fenced_at: float
    erased_at: float
    outcome: str
    cycle: int


@dataclass(frozen=True, slots=True)
class Cycle:
    """One erasure cycle: the version it publishes, how far it is, and its record."""

    cycle: int
    version: int
    state: str
    record: Mapping[str, Any]


class Ledger:
    """One connection to the ledger: for one thread; each thread and process opens its own.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     paths = StatePaths(Path(directory))
    ...     with Ledger.create(paths, FenceKey(bytes(32))) as ledger:
    ...         ledger.record([Received(AccountDeletion("e-1", 42))])
    ...         ledger.record([Received(AccountDeletion("e-1", "42"))])
    ...         ledger.pending()
    1
    0
    [Pending(seq=1, request=AccountDeletion(request_id='e-1', user_id='42', requested_at=None))]
    """

    def __init__(self, path: Path, key: FenceKey) -> None:
        """Open a ledger that exists.

        Raises
        ------
        LedgerError
            There is none, or it is not a ledger.
        """
        self._path, self._key = path, key
        if not path.exists():
            raise LedgerError(f"{path} is missing; restore it from a backup: it says who was erased")
        try:
            self._connection = _connect(path)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path} cannot be read ({error}); restore it from a backup") from error

    @classmethod
    def create(cls, paths: StatePaths, key: FenceKey) -> Self:
        """Open the state's ledger, and make one if there is none."""
        if not paths.ledger.exists():
            durable.create_bytes(paths.ledger, b"")
        ledger = cls(paths.ledger, key)
        with ledger._transaction("create the ledger's tables") as connection:
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
        return ledger

    @contextmanager
    def _transaction(self, step: str) -> Iterator[sqlite3.Connection]:
        """Commit all that is done within, durably, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            durable.reached(f"before: {step}")
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        durable.reached(f"after: {step}")

    # --- intake -------------------------------------------------------------------------------------

    def conflicts(self, received: Sequence[Received]) -> set[int]:
        """Find requests whose id was used for another subject before; int: places in ``received``.

        Such a request must not pass for a repetition: it would be a deletion that is silently lost.
        """
        seen: dict[str, bytes] = {}
        found = set()
        for place, entry in enumerate(received):
            request_id, subject = entry.request.request_id, self._subject(entry.request)
            known = self._known_subject(request_id) or seen.setdefault(request_id, subject)
            if known != subject:
                found.add(place)
        return found

    def _known_subject(self, request_id: str) -> bytes | None:
        row = self._connection.execute(
            "SELECT subject FROM requests WHERE request_id IN (?, ?)", (request_id, self._hashed(request_id))
        ).fetchone()
        return None if row is None else row[0]

    def record(
        self,
        received: Sequence[Received],
        *,
        source: str = "",
        positions: Mapping[str, int] | None = None,
        dead_letters: Sequence[DeadLetter] = (),
    ) -> int:
        """Record requests, fence their users and remember how far the source was read, all or nothing.

        Parameters
        ----------
        received : requests; one whose id is known already is a repetition and recorded once.
        source, positions : partition -> next offset to read, stored in the same transaction.
        dead_letters : records of ``source`` that could not be read.

        Returns
        -------
        How many requests were new.
        """
        now = time.time()
        new = 0
        with self._transaction("record requests") as connection:
            for entry in received:
                new += self._insert(connection, entry, now)
            connection.executemany(
                "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?, ?, ?)",
                [(source, letter.partition, letter.offset, letter.reason, now) for letter in dead_letters],
            )
            connection.executemany(
                "INSERT INTO positions VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
                [(source, partition, offset) for partition, offset in (positions or {}).items()],
            )
        return new

    def _insert(self, connection: sqlite3.Connection, entry: Received, now: float) -> int:
        request = entry.request
        if self._known_subject(request.request_id) is not None:
            return 0
        item_id = canonical_id(request.item_id) if isinstance(request, InteractionRemoval) else None
        kind = "account" if item_id is None else "interaction"
        subject = self._subject(request)
        cursor = connection.execute(
            "INSERT INTO requests (request_id, kind, user_id, item_id, subject, source_partition, "
            "source_offset, requested_at, received_at, fenced_at, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'fenced')",
            (
                request.request_id, kind, canonical_id(request.user_id), item_id, subject,
                entry.partition, entry.offset,
                request.requested_at.timestamp() if request.requested_at else None, now, now,
            ),
        )  # fmt: skip
        connection.execute(
            "INSERT OR IGNORE INTO fence (subject, owner, kind, seq) VALUES (?, ?, ?, ?)",
            (subject, self._key.user(request.user_id), kind, cursor.lastrowid),
        )
        return 1

    def _subject(self, request: Request) -> bytes:
        if isinstance(request, InteractionRemoval):
            return self._key.pair(request.user_id, request.item_id)
        return self._key.user(request.user_id)

    def positions(self, source: str) -> dict[str, int]:
        """Return partition -> next offset to read, as of the last transaction."""
        return dict(
            self._connection.execute(
                "SELECT partition, next_offset FROM positions WHERE source = ?", (source,)
            )
        )

    # --- cycles -------------------------------------------------------------------------------------

    def pending(self, limit: int = -1) -> list[Pending]:
        """Return up to ``limit`` requests that wait to be erased, oldest first."""
        rows = self._connection.execute(
            "SELECT seq, request_id, user_id, item_id, requested_at FROM requests WHERE state = 'fenced' "
            "ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [Pending(seq, _request(*columns)) for seq, *columns in rows]

    def begin_cycle(self, version: int, outcomes: Mapping[int, str]) -> int:
        """Take requests up: they are erasing from here on. Returns the cycle's number.

        Parameters
        ----------
        version : the version that will be without them.
        outcomes : seq -> ``"removed"``, or ``"nothing"`` where nothing of the subject was kept.
        """
        with self._transaction("begin a cycle") as connection:
            cycle = connection.execute(
                "INSERT INTO cycles (version, state) VALUES (?, 'open')", (version,)
            ).lastrowid
            assert cycle is not None  # noqa: S101  an INSERT has a row id; this tells the type checker
            for seq, outcome in outcomes.items():
                self._move(seq, "erasing")
                connection.execute(
                    "UPDATE requests SET cycle = ?, outcome = ?, attempts = attempts + 1 WHERE seq = ?",
                    (cycle, outcome, seq),
                )
        return cycle

    def publish_cycle(self, cycle: int, record: Mapping[str, Any]) -> None:
        """Note that the cycle's version is the published one; ``record``: JSON-ready, for the receipts."""
        with self._transaction("mark a cycle published") as connection:
            connection.execute(
                "UPDATE cycles SET state = 'published', record = ? WHERE cycle = ?",
                (msgspec.json.encode(record), cycle),
            )

    def finish_cycle(self, cycle: int, record: Mapping[str, Any]) -> int:
        """Everything is purged: mark the cycle's requests erased and clear their ids. Returns how many."""
        now = time.time()
        with self._transaction("mark requests erased") as connection:
            rows = connection.execute(
                "SELECT seq, request_id, subject, user_id FROM requests "
                "WHERE cycle = ? AND state = 'erasing'",
                (cycle,),
            ).fetchall()
            for seq, request_id, subject, user_id in rows:
                self._move(seq, "erased")
                connection.execute(
                    "UPDATE requests SET erased_at = ?, user_id = NULL, item_id = NULL, request_id = ? "
                    "WHERE seq = ?",
                    (now, self._unlinked(request_id, user_id), seq),
                )
                connection.execute("UPDATE fence SET erased = 1 WHERE subject = ?", (subject,))
            connection.execute(
                "UPDATE cycles SET state = 'finished', record = ? WHERE cycle = ?",
                (msgspec.json.encode(record), cycle),
            )
        return len(rows)

    def note_scan(self, cycle: int, scan: Mapping[str, Any]) -> None:
        """Add to a cycle's record what the search for remains found; JSON-ready."""
        record = {**self.cycle(cycle).record, "scan": scan}
        with self._transaction("note a scan") as connection:
            connection.execute(
                "UPDATE cycles SET record = ? WHERE cycle = ?", (msgspec.json.encode(record), cycle)
            )

    def _unlinked(self, request_id: str, user_id: str) -> str:
        """Keep a request's id, unless it gives the user away: then a keyed hash stands for it."""
        gives_away = is_distinctive(user_id) and user_id in request_id
        return self._hashed(request_id) if gives_away else request_id

    def _hashed(self, request_id: str) -> str:
        return f"hash:{self._key.user(request_id).hex()}"

    def abandon_cycle(self, cycle: int) -> None:
        """Drop a cycle that did not publish: its requests wait again."""
        with self._transaction("abandon a cycle") as connection:
            rows = connection.execute(
                "SELECT seq FROM requests WHERE cycle = ? AND state = 'erasing'", (cycle,)
            ).fetchall()
            for (seq,) in rows:
                self._move(seq, "fenced")
            connection.execute("UPDATE requests SET cycle = NULL, outcome = NULL WHERE cycle = ?", (cycle,))
            connection.execute("DELETE FROM cycles WHERE cycle = ?", (cycle,))

    def unfinished_cycles(self) -> list[Cycle]:
        """Return the cycles that a crash may have cut off, oldest first."""
        rows = self._connection.execute(
            "SELECT cycle, version, state, record FROM cycles WHERE state != 'finished' ORDER BY cycle"
        )
        return [_cycle(*row) for row in rows]

    def cycle(self, cycle: int) -> Cycle:
        """Return one cycle with its record."""
        row = self._connection.execute(
            "SELECT cycle, version, state, record FROM cycles WHERE cycle = ?", (cycle,)
        ).fetchone()
        if row is None:
            raise LedgerError(f"{self._path} knows no cycle {cycle}")
        return _cycle(*row)

    def subjects(self, cycle: int) -> list[tuple[str, str | None]]:
        """Return the clear (user id, item id or None) of the requests of a cycle that is not finished."""
        return self._connection.execute(
            "SELECT user_id, item_id FROM requests WHERE cycle = ? AND state = 'erasing'", (cycle,)
        ).fetchall()

    def waiting_users(self) -> set[str]:
        """Return the clear ids of users with a request that is not done: the ledger holds them still."""
        rows = self._connection.execute("SELECT DISTINCT user_id FROM requests WHERE user_id IS NOT NULL")
        return {user for (user,) in rows}

    def published_version(self) -> int:
        """Return the newest version that an erasure was published in; 0 if there is none."""
        row = self._connection.execute("SELECT max(version) FROM cycles WHERE state != 'open'").fetchone()
        return int(row[0] or 0)

    # --- failures -----------------------------------------------------------------------------------

    def fail(self, seq: int, reason: str) -> None:
        """Mark a request that a model could not forget. ``reason`` must not name anybody."""
        with self._transaction("mark a request failed") as connection:
            self._move(seq, "failed")
            connection.execute(
                "UPDATE requests SET reason = ?, cycle = NULL, outcome = NULL WHERE seq = ?", (reason, seq)
            )

    def retry_failed(self) -> int:
        """Put failed requests back among those that wait; returns how many."""
        with self._transaction("retry failed requests") as connection:
            rows = connection.execute("SELECT seq FROM requests WHERE state = 'failed'").fetchall()
            for (seq,) in rows:
                self._move(seq, "fenced")
        return len(rows)

    def cancel(self, request_id: str) -> None:
        """Take a request back before it is taken up; the fence it alone put up comes down.

        Raises
        ------
        LedgerError
            It is unknown, or erasing has begun.
        """
        with self._transaction("cancel a request") as connection:
            row = connection.execute(
                "SELECT seq, subject FROM requests WHERE request_id = ?", (request_id,)
            ).fetchone()
            if row is None:
                raise LedgerError(f"request {request_id!r} is not in the ledger; was it read already?")
            seq, subject = row
            self._move(seq, "cancelled")
            connection.execute("UPDATE requests SET user_id = NULL, item_id = NULL WHERE seq = ?", (seq,))
            connection.execute(
                "DELETE FROM fence WHERE subject = ?1 AND NOT EXISTS "
                "(SELECT 1 FROM requests WHERE subject = ?1 AND state != 'cancelled')",
                (subject,),
            )

    def _move(self, seq: int, state: str) -> None:
        row = self._connection.execute("SELECT state FROM requests WHERE seq = ?", (seq,)).fetchone()
        if row is None or state not in TRANSITIONS[row[0]]:
            known = "unknown" if row is None else row[0]
            raise LedgerError(f"request {seq} is {known}: it cannot become {state}")
        self._connection.execute("UPDATE requests SET state = ? WHERE seq = ?", (state, seq))

    # --- receipts and reports -----------------------------------------------------------------------

    def without_receipt(self) -> list[ErasedRequest]:
        """Return the requests that are erased and have no receipt yet, oldest first."""
        rows = self._connection.execute(
            "SELECT seq, request_id, kind, subject, source_partition, source_offset, requested_at, "
            "received_at, fenced_at, erased_at, outcome, cycle FROM requests "
            "WHERE state = 'erased' AND receipt IS NULL ORDER BY seq"
        )
        return [ErasedRequest(*row) for row in rows]

    def last_receipt(self) -> int:
        """Return the highest place in the receipt log that is noted; -1 if there is none."""
        (last,) = self._connection.execute("SELECT max(receipt) FROM requests").fetchone()
        return -1 if last is None else int(last)

    def receipt_places(self) -> dict[int, int]:
        """Return number of the request -> place of its receipt in the log, for all that have one."""
        return dict(self._connection.execute("SELECT seq, receipt FROM requests WHERE receipt IS NOT NULL"))

    def erased_count(self) -> int:
        """Return how many requests are erased."""
        (count,) = self._connection.execute("SELECT count(*) FROM requests WHERE state = 'erased'").fetchone()
        return int(count)

    def note_receipts(self, indices: Mapping[int, int]) -> None:
        """Remember the receipts of requests: seq -> index in the receipt log."""
        with self._transaction("note receipts") as connection:
            connection.executemany(
                "UPDATE requests SET receipt = ? WHERE seq = ?", [(i, seq) for seq, i in indices.items()]
            )

    def counts(self) -> dict[str, int]:
        """Return state -> how many requests are in it (every state), and ``dead_letters``."""
        counts = dict.fromkeys(TRANSITIONS, 0)
        counts.update(self._connection.execute("SELECT state, count(*) FROM requests GROUP BY state"))
        (counts["dead_letters"],) = self._connection.execute("SELECT count(*) FROM dead_letters").fetchone()
        return counts

    def oldest_pending(self) -> float | None:
        """Return when the oldest request that is not erased yet was received: Unix seconds."""
        oldest: float | None
        (oldest,) = self._connection.execute(
            "SELECT min(received_at) FROM requests WHERE state IN ('received', 'fenced', 'erasing', 'failed')"
        ).fetchone()
        return oldest

    def failures(self) -> list[tuple[str, str]]:
        """Return (request id, reason) of each failed request."""
        return self._connection.execute(
            "SELECT request_id, reason FROM requests WHERE state = 'failed' ORDER BY seq"
        ).fetchall()

    def timings(self, since_seq: int = 0) -> list[tuple[str, float, float, float]]:
        """Return (request id, received, fenced, erased) of erased requests after ``since_seq``."""
        return self._connection.execute(
            "SELECT request_id, received_at, fenced_at, erased_at FROM requests "
            "WHERE state = 'erased' AND seq > ? ORDER BY seq",
            (since_seq,),
        ).fetchall()

    def fenced_users(self, *, erased_only: bool = False) -> set[bytes]:
        """Return the keyed hashes of users whose account is fenced, or only of those who are erased."""
        rows = self._connection.execute(
            "SELECT subject FROM fence WHERE kind = 'account' AND erased >= ?", (int(erased_only),)
        )
        return {subject for (subject,) in rows}

    def fenced_pairs(self, *, erased_only: bool = False) -> tuple[set[bytes], set[bytes]]:
        """Return the keyed hashes of fenced single interactions, and those of the users they belong to."""
        rows = self._connection.execute(
            "SELECT subject, owner FROM fence WHERE kind = 'interaction' AND erased >= ?", (int(erased_only),)
        ).fetchall()
        return {subject for subject, _ in rows}, {owner for _, owner in rows}

    def texts(self) -> list[str]:
        """Return every text that the ledger holds of requests that are done: no id must be among them."""
        rows = self._connection.execute(
            "SELECT request_id, user_id, item_id, reason FROM requests WHERE state IN ('erased', 'cancelled')"
        )
        return [text for row in rows for text in row if text]

    # --- housekeeping -------------------------------------------------------------------------------

    def purge(self) -> bool:
        """Move the write-ahead log into the ledger and empty it: no cleared id is left in either.

        Returns False if a reader kept an old view of the ledger for the whole time-out; try again later.
        """
        durable.reached("before: empty the write-ahead log")
        (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        durable.reached("after: empty the write-ahead log")
        return not busy

    def integrity(self) -> str:
        """Return ``"ok"``, or what SQLite's own check found."""
        try:
            (result,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return str(error)
        return str(result)

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_distinctive(external_id: str) -> bool:
    """Tell whether an id can be looked for in free text: a short number is found everywhere.

    Examples
    --------
    >>> is_distinctive("42"), is_distinctive("4200042"), is_distinctive("anna")
    (False, True, True)
    """
    return len(external_id) >= 6 or (len(external_id) >= 3 and not external_id.isdecimal())


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _request(request_id: str, user_id: str, item_id: str | None, requested_at: float | None) -> Request:
    at = None if requested_at is None else datetime.fromtimestamp(requested_at, UTC)
    if item_id is None:
        return AccountDeletion(request_id, user_id, at)
    return InteractionRemoval(request_id, user_id, item_id, at)


def _cycle(cycle: int, version: int, state: str, record: bytes | None) -> Cycle:
    return Cycle(cycle, version, state, msgspec.json.decode(record) if record else {})
