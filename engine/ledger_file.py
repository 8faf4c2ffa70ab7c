"""The ledger's file: its tables, its one way to change them, and what leaves no cleared id in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from . import durable
from .fence import FenceKey
from .request_states import TRANSITIONS
from .state import StateError, StatePaths

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


class LedgerFile:
    """A connection to the ledger, and the transactions in which alone it changes."""

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

    def _hashed(self, request_id: str) -> str:
        return f"hash:{self._key.user(request_id).hex()}"

    def _move(self, seq: int, state: str) -> None:
        row = self._connection.execute("SELECT state FROM requests WHERE seq = ?", (seq,)).fetchone()
        if row is None or state not in TRANSITIONS[row[0]]:
            known = "unknown" if row is None else row[0]
            raise LedgerError(f"request {seq} is {known}: it cannot become {state}")
        self._connection.execute("UPDATE requests SET state = ? WHERE seq = ?", (state, seq))

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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection
