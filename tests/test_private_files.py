"""What names a person is for the owner alone; a key that all can read is refused; keys may be elsewhere."""

import shutil
import stat

import pytest
from recunlearn.engine.durable import PRIVATE, PRIVATE_FOLDER, SHARED, SHARED_FOLDER
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError, StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.streaming.journal import append

from .popularity import interactions

ROWS = [(user, item) for user in ("anna", "bob") for item in ("x", "y")]


@pytest.fixture
def state(tmp_path):
    """Make a state with an erasure done and an event in the journal."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    append(tmp_path / "state" / "journal", [b"{}"])
    erase(tmp_path / "state", "anna")
    return tmp_path / "state"


def erase(state, user):
    """Erase one user."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(AccountDeletion(f"of-{user}", user))])
        assert engine.apply(engine.pending()).failed == 0


def test_nobody_but_the_owner_gets_in(state):
    """Personal data is 0700 and 0600; versions are the group's to read, if the directory lets it in."""
    modes = {str(path.relative_to(state)): stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*")}
    assert stat.S_IMODE(state.stat().st_mode) == PRIVATE_FOLDER
    assert not any(mode & 0o007 for mode in modes.values())
    for name, mode in modes.items():
        is_shared = name.startswith("versions") or name in {
            "CURRENT", "config.toml", "lock", "keys/receipts.pub", "receipts/checkpoint",
        }  # fmt: skip
        is_folder = (state / name).is_dir()
        wanted = (
            (SHARED_FOLDER if is_folder else SHARED)
            if is_shared
            else PRIVATE_FOLDER
            if is_folder
            else PRIVATE
        )
        assert mode == wanted, (name, oct(mode))


@pytest.mark.parametrize("name", ["fence.key", "receipts.key"])
def test_a_key_that_anybody_can_read_is_refused(state, name):
    """The error names the file, its mode and the way out; a group may be let in."""
    key = state / "keys" / name
    key.chmod(0o644)
    with pytest.raises(StateError, match=f"{name} can be read or written by anybody .mode 0644.: chmod 600"):
        Engine.open(state)
    key.chmod(0o640)
    Engine.open(state).close()


def test_keys_may_be_kept_elsewhere(state, tmp_path):
    """Moved, and named in config.toml, they are used from there; none is made anew where they were."""
    shutil.move(state / "keys", tmp_path / "safe")
    config = state / "config.toml"
    config.write_text(f"{config.read_text().replace('[options]', '')}\n")
    config.write_text(config.read_text() + f'\n[options]\nkeys = "{tmp_path / "safe"}"\n')
    assert StatePaths(state).fence_key == tmp_path / "safe" / "fence.key"
    erase(state, "bob")
    assert verify_state(state).problems == []
    assert load_snapshot(state).user_ids() == []
    fit(state, interactions([*ROWS, ("cleo", "x")]))
    assert StatePaths(state).keys == tmp_path / "safe"
    assert load_snapshot(state).user_ids() == ["cleo"]
    assert not (state / "keys").exists()
