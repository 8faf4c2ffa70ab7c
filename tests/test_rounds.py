"""SpectralMF by rounds of products: the model of all rows within its certificate, wherever the rows are."""

import os
import subprocess
import sys
from functools import reduce
from pathlib import Path

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine.signing import SigningKey, public_pem
from recunlearn.eval.generate import social_interactions
from recunlearn.models.rounds import Margins, RowProducts, published_by_rounds, require_product
from recunlearn.models.summed import published_from_sums, statistic_of
from recunlearn.models.sums import Statistic, SumsError, sums_of
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.rounds import silo as silo_side
from recunlearn.streaming.federated.rounds import solve as coordinator_side
from recunlearn.streaming.federated.rounds.places import remove_other_solves, silo_folder, solve_folder
from recunlearn.streaming.federated.rounds.silo import Member, Part, take_part
from recunlearn.streaming.federated.rounds.solve import Solve
from recunlearn.streaming.federated.rounds.terms import (
    Answer,
    CutOffError,
    End,
    Opening,
    Question,
    SolveError,
    Terms,
    read,
    read_terms,
)
from recunlearn.streaming.federated.said import name_of, sign

from .federation import is_within_certificate

NAMES = ("east", "north", "south")
SETTINGS = {"factors": 10}
ITEMS = 300


@pytest.fixture(scope="module")
def rows():
    """Return rows of 900 users over 300 items, more than the solver would take whole."""
    return social_interactions(900, ITEMS, 14_000, counts=True, seed=5)


@pytest.fixture(scope="module")
def statistic():
    """Return what SpectralMF sums."""
    return statistic_of("spectral_mf", SETTINGS, ITEMS)


def parts_of(rows, count):
    """Deal rows out at random."""
    home = np.random.default_rng(count).integers(count, size=rows.shape[0])
    return [rows[np.flatnonzero(home == k)] for k in range(count)]


def together(parts, statistic):
    """Return the margins of all parts and the function that adds their products."""
    sides = [RowProducts(part, statistic) for part in parts]
    margins = reduce(Margins.add, (side.margins for side in sides))
    return margins, lambda block: reduce(np.add, [side.times(block) for side in sides])


# -- products and margins ----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**16), st.sampled_from(["float32", "float64"]), st.booleans())
def test_products_add_up_however_rows_are_grouped(count, seed, dtype, binary):
    """Products and margins of the parts add up to `X' D_u^-2a X V` of all, from the definition."""
    x = social_interactions(60, 20, 300, counts=True, seed=seed).tolil()
    x[seed % 60] = 0  # somebody has nothing
    x = x.tocsr()
    block = np.random.default_rng(seed).standard_normal((20, 5)).astype(dtype)
    statistic = Statistic("normalised", 20, 0.25, binary)
    margins, products = together(parts_of(x, count), statistic)
    dense = (x.toarray() > 0).astype(float) if binary else x.toarray()
    totals = np.maximum(dense.sum(axis=1), 1.0)
    expected = (dense.T / totals**0.5) @ (dense @ block)
    found = products(block)
    assert found.dtype == block.dtype
    assert np.allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    assert margins.users == 59
    assert np.array_equal(margins.counts, (dense > 0).sum(axis=0))
    assert np.array_equal(margins.degrees, dense.sum(axis=0))


@pytest.mark.parametrize("count", [1, 7])
def test_rounds_solve_what_all_rows_would(rows, statistic, count):
    """Over one part and over seven: certified, within the bound of the optimum; lambda as from the sums."""
    published = published_by_rounds(SETTINGS, *together(parts_of(rows, count), statistic))
    assert is_within_certificate(published, rows)
    from_sums = published_from_sums("spectral_mf", SETTINGS, sums_of(rows, statistic))
    assert published.settings == from_sums.settings
    assert np.array_equal(published.arrays["counts"], from_sums.arrays["counts"])


def test_nobody_is_left(statistic):
    """Of no rows the model is nothing, exactly, and no product is asked for."""
    margins = RowProducts(sp.csr_matrix((0, ITEMS)), statistic).margins
    published = published_by_rounds(SETTINGS, margins, lambda _: pytest.fail("asked"))
    assert published.record["certified"]
    assert not np.any(published.arrays["item_factors"])


def test_what_cannot_be_multiplied_is_refused(rows, statistic):
    """Another statistic, another number of items, fractions, settings that need rows: each by name."""
    with pytest.raises(SumsError, match="not for whole"):
        RowProducts(rows, Statistic("whole", ITEMS))
    with pytest.raises(SumsError, match="300 items, the statistic 7"):
        RowProducts(rows, Statistic("normalised", 7))
    with pytest.raises(SumsError, match=r"a value is 0\.5"):
        RowProducts(rows * 0.5, statistic)
    margins, products = together([rows], statistic)
    with pytest.raises(SumsError, match="these settings ask for"):
        published_by_rounds({**SETTINGS, "values": "binary"}, margins, products)
    with pytest.raises(ValueError, match="needs rows"):
        published_by_rounds({"regularization": "auto"}, margins, products)
    with pytest.raises(SumsError, match="margins of"):
        margins.add(RowProducts(rows, Statistic("normalised", ITEMS, 0.5)).margins)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(["float32", "float64"]))
def test_true_products_pass_and_lies_do_not(seed, dtype):
    """Whatever the block, a true product is taken; one that no rows could give is refused."""
    draw = np.random.default_rng(seed)
    block = (draw.standard_normal((40, 4)) * 10.0 ** draw.integers(-6, 6)).astype(dtype)
    x = social_interactions(50, 40, 500, seed=seed)
    true = RowProducts(x, Statistic("normalised", 40, 0.25)).times(block)
    require_product(block, true)
    with pytest.raises(SumsError, match="negative diagonal"):
        require_product(block, -true)
    with pytest.raises(SumsError, match="not symmetric"):
        require_product(block, true[:, [1, 2, 3, 0]])
    with pytest.raises(SumsError, match="no answer"):
        require_product(block, true[:, :3])
    with pytest.raises(SumsError, match="too large"):
        require_product(np.full_like(block, 4.0), np.full_like(true, 0.9 * np.finfo(dtype).max))
    true[0, 0] = np.nan
    with pytest.raises(SumsError, match="not finite"):
        require_product(block, true)


# -- over the board ----------------------------------------------------------------------------------


class Parties:
    """Keys, directories and rows of three silos and a coordinator."""

    def __init__(self, folder, rows, statistic):
        self.folder, self.statistic = Path(folder), statistic
        self.board = Board(self.folder / "board")
        self.hub = SigningKey.generate(self.folder / "hub.pem")
        (self.folder / "hub.pub").write_bytes(public_pem(self.hub.public))
        self.rows = dict(zip(NAMES, parts_of(rows, 3), strict=True))
        self.keys = {}
        for name in NAMES:
            (self.folder / name).mkdir()
            self.board.inbox(name).mkdir(parents=True)
            self.keys[name] = SigningKey.generate(self.folder / name / "silo.pem")

    def save(self, number):
        """Write the rows that silos bring to a solve."""
        for name, rows in self.rows.items():
            sp.save_npz(self.folder / name / f"rows-{number}.npz", rows)

    def terms(self, number, names=NAMES):
        """Return the terms of a solve."""
        parties = {name: public_pem(self.keys[name].public).decode() for name in names}
        return Terms(1, "test", 1, number, self.statistic, parties)

    def start(self, name, first, last):
        """Start a silo in a process of its own."""
        script = Path(__file__).with_name("rounds_silo.py")
        command = [sys.executable, str(script), str(self.folder), name, str(first), str(last)]
        environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)

    def member(self, name):
        """Return who a silo is."""
        return Member(name, self.keys[name], self.hub.public)


class Killing(Solve):
    """A coordinator during whose third round somebody is killed and started again."""

    def __init__(self, *arguments, parties, children):
        self.parties, self.children = parties, children
        super().__init__(*arguments)

    def products(self, block):
        """Kill before the third question; the silo comes back while the coordinator waits for it."""
        if self.rounds == 2:
            self.children["north"].kill()
            self.children["north"].communicate()
            self.children["north"] = self.parties.start("north", 1, 2)
        return super().products(block)


def test_three_processes_fit_and_forget(rows, statistic, tmp_path):
    """Three silos, one killed on the way: certified against all rows, and then against those without users.

    What travels is two blocks a silo and a round; nothing is left in the directory but what was signed.
    """
    parties = Parties(tmp_path, rows, statistic)
    parties.save(1)
    all_rows = sp.vstack(list(parties.rows.values()), format="csr")
    gone = {name: np.random.default_rng(k).choice(rows.shape[0] // 4, 9) for k, name in enumerate(NAMES)}
    for name, part in parties.rows.items():
        parties.rows[name] = part[np.setdiff1d(np.arange(part.shape[0]), gone[name])]
    parties.save(2)
    left = sp.vstack(list(parties.rows.values()), format="csr")
    children = {name: parties.start(name, 1, 2) for name in NAMES}
    try:
        arguments = parties.board, parties.terms(1), parties.hub, 180.0
        with Killing(*arguments, parties=parties, children=children) as solve:
            fitted = solve.publish(SETTINGS)
        with Solve(parties.board, parties.terms(2), parties.hub, 180.0) as again:
            forgotten = again.publish({**SETTINGS, "regularization": fitted.settings["regularization"]})
        answered = {name: child.communicate(timeout=180)[0].split() for name, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    assert is_within_certificate(fitted, all_rows)
    assert is_within_certificate(forgotten, left)
    assert np.array_equal(forgotten.arrays["counts"], np.bincount(left.indices, minlength=ITEMS))
    assert int(answered["south"][0]) == solve.rounds == int(answered["north"][0]) + 2
    assert all(int(one[1]) == again.rounds for one in answered.values())
    signed = 1000 * 3 * (solve.rounds + 1)
    margins = 3 * 2 * 8 * ITEMS
    assert 0 < solve.bytes_in - solve.bytes_out < margins + signed
    assert not list(parties.board.root.rglob("*.block"))
    assert not list(parties.board.root.rglob("*.numbers"))


@pytest.fixture
def pair(rows, statistic, tmp_path, monkeypatch):
    """Return parties, and let the one silo of a solve answer while the coordinator waits, in this process.

    ``parties.meddle(folder, what)`` may spoil what the silo wrote.
    """
    parties = Parties(tmp_path, rows, statistic)
    parties.meddle = lambda folder, what: None
    me, mine = parties.member("east"), silo_folder(parties.board, "east", 1)

    def answered(look, patience):
        terms = read_terms((solve_folder(parties.board, 1) / "terms.json").read_bytes(), me.coordinator)
        part = Part(parties.board, me, terms, parties.rows["east"])
        asked = part._asked()
        if asked is None:
            parties.meddle(mine, "opening")
        else:
            assert part.stay(0.0) == 1
            parties.meddle(mine, f"{asked.step:06d}")
        return look()

    monkeypatch.setattr(coordinator_side, "until", answered)
    return parties


def begun(parties):
    """Begin a solve with one silo."""
    return Solve(parties.board, parties.terms(1, ["east"]), parties.hub, 0.0)


def test_one_silo_answers_what_it_has(pair, statistic):
    """The margins and a product come through the directory to the bit."""
    side = RowProducts(pair.rows["east"], statistic)
    block = np.random.default_rng(0).standard_normal((ITEMS, 3))
    with begun(pair) as solve:
        margins = solve.margins()
        assert np.array_equal(solve.products(block), side.times(block))
        assert np.array_equal(solve.products(block.astype(np.float32)), side.times(block.astype(np.float32)))
    assert (margins.users, margins.longest) == (side.margins.users, side.margins.longest)
    assert np.array_equal(margins.degrees, side.margins.degrees)
    ended = read((solve_folder(pair.board, 1) / "end.json").read_bytes(), End, pair.hub.public, "hub")
    assert ended.rounds == 2


def resigned(pair, folder, what, numbers, **changes):
    """Have the silo sign other numbers, or something else about them."""
    place = (folder / what).with_suffix(".json")
    said = read(place.read_bytes(), Opening if what == "opening" else Answer, pair.keys["east"].public, "")
    if numbers is not None:
        place.with_suffix(".numbers").write_bytes(numbers.tobytes())
        changes["digest"] = silo_side.digest_of(numbers.tobytes())
    place.write_bytes(sign(msgspec.structs.replace(said, **changes), pair.keys["east"]))


MARGINS = np.ones((2, ITEMS), np.int64)
LIES = {
    "fewer numbers": (lambda p, f, w: resigned(p, f, w, MARGINS[:1]), "are 2400 bytes"),
    "negative": (lambda p, f, w: resigned(p, f, w, -MARGINS), "out of range"),
    "too large": (lambda p, f, w: resigned(p, f, w, MARGINS, users=2**61), "out of range"),
    "more than users": (lambda p, f, w: resigned(p, f, w, MARGINS, users=0), "do not fit"),
    "long chains": (lambda p, f, w: resigned(p, f, w, None, longest=10**6), "chains of 1000000"),
    "somebody else": (lambda p, f, w: resigned(p, f, w, None, party="north"), "is of north"),
    "another solve": (lambda p, f, w: resigned(p, f, w, None, terms="00"), "another solve"),
    "unsigned": (lambda p, f, w: (f / w).with_suffix(".json").write_bytes(b"{}"), "cannot be read"),
    "no numbers": (lambda p, f, w: (f / w).with_suffix(".numbers").unlink(), "are missing"),
    "other numbers": (
        lambda p, f, w: (f / w).with_suffix(".numbers").write_bytes(MARGINS.tobytes()),
        "not those that were signed",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_margins_that_cannot_be_are_refused(pair, lie):
    """A silo that says what its signature, its size or its other numbers deny is named."""
    lies, words = LIES[lie]
    pair.meddle = lambda folder, what: lies(pair, folder, what)
    with begun(pair) as solve, pytest.raises(SolveError, match=words) as refused:
        solve.margins()
    assert "east" in str(refused.value)


def test_answers_that_cannot_be_are_refused(pair):
    """A product of no symmetric matrix, and one with another question, name the silo."""
    block = np.random.default_rng(0).standard_normal((ITEMS, 3))
    solve = begun(pair)
    solve.margins()
    pair.meddle = lambda folder, what: resigned(pair, folder, what, -block)
    with pytest.raises(SolveError, match=r"silo east: .* negative diagonal; leave it out"):
        solve.products(block)
    pair.meddle = lambda folder, what: resigned(pair, folder, what, None, question="00")
    with pytest.raises(SolveError, match="another question than 2"):
        solve.products(block)


def test_products_of_rows_that_changed_on_the_way_are_mixed_with_no_others(pair):
    """A silo that comes back with a user less: its answer is not added, and the solve is cut off."""
    block = np.random.default_rng(0).standard_normal((ITEMS, 3))
    solve = begun(pair)
    solve.margins()
    solve.products(block)
    pair.rows["east"] = pair.rows["east"][1:]
    with pytest.raises(CutOffError, match="east multiplies other rows than it began solve 1 with"):
        solve.products(block)


def test_a_silo_that_opens_anew_cuts_the_solve_off(pair):
    """Its rows were as of another message when the coordinator looked: nothing is asked."""
    solve, me = begun(pair), pair.member("east")
    Part(pair.board, me, solve.terms, pair.rows["east"], 3)
    assert solve.openings()["east"].as_of == 3
    Part(pair.board, me, solve.terms, pair.rows["east"], 4)
    with pytest.raises(CutOffError, match="east has opened anew in solve 1"):
        solve.margins()


@pytest.mark.parametrize("what", ["opening", "000001"])
@pytest.mark.parametrize("damage", ["cut short", "a stranger's", "gone"])
def test_what_is_damaged_on_its_way_is_written_again(pair, what, damage):
    """Cut short, signed by a stranger, or numbers gone: taken away, and what the silo says again counts."""
    meddled = []

    def meddle(folder, said):
        place = folder / said
        if said != what or meddled:
            return
        meddled.append(place)
        numbers, signed = place.with_suffix(".numbers"), place.with_suffix(".json")
        if damage == "cut short":
            numbers.write_bytes(numbers.read_bytes()[:-1])
        elif damage == "gone":
            numbers.unlink()
        else:
            said_by = read(
                signed.read_bytes(), Opening if what == "opening" else Answer, pair.keys["east"].public, ""
            )
            signed.write_bytes(sign(said_by, pair.keys["north"]))

    pair.meddle = meddle
    solve = begun(pair)
    block = np.random.default_rng(0).standard_normal((ITEMS, 3))
    for ask in (solve.margins, lambda: solve.products(block)):
        try:
            found = ask()
        except CutOffError:  # nobody waits here
            assert not meddled[0].with_suffix(".json").exists()
            solve.rounds = 0
            found = ask()
    assert meddled
    assert np.array_equal(found, RowProducts(pair.rows["east"], pair.statistic).times(block))


def test_a_solve_that_is_removed_while_a_silo_writes_is_over_for_it(pair, monkeypatch):
    """The coordinator takes the directory away between its making and the writing: it is over."""
    solve, made = begun(pair), silo_side.durable.make_directory

    def made_and_removed(directory, mode):
        made(directory, mode)
        remove_other_solves(pair.board, 2)

    monkeypatch.setattr(silo_side.durable, "make_directory", made_and_removed)
    part = Part(pair.board, pair.member("east"), solve.terms, pair.rows["east"])
    assert part.stay(0.0) == 0
    assert part.is_over()


def test_who_is_away_is_named(rows, statistic, tmp_path):
    """Silos that do not answer, solves that do not begin, numbers used twice, nobody at all: each says so."""
    parties = Parties(tmp_path, rows, statistic)
    with (
        Solve(parties.board, parties.terms(1), parties.hub, 0.0) as solve,
        pytest.raises(SolveError, match=r"east, north, south did not answer in solve 1"),
    ):
        solve.margins()
    with pytest.raises(SolveError, match="solve 1 has been begun"):
        Solve(parties.board, parties.terms(1), parties.hub)
    with pytest.raises(SolveError, match="has no silo"):
        Solve(parties.board, parties.terms(2, ()), parties.hub)
    with pytest.raises(SolveError, match="solve 3 has not begun"):
        take_part(parties.board, parties.member("east"), 3, parties.rows["east"], 0.0)


def test_a_silo_answers_its_own_coordinator_only(rows, statistic, tmp_path):
    """Terms of another coordinator, other sums, no place in them, nothing asked: each says so."""
    parties = Parties(tmp_path, rows, statistic)
    me, east = parties.member("east"), parties.rows["east"]
    Solve(parties.board, parties.terms(1, ["north"]), parties.hub)
    with pytest.raises(SolveError, match="east is not in solve 1"):
        take_part(parties.board, me, 1, east, 0.0)
    other = msgspec.structs.replace(parties.terms(2), statistic=Statistic("whole", ITEMS))
    Solve(parties.board, other, parties.hub)
    with pytest.raises(SolveError, match="about whole sums"):
        take_part(parties.board, me, 2, east, 0.0)
    Solve(parties.board, parties.terms(3), parties.keys["south"])
    with pytest.raises(SolveError, match="signed by another key"):
        take_part(parties.board, me, 3, east, 0.0)
    Solve(parties.board, parties.terms(4), parties.hub)
    with pytest.raises(SolveError, match="nothing was asked in solve 4"):
        take_part(parties.board, me, 4, east, 0.0)


@pytest.mark.parametrize(
    ("block", "changes", "words"),
    [
        (np.full((ITEMS, 1), np.inf), {}, "not finite"),
        (np.ones((ITEMS, 1)), {"columns": 5000}, "has 5000 columns"),
        (np.ones((ITEMS, 1)), {"columns": 2}, "are 4800"),
        (np.ones((ITEMS, 1)), {"terms": "00"}, "of another solve"),
    ],
)
def test_questions_that_the_solver_does_not_ask_are_refused(rows, statistic, tmp_path, block, changes, words):
    """Numbers that are none, too many columns, another size, another solve."""
    parties = Parties(tmp_path, rows, statistic)
    terms = parties.terms(1, ["east"])
    Solve(parties.board, terms, parties.hub)
    folder = solve_folder(parties.board, 1)
    question = Question(name_of(terms), 1, "float64", 1, silo_side.digest_of(block.tobytes()))
    (folder / "000001.block").write_bytes(block.tobytes())
    (folder / "question.json").write_bytes(sign(msgspec.structs.replace(question, **changes), parties.hub))
    with pytest.raises(SolveError, match=words):
        take_part(parties.board, parties.member("east"), 1, parties.rows["east"], 0.0)
