"""Keys of receipts rotate, the log only grows, and both can be checked offline."""

import base64
import hashlib
import json
import shutil

import pytest
import typer.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from recunlearn import cli
from recunlearn.engine import merkle
from recunlearn.engine.consistency import make_consistency, verify_consistency
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.key_ring import KeyRing, is_rotation, rotation_line
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.overview import overview
from recunlearn.engine.receipts import (
    ReceiptLog,
    check_log,
    make_bundle,
    read_lines,
    state_public_key,
    verify_bundle,
)
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.signing import ReceiptError, SigningKey
from recunlearn.engine.state import StatePaths

from . import power_cut
from .popularity import interactions

ROWS = [(f"user-{u}", f"item-{i}") for u in range(9) for i in range(4)]


def erase(state, *names):
    """Erase users; a request is named by its user's name read backwards, which does not give it away."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(AccountDeletion(f"of-{name[::-1]}", name)) for name in names])
        engine.apply(engine.pending())


def fsck(paths):
    """Run the check of the log."""
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        return check_log(paths, ledger)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory):
    """Make a log of receipts by three keys; returns its paths, and what was handed out on the way."""
    state = tmp_path_factory.mktemp("rotated") / "state"
    paths, handed_out = StatePaths(state), []
    fit(state, interactions(ROWS), {"popularity": {}})
    for user in (1, 2, 3):
        erase(state, f"user-{user}", f"nobody-{user}")
        index = len(read_lines(paths)) - 1
        kept = paths.checkpoint.read_bytes()
        handed_out.append((index, state_public_key(paths), make_bundle(paths, index), kept))
        if user < 3:
            ReceiptLog(paths).rotate_key()
    return paths, handed_out


def test_a_log_of_several_keys_is_sound(rotated):
    """Six receipts and two rotations: all valid, the private key and its public half are the newest."""
    paths, handed_out = rotated
    assert [is_rotation(line) for line in read_lines(paths)] == [0, 0, 1, 0, 0, 1, 0, 0]
    assert fsck(paths) == (6, 6, [])
    assert ReceiptLog(paths).public == handed_out[-1][1]
    assert not paths.next_receipt_key.exists()
    assert paths.receipt_key.stat().st_mode & 0o777 == 0o600
    assert len(list(paths.keys.glob("receipts-*.pub"))) == 2
    assert all(b"up to place" in path.read_bytes() for path in paths.keys.glob("receipts-*.pub"))


def test_any_key_of_the_log_proves_a_receipt_of_any_other(rotated):
    """Bundles made today verify with each key that ever signed, and with no other."""
    paths, handed_out = rotated
    for index, *_ in handed_out:
        bundle = make_bundle(paths, index)
        for _, public, *_ in handed_out:
            assert verify_bundle(bundle, public)["predicate"]["request"]["id"].endswith("ydobon")
        with pytest.raises(ReceiptError, match="another key"):
            verify_bundle(bundle, Ed25519PrivateKey.generate().public_key())


def test_a_receipt_handed_out_before_a_rotation_is_still_valid(rotated):
    """With the key of its time by itself; with the state, whose log says when that key was valid."""
    paths, handed_out = rotated
    rotations = [line for line in read_lines(paths) if is_rotation(line)]
    ring = KeyRing([state_public_key(paths)], rotations)
    for _, public, bundle, _ in handed_out:
        assert verify_bundle(bundle, public) == verify_bundle(bundle, ring)


def test_a_key_that_was_given_up_signs_nothing_later(tmp_path):
    """A receipt and a checkpoint forged with the old key, after it gave way, are refused."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    paths = StatePaths(tmp_path / "state")
    erase(paths.root, "user-1")
    stolen = paths.receipt_key.read_bytes()
    ReceiptLog(paths).rotate_key()
    newest, rotations = state_public_key(paths), [read_lines(paths)[1]]
    honest = shutil.copytree(paths.root, tmp_path / "forged")
    forged = StatePaths(honest)
    forged.receipt_key.write_bytes(stolen)
    old = SigningKey.load(forged.receipt_key)
    log = ReceiptLog(paths)
    log._key = old
    log._append([old.envelope(b"{}", "application/vnd.recunlearn.erasure-receipt.v1+json")], old)
    with pytest.raises(ReceiptError, match="not valid for a log of its size"):
        KeyRing([newest], rotations).open_checkpoint(paths.checkpoint.read_bytes())
    with pytest.raises(ReceiptError, match="not valid at its place"):
        KeyRing([newest], rotations).open_envelope(
            read_lines(paths)[2], "application/vnd.recunlearn.erasure-receipt.v1+json", 2
        )


def test_a_rotation_that_leads_nowhere_trusted_is_not_followed():
    """Keys that nobody trusts may sign each other as they like; an altered rotation is refused."""
    old, new, own = (SigningKey(Ed25519PrivateKey.generate()) for _ in range(3))
    line = rotation_line(3, old, new)
    assert KeyRing([own.public], [line]).origins() == KeyRing([own.public]).origins()
    for at in range(0, len(line), 7):
        mutant = bytearray(line)
        mutant[at] ^= 1
        with pytest.raises(ReceiptError):
            KeyRing([old.public], [bytes(mutant)])


def test_a_rotation_survives_a_power_cut_at_any_step(tmp_path, monkeypatch):
    """The old key or the new one signs afterwards, never neither; every receipt stays valid."""
    fit(tmp_path / "template", interactions(ROWS), {"popularity": {}})
    erase(tmp_path / "template", "user-1")
    before = state_public_key(StatePaths(tmp_path / "template"))
    shutil.copytree(tmp_path / "template", tmp_path / "state")
    disk = power_cut.cut_everywhere(
        lambda state: ReceiptLog(StatePaths(state)).rotate_key(), tmp_path / "state", monkeypatch
    )
    assert len(disk.images) > 30
    ends = set()
    for step, variant, image in disk.images:
        power_cut.lay_out(image, tmp_path / "after")
        paths = StatePaths(tmp_path / "after")
        erase(paths.root, "user-2")
        assert fsck(paths) == (2, 2, []), (step, variant)
        assert not paths.next_receipt_key.exists()
        ends.add(state_public_key(paths) == before)
        shutil.rmtree(paths.root)
    assert ends == {True, False}


# --- the log only grows ------------------------------------------------------------------------------


def slow_root(leaves):
    """Compute RFC 9162's MTH from its definition."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


def slow_consistency(m, leaves, *, whole=True):
    """Compute RFC 9162's SUBPROOF, 2.1.4.1, as it is written there."""
    n = len(leaves)
    if m == n:
        return [] if whole else [slow_root(leaves)]
    k = max(1 << bit for bit in range(n.bit_length()) if 1 << bit < n)
    if m <= k:
        return [*slow_consistency(m, leaves[:k], whole=whole), slow_root(leaves[k:])]
    return [*slow_consistency(m - k, leaves[k:], whole=False), slow_root(leaves[:k])]


def test_consistency_is_that_of_the_rfc_for_all_sizes_up_to_64():
    """Each pair of sizes: the proof is the definition's, it is accepted, and no other size's is."""
    leaves = [merkle.leaf_hash(bytes([k])) for k in range(64)]
    roots = [slow_root(leaves[:n]) for n in range(65)]
    other = merkle.leaf_hash(b"another")
    for n in range(1, 65):
        for m in range(1, n + 1):
            proof = merkle.consistency_proof(leaves[:n], m)
            assert proof == slow_consistency(m, leaves[:n])
            assert merkle.is_consistent(m, roots[m], n, roots[n], proof)
            assert not merkle.is_consistent(m, other, n, roots[n], proof)
            assert not merkle.is_consistent(m, roots[m], n, other, proof)
            assert not merkle.is_consistent(m, roots[m], n, roots[n], [*proof, other])
            if proof:
                assert not merkle.is_consistent(m, roots[m], n, roots[n], proof[:-1])
        assert merkle.is_consistent(0, roots[0], n, roots[n], [])
        assert not merkle.is_consistent(n + 1, roots[n], n, roots[n], [])


@given(st.integers(1, 40), st.integers(0, 40), st.data())
def test_a_log_that_was_rewritten_is_not_consistent(older, more, data):
    """One of the first entries changed: no proof made from the changed log leads from the old root."""
    leaves = [merkle.leaf_hash(bytes([k])) for k in range(older + more)]
    changed = list(leaves)
    changed[data.draw(st.integers(0, older - 1))] = merkle.leaf_hash(b"changed")
    proof = merkle.consistency_proof(changed, older)
    assert not merkle.is_consistent(
        older, merkle.root(leaves[:older]), len(changed), merkle.root(changed), proof
    )


def test_an_auditor_checks_that_the_log_only_grew(rotated):
    """From each checkpoint that was kept to today's, with the first key or the last, across rotations."""
    paths, handed_out = rotated
    for index, _, _, kept in handed_out:
        proof = make_consistency(paths, kept)
        for _, public, *_ in handed_out:
            assert verify_consistency(proof + b"\n", kept, public) == (index + 1, 8)
        with pytest.raises(ReceiptError):
            verify_consistency(proof, kept, Ed25519PrivateKey.generate().public_key())
        for at in range(0, len(proof), 11):
            mutant = bytearray(proof)
            mutant[at] ^= 2
            with pytest.raises(ReceiptError):
                verify_consistency(bytes(mutant), kept, handed_out[0][1])


def test_an_operator_who_rewrites_the_log_is_found_out(tmp_path):
    """The key's own holder drops a receipt and signs anew: whoever kept a checkpoint sees it."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    paths = StatePaths(tmp_path / "state")
    erase(paths.root, "user-1", "user-2")
    kept, lines = paths.checkpoint.read_bytes(), read_lines(paths)
    log = ReceiptLog(paths)
    log._tree = merkle.Frontier()
    paths.receipt_log.write_bytes(b"")
    log._append([lines[1], lines[0], lines[0]], log._key)
    with pytest.raises(ReceiptError, match="altered or removed"):
        make_consistency(paths, kept)
    paths.checkpoint.write_bytes(kept)
    paths.receipt_log.write_bytes(lines[0] + b"\n")
    with pytest.raises(ReceiptError, match="the log has 1 entries, at the older checkpoint it had 2"):
        make_consistency(paths, kept)


def test_the_commands_rotate_hand_out_and_check(rotated, tmp_path):
    """rotate-key, checkpoint, consistency with and without a state; a used lock and a lie end with 1."""
    state = shutil.copytree(rotated[0].root, tmp_path / "state")
    runner = typer.testing.CliRunner()

    def invoke(*arguments, rc=0):
        result = runner.invoke(cli.app, ["receipts", *map(str, arguments)])
        assert result.exit_code == rc, result.output
        return result

    kept, proof = tmp_path / "kept", tmp_path / "proof.json"
    invoke("checkpoint", "--state", state, "--output", kept)
    assert invoke("checkpoint", "--state", state).stdout.encode() == kept.read_bytes()
    assert "from place 9 on" in invoke("rotate-key", "--state", state).stdout
    assert json.loads(invoke("list", "--state", state, "--json").stdout)["receipts"][-1]["index"] == 7
    invoke("show", "of-1-resu", "--state", state, "--output", tmp_path / "receipt.json")
    invoke("verify", tmp_path / "receipt.json", "--state", state)
    invoke("consistency", "--from", kept, "--state", state, "--output", proof)
    shutil.copy(state / "keys" / "receipts.pub", tmp_path / "key.pub")
    offline = ("consistency", "--from", kept, "--proof", proof, "--public-key", tmp_path / "key.pub")
    assert "its first 8 of 9 entries" in invoke(*offline).stdout
    assert json.loads(invoke(*offline, "--json").stdout) == {"ok": True, "from": 8, "to": 9}
    document = json.loads(proof.read_bytes())
    document["proof"] = [base64.b64encode(bytes(32)).decode() for _ in document["proof"]]
    proof.write_text(json.dumps(document, separators=(",", ":"), ensure_ascii=False))
    assert "altered or removed" in invoke(*offline, rc=1).stderr
    invoke("show", "2", "--state", state, rc=1)  # a rotation is no receipt
    with Engine.open(state):
        assert runner.invoke(cli.app, ["receipts", "rotate-key", "--state", str(state)]).exit_code != 0


def test_the_operators_page_shows_receipts_of_every_key_at_their_places(rotated):
    """Rotations are entries of the log and no receipts: those around them keep their places."""
    paths, _ = rotated
    shown = overview(paths)
    lines = read_lines(paths)
    places = [index for index, line in enumerate(lines) if not is_rotation(line)]
    assert len(places) < len(lines)
    assert [one["index"] for one in shown["receipts"]] == places[::-1]
    assert shown["receipts_count"] == len(places)
    for one in shown["receipts"]:
        said = verify_bundle(make_bundle(paths, one["index"]), state_public_key(paths))
        assert said["predicate"]["request"]["id"] == one["id"]
