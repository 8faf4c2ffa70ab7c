"""Reading the ledger's files beside its writer: no lock is lost by it, so no other process writes over it."""

import subprocess
import sys
from pathlib import Path

import pytest
import recunlearn
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.purge import scan_for_ids
from recunlearn.engine.reading import reading
from recunlearn.engine.remains import Erased, scan_for_erased
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.state import StatePaths

WRITE = """
import sys
from recunlearn.engine.ledger_connection import LedgerError, connect
from recunlearn.engine.state import StatePaths
connection = connect(StatePaths(__import__("pathlib").Path(sys.argv[1])).ledger)
connection.set_busy_timeout(50)
try:
    connection.execute("BEGIN IMMEDIATE")
except LedgerError:
    print("waits")
else:
    print("writes")
"""


def another_process(root):
    """Say whether another process may write to the ledger now."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(root)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def ledger(tmp_path):
    """Open a new ledger."""
    paths = StatePaths(tmp_path)
    with Ledger.create(paths, FenceKey.create(paths)) as ledger:
        ledger.record([Received(AccountDeletion("e-1", "unusual-anna"))])
        yield ledger


def test_a_scan_in_the_middle_of_a_transaction_lets_nobody_else_write(tmp_path, ledger):
    """Both scans read every file that can hold an id, while the write goes on undisturbed."""
    paths, key = StatePaths(tmp_path), FenceKey.load(StatePaths(tmp_path))
    with ledger._transaction("a test") as connection:
        connection.execute("DELETE FROM positions")
        assert another_process(tmp_path) == "waits"
        assert scan_for_ids(paths, ["unusual-anna"]).found == ["ledger.sqlite-wal"]
        scan_for_erased(paths, Erased(key, {key.user("nobody-here")}, set(), set()), [])
        assert another_process(tmp_path) == "waits"
    assert another_process(tmp_path) == "writes"


def test_there_is_one_copy_of_sqlite_in_a_process():
    """Two would undo each other's locks: nothing of ours imports the standard library's beside apsw's."""
    root = Path(recunlearn.__file__).parent
    rooms = ("engine", "streaming", "commands", "eval", "models", "benchmarks")
    sources = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    assert len(sources) > 150
    assert [path for path in sources if "import sqlite3" in path.read_text(encoding="utf-8")] == []


def test_the_ledger_is_read_whole(tmp_path, ledger):
    """Through SQLite or not, in pieces or at once: the same bytes; a missing file is missing."""
    ledger.purge()
    path = StatePaths(tmp_path).ledger
    with reading(path) as file:
        pieces = [file.read(1000), file.read(5000), file.read(), file.read()]
    ledger.close()
    assert b"".join(pieces) == path.read_bytes()
    assert pieces[-1] == b""
    with pytest.raises(FileNotFoundError), reading(tmp_path / "elsewhere" / "ledger.sqlite"):
        pass
