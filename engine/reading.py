"""Reading any file under a state directory, in a process that may be writing the ledger meanwhile.

POSIX gives up all locks of a process on a file when the process closes *any* descriptor of that file. Whoever
opens and closes ``ledger.sqlite`` or ``ledger.sqlite-shm`` beside a connection thus takes its locks away in
the middle of a transaction, and another process writes over it. So SQLite itself, which knows of that, reads
the one, and the other, in which there are numbers of pages alone, is not read.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import apsw

_LEDGER, _SHARED_MEMORY = "ledger.sqlite", "ledger.sqlite-shm"


def may_be_read(path: Path) -> bool:
    """Tell whether there is anything to be read in a file.

    Examples
    --------
    >>> may_be_read(Path("ledger.sqlite-shm")), may_be_read(Path("ledger.sqlite-wal"))
    (False, True)
    """
    return path.name != _SHARED_MEMORY


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, whichever it is, without taking a lock away.

    Raises
    ------
    FileNotFoundError
        It is not there.
    """
    if path.name != _LEDGER:
        with path.open("rb") as file:
            yield file
        return
    if not path.exists():
        raise FileNotFoundError(path)
    opened = apsw.VFSFile("unix", str(path), [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB, 0])
    try:
        yield cast("BinaryIO", _ThroughSQLite(opened))
    finally:
        opened.xClose()


class _ThroughSQLite(io.RawIOBase):
    """The bytes of a file that SQLite reads."""

    def __init__(self, file: apsw.VFSFile) -> None:
        self._file, self._at, self._size = file, 0, file.xFileSize()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes from where the last reading ended; all that is left if it is negative."""
        left = self._size - self._at
        wanted = left if size < 0 else min(size, left)
        if not wanted:
            return b""
        content = self._file.xRead(wanted, self._at)
        self._at += len(content)
        return content
