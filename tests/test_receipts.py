"""Receipts: one for each request, checked offline, and no altered byte passes."""

import base64
import hashlib
import json
import os
import random

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine import merkle
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.receipts import (
    ReceiptLog,
    check_log,
    find_receipt,
    make_bundle,
    open_receipt,
    read_lines,
    state_public_key,
    verify_bundle,
)
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.signing import ReceiptError, open_note, public_pem, read_public_key
from recunlearn.engine.state import StatePaths

from .popularity import interactions

MUTANTS = int(os.environ.get("RECUNLEARN_MUTANTS", "10000"))
"""How many altered receipts a verifier is fed; a million by hand."""

ROWS = [(f"user-{u}", f"item-{i}") for u in range(9) for i in range(5) if (u * i) % 4 != 1]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Make a state in which five requests were carried out, in two cycles."""
    state = tmp_path_factory.mktemp("receipts") / "state"
    fit(state, interactions(ROWS), {"popularity": {}})
    with Engine.open(state) as engine:
        for batch in (
            [AccountDeletion("e-1", "user-1"), AccountDeletion("e-2", "nobody")],
            [AccountDeletion("e-3", "user-2"), InteractionRemoval("e-4", "user-3", "item-0"),
             AccountDeletion("e-5", "user-1")],
        ):  # fmt: skip
            engine.ledger.record([Received(request, "journal", 7) for request in batch])
            engine.apply(engine.ledger.pending())
    return StatePaths(state)


@pytest.fixture
def public(paths):
    """Read the public key."""
    return state_public_key(paths)


def test_every_request_has_one_receipt_that_says_what_was_done(paths, public):
    """Request, times, outcome, version and proofs are in the receipt; who it was is a keyed hash."""
    said = [open_receipt(line, public)["predicate"] for line in read_lines(paths)]
    assert [one["request"]["id"] for one in said] == ["e-1", "e-2", "e-3", "e-4", "e-5"]
    assert [one["outcome"] for one in said] == ["removed", "nothing", "removed", "removed", "nothing"]
    assert [one["version"] for one in said] == [2, 2, 3, 3, 3]
    key = FenceKey.load(paths)
    assert said[0]["request"]["subject_hash"] == key.user("user-1").hex()
    assert said[3]["request"]["subject_hash"] == key.pair("user-3", "item-0").hex()
    assert said[0]["received"] <= said[0]["fenced"] < said[0]["erased"]
    assert said[0]["models"]["popularity"]["exact"] is True
    assert said[0]["models"]["popularity"]["erased_at_least"] == 1.0
    assert said[0]["scan"]["found"] == []
    assert said[3]["request"]["source"] == {"partition": "journal", "offset": 7}
    assert b"user-1" not in b"".join(
        base64.b64decode(json.loads(line)["payload"]) for line in read_lines(paths)
    )
    manifest = paths.version(3) / "manifest.json"
    assert said[4]["manifest_sha256"]["after"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_an_envelope_checks_out_by_the_book(paths):
    """DSSE and the note, verified here from their specifications, with the PEM key alone."""
    key = load_pem_public_key(paths.receipt_public_key.read_bytes())
    raw = key.public_bytes_raw()
    envelope = json.loads(read_lines(paths)[0])
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    signed = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    assert envelope["signatures"][0]["keyid"] == hashlib.sha256(raw).hexdigest()
    text, _, signature = paths.checkpoint.read_text().partition("\n\n")
    dash, name, encoded = signature.rstrip("\n").split(" ")
    decoded = base64.b64decode(encoded)
    key.verify(decoded[4:], text.encode() + b"\n")
    assert decoded[:4] == hashlib.sha256(name.encode() + b"\n\x01" + raw).digest()[:4]
    assert (dash, text.split("\n")[:2]) == ("—", [name, "5"])


def test_a_bundle_is_checked_with_the_public_key_alone(paths, public):
    """Each receipt, by place or by the request's id, verifies offline; another key refuses it."""
    for index in range(5):
        assert find_receipt(paths, f"e-{index + 1}") == find_receipt(paths, str(index)) == index
        bundle = make_bundle(paths, index)
        assert verify_bundle(bundle + b"\n", public)["predicate"]["request"]["id"] == f"e-{index + 1}"
        with pytest.raises(ReceiptError, match="another key"):
            verify_bundle(bundle, Ed25519PrivateKey.generate().public_key())
    for missing in ("5", "e-9", "-1", "", "²"):
        with pytest.raises(ReceiptError, match="no receipt"):
            find_receipt(paths, missing)
    with pytest.raises(ReceiptError, match="there is no receipt 5; there are 5"):
        make_bundle(paths, 5)


def test_no_altered_byte_passes(paths, public):
    """Bits flipped, bytes replaced, cut, doubled or swapped anywhere in a bundle: all are refused."""
    bundle = make_bundle(paths, 2)
    draw = random.Random(7)  # noqa: S311  a seed, not a secret
    accepted = 0
    for trial in range(MUTANTS):
        mutant = bytearray(bundle)
        at = trial % len(bundle)
        kind = draw.randrange(5)
        if kind == 0:
            mutant[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            mutant[at] = draw.choice(b'AZaz09+/= "{}[],:\\')
        elif kind == 2:
            del mutant[at : at + draw.randrange(1, 9)]
        elif kind == 3:
            mutant[at:at] = mutant[at : at + draw.randrange(1, 9)]
        else:
            other = draw.randrange(len(bundle))
            mutant[at], mutant[other] = mutant[other], mutant[at]
        if bytes(mutant).rstrip(b"\n") == bundle:
            continue
        try:
            verify_bundle(bytes(mutant), public)
            accepted += 1
        except ReceiptError:
            pass
    assert accepted == 0


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_a_verifier_lets_one_exception_out(content):
    """Whatever bytes it is fed, as bundle, envelope, note or key."""
    public = read_public_key(public_pem(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()))
    for check in (verify_bundle, open_note, open_receipt):
        with pytest.raises(ReceiptError):
            check(content, public)
    with pytest.raises(ReceiptError):
        read_public_key(content)


@settings(max_examples=200)
@given(st.data())
def test_a_well_formed_bundle_that_is_wrong_lets_one_exception_out(data):
    """Fields of the right shape with hostile content raise ReceiptError and nothing else."""
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    text = st.one_of(st.text(max_size=30), st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()))
    bundle = {
        "leaf": data.draw(text),
        "index": data.draw(st.integers(-(2**63), 2**63 - 1)),
        "proof": data.draw(st.lists(text, max_size=3)),
        "checkpoint": data.draw(st.one_of(text, st.tuples(text, st.integers(), text, text, text, text).map(
            lambda t: f"{t[0]}\n{t[1]}\n{t[2]}\n\n— {t[3]} {t[4]}\n"))),
    }  # fmt: skip
    with pytest.raises(ReceiptError):
        verify_bundle(msgspec.json.encode(bundle), public)


def slow_root(leaves):
    """Compute RFC 9162's MTH from its definition."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=4), max_size=40), st.data())
def test_the_tree_is_that_of_the_rfc(leaves, data):
    """Roots equal the definition; a proof leads to the root from its own place only."""
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert merkle.root(hashes) == slow_root(leaves)
    if leaves:
        index = data.draw(st.integers(0, len(leaves) - 1))
        proof = merkle.inclusion_proof(hashes, index)
        assert merkle.root_from_proof(hashes[index], index, len(leaves), proof) == merkle.root(hashes)
        other = merkle.leaf_hash(b"another leaf")
        assert merkle.root_from_proof(other, index, len(leaves), proof) != merkle.root(hashes)
        assert merkle.root_from_proof(hashes[index], index, len(leaves), [*proof, other]) != merkle.root(
            hashes
        )
        assert merkle.root_from_proof(hashes[index], len(leaves), len(leaves), proof) is None


def copy_of(paths, target):
    """Copy a state."""
    import shutil

    shutil.copytree(paths.root, target)
    return StatePaths(target)


def fsck(paths):
    """Run the check of the log."""
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        return check_log(paths, ledger)


def test_fsck_finds_every_damage(paths, tmp_path):
    """A line altered, dropped, doubled or swapped, the checkpoint or the key gone: each is found."""
    assert fsck(paths) == (5, 5, [])
    lines = read_lines(paths)
    damages = {
        "altered": b"\n".join([lines[0].replace(b"a", b"b", 1), *lines[1:], b""]),
        "dropped": b"\n".join([*lines[:-1], b""]),
        "doubled": b"\n".join([*lines, lines[-1], b""]),
        "swapped": b"\n".join([lines[1], lines[0], *lines[2:], b""]),
        "emptied": b"",
    }
    for name, content in damages.items():
        copy = copy_of(paths, tmp_path / name)
        copy.receipt_log.write_bytes(content)
        _, valid, problems = fsck(copy)
        assert problems, name
        assert valid <= 5
    for name in ("checkpoint", "receipts.pub"):
        copy = copy_of(paths, tmp_path / name)
        (copy.receipts / name if name == "checkpoint" else copy.receipt_public_key).unlink()
        assert fsck(copy)[2], name


def test_a_log_that_was_cut_off_goes_on_from_its_checkpoint(paths, tmp_path):
    """Lines after the checkpoint were never given out: they are dropped, and the log stays sound."""
    copy = copy_of(paths, tmp_path / "copy")
    with copy.receipt_log.open("ab") as file:
        file.write(b'{"half a rec')
    with Engine.open(copy.root) as engine:
        engine.ledger.record([Received(AccountDeletion("e-6", "user-5"))])
        assert engine.apply(engine.ledger.pending()).erased == 1
    assert fsck(copy) == (6, 6, [])


def test_a_damaged_log_does_not_hold_up_an_erasure(paths, tmp_path, caplog):
    """Erasing goes on without receipts, loudly; once the log is restored they are given."""
    copy = copy_of(paths, tmp_path / "copy")
    sound = copy.receipt_log.read_bytes()
    copy.receipt_log.write_bytes(sound[:100])
    with Engine.open(copy.root) as engine:
        engine.ledger.record([Received(AccountDeletion("e-6", "user-5"))])
        assert engine.apply(engine.ledger.pending()).erased == 1
    assert "receipts wait until the log is restored" in caplog.text
    copy.receipt_log.write_bytes(sound)
    Engine.open(copy.root).close()
    assert fsck(copy) == (6, 6, [])


def test_receipts_are_not_given_twice_if_the_ledger_missed_them(paths, tmp_path):
    """A crash between the log and the ledger's note leaves one receipt a request."""
    copy = copy_of(paths, tmp_path / "copy")
    with Ledger(copy.ledger, FenceKey.load(copy)) as ledger:
        ledger.note_receipts({4: None, 5: None})
    Engine.open(copy.root).close()
    assert fsck(copy) == (5, 5, [])


def test_the_signing_key_is_for_its_owner_only(paths):
    """Mode 0600; a log opened again keeps its key."""
    assert paths.receipt_key.stat().st_mode & 0o777 == 0o600
    before = paths.receipt_public_key.read_bytes()
    assert ReceiptLog(paths).size == 5
    assert paths.receipt_public_key.read_bytes() == before
