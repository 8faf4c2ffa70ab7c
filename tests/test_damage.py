"""Bits flipped and files cut anywhere in a state: detected, the file named, and what is damaged never served.

``RECUNLEARN_DAMAGES=200``: into how many parts each file is cut, for a longer run.
"""

import os
import shutil

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.signing import ReceiptError, SigningKey, public_pem
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError, StatePaths
from recunlearn.engine.verification import verify_state

from .popularity import interactions

ROWS = [(user, item) for user in ("anna", "bob", "cleo", "dora") for item in ("x", "y", "z")]
PARTS = int(os.environ.get("RECUNLEARN_DAMAGES", "8"))
"""Into how many parts a file is cut: one byte of each is flipped, and the file cut off there."""


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Make a state from which a user and an interaction are erased, in two cycles."""
    folder = tmp_path_factory.mktemp("damage") / "state"
    fit(folder, interactions(ROWS), {"popularity": {}})
    with Engine.open(folder) as engine:
        for request in (AccountDeletion("e-1", "anna"), InteractionRemoval("e-2", "bob", "y")):
            engine.ledger.record([Received(request)])
            engine.apply(engine.pending())
    return folder


def damages(content):
    """Yield (what, content) for each part of a file: a bit flipped, or the rest cut off."""
    step = max(1, len(content) // PARTS)
    for at in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[at] ^= 1 << (at % 8)
        yield f"flipped at {at}", bytes(flipped)
        yield f"cut at {at}", content[:at]


def problems_of(state):
    """Say what is wrong with a state: what verify finds, or the error that it ends with."""
    try:
        return verify_state(state).problems
    except StateError as error:
        return [str(error)]


def served(state):
    """Return what is served; None if it is refused."""
    try:
        snap = load_snapshot(state, mapped=False)
    except StateError:
        return None
    return snap.user_ids(), [snap.recommend(user)[1].tolist() for user in snap.user_ids()]


def is_refused_or_the_same(paths):
    """Tell whether the signing key is refused by name, or is what it was: PEM minds no blank at its end."""
    try:
        key = SigningKey.create(paths)
    except (StateError, ReceiptError) as error:
        return "receipts.key" in str(error)
    return public_pem(key.public) == paths.receipt_public_key.read_bytes()


def names_of(state):
    """Return the files whose every byte is checked: all but the ledger, whose pages SQLite looks after."""
    kept = (path for path in sorted(state.rglob("*")) if path.is_file() and path.stat().st_size)
    names = [str(path.relative_to(state)) for path in kept]
    return [n for n in names if not n.startswith(("ledger", "config", "lock")) and n != "keys/fence.key"]


def test_damage_of_any_file_is_detected_and_named_and_never_served(state, tmp_path):
    """Versions, interactions, CURRENT, receipts, checkpoint and signing keys: no flip or cut goes unseen."""
    sound, count = served(state), 0
    copy = shutil.copytree(state, tmp_path / "copy")
    names = names_of(copy)
    assert len(names) >= 15
    for name in names:
        path = copy / name
        content = path.read_bytes()
        for what, damaged in damages(content):
            path.write_bytes(damaged)
            if name == "keys/receipts.key":
                assert is_refused_or_the_same(StatePaths(copy)), what
            else:
                problems = problems_of(copy)
                assert problems, (name, what)
                where = ("receipt", "checkpoint", "log") if name.startswith("receipts") else (path.name,)
                known = (*where, "public key", "signed") if name.endswith(".pub") else where
                assert any(word in problem for problem in problems for word in known), (name, what, problems)
                assert served(copy) in (None, sound), (name, what)
            count += 1
        path.write_bytes(content)
    assert problems_of(copy) == []
    print(f"{count} damages of {len(names)} files, all detected")


def test_a_damaged_ledger_ends_in_one_kind_of_error(state, tmp_path):
    """Whichever byte is altered, verify ends without another error, and no other answers are served."""
    copy = shutil.copytree(state, tmp_path / "copy")
    path, sound = copy / "ledger.sqlite", served(state)
    content, found = path.read_bytes(), 0
    for at in range(0, len(content), max(1, len(content) // (20 * PARTS))):
        if content[at] == 0:  # mostly room that is not in use
            continue
        for beside in copy.glob("ledger.sqlite-*"):
            beside.unlink()
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        problems = problems_of(copy)
        found += bool(problems)
        assert served(copy) in (None, sound)
    path.write_bytes(content[: len(content) // 2])
    assert "ledger.sqlite" in problems_of(copy)[0]
    assert found >= 3
