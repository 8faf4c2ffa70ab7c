"""The ledger's file: the transactions in which alone it changes, and what leaves no cleared id in it."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import apsw

from . import durable
from .closable import Closable
from .fence import FenceKey
from .ledger_connection import (
    Connection,
    LedgerError,
    check_pages,
    close_untouched,
    connect,
    read_noted,
)
from .ledger_count import check_not_older, note_count, read_count
from .ledger_migration import add_checksums, add_what_is_noted
from .ledger_schema import FENCE_KEY, SCHEMA, SCHEMA_VERSION, TRANSACTIONS
from .requests import is_distinctive
from .state import StatePaths

__all__ = ["LedgerError", "LedgerFile"]

_CACHE_KIB = 32 << 10  # keyed hashes come in no order: an intake touches pages all over the fence


class LedgerFile(Closable):
    """A connection to the ledger, and the transactions in which alone it changes."""

    def __init__(self, path: Path, key: FenceKey, *, may_be_empty: bool = False) -> None:
        """Open a ledger that exists; one of the release before is brought up to date.

        Parameters
        ----------
        may_be_empty : take an empty file for a ledger whose tables are about to be made.

        Raises
        ------
        LedgerError
            There is none, it is not a ledger, it is one of another release, or it lost transactions.
        StateError
            The key is not the one that the ledger was made with.
        """
        self._path, self._key = path, key
        add_checksums(path)
        counted = read_count(path)  # before the ledger is looked at: another process may be writing
        self._connection = _connect(path, may_be_empty=may_be_empty and not counted)
        try:
            self._check(counted)
        except BaseException:
            close_untouched(self._connection)
            raise

    def _check(self, counted: int) -> None:
        found = _schema_version(self._connection)
        if found == SCHEMA_VERSION - 1:
            with self._transaction("bring the ledger up to date") as connection:
                add_what_is_noted(connection, self._key)
        elif found not in (None, SCHEMA_VERSION):
            raise LedgerError(
                f"{self._path} has tables of version {found}, this release writes {SCHEMA_VERSION}; "
                "use the release that wrote it, or fit a new state directory"
            )
        if found is None:
            check_not_older(self._path, 0, counted)
        else:
            noted = read_noted(self._connection)
            self._key.check(noted[FENCE_KEY])
            check_not_older(self._path, noted[TRANSACTIONS], counted)

    @classmethod
    def create(cls, paths: StatePaths, key: FenceKey) -> Self:
        """Open the state's ledger, and make one if there is none."""
        if not paths.ledger.exists():
            durable.create_bytes(paths.ledger, b"")
        ledger = cls(paths.ledger, key, may_be_empty=True)
        with ledger._transaction("create the ledger's tables") as connection:
            for statement in SCHEMA:
                connection.execute(statement)
            add_what_is_noted(connection, key)
        return ledger

    @contextmanager
    def _transaction(self, step: str) -> Iterator[Connection]:
        """Commit all that is done within, durably, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            (count,) = self._connection.execute(
                "UPDATE noted SET value = value + 1 WHERE name = ? RETURNING value", (TRANSACTIONS,)
            ).fetchone()
            durable.reached(f"before: {step}")
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        durable.reached(f"after: {step}")
        note_count(self._path, count)

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
                self._connection.execute("UPDATE requests SET state = ? WHERE seq = ?", (state, seq))
            except apsw.ConstraintError:
                (known,) = self._connection.execute(
                    "SELECT state FROM requests WHERE seq = ?", (seq,)
                ).fetchone()
                raise LedgerError(f"request {seq} is {known}: it cannot become {state}") from None
            if not self._connection.changes():
                raise LedgerError(f"request {seq} is unknown: it cannot become {state}")

    def purge(self) -> bool:
        """Move the write-ahead log into the ledger and empty it: no cleared id is left in either.

        Returns False if a reader kept an old view of the ledger for the whole time-out; try again later.
        """
        durable.reached("before: empty the write-ahead log")
        (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        durable.reached("after: empty the write-ahead log")
        return not busy

    def noted(self, name: str) -> Any:
        """Return what is noted under a name; None if there is nothing."""
        return read_noted(self._connection).get(name)

    def note(self, name: str, value: bytes) -> None:
        """Note something of a file beside the ledger."""
        with self._transaction(f"take note of {name}") as connection:
            connection.execute("INSERT OR REPLACE INTO noted VALUES (?, ?)", (name, value))

    def check_pages(self) -> None:
        """Read every page that is in use, as the checksums are looked at when a page is read.

        Raises
        ------
        LedgerError
            A page is not what was written, or not where it belongs. About half a gigabyte a second.
        """
        check_pages(self._connection)

    def integrity(self) -> str:
        """Return ``"ok"``, or what the checksums and SQLite's own check found."""
        try:
            (result,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        except LedgerError as error:
            return str(error)
        return f"{self._path}: {result}" if result != "ok" else "ok"

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()


def _schema_version(connection: Connection) -> int | None:
    """Return the version of the tables; None if there are none yet."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    has_tables = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'requests'").fetchone()
    return int(version) if has_tables else None


def _connect(path: Path, *, may_be_empty: bool) -> Connection:
    connection = connect(path, may_be_empty=may_be_empty)
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return connection
