"""A ledger of the release before this one, brought up to date when it is opened."""

from pathlib import Path

from .fence import FenceKey
from .ledger_connection import CHECKSUM_BYTES, Connection, LedgerError, open_unchecked, read_header
from .ledger_schema import FENCE_KEY, NOTED, SCHEMA_VERSION, TRANSACTIONS

_RESERVED, _OLD = 20, SCHEMA_VERSION - 1


def add_checksums(path: Path) -> None:
    """Rewrite the pages of a ledger of the release before with checksums; any other is left as it is.

    A crash leaves the old pages or the new ones: SQLite rewrites them in a transaction.

    Raises
    ------
    LedgerError
        Another process uses it.
    """
    if read_header(path)[_RESERVED : _RESERVED + 1] != b"\0":
        return
    connection = open_unchecked(path)
    try:
        if connection.execute("PRAGMA user_version").fetchone() != (_OLD,):
            return
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        connection.reserve_bytes("main", CHECKSUM_BYTES)
        connection.execute("VACUUM")
    finally:
        connection.close()


def add_what_is_noted(connection: Connection, key: FenceKey) -> None:
    """Add the table of what is noted, within a transaction; nothing that is noted already changes.

    Raises
    ------
    LedgerError
        The key is not the one by which the ledger knows its open requests.
    """
    connection.execute(NOTED)
    known = connection.execute(
        "SELECT open_ids.request_id, request_key FROM requests JOIN open_ids USING (seq) LIMIT 1"
    ).fetchall()
    if any(key.request(request_id) != request_key for request_id, request_key in known):
        raise LedgerError(
            f"{connection.filename} was not made with this fence key: erased users would not be recognised; "
            "restore the key from a backup"
        )
    connection.executemany(
        "INSERT OR IGNORE INTO noted VALUES (?, ?)", [(FENCE_KEY, key.check_value()), (TRANSACTIONS, 0)]
    )
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
