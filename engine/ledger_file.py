"""The ledger's file: the transactions in which alone it changes, and what leaves no cleared id in it."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from . import durable
from .closable import Closable
from .fence import FenceKey
from .ledger_schema import SCHEMA, SCHEMA_VERSION
from .requests import is_distinctive
from .state import StateError, StatePaths


class LedgerError(StateError):
    """The ledger cannot be read, or was asked for a transition that is not allowed."""


class LedgerFile(Closable):
    """A connection to the ledger, and the transactions in which alone it changes."""

    def __init__(self, path: Path, key: FenceKey) -> None:
        """Open a ledger that exists.

        Raises
        ------
        LedgerError
            There is none, it is not a ledger, or one of another release.
        """
        self._path, self._key = path, key
        if not path.exists():
            raise LedgerError(f"{path} is missing; restore it from a backup: it says who was erased")
        try:
            self._connection = _connect(path)
            found = _schema_version(self._connection)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path} cannot be read ({error}); restore it from a backup") from error
        if found not in (None, SCHEMA_VERSION):
            self._connection.close()
            raise LedgerError(
                f"{path} has tables of version {found}, this release writes {SCHEMA_VERSION}; "
                "use the release that wrote it, or fit a new state directory"
            )

    @classmethod
    def create(cls, paths: StatePaths, key: FenceKey) -> Self:
        """Open the state's ledger, and make one if there is none."""
        if not paths.ledger.exists():
            durable.create_bytes(paths.ledger, b"")
        ledger = cls(paths.ledger, key)
        with ledger._transaction("create the ledger's tables") as connection:
            for statement in SCHEMA:
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

    def _clear_ids(self, outcomes: Sequence[tuple[int, str]], now: float) -> None:
        """Note when requests were done and their outcomes (number, outcome), and drop their clear ids."""
        ids = self._ids()
        self._connection.executemany(
            "UPDATE requests SET done_at = ?, outcome = ?, request_id = ? WHERE seq = ?",
            [(now, outcome, self._unlinked(*ids[seq][:2]), seq) for seq, outcome in outcomes],
        )
        self._drop_ids({seq for seq, _ in outcomes})

    def _ids(self) -> dict[int, tuple[str, str, str | None]]:
        """Return number of each open request -> clear request id, user id, item id."""
        rows = self._connection.execute("SELECT seq, request_id, user_id, item_id FROM open_ids")
        return {seq: (request_id, user_id, item_id) for seq, request_id, user_id, item_id in rows}

    def _drop_ids(self, seqs: Collection[int]) -> None:
        """Drop the clear ids of requests: empty the whole table, which frees its pages, and fill it again."""
        staying = [(seq, *ids) for seq, ids in self._ids().items() if seq not in seqs]
        self._connection.execute("DELETE FROM open_ids")
        self._connection.executemany("INSERT INTO open_ids VALUES (?, ?, ?, ?)", staying)

    def _unlinked(self, request_id: str, user_id: str) -> str:
        """Keep a request's id, unless it gives the user away: then a keyed hash stands for it."""
        gives_away = is_distinctive(user_id) and user_id in request_id
        return self._hashed(request_id) if gives_away else request_id

    def _hashed(self, request_id: str) -> str:
        return f"hash:{self._key.user(request_id).hex()}"

    def _move(self, seqs: Sequence[int], state: str) -> None:
        """Put requests into a state; the table's trigger refuses what is not an allowed transition."""
        for seq in seqs:
            try:
                moved = self._connection.execute(
                    "UPDATE requests SET state = ? WHERE seq = ?", (state, seq)
                ).rowcount
            except sqlite3.IntegrityError:
                (known,) = self._connection.execute(
                    "SELECT state FROM requests WHERE seq = ?", (seq,)
                ).fetchone()
                raise LedgerError(f"request {seq} is {known}: it cannot become {state}") from None
            if not moved:
                raise LedgerError(f"request {seq} is unknown: it cannot become {state}")

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


def _schema_version(connection: sqlite3.Connection) -> int | None:
    """Return the version of the tables; None if there are none yet."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    has_tables = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'requests'").fetchone()
    return int(version) if has_tables else None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection
