"""recunlearn verify: quiet about a sound state, loud about anything else, and remains above all."""

import base64
import json

import polars as pl
import pytest
import typer.testing
from recunlearn import cli
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.purge import scan_for_ids
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state

from .popularity import interactions

NUMBER, LARGE, WIDE = "987654321", "1786923400161824768", "мария-Ω"
USERS = ("anna-one", "bob-two", "cleo-three", "7", NUMBER, LARGE, WIDE)
ROWS = [(user, item) for user in USERS for item in ("x", "y", "z")]


@pytest.fixture
def state(tmp_path):
    """Make a state from which one user and one interaction are erased."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    with Engine.open(tmp_path / "state") as engine:
        requests = [AccountDeletion("e-1", "anna-one"), InteractionRemoval("e-2", "bob-two", "y")]
        requests.append(AccountDeletion("e-3", "7"))
        requests += [AccountDeletion(f"e-{k}", user) for k, user in enumerate((NUMBER, LARGE, WIDE), 4)]
        engine.ledger.record([Received(request) for request in requests])
        engine.apply(engine.ledger.pending())
    return tmp_path / "state"


def test_a_sound_state_is_verified(state):
    """Nothing to say about a state from which people were erased."""
    found = verify_state(state)
    assert found.problems == []
    assert found.models == {"popularity": {"exact": True, "bound": 0.0, "erased_at_least": 1.0}}
    assert (found.receipts, found.valid_receipts, found.scan.found) == (6, 6, [])
    assert found.scan.files == sum(path.is_file() for path in state.rglob("*"))


def in_base64(text):
    """Write an envelope as receipts have it, with an id in its payload."""
    return json.dumps({"payload": again(json.dumps({"request": {"id": f"of {text}"}}).encode())}).encode()


def again(content):
    """Write bytes in base64."""
    return base64.b64encode(content).decode()


PLANTED = {
    "a text": ("notes.txt", lambda path: path.write_text("we miss anna-one, really")),
    "wide text": ("notes.log", lambda path: path.write_bytes("x anna-one y".encode("utf-16-le"))),
    "json": ("receipts/x.json", lambda path: path.write_text(json.dumps({"user": "anna-one"}))),
    "arrow": ("versions/a.arrow", lambda path: pl.DataFrame({"user_id": ["anna-one"]}).write_ipc(path)),
    "a short id in arrow": ("a.arrow", lambda path: pl.DataFrame({"user_id": ["7"]}).write_ipc(path)),
    "parquet": (
        "interactions/a.parquet",
        lambda path: pl.DataFrame({"user_id": ["anna-one"]}).write_parquet(path),
    ),
    "an interaction": (
        "copy.parquet",
        lambda path: pl.DataFrame({"user_id": ["bob-two"], "item_id": ["y"]}).write_parquet(path),
    ),
    "parquet under a false name": (
        "copy.bak",
        lambda path: pl.DataFrame({"user_id": ["anna-one"]}).write_parquet(path),
    ),
    "wide text, the high byte first, at an odd place": (
        "a.bin",
        lambda path: path.write_bytes(b"\xff" + f"x {WIDE}".encode("utf-16-be")),
    ),
    "wide text to the last byte": ("b.bin", lambda path: path.write_bytes("anna-one".encode("utf-16-be"))),
    "base64 in a receipt": ("receipts/more.ndjson", lambda path: path.write_bytes(in_base64("anna-one"))),
    "base64 in base64": (
        "receipts/bundle.json",
        lambda path: path.write_text(json.dumps({"leaf": again(in_base64(WIDE))})),
    ),
    "hexadecimal digits": ("keys/x.txt", lambda path: path.write_text(f"id={b'anna-one'.hex()}")),
    "an integer": ("c.bin", lambda path: path.write_bytes(b"\1" * 3 + int(NUMBER).to_bytes(8, "little"))),
    "an integer, the high byte first": (
        "c.bin",
        lambda path: path.write_bytes(b"text " + int(LARGE).to_bytes(8, "big") + b" text"),
    ),
    "a column of another name": (
        "versions/a.arrow",
        lambda path: pl.DataFrame({"account": [1, int(NUMBER)]}).write_ipc(path),
    ),
    "a column of texts": (
        "d.parquet",
        lambda path: pl.DataFrame({"note": ["see anna-one", "-"]}).write_parquet(path),
    ),
    "a column of bytes": ("e.arrow", lambda path: pl.DataFrame({"raw": [b"{anna-one}"]}).write_ipc(path)),
    "text that begins as a table": ("d.arrow", lambda path: path.write_bytes(b"ARROW1\0\0 anna-one")),
    "text under a false name": ("b.parquet", lambda path: path.write_text("anna-one")),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_remains_are_found_though_nobody_knows_the_id_any_more(state, kind):
    """An erased id planted in any kind of file is found by its keyed hash, and the file is named."""
    name, plant = PLANTED[kind]
    plant(state / name)
    found = verify_state(state)
    assert found.scan.found == [name]
    assert not found.ok


@pytest.mark.parametrize(
    "written",
    [b"id 123456789 x", "123456789".encode("utf-16-be"), (123456789).to_bytes(8, "little"),
     (123456789).to_bytes(8, "big"), b"ARROW1\0\0 123456789", b"PAR1 123456789"],
)  # fmt: skip
def test_a_cycle_looks_for_the_id_in_every_form(tmp_path, written):
    """Text, UTF-16, both orders of 8 bytes, files that only begin like tables: found, and nothing stops."""
    (tmp_path / "any.bin").write_bytes(b"\xff" * 7 + written + b"\xff")
    if written.startswith((b"A", b"P")):
        (tmp_path / "any.bin").write_bytes(written)
    assert scan_for_ids(StatePaths(tmp_path), ["123456789"]).found == ["any.bin"]
    assert scan_for_ids(StatePaths(tmp_path), ["123456788"]).found == []


def test_ids_of_six_digits_are_not_found_by_chance(tmp_path):
    """Of 1,000 such ids, erased at once, none is taken for what stands in a page after zeros."""
    users = [str(100_000 + 97 * k) for k in range(1100)]
    fit(tmp_path / "s", interactions([(user, "x") for user in users]), {"popularity": {}})
    with Engine.open(tmp_path / "s") as engine:
        engine.ledger.record(
            [Received(AccountDeletion(f"e-{k}", user)) for k, user in enumerate(users[:1000])]
        )
        engine.apply(engine.pending())
        assert engine.ledger.cycle(1).record["scan"]["found"] == []
    assert verify_state(tmp_path / "s").problems == []


def test_a_cycle_looks_for_ids_within_receipts_and_only_at_their_end(state):
    """In base64 too; the cost of a cycle does not grow with the log, which verify searches whole."""
    paths = StatePaths(state)
    log = paths.receipt_log.read_bytes()
    paths.receipt_log.write_bytes(log + in_base64("anna-one") + b"\n")
    assert scan_for_ids(paths, ["anna-one"]).found == ["receipts/log.ndjson"]
    paths.receipt_log.write_bytes(in_base64("anna-one") + b"\n" + b"-" * (1 << 20))
    assert scan_for_ids(paths, ["anna-one"]).found == []
    assert "receipts/log.ndjson" in verify_state(state).scan.found


@pytest.mark.parametrize(
    "name", ["fine.txt", "other.parquet"],
)  # fmt: skip
def test_people_who_are_kept_are_no_remains(state, name):
    """Other users' ids, and items of erased interactions, are nobody's remains."""
    if name.endswith("txt"):
        (state / name).write_text("bob-two cleo-three x y z 7")
    else:
        pl.DataFrame({"user_id": ["bob-two", "cleo-three"], "item_id": ["x", "y"]}).write_parquet(
            state / name
        )
    assert verify_state(state).scan.found == []


@pytest.mark.parametrize(
    "name", ["users.arrow", "popularity/item_counts.arrow", "interactions", "receipts/log.ndjson"]
)
def test_damage_is_named(state, name):
    """A flipped byte in any file is found, and the file is named."""
    if name == "interactions":
        path = next((state / "interactions").iterdir())
    else:
        path = state / name if name.startswith("receipts") else state / "versions" / "000002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    found = verify_state(state)
    assert not found.ok
    assert any(path.name in problem or "receipt" in problem for problem in found.problems)


def test_what_a_purge_missed_is_named(state):
    """An older version or partition that is still there is a problem, until the next start purges it."""
    (state / "versions" / "000001").mkdir()
    (state / "interactions" / "000-000001.parquet").write_bytes(b"old")
    problems = verify_state(state).problems
    assert len([problem for problem in problems if "obsolete" in problem]) == 2
    Engine.open(state).close()
    assert verify_state(state).ok


def test_the_command_prints_the_contract(state):
    """The JSON has exactly the fields that were agreed on; exit code 1 when not all is well."""
    runner = typer.testing.CliRunner()
    result = runner.invoke(cli.app, ["verify", "--state", str(state), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert list(report) == ["ok", "models", "scan", "receipts"]
    assert list(report["scan"]) == ["files", "bytes", "found"]
    assert report["receipts"] == {"count": 6, "valid": 6}
    (state / "left.txt").write_text("anna-one")
    result = runner.invoke(cli.app, ["verify", "--state", str(state)])
    assert result.exit_code == 1
    assert "left.txt holds something of an erased user" in result.stderr


def test_the_receipt_commands_work_together(state, tmp_path):
    """list, show, verify and fsck: a receipt leaves the state and is checked elsewhere."""
    runner = typer.testing.CliRunner()

    def invoke(*arguments, rc=0):
        result = runner.invoke(cli.app, ["receipts", *map(str, arguments)])
        assert result.exit_code == rc, result.output
        return result

    listed = json.loads(invoke("--state", state, "--json").stdout)["receipts"]
    assert [row["request_id"] for row in listed] == [f"e-{k}" for k in range(1, 7)]
    assert invoke("list", "--state", state).stdout.count("erased") == 6
    invoke("show", "e-2", "--state", state, "--output", tmp_path / "receipt.json")
    (tmp_path / "key.pub").write_bytes((state / "keys" / "receipts.pub").read_bytes())
    shown = invoke("verify", tmp_path / "receipt.json", "--public-key", tmp_path / "key.pub").stdout
    assert "It does not prove" in shown
    assert '"id": "e-2"' in shown
    (tmp_path / "receipt.json").write_text((tmp_path / "receipt.json").read_text().replace("A", "B", 1))
    assert "not a valid receipt" in invoke(
        "verify", tmp_path / "receipt.json", "--public-key", tmp_path / "key.pub", rc=1
    ).stderr  # fmt: skip
    assert json.loads(invoke("fsck", "--state", state, "--json").stdout)["ok"] is True
    invoke("show", "99", "--state", state, rc=1)
    invoke("list", rc=2)
