"""Connections to the ledger: every page carries a checksum, and what is wrong is said with the file's name.

The checksums are SQLite's own (its *cksumvfs*: eight bytes at the end of a page, looked at whenever a page is
read), so a look-up that would go astray in a damaged page is an error, never "not found". The standard
library's module cannot load that; apsw, which brings it, is used throughout, as two copies of SQLite in one
process would undo each other's locks.
"""

from functools import cache
from pathlib import Path
from typing import Any, cast

import apsw
import apsw.sqlite_extra

from .reading import reading
from .state import StateError

CHECKSUM_BYTES = 8
"""At the end of each page; the file's header says how many there are."""

_PAGE_BYTES, _HEADER_BYTES = 4096, 100
_BUSY_MILLISECONDS = 10_000
_MAGIC = b"SQLite format 3\x00"
_CHECKSUM_IS_WRONG = apsw.SQLITE_IOERR_DATA
_DAMAGED = (apsw.CorruptError, apsw.NotADBError)
_UNUSABLE = (
    *_DAMAGED, apsw.IOError, apsw.FullError, apsw.BusyError, apsw.LockedError, apsw.ReadOnlyError,
    apsw.CantOpenError, apsw.ProtocolError, apsw.PermissionsError,
)  # fmt: skip


class LedgerError(StateError):
    """The ledger cannot be read, or was asked for a transition that is not allowed."""


class Cursor(apsw.Cursor):
    """Says which file it is that cannot be read, in errors that SQLite leaves without a name."""

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except _UNUSABLE as error:
            raise _named(error, self.connection) from error

    def fetchone(self) -> Any:
        """Return the next row; None if there is none."""
        try:
            return super().fetchone()
        except _UNUSABLE as error:
            raise _named(error, self.connection) from error

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        try:
            return super().fetchall()
        except _UNUSABLE as error:
            raise _named(error, self.connection) from error


class Connection(apsw.Connection):
    """A connection to the ledger; every error of its file names it. The rows are what the statement says."""

    def execute(self, *arguments: Any, **options: Any) -> Cursor:
        """Execute a statement."""
        try:
            return cast("Cursor", super().execute(*arguments, **options))
        except _UNUSABLE as error:
            raise _named(error, self) from error

    def executemany(self, *arguments: Any, **options: Any) -> Cursor:
        """Execute a statement for each of many bindings."""
        try:
            return cast("Cursor", super().executemany(*arguments, **options))
        except _UNUSABLE as error:
            raise _named(error, self) from error


def _named(error: apsw.Error, connection: apsw.Connection) -> LedgerError:
    path = connection.filename
    if isinstance(error, _DAMAGED) or getattr(error, "extendedresult", 0) == _CHECKSUM_IS_WRONG:
        return LedgerError(f"{path} is damaged ({error}): a page is not what was written; {WAY_OUT}")
    return LedgerError(f"{path} cannot be read or written ({error}); check the disk, and who uses it")


WAY_OUT = "restore it from a backup"
"""What every error about a ledger that is lost ends with."""


@cache
def _register() -> None:
    """Make SQLite know the checksums, once in a process; it needs a connection to be told through."""
    connection = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(connection, "cksumvfs")
    except (apsw.sqlite_extra.NotAvailable, LookupError, apsw.Error) as error:
        raise LedgerError(
            f"this build of apsw has no checksums for SQLite ({error}); install it as it is on PyPI: "
            "pip install --force-reinstall --only-binary apsw apsw"
        ) from error
    finally:
        connection.close()


def connect(path: Path, *, read_only: bool = False, may_be_empty: bool = False) -> Connection:
    """Connect to a ledger; not to be used from two threads at once.

    Raises
    ------
    LedgerError
        It is missing, no SQLite file, or its pages carry no checksums; or it is empty and may not be so.
    """
    is_empty = not has_checksums(path)
    if is_empty and not may_be_empty:
        raise LedgerError(f"{path} is empty; {WAY_OUT}: it says who was erased")
    connection = open_unchecked(path, read_only=read_only)
    if is_empty:
        connection.reserve_bytes("main", CHECKSUM_BYTES)
    return connection


def open_unchecked(path: Path, *, read_only: bool = False) -> Connection:
    """Connect to any SQLite file, whether its pages carry checksums or not."""
    _register()
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    try:
        connection = Connection(str(path), flags=flags, vfs="cksmvfs")
    except apsw.Error as error:
        raise LedgerError(f"{path} cannot be opened ({error}); may this user read and write it?") from error
    connection.cursor_factory = Cursor
    connection.set_busy_timeout(_BUSY_MILLISECONDS)
    return connection


def check_pages(connection: Connection) -> None:
    """Read every page that is in use.

    Raises
    ------
    LedgerError
        A page is not what was written, or not where it belongs.
    """
    ((result, *_),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if result != "ok":
        said = " ".join(str(result).replace("*** in database main ***", "").split())
        raise LedgerError(f"{connection.filename} is damaged ({said}); {WAY_OUT}")


def read_noted(connection: Connection) -> dict[str, Any]:
    """Return what the ledger notes of itself and of files beside it, by name.

    Raises
    ------
    LedgerError
        It has none of it: it is of an earlier release, or the fit that made it was cut off.
    """
    try:
        return dict(connection.execute("SELECT name, value FROM noted").fetchall())
    except apsw.SQLError:
        raise LedgerError(
            f"{connection.filename} is of an earlier release, or the fit that made it was cut off; "
            "`recunlearn status` or the fit again brings it up to date"
        ) from None


def close_untouched(connection: Connection) -> None:
    """Close a connection to a ledger that is refused: its write-ahead log stays as it was found."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()


def has_checksums(path: Path) -> bool:
    """Tell whether the pages of a ledger carry checksums; False if it is empty.

    The header is looked at here, as SQLite looks at no checksum if the header says that there is none.

    Raises
    ------
    LedgerError
        It is missing, no SQLite file, or has pages without checksums.
    """
    header = read_header(path)
    if not header:
        return False
    if len(header) < _HEADER_BYTES or header[:16] != _MAGIC:
        raise LedgerError(f"{path} cannot be read (it does not begin as an SQLite file); {WAY_OUT}")
    if int.from_bytes(header[16:18], "big") != _PAGE_BYTES or header[20] != CHECKSUM_BYTES:
        raise LedgerError(
            f"{path} cannot be read (its header says that its pages carry no checksums: it is damaged, or of "
            f"an earlier release, whose ledger `recunlearn status` brings up to date); {WAY_OUT}"
        )
    return True


def read_header(path: Path) -> bytes:
    """Read the first 100 bytes of a ledger; none if it is empty."""
    if not path.exists():
        raise LedgerError(f"{path} is missing; {WAY_OUT}: it says who was erased")
    try:
        with reading(path) as file:
            return file.read(_HEADER_BYTES)
    except apsw.Error as error:
        raise LedgerError(f"{path} cannot be opened ({error}); may this user read and write it?") from error
