"""How far the ledger was: a count beside it, so that one that lost its last transactions is told.

SQLite takes a write-ahead log that ends early, or whose frames or header are altered, for one that a crash
cut off, and says nothing of the transactions that are lost with it. The count is in the ledger, and after
each commit in a file of its own; nobody waits for that, so a power cut may set it back: it is never ahead.
"""

import hashlib
import re
from pathlib import Path

from . import durable
from .ledger_connection import WAY_OUT, LedgerError

_LINE = "{count:020d} transactions, checksum {digest}\n"
_PATTERN = re.compile(rb"([0-9]{20}) transactions, checksum [0-9a-f]{16}\n")


def count_file(ledger: Path) -> Path:
    """Return where the count of a ledger is.

    Examples
    --------
    >>> count_file(Path("shop/ledger.sqlite")).as_posix()
    'shop/ledger.count'
    """
    return ledger.with_name("ledger.count")


def note_count(ledger: Path, count: int) -> None:
    """Note how many transactions the ledger has; the last of them is on disk."""
    path, content = count_file(ledger), _line(count)
    if path.exists():
        durable.overwrite(path, content)
    else:
        durable.create_bytes(path, content)


def read_count(ledger: Path) -> int:
    """Return how many transactions the ledger has at least; 0 if nobody says so.

    Raises
    ------
    LedgerError
        The file is not what was written.
    """
    path = count_file(ledger)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    found = _PATTERN.fullmatch(content)
    if found is None or content != _line(int(found[1])):
        raise LedgerError(
            f"{path} is damaged: it says no more whether {ledger.name} is whole; if you know that it is, "
            "remove the file, and it is made anew"
        )
    return int(found[1])


def check_not_older(ledger: Path, has: int, counted: int) -> None:
    """Compare what a ledger ``has`` with what was ``counted`` before it was opened.

    Raises
    ------
    LedgerError
        Transactions are missing.
    """
    if has < counted:
        raise LedgerError(
            f"{ledger} lost its last {counted - has} transactions ({ledger.name}-wal is cut off or damaged, "
            f"or it is an older copy), and whoever was fenced in them would be served; {WAY_OUT}, or remove "
            f"{count_file(ledger)} to go on without them and send all requests since then again"
        )


def _line(count: int) -> bytes:
    digest = hashlib.blake2b(str(count).encode(), digest_size=8).hexdigest()
    return _LINE.format(count=count, digest=digest).encode()
