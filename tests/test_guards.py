"""Each check that guards a file, taken away in turn: what it told passes unseen then, so no check is idle.

The rows of docs/reference/state-directory.md are these checks, and no other.
"""

import shutil
import struct
from contextlib import closing
from pathlib import Path

import msgspec
import polars as pl
import pytest
import recunlearn
from recunlearn.engine import (
    fence,
    interactions,
    ledger_connection,
    ledger_count,
    snapshot,
    verification,
    version,
)
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError, StatePaths
from recunlearn.engine.verification import verify_state

from .popularity import ask
from .popularity import interactions as popular

ROWS = [(user, item) for user in ("anna", "bob", "cleo", "dora") for item in ("x", "y", "z")]


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Make a state from which a user and an interaction are erased, and another request waits in the log."""
    folder = tmp_path_factory.mktemp("guards") / "state"
    fit(folder, popular(ROWS), {"popularity": {"weight": 2.0}})
    with Engine.open(folder) as engine:
        for request in (AccountDeletion("e-1", "anna"), InteractionRemoval("e-2", "bob", "y")):
            ask(engine, request)
    paths = StatePaths(folder)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.purge()
        ledger.record([Received(AccountDeletion("e-3", "cleo"))])
        return shutil.copytree(folder, tmp_path_factory.mktemp("killed") / "state")


def flip(path, at=-1):
    """Flip the lowest bit of a byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace(path, before, after):
    """Put bytes in the place of others, wherever they are."""
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after))


def unfence_anna(state):
    """Alter the hash by which the fence knows a user, wherever it is."""
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.purge()
    hashed = FenceKey.load(paths).user("anna")
    replace(paths.ledger, hashed, hashed[:-1] + bytes([hashed[-1] ^ 1]))


def serve(state):
    """Load what is served, and its fence."""
    with closing(Fence(state)) as opened:
        return load_snapshot(state, opened).user_ids(), opened.is_fenced("anna")


def verify(state):
    """Verify; a problem is an error."""
    if problems := verify_state(state).problems:
        raise StateError("; ".join(problems))


def refit(state):
    """Fit again from what is kept."""
    fit(state, None)


def unchecked_pages(path, **options):
    """Stand in for a connection without cksumvfs."""
    connection = OPEN(path, **options)
    connection.execute("PRAGMA user_version").fetchall()
    connection.execute("PRAGMA checksum_verification=OFF").fetchall()
    return connection


def unchecked_manifest(paths, number, digest):
    """Stand in for reading a manifest, whatever digest it has."""
    content = (paths.version(number) / "manifest.json").read_bytes()
    return msgspec.json.decode(content, type=version.Manifest)


def checkless_count(ledger):
    """Stand in for reading the count, whatever its checksum."""
    return int(ledger_count.count_file(ledger).read_bytes()[:20])


def in_version(pattern, before, after):
    """Make a damage: other bytes in a file of the published version."""

    def damage(state):
        (path,) = (state / "versions").glob(f"*/{pattern}")
        replace(path, before, after)

    return damage


def double_values(state):
    """Write a partition anew, as a whole and readable file, with other values."""
    path = sorted((state / "interactions").glob("*.parquet"))[0]
    pl.read_parquet(path).with_columns(pl.col("value") * 2).write_parquet(path)


def none(*arguments):
    """Find nothing wrong."""
    return []


def no_receipt_problems(*arguments):
    """Find nothing wrong with the receipts."""
    return 0, 0, []


OPEN = ledger_connection.open_unchecked
NO_LOG_CHECK = [(verification, "check_log", no_receipt_problems)]
GUARDS = {
    "`ledger.sqlite`": (unfence_anna, serve, [(ledger_connection, "open_unchecked", unchecked_pages)]),
    "`ledger.sqlite-wal`": (
        lambda state: flip(state / "ledger.sqlite-wal", 4000),
        serve,
        [(fence, "check_not_older", none)],
    ),
    "`ledger.count`": (
        lambda state: flip(state / "ledger.count", 19),
        serve,
        [(fence, "read_count", checkless_count), (fence, "check_not_older", none)],
    ),
    "`keys/fence.key`": (
        lambda state: flip(state / "keys" / "fence.key"),
        serve,
        [(FenceKey, "check", none)],
    ),
    "`config.toml`": (
        lambda state: replace(state / "config.toml", b"2.0", b"2.5"),
        verify,
        [(verification, "changed_settings", none)],
    ),
    "`CURRENT`": (
        lambda state: replace(state / "CURRENT", b"a", b"b"),
        serve,
        [(snapshot, "read_manifest", unchecked_manifest)],
    ),
    "`versions/NNNNNN/manifest.json`": (
        in_version("manifest.json", b'"weight": 2.0', b'"weight": 2.5'),
        serve,
        [(snapshot, "read_manifest", unchecked_manifest)],
    ),
    "`versions/NNNNNN/*.arrow`": (
        in_version("popularity/item_counts.arrow", struct.pack("<d", 3), struct.pack("<d", 4)),
        serve,
        [(snapshot, "damaged_files", none)],
    ),
    "`interactions/*.parquet`": (double_values, refit, [(interactions, "damaged_files", none)]),
    "`receipts/log.ndjson`": (
        lambda state: flip(state / "receipts" / "log.ndjson", 60),
        verify,
        NO_LOG_CHECK,
    ),
    "`receipts/checkpoint`": (
        lambda state: flip(state / "receipts" / "checkpoint", 30),
        verify,
        NO_LOG_CHECK,
    ),
    "`keys/receipts.pub`": (lambda state: flip(state / "keys" / "receipts.pub", 10), verify, NO_LOG_CHECK),
}
"""File -> how it is damaged, who is told, and what takes the check away."""
NAMES = {
    "`CURRENT`": ("CURRENT names",),
    "`versions/NNNNNN/manifest.json`": ("manifest.json",),
    "`receipts/log.ndjson`": ("receipt",),
    "`receipts/checkpoint`": ("checkpoint",),
    "`keys/receipts.pub`": ("receipts.pub",),
    "`keys/fence.key`": ("fence.key",),
}
"""What the error names, where it is not the end of the path as it stands in the table."""


@pytest.mark.parametrize("file", GUARDS)
def test_a_damage_is_told_by_the_check_of_its_file_and_by_no_other(file, state, tmp_path, monkeypatch):
    """Damaged, the file is refused by name; with that check taken away, nobody notices."""
    copy = shutil.copytree(state, tmp_path / "state")
    damage, use, without = GUARDS[file]
    use(copy)
    shutil.rmtree(copy)
    shutil.copytree(state, copy)
    damage(copy)
    with pytest.raises(StateError) as told:
        use(copy)
    assert any(name in str(told.value) for name in NAMES.get(file, (file.strip("`").split("*")[-1],)))
    shutil.rmtree(copy)
    shutil.copytree(state, copy)
    damage(copy)
    for module, name, stand_in in without:
        monkeypatch.setattr(module, name, stand_in)
    use(copy)


def test_the_table_of_guards_is_the_one_in_the_docs():
    """docs/reference/state-directory.md has a row for each check that is tried here, and no other."""
    page = Path(recunlearn.__file__).parent / "docs" / "reference" / "state-directory.md"
    _, _, table = page.read_text("utf-8").partition("| file | guard | who is told |\n|---|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(GUARDS)
