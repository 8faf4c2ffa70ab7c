"""Bits flipped and files cut anywhere in a state: detected, the file named, and what is damaged never served.

``RECUNLEARN_DAMAGES=200``: into how many parts each file is cut, for a longer run.
"""

import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import closing

import apsw
import pytest
from recunlearn import SnapshotReader
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger, LedgerError, Received
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.signing import ReceiptError, SigningKey, public_pem
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError, StatePaths
from recunlearn.engine.verification import verify_state

from .popularity import ask, interactions

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
            ask(engine, request)
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
    """Return the files of versions and proofs; the ledger, the configuration and its key are tried below."""
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


@pytest.fixture(scope="module")
def killed(state, tmp_path_factory):
    """Copy a state from under a writer with requests in its write-ahead log, as a killed one leaves it."""
    folder = tmp_path_factory.mktemp("killed") / "state"
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.purge()
        for number in range(3):
            ledger.record([Received(AccountDeletion(f"k-{number}", f"user-{number}"))])
        shutil.copytree(state, folder)
        for number in range(3):
            ledger.cancel(f"k-{number}")
    assert (folder / "ledger.sqlite-wal").stat().st_size > 4096
    return folder


FAMILY = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.count")
"""The files of which the ledger is made."""
FLIPS = int(os.environ.get("RECUNLEARN_FLIPS", "160"))
"""How many damages of the ledger's files, of config.toml and of the fence key are tried."""


def told(state):
    """Say all that the ledger tells: every row of every table, and who is fenced; or why it is refused."""
    paths = StatePaths(state)
    try:
        with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
            ledger.check_pages()
            tables = ledger._connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name"
            ).fetchall()
            rows = [ledger._connection.execute(f"SELECT * FROM {name}").fetchall() for name, _ in tables]  # noqa: S608
        with closing(Fence(state)) as fence:
            return tables, rows, [fence.is_fenced(user) for user in ("anna", "bob", "user-0", "user-2")]
    except StateError as error:
        return str(error)


def damaged(content, draw):
    """Flip a bit, replace a byte, clear a sector, or cut the rest off."""
    at, how = draw.randrange(len(content)), draw.randrange(6)
    if how == 0:
        return f"cut at {at}", content[:at]
    if how == 1:
        start = at - at % 512
        return f"512 zeros at {start}", content[:start] + bytes(512) + content[start + 512 :]
    new = content[at] ^ (1 << draw.randrange(8)) if how < 5 else draw.randrange(256)
    return f"byte {at} is {new}", content[:at] + bytes([new]) + content[at + 1 :]


def test_damage_of_the_ledger_is_named_or_without_effect(killed, tmp_path):
    """Any file of a ledger as a kill leaves it: it is refused by name, or says the same, to the last row."""
    draw, copy = random.Random(11), shutil.copytree(killed, tmp_path / "copy")  # noqa: S311  a seed
    contents = {name: (killed / name).read_bytes() for name in FAMILY}
    sound = told(copy)
    assert sound[2] == [True, False, True, True]
    counts = Counter()
    for number in range(FLIPS):
        name = FAMILY[number % len(FAMILY)]
        what, content = damaged(contents[name], draw)
        for each in FAMILY:
            (copy / each).write_bytes(content if each == name else contents[each])
        found = told(copy)
        if found == sound:
            counts[name, "without effect"] += 1
        else:
            assert isinstance(found, str), (name, what, found)
            assert "ledger." in found, (name, what, found)
            counts[name, "named"] += 1
    assert counts["ledger.sqlite", "named"] > FLIPS // 10
    assert counts["ledger.sqlite-wal", "named"] > FLIPS // 10
    print(dict(counts))


def test_whoever_opens_a_damaged_ledger_is_told_its_name(state, tmp_path):
    """A worker, a server and verify say the same: the file, and the way out."""
    copy = shutil.copytree(state, tmp_path / "copy")
    path = copy / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    content[len(content) // 4096 // 2 * 4096 + 50] ^= 1
    path.write_bytes(content)
    for use in (Engine.open, SnapshotReader):
        with pytest.raises(LedgerError, match=r"ledger\.sqlite is damaged .* restore it from a backup"):
            use(copy)
    assert any("ledger.sqlite is damaged" in problem for problem in problems_of(copy))


def test_a_look_up_in_a_damaged_page_is_an_error_and_never_a_no(tmp_path):
    """A server that runs meanwhile: pages read after the damage are refused; nobody is let in by it."""
    paths = StatePaths(tmp_path)
    with Ledger.create(paths, FenceKey.create(paths)) as ledger:
        ledger.record([Received(AccountDeletion(f"e-{k}", f"user-{k}")) for k in range(3000)])
        ledger.purge()
    with closing(Fence(tmp_path)) as fence:
        fence._connected.connection.execute("PRAGMA cache_size=5")
        content = bytearray(paths.ledger.read_bytes())
        for page in range(1, len(content) // 4096):
            content[page * 4096 + 100] ^= 255
        with paths.ledger.open("r+b") as file:
            file.write(content)
        answers = Counter(answer_of(fence, f"user-{k}") for k in range(0, 3000, 50))
    assert answers["refused"] > 30
    assert answers[False] == 0


def answer_of(fence, user):
    """Say whether a user is fenced, or that nobody can tell as the ledger is damaged."""
    try:
        return fence.is_fenced(user)
    except LedgerError as error:
        return "refused" if "ledger.sqlite is damaged" in str(error) else str(error)


def test_another_tool_does_not_change_the_ledger_unseen(state, tmp_path):
    """A row that SQLite deletes without its checksums is missed: the ledger is refused by its name."""
    copy = shutil.copytree(state, tmp_path / "copy")
    path = StatePaths(copy).ledger
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM fence'); c.commit()"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert "ledger.sqlite is damaged" in told(copy)


def test_lost_transactions_are_told(killed, tmp_path):
    """A write-ahead log that is gone, or ends early, is not taken for one that never was longer."""
    copy = shutil.copytree(killed, tmp_path / "copy")
    for content in (b"", (killed / "ledger.sqlite-wal").read_bytes()[:-4120]):
        for name in FAMILY:
            shutil.copy2(killed / name, copy / name)
        (copy / "ledger.sqlite-wal").write_bytes(content)
        assert "lost its last" in told(copy)
    (copy / "ledger.count").unlink()  # as the message says, for who knows what that means
    assert told(copy)[2] != told(killed)[2]


def test_another_fence_key_is_refused(state, tmp_path):
    """Any byte of keys/fence.key: whoever writes or serves is told, and no fence comes down."""
    copy = shutil.copytree(state, tmp_path / "copy")
    path = StatePaths(copy).fence_key
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        for use in (Engine.open, SnapshotReader, verify_state):
            with pytest.raises(StateError, match=r"fence\.key is damaged"):
                use(copy)
    path.write_bytes(content)
    assert verify_state(copy).ok


def test_what_changed_in_the_configuration_is_named_and_no_edit_is_refused(state, tmp_path, caplog):
    """Flips of config.toml say the same, or are named by verify; the next run warns, and takes them over."""
    draw, copy = random.Random(12), shutil.copytree(state, tmp_path / "copy")  # noqa: S311  a seed
    path = StatePaths(copy).config
    content = path.read_bytes() + b"[options]\ndue_days = 30\n" * (b"[options]" not in path.read_bytes())
    content = content.replace(b"[options]\n", b"[options]\nbatch_size = 7\n", 1)
    path.write_bytes(content)
    Engine.open(copy).close()
    assert "options.batch_size" in caplog.text
    assert verify_state(copy).ok
    sound, named = tomllib.loads(content.decode()), 0
    for _ in range(FLIPS // 4):
        what, altered = damaged(content, draw)
        path.write_bytes(altered)
        problems = problems_of(copy)
        try:
            is_same = tomllib.loads(altered.decode()) == sound
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            is_same = False
        assert is_same == (not problems), (what, problems)
        assert all("config.toml" in problem for problem in problems), (what, problems)
        named += bool(problems)
    assert named > FLIPS // 10


def test_a_ledger_of_the_release_before_is_brought_up_to_date(state, tmp_path):
    """Its rows stay, its pages get checksums, its key is noted; another key than its own is refused."""
    copy = shutil.copytree(state, tmp_path / "copy")
    paths = StatePaths(copy)
    key = FenceKey.load(paths)
    with Ledger(paths.ledger, key) as ledger:
        ledger.record([Received(AccountDeletion("e-9", "cleo"))])
    sound = told(copy)
    for other in (b"x" * 32, None):
        make_old(paths)
        if other:
            with pytest.raises(LedgerError, match="not made with this fence key"):
                Ledger(paths.ledger, FenceKey(other))
        with pytest.raises(LedgerError, match="of an earlier release"):
            Fence(copy)
    assert Ledger(paths.ledger, key).close() is None
    assert [row for row in told(copy)[1] if row] != []
    assert told(copy)[2] == sound[2]
    assert paths.ledger.read_bytes()[20] == 8
    assert verify_state(copy).ok


def make_old(paths):
    """Write the ledger as the release before did: no checksums, nothing noted."""
    old = paths.root / "old.sqlite"
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        ledger.purge()
    source, target = apsw.Connection(str(paths.ledger)), apsw.Connection(str(old))
    with closing(source), closing(target):
        made = source.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT IN "
            "('noted', 'sqlite_sequence') ORDER BY type = 'trigger', rowid"
        ).fetchall()
        for kind, name, statement in made:
            target.execute(statement)
            rows = source.execute(f"SELECT * FROM {name}").fetchall() if kind == "table" else ()  # noqa: S608
            for row in rows:
                target.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        target.execute("PRAGMA user_version = 3")
    for path in paths.root.glob("ledger.*"):
        path.unlink()
    old.rename(paths.ledger)
