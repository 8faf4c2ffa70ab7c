"""No way back: what was erased is not brought in again by a replay, a backup, a rollback or a file."""

import logging
import shutil

import pytest
from recunlearn.engine.consistency import make_consistency, verify_consistency
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import LedgerError, Received
from recunlearn.engine.receipts import read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.signing import ReceiptError
from recunlearn.engine.snapshot import SnapshotReader, UnknownUserError, load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import VersionError
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker

from .popularity import interactions

MODELS = {"popularity": {}}
ROWS = [(user, item) for user in ("anna", "bob", "cleo", "dora") for item in ("x", "y")]
DELETION = b'{"id": "e-1", "type": "account.deleted", "user_id": "anna"}'


@pytest.fixture
def state(tmp_path):
    """Fit a small state, and keep a copy of it from before anybody was erased."""
    fit(tmp_path / "state", interactions(ROWS), MODELS)
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    return tmp_path / "state"


@pytest.fixture
def backup(state):
    """Say where the copy is."""
    return state.parent / "backup"


def erase(state, *requests):
    """Carry out deletions."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(request) for request in requests])
        engine.apply(engine.pending())


def restore(backup, state, *names):
    """Put parts of the copy in the place of what is there."""
    for name in names:
        target = state / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        if name == "ledger.sqlite":
            for beside in state.glob("ledger.sqlite-*"):
                beside.unlink()
        if (backup / name).is_dir():
            shutil.copytree(backup / name, target)
        elif (backup / name).exists():
            shutil.copy2(backup / name, target)


def test_replayed_and_late_events_change_nothing(state):
    """The same event again, and the same deletion under another id, find nobody and leave no trace."""
    for event in (DELETION, DELETION, DELETION.replace(b"e-1", b"late")):
        append(state / "journal", [event])
        with Engine.open(state) as engine:
            Worker(engine, lambda: Journal(state / "journal"), once=True).run()
    assert load_snapshot(state).version == 2
    assert len(read_lines(StatePaths(state))) == 2
    assert verify_state(state).problems == []


def test_the_original_file_does_not_bring_back_who_is_in_it(state):
    """Neither the account nor the interaction, by the same file, under the other type of id, or later."""
    erase(state, AccountDeletion("e-1", "anna"), InteractionRemoval("e-2", "bob", "x"))
    for _ in range(2):
        report = fit(state, interactions(ROWS), MODELS)
        assert (report.refused_users, report.refused_interactions, report.interactions) == (1, 3, 5)
    assert verify_state(state).problems == []


def test_an_older_snapshot_beside_the_newer_ledger_is_refused(state, backup):
    """Versions, store and CURRENT put back from before the erasure: no writer and no reader takes them."""
    erase(state, AccountDeletion("e-1", "anna"))
    restore(backup, state, "versions", "interactions", "CURRENT")
    for use in (
        Engine.open,
        lambda state: load_snapshot(state, Fence(state)),
        lambda state: fit(state, None),
    ):
        with pytest.raises(VersionError, match="past an erasure"):
            use(state)
    assert any("an erasure was published in version 2" in problem for problem in verify_state(state).problems)


def test_an_older_ledger_beside_the_receipts_is_refused(state, backup):
    """The receipt log is the witness: a ledger that does not know its requests would lower the fence."""
    erase(state, AccountDeletion("e-1", "anna"))
    restore(backup, state, "ledger.sqlite", "ledger.count", "versions", "interactions", "CURRENT")
    for use in (Engine.open, lambda state: fit(state, interactions(ROWS), MODELS)):
        with pytest.raises(LedgerError, match="does not know the request of receipt 0") as refused:
            use(state)
        assert "anna" not in str(refused.value)
    assert not verify_state(state).ok


def test_an_older_ledger_that_has_gone_on_is_refused_too(state, backup, tmp_path):
    """Even if other requests have taken the numbers of those that it does not know."""
    erase(state, AccountDeletion("e-1", "anna"))
    erase(backup, AccountDeletion("e-1", "cleo"))
    restore(backup, state, "ledger.sqlite", "ledger.count", "versions", "interactions", "CURRENT")
    with Engine.open(backup) as engine:  # the same number, another subject, and no receipt noted
        engine.ledger._connection.execute("UPDATE requests SET receipt = NULL")
        engine.ledger.purge()
    restore(backup, state, "ledger.sqlite", "ledger.count")
    with pytest.raises(LedgerError, match="is older than"):
        Engine.open(state)


def test_older_receipts_beside_the_newer_ledger_are_told(state, backup, caplog):
    """Erasing goes on, receipts wait, loudly; they are not given places that are taken."""
    erase(state, AccountDeletion("e-1", "anna"))
    erase(state, AccountDeletion("e-2", "bob"))
    newer = state.parent / "newer"
    shutil.copytree(state / "receipts", newer)
    restore(backup, state, "receipts")
    with caplog.at_level(logging.ERROR):
        erase(state, AccountDeletion("e-3", "cleo"))
    assert any("receipts wait" in entry.message for entry in caplog.records)
    assert load_snapshot(state).user_ids() == ["dora"]
    assert not verify_state(state).ok
    shutil.rmtree(state / "receipts")
    shutil.copytree(newer, state / "receipts")
    Engine.open(state).close()
    assert len(read_lines(StatePaths(state))) == 3
    assert verify_state(state).problems == []


def test_an_old_version_put_beside_the_published_one_is_named_and_goes(state, backup):
    """It is not served; verify names it, and the next start purges it."""
    erase(state, AccountDeletion("e-1", "anna"))
    shutil.copytree(backup / "versions/000001", state / "versions/000001")
    for file in (backup / "interactions").iterdir():
        shutil.copy2(file, state / "interactions")
    found = verify_state(state)
    assert any("versions/000001" in problem and "obsolete" in problem for problem in found.problems)
    assert {name.split("/")[0] for name in found.scan.found} == {"versions", "interactions"}
    assert load_snapshot(state).user_ids() == ["bob", "cleo", "dora"]
    Engine.open(state).close()
    assert verify_state(state).problems == []


def test_a_reader_that_still_holds_the_old_version_does_not_serve_them(state):
    """A snapshot that was loaded before the erasure refuses who is fenced, at once and for good."""
    with SnapshotReader(state) as reader:
        old = reader.current()
        assert len(old.recommend("anna")[0]) == 0
        erase(state, AccountDeletion("e-1", "anna"))
        assert old.version == 1
        with pytest.raises(UnknownUserError):
            old.recommend("anna")
        assert old.user_ids() == ["bob", "cleo", "dora"]


def test_a_whole_older_copy_is_told_only_from_outside(state, backup):
    """With everything set back all fits together; the checkpoint that an auditor kept shows it."""
    erase(state, AccountDeletion("e-1", "bob"))
    kept = (state / "receipts/checkpoint").read_bytes()
    for number, user in enumerate(("anna", "cleo")):  # the copy goes on by itself, even further
        erase(backup, AccountDeletion(f"o-{number}", user))
    assert verify_state(backup).ok
    assert load_snapshot(backup).has_user("bob")
    paths = StatePaths(backup)
    with pytest.raises(ReceiptError):
        verify_consistency(make_consistency(paths, kept), kept, state_public_key(paths))
