"""Secure sums: the exact total of all silos, and nothing about one of them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine.signing import SigningKey, public_pem
from recunlearn.models import MODELS
from recunlearn.models.summed import published_from_sums, statistic_of
from recunlearn.models.sums import LARGEST, Statistic, Sums, SumsError, merge, sums_of
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.said import sign
from recunlearn.streaming.federated.secure import exchange, party
from recunlearn.streaming.federated.secure.masks import stream
from recunlearn.streaming.federated.secure.party import Identity, Memory
from recunlearn.streaming.federated.secure.tally import total_of
from recunlearn.streaming.federated.secure.terms import Opening, RoundError, Terms, read_all
from recunlearn.streaming.federated.secure.vector import read_total, size_of, write_vector

from .federation import same_published

NAMES = ("east", "north", "south")
SETTINGS = {
    "ease": {"regularization": 3.0},
    "item_knn": {"K": 5, "weighting": "tfidf"},
    "spectral_mf": {"factors": 4},
}


def rows_of(seed, users=9, n_items=14):
    """Draw rows; every silo has items that no other has."""
    draw = np.random.default_rng(seed)
    dense = draw.integers(1, 4, (users, n_items)) * (draw.random((users, n_items)) < 0.3)
    return sp.csr_matrix(dense.astype(np.float64))


class Round:
    """Three silos and a coordinator in one process; what the coordinator receives stays in sight."""

    def __init__(self, folder, statistic, what="rows", number=1, names=NAMES, before=None):
        folder = Path(folder)
        self.names = names
        if before is None:
            keys = {name: SigningKey.generate(folder / f"{name}.key") for name in (*names, "hub")}
            peers = {name: public_pem(keys[name].public).decode() for name in names}
            self.hub = keys["hub"]
            self.silos = {name: Identity(name, keys[name], peers) for name in names}
            self.memory = {name: Memory() for name in names}
        else:
            self.hub, self.silos, self.memory = before.hub, before.silos, dict(before.memory)
        parties = {name: self.silos[name].peers[name] for name in names}
        self.terms = Terms(1, "test", 1, number, what, statistic, parties)
        self.openings, self.numbers, self.headers, self.confirmations = {}, {}, {}, {}

    def open(self):
        """Have everybody enter."""
        for name in self.names:
            self.memory[name] = party.enter(self.silos[name], self.memory[name], self.terms)
            self.openings[name] = party.opening(self.silos[name], self.memory[name])
        return self

    def mask(self, parts, contents="rows"):
        """Have everybody send masked sums."""
        for name in self.names:
            me, key = self.silos[name], contents if parts[name].users else ""
            self.memory[name], masked = party.mask(
                me, self.memory[name], self.terms, self.openings, parts[name], key
            )
            self.numbers[name] = masked.tobytes()
            self.headers[name] = party.masked_header(me, self.memory[name])
        return self

    def confirm(self):
        """Have everybody agree."""
        for name in self.names:
            me = self.silos[name]
            self.memory[name] = party.confirm(me, self.memory[name], self.terms, self.headers)
            self.confirmations[name] = party.confirmation(me, self.memory[name])
        return self

    def total(self):
        """Add up."""
        return total_of(self.terms, self.headers, self.confirmations, self.numbers.__getitem__)


def parts_of(statistic, users=9):
    """Sum up what each silo has."""
    return {name: sums_of(rows_of(k, users, statistic.n_items), statistic) for k, name in enumerate(NAMES)}


def vector_in(round_, name):
    """Read the masked numbers of a silo."""
    return np.frombuffer(round_.numbers[name], np.uint64)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_total_is_the_plain_sum_to_the_bit_and_so_is_the_model(tmp_path, name):
    """Counts, degrees, pairs, whole units and parts: the total is `merge`, the model is the pooled fit's."""
    statistic = statistic_of(name, SETTINGS[name], 14)
    parts = parts_of(statistic)
    total = Round(tmp_path, statistic).open().mask(parts).confirm().total()
    assert total.same_as(merge(parts.values(), statistic))
    if name != "spectral_mf":
        pooled = sp.vstack([rows_of(k) for k in range(3)], format="csr")
        fitted = MODELS[name](**SETTINGS[name]).fit(pooled)
        assert same_published(published_from_sums(name, SETTINGS[name], total), fitted)


def test_a_deletion_is_a_masked_negative_message(tmp_path):
    """One silo subtracts, two send the sums of nothing: what is left is the sums of who is left."""
    statistic = Statistic("normalised", 14, 0.5)
    parts = parts_of(statistic)
    first = Round(tmp_path, statistic).open().mask(parts).confirm()
    held = first.total()
    gone = dict.fromkeys(NAMES, Sums.nothing(statistic)) | {"north": sums_of(rows_of(1)[:2], statistic)}
    second = Round(tmp_path, statistic, "deletion", 2, before=first).open().mask(gone, "deletion 1").confirm()
    left = merge(
        [parts["east"], sums_of(rows_of(1)[2:], statistic), parts["south"]],
        statistic,
    )
    assert held.subtract(second.total()).same_as(left)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 9), st.integers(0, 999), st.sampled_from(["whole", "normalised"]))
def test_a_vector_gives_its_sums_back(users, n_items, seed, kind):
    """Every pair has its place: writing and reading is the identity, of nothing and of no items too."""
    statistic = Statistic(kind, n_items, 0.5 if kind == "normalised" else 0.0)
    sums = sums_of(rows_of(seed, users, n_items), statistic)
    vector = write_vector(sums, 3)
    assert vector.shape == (size_of(statistic),)
    assert read_total(vector, statistic).same_as(sums)


def test_masked_numbers_have_the_same_law_whatever_the_silo_has(tmp_path):
    """Bits are fair, bytes even, neighbours unrelated; so they are for a silo that has nothing at all."""
    statistic = Statistic("whole", 400)
    rows = sums_of(rows_of(5, 60, 400), statistic)
    parts = {"east": rows, "north": Sums.nothing(statistic), "south": rows}
    made = Round(tmp_path, statistic).open().mask(parts)
    for name in NAMES:
        content = np.frombuffer(made.numbers[name], np.uint8)
        n = content.size
        bits = np.unpackbits(content.reshape(-1, 8), axis=1).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 6 * 0.5 / np.sqrt(n / 8)
        chi = ((np.bincount(content, minlength=256) - n / 256) ** 2 / (n / 256)).sum()
        assert abs(chi - 255) < 6 * np.sqrt(2 * 255)
        centred = content - 127.5
        assert abs(np.mean(centred[8:] * centred[:-8])) < 6 * (256**2 - 1) / 12 / np.sqrt(n)


def test_all_but_one_mask_known_still_hides_a_silo(tmp_path):
    """The coordinator and one silo together: the own mask and one pair's are known, the sums stay noise."""
    statistic = Statistic("whole", 400)
    parts = parts_of(statistic)
    made = Round(tmp_path, statistic).open()
    keys = {name: made.memory[name] for name in NAMES}
    made.mask(parts).confirm()
    opened = read_all(made.terms, Opening, made.openings)
    of_east, _ = party._pair_keys(made.silos["east"], keys["east"], opened)
    size = size_of(statistic)
    known = vector_in(made, "north") - stream(keys["north"].seed, size) + stream(of_east["north"], size)
    true = write_vector(parts["north"], 3)
    assert not np.any(known == true)
    assert abs(np.mean(known < 2**63) - 0.5) < 6 * 0.5 / np.sqrt(size)
    of_south, _ = party._pair_keys(made.silos["south"], keys["south"], opened)
    assert np.array_equal(known - stream(of_south["north"], size), true)  # the last mask is what hid it


def test_who_takes_all_but_one_silo_away_has_the_sum_of_the_others_only(tmp_path):
    """Masked vectors of two of three, own masks taken off, are under masks with the third: not their sum."""
    statistic = Statistic("whole", 60)
    parts = parts_of(statistic)
    made = Round(tmp_path, statistic).open().mask(parts).confirm()
    size = size_of(statistic)
    bare = {n: vector_in(made, n) - stream(made.memory[n].seed, size) for n in NAMES}
    plain = {n: write_vector(parts[n], 3) for n in NAMES}
    others = bare["east"] + bare["north"] + bare["south"] - plain["south"]
    assert np.array_equal(others, plain["east"] + plain["north"])
    for one, two in (("east", "north"), ("east", "south"), ("north", "south")):
        assert not np.any(bare[one] + bare[two] == plain[one] + plain[two])
    with pytest.raises(SumsError, match="masks do not cancel"):
        read_total(bare["east"] + bare["north"], statistic)


def test_equal_sums_in_two_rounds_have_nothing_in_common(tmp_path):
    """Keys are a round's: neither the masked numbers nor their difference say what is in them."""
    statistic = Statistic("whole", 60)
    parts = parts_of(statistic)
    first = Round(tmp_path, statistic).open().mask(parts)
    second = Round(tmp_path, statistic, number=2, before=first).open().mask(parts)
    assert not np.any(vector_in(first, "north") == vector_in(second, "north"))


def test_a_silo_that_drops_out_is_named_and_the_round_begins_again_without_it(tmp_path):
    """Missing at any step: no total; then three of four are added under fresh keys."""
    names, statistic = (*NAMES, "west"), Statistic("whole", 14)
    parts = {name: sums_of(rows_of(k), statistic) for k, name in enumerate(names)}
    made = Round(tmp_path, statistic, names=names).open()
    del made.openings["west"]
    with pytest.raises(RoundError, match="no opening of west: masks cancel only if all are there"):
        made.mask(parts)
    again = Round(tmp_path, statistic, number=2, names=names, before=made).open().mask(parts)
    del again.headers["west"]
    with pytest.raises(RoundError, match="no masked of west"):
        again.confirm()
    third = Round(tmp_path, statistic, number=3, before=again).open().mask(parts).confirm()
    assert third.total().same_as(merge([parts[name] for name in NAMES], statistic))


def test_the_late_sums_of_a_silo_do_not_come_out_of_the_difference_of_two_rounds(tmp_path):
    """Masked sums for a round that was given up stay under the own masks of those who left it: for good."""
    names, statistic = (*NAMES, "west"), Statistic("whole", 14)
    parts = {name: sums_of(rows_of(k), statistic) for k, name in enumerate(names)}
    given_up = Round(tmp_path, statistic, names=names).open().mask(parts)
    second = Round(tmp_path, statistic, number=2, before=given_up).open().mask(parts).confirm()
    everybody = sum((vector_in(given_up, name) for name in NAMES), vector_in(given_up, "west"))
    difference = everybody - write_vector(second.total(), 4)
    assert not np.any(difference == write_vector(parts["west"], 4))
    for call in (party.confirm, lambda *given: party.mask(*given, parts["east"], "rows")):
        with pytest.raises(RoundError, match="east is in another round than 1"):
            call(second.silos["east"], second.memory["east"], given_up.terms, given_up.headers)


def test_what_was_in_a_total_is_never_masked_again(tmp_path):
    """With one silo fewer, the difference of two totals would be that silo: refused, whoever asks."""
    names, statistic = (*NAMES, "west"), Statistic("whole", 14)
    parts = {name: sums_of(rows_of(k), statistic) for k, name in enumerate(names)}
    first = Round(tmp_path, statistic, names=names).open().mask(parts).confirm()
    with pytest.raises(RoundError, match="rows has been in a total"):
        Round(tmp_path, statistic, number=2, before=first).open().mask(parts)
    with pytest.raises(RoundError, match="cannot be told from what has"):
        Round(tmp_path, statistic, number=2, before=first).open().mask(parts, "")


def test_one_rounds_keys_mask_one_vector(tmp_path):
    """Other numbers, or the same for other openings, are refused: two would give the masks away."""
    statistic = Statistic("whole", 14)
    made, parts = Round(tmp_path, statistic).open(), parts_of(statistic)
    me, memory = made.silos["east"], made.memory["east"]
    memory, once = party.mask(me, memory, made.terms, made.openings, parts["east"], "rows")
    _, again = party.mask(me, memory, made.terms, made.openings, parts["east"], "rows")
    assert np.array_equal(once, again)
    with pytest.raises(RoundError, match="has masked other numbers"):
        party.mask(me, memory, made.terms, made.openings, parts["north"], "rows")
    other = party.enter(made.silos["south"], Memory(), made.terms)
    forged = {**made.openings, "south": party.opening(made.silos["south"], other)}
    with pytest.raises(RoundError, match="or for other keys"):
        party.mask(me, memory, made.terms, forged, parts["east"], "rows")
    agreed = msgspec.structs.replace(memory, private=b"")
    with pytest.raises(RoundError, match="has no key for round 1 any more"):
        party.mask(me, agreed, made.terms, made.openings, parts["east"], "rows")


def test_a_coordinator_cannot_put_its_own_key_or_silo_in(tmp_path):
    """An opening that the silo did not sign, and a silo that nobody knows, are refused."""
    statistic = Statistic("whole", 14)
    made = Round(tmp_path, statistic).open()
    stranger = Identity("south", made.hub, {})
    made.openings["south"] = party.opening(stranger, made.memory["south"])
    with pytest.raises(RoundError, match=r"the opening of silo south: .* another key"):
        made.mask(parts_of(statistic))
    invented = msgspec.structs.replace(
        made.terms, round=2, parties={**made.terms.parties, "sybil": public_pem(made.hub.public).decode()}
    )
    with pytest.raises(RoundError, match="silo sybil of round 2 is not known to east"):
        party.enter(made.silos["east"], made.memory["east"], invented)
    alone = msgspec.structs.replace(made.terms, round=2, parties=dict(list(made.terms.parties.items())[:2]))
    with pytest.raises(RoundError, match="below 3 a total gives one of them away: wait"):
        party.enter(made.silos["east"], made.memory["east"], alone)
    other = msgspec.structs.replace(made.terms, epoch=2)
    with pytest.raises(RoundError, match="a number is used once"):
        party.enter(made.silos["east"], made.memory["east"], other)


def test_a_total_that_might_wrap_is_refused_before_it_is_masked():
    """Each silo stays below 2^61 / silos: at the limit it is refused, below it is exact."""
    statistic = Statistic("whole", 1)
    limit = LARGEST // 3

    def sums(squares):
        one = np.ones(1, np.int64)
        return Sums(statistic, 1, one, np.zeros(0, np.int64), one - 1, one * squares, np.zeros(0, np.int64))

    with pytest.raises(SumsError, match=r"coarse has 768614336404564650; with 3 silos each must stay below"):
        write_vector(sums(limit), 3)
    total = sum((write_vector(sums(limit - 1), 3) for _ in range(2)), write_vector(sums(limit - 1), 3))
    assert read_total(total, statistic).coarse.tolist() == [3 * (limit - 1)]


def test_numbers_that_were_changed_on_their_way_are_refused(tmp_path):
    """The digest of the masked numbers is signed: one bit is enough."""
    statistic = Statistic("whole", 14)
    made = Round(tmp_path, statistic).open().mask(parts_of(statistic)).confirm()
    made.numbers["east"] = bytes([made.numbers["east"][0] ^ 1]) + made.numbers["east"][1:]
    with pytest.raises(RoundError, match="masked sums of silo east are not the 960 bytes that it signed"):
        made.total()


SILO = """
import sys, time
from pathlib import Path
import msgspec
from recunlearn.engine.signing import SigningKey, read_public_key
from recunlearn.models.sums import Sums, sums_of
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.secure.exchange import take_part
from recunlearn.streaming.federated.secure.party import Identity
from scipy import sparse

root, board, number = Path(sys.argv[1]), Board(Path(sys.argv[2])), int(sys.argv[3])
peers = msgspec.json.decode((root / "peers.json").read_bytes())
me = Identity(root.name, SigningKey.load(root / "key.pem"), peers)
hub = read_public_key((root / "hub.pub").read_bytes())

def contents(terms):
    path = root / f"{terms.what}.npz"
    if not path.exists():
        return "", Sums.nothing(terms.statistic)
    return f"{me.name}/{terms.epoch}/{terms.what}", sums_of(sparse.load_npz(path), terms.statistic)

end = time.monotonic() + 60
while not take_part(board, root, me, hub, number, contents):
    if time.monotonic() > end:
        sys.exit("nobody answered for a minute")
    time.sleep(0.05)
"""


def run_round(folder, board, terms, hub):
    """Run a round: each silo a process of its own, the coordinator here; the total, and who it waited for."""
    exchange.begin(board, terms, hub)
    command = [sys.executable, "-c", SILO]
    running = [
        subprocess.Popen([*command, str(folder / name), str(board.root), str(terms.round)]) for name in NAMES
    ]
    try:
        end = time.monotonic() + 60
        while (total := exchange.collect(board, terms)) is None:
            assert time.monotonic() < end, exchange.waited_for(board, terms)
            time.sleep(0.05)
        assert [one.wait(timeout=60) for one in running] == [0, 0, 0]
    finally:
        for one in running:
            one.kill()
            one.wait()
    return total


def test_three_silo_processes_and_a_coordinator_add_and_then_forget(tmp_path):
    """Four processes, files between them: the pooled sums to the bit, then those of who is left."""
    statistic = statistic_of("item_knn", {"weighting": "tfidf"}, 14)
    keys = {}
    for k, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        keys[name] = SigningKey.generate(tmp_path / name / "key.pem")
        sp.save_npz(tmp_path / name / "rows.npz", rows_of(k))
    hub = SigningKey.generate(tmp_path / "hub.pem")
    peers = {name: public_pem(key.public).decode() for name, key in keys.items()}
    for name in NAMES:
        (tmp_path / name / "peers.json").write_bytes(msgspec.json.encode(peers))
        (tmp_path / name / "hub.pub").write_bytes(public_pem(hub.public))
    sp.save_npz(tmp_path / "north" / "deletion.npz", rows_of(1)[:2])
    board = Board(tmp_path / "board")
    terms = Terms(1, "test", 1, 1, "rows", statistic, peers)
    held = run_round(tmp_path, board, terms, hub)
    assert held.same_as(merge(parts_of(statistic).values(), statistic))
    gone = run_round(tmp_path, board, msgspec.structs.replace(terms, round=2, what="deletion"), hub)
    rest = sp.vstack([rows_of(0), rows_of(1)[2:], rows_of(2)], format="csr")
    assert held.subtract(gone).same_as(sums_of(rest, statistic))
    assert (tmp_path / "north" / exchange.MEMORY).stat().st_mode & 0o077 == 0


def test_a_silo_killed_at_any_step_goes_on_and_masks_once(tmp_path):
    """SIGKILL at every durable step of all three phases: the same total, and no second masked vector."""
    script = Path(__file__).with_name("secure_kills.py")
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["kills"] > 20
    assert found == {"kills": found["kills"], "right": found["kills"], "masked again": 0}


def test_a_round_says_what_it_waits_for_and_takes_no_other_terms(tmp_path):
    """Who is missing, by name; a round's number is used once."""
    made = Round(tmp_path, Statistic("whole", 14))
    board = Board(tmp_path / "board")
    exchange.begin(board, made.terms, made.hub)
    assert exchange.waited_for(board, made.terms) == ("opening", ["east", "north", "south"])
    assert exchange.collect(board, made.terms) is None
    with pytest.raises(RoundError, match="round 1 has begun with other terms"):
        exchange.begin(board, msgspec.structs.replace(made.terms, epoch=2), made.hub)
    foreign = sign(made.terms, made.silos["east"].key)
    with pytest.raises(RoundError, match="is this your coordinator"):
        exchange.read_terms(foreign, made.hub.public)
