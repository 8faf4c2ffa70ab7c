"""A federation that takes no sums: SpectralMF by products with rows, from the first version on."""

import json
import shutil

import msgspec
import numpy as np
import polars as pl
import pytest
from recunlearn import cli
from recunlearn.engine.signing import SigningKey
from recunlearn.engine.state import StatePaths
from recunlearn.models.sums import sums_of
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import read_state
from recunlearn.streaming.federated.home import recommend
from recunlearn.streaming.federated.message import FORMAT, FederationError, Header, digest_of, key_of, seal
from recunlearn.streaming.federated.rounds import solve as coordinator_side
from recunlearn.streaming.federated.rounds.places import silo_folder, solve_folder
from recunlearn.streaming.federated.rounds.terms import Answer, Opening, SolveError, read
from recunlearn.streaming.federated.said import sign
from recunlearn.streaming.federated.silo import Silo
from recunlearn.streaming.federated.silo_rows import matrix_of
from recunlearn.streaming.federated.silo_state import read_state as read_silo
from recunlearn.streaming.federated.sums_file import write_arrow
from typer.testing import CliRunner

from .federation import MANY_ITEMS as ITEMS
from .federation import Federation, is_within_certificate, rows_of

NAMES = ("east", "north", "south")
SETTINGS = {"factors": 4}


class Products(Federation):
    """A federation whose silos look at the board once whenever the coordinator waits for them."""

    def __init__(self, folder, names=NAMES, **options):
        self.away, self.meddle = set(), lambda name: None
        frames = {
            name: rows_of([f"{name}-{k}" for k in range(20)], seed, ITEMS) for seed, name in enumerate(names)
        }
        super().__init__(folder, frames, "spectral_mf", SETTINGS, products=True, items=ITEMS, **options)

    def here(self):
        """Name who is there and looks."""
        return [name for name in self.frames if name not in self.away]

    def wait(self, look, patience):
        """Let everybody look, instead of waiting."""
        del patience
        for name in self.here():
            self.look(name)
            self.meddle(name)
        return look()

    def everybody(self):
        """Let silos and coordinator look until a version is published, and silos read their receipts."""
        for _ in range(4):
            for name in self.here():
                self.look(name)
            step = self.collect()
            if step.published is not None:
                break
        for name in self.here():
            self.look(name)
        return step.published

    def check(self, names=None):
        """Hold what is published against a fit on the rows of who is left, far tighter: within its bound."""
        manifest, published = self.published()
        frames = [frame for name, frame in self.frames.items() if name in (names or self.frames)]
        rows = matrix_of(pl.concat(frames), ITEMS)
        assert is_within_certificate(published, rows)
        assert manifest.users == sum(frame["user_id"].n_unique() for frame in frames)
        assert np.array_equal(published.arrays["counts"], np.bincount(rows.indices, minlength=len(ITEMS)))
        return manifest


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a federation of three silos, of whom nothing is published yet."""
    federation = Products(tmp_path)
    monkeypatch.setattr(coordinator_side, "until", lambda *a: federation.wait(*a))
    return federation


def test_fit_and_deletions_are_within_the_certificate_and_nothing_is_left(made):
    """Against a fit on all rows, then on those of who is left; receipts say where; nothing lies about."""
    assert made.everybody() == 1
    first = made.check()
    assert first.parties == list(NAMES)
    assert recommend(made.silo("north"), "north-3")
    made.forget("north", "north-3", "north-7")
    made.forget("south", "south-0")
    with pytest.raises(FederationError, match="no such user"):
        recommend(made.silo("north"), "north-3")
    assert made.everybody() == 2
    assert made.check().settings["regularization"] == first.settings["regularization"]
    done = [(one.key, one.kind, one.erased, one.version) for one in read_silo(made.silo("north")).done]
    assert done == [("north/1/1", "rows", 0, 1), ("north/1/2", "deletion", 2, 2)]
    for folder in ("inbox", "solves"):
        assert not [path for path in (made.board.root / folder).rglob("*") if path.is_file()]
    assert not list((made.root / "sums").iterdir())
    for root in (made.board.root, made.root):
        content = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
        assert b"north-3" not in content


def test_small_deletions_wait_for_their_batch(tmp_path, monkeypatch):
    """Fewer than k users wait at their silo; k go, and each batch is one solve."""
    made = Products(tmp_path, batch=3)
    monkeypatch.setattr(coordinator_side, "until", made.wait)
    made.everybody()
    made.forget("north", "north-1", "north-2")
    assert made.everybody() is None
    assert [one.user for one in read_silo(made.silo("north")).pending] == ["north-1", "north-2"]
    made.forget("north", "north-4")
    assert made.everybody() == 2
    assert read_state(made.root).solves.number == 2
    made.check()


# -- who is away ---------------------------------------------------------------------------------------


def test_a_silo_that_is_away_is_waited_for(made):
    """Without patience nothing is published before all have opened, and status says whom it waits for."""
    made.away = {"south"}
    assert made.everybody() is None
    made.look("south")  # it enters, and goes
    made.collect()
    assert made.everybody() is None
    said = CliRunner().invoke(cli.app, ["coordinator", "status", "--state", str(made.root)])
    assert "solve 1 waits for: south" in said.output
    assert "south: not in what is published" in said.output
    made.away = set()
    assert made.everybody() == 1
    made.check()
    said = CliRunner().invoke(cli.app, ["coordinator", "status", "--state", str(made.root), "--json"])
    assert json.loads(said.output)["silos"]["south"] == {
        "here": True, "messages": 1, "missing": None, "users": 20,
    }  # fmt: skip
    assert "solve" not in json.loads(said.output)


def test_with_patience_it_goes_on_without_who_is_away_and_adds_who_comes_back(tmp_path, monkeypatch):
    """Rows of a silo that is away are in no version, and it gets no receipt for them; then it is back."""
    made = Products(tmp_path, patience=0.0)
    monkeypatch.setattr(coordinator_side, "until", made.wait)
    made.look("south")
    made.away = {"south"}
    assert made.everybody() == 1
    assert made.check(("east", "north")).parties == ["east", "north"]
    assert not made.board.receipt_of("south/1/1").exists()
    made.forget("east", "east-4")
    assert made.everybody() == 2  # forgetting does not wait for it either
    made.check(("east", "north"))
    made.away = set()
    assert made.everybody() == 3
    made.check()
    assert [one.version for one in read_silo(made.silo("south")).done] == [3]


def test_a_silo_that_goes_away_on_the_way_cuts_the_solve_off(made, caplog):
    """After its first answer: nothing of the solve counts, and another begins under another number."""
    made.meddle = lambda name: (
        made.away.add("south")
        if name == "south" and (silo_folder(made.board, "south", 1) / "000001.json").exists()
        else None
    )
    assert made.everybody() is None
    assert "solve 1 is begun anew: south did not answer in solve 1" in caplog.text
    assert read_state(made.root).version == 0
    made.away, made.meddle = set(), lambda name: None
    assert made.everybody() == 1
    assert read_state(made.root).solves.number == 2
    made.check()


def test_a_coordinator_that_stops_goes_on_with_openings_and_never_with_questions(made):
    """Started again while silos open, it is the same solve; once it has asked, another."""
    for name in NAMES:
        made.look(name)
    made.collect()
    made.look("east")
    made.collect()
    assert read_state(made.root).solves.number == 1

    waited = made.wait

    def stop(look, patience):
        if (solve_folder(made.board, 1) / "question.json").exists():
            raise KeyboardInterrupt
        return waited(look, patience)

    made.wait = stop
    for name in NAMES:
        made.look(name)
    with pytest.raises(KeyboardInterrupt):
        made.collect()
    made.wait = waited
    assert made.everybody() == 1
    assert read_state(made.root).solves.number == 2
    made.check()


# -- deletions during a solve --------------------------------------------------------------------------


def test_who_asks_while_silos_open_is_in_the_letter_and_in_no_product(made):
    """The silo sends its deletion and opens anew: the solve that was begun is of who is left."""
    for name in NAMES:
        made.look(name)
    made.collect()
    made.look("north")
    made.forget("north", "north-5")
    made.look("north")
    signed = (silo_folder(made.board, "north", 1) / "opening.json").read_bytes()
    key = SigningKey.create(StatePaths(made.silo("north")))
    assert read(signed, Opening, key.public, "north").as_of == 2
    assert made.everybody() == 1
    made.check()
    assert [one.version for one in read_silo(made.silo("north")).done] == [1, 1]


def test_who_asks_while_products_are_made_waits_for_the_next_solve(made):
    """Rows stay as they are from the first question to the last; who asks meanwhile is next."""
    asked = []

    def ask_once(name):
        if not asked and (solve_folder(made.board, 1) / "question.json").exists():
            asked.append(name)
            made.forget("north", "north-5")

    made.meddle = ask_once
    for name in NAMES:
        made.look(name)
    made.collect()
    for name in NAMES:
        made.look(name)
    assert made.collect().published == 1
    assert asked
    assert made.published()[0].users == 60
    assert [one.user for one in read_silo(made.silo("north")).pending] == ["north-5"]
    assert made.everybody() == 2
    made.check()


# -- silos that come and go, epochs --------------------------------------------------------------------


def test_silos_come_and_go_and_the_last_takes_everything_with_it(made):
    """By its own wish, dismissed, admitted later: each version is of who is there; in the end of nobody."""
    made.everybody()
    with Silo(made.silo("south")) as silo:
        silo.leave()
    made.collect()
    del made.frames["south"]
    assert made.everybody() == 2
    made.check()
    assert made.look("south").version == 2
    assert read_silo(made.silo("south")).left
    made.add("west", rows_of([f"west-{k}" for k in range(9)], 9))
    assert made.everybody() == 3
    made.check()
    for name in ("east", "north", "west"):
        with Coordinator(made.root) as coordinator:
            coordinator.dismiss(name)
        del made.frames[name]
    assert made.everybody() == 4
    manifest, published = made.published()
    assert (manifest.users, manifest.parties) == (0, [])
    assert not np.any(published.arrays["item_factors"])


def test_a_new_epoch_begins_with_the_rows_of_who_is_left(made):
    """Items are appended; deletions on their way are done by it; an open solve is given up."""
    made.everybody()
    made.forget("north", "north-1")
    made.look("north")
    made.collect()  # a solve is open
    with Coordinator(made.root) as coordinator:
        assert coordinator.extend(["item-new"]) == 1
    assert made.everybody() == 2
    manifest, published = made.published()
    assert (manifest.epoch, manifest.users) == (2, 59)
    assert published.arrays["counts"].size == len(ITEMS) + 1
    assert [one.erased for one in read_silo(made.silo("north")).done] == [0, 1]


# -- what is given away --------------------------------------------------------------------------------


def opened_by(made, name, number):
    """Read the counts and degrees that a silo opens a solve with, as the coordinator does."""
    content = (silo_folder(made.board, name, number) / "opening.numbers").read_bytes()
    return np.frombuffer(content, "<i8").reshape(2, len(ITEMS))


def test_openings_before_and_after_a_deletion_differ_by_who_left(made):
    """Items and values of one, the sums of two: batches hide nobody from the coordinator."""
    openings = []
    made.meddle = lambda name: openings.append(opened_by(made, "north", read_silo(made.silo("north")).solve))
    rows = made.frames["north"]
    for leaving in ((), ("north-3",), ("north-5", "north-8")):
        made.forget("north", *leaving)
        made.everybody()
        if leaving:
            before, after = openings[0], openings[-1]
            gone = matrix_of(rows.filter(pl.col("user_id").is_in(leaving)), ITEMS).toarray()
            assert np.array_equal(before - after, [(gone > 0).sum(axis=0), gone.sum(axis=0)])
        openings = openings[-1:]


# -- against whoever breaks the rules ------------------------------------------------------------------


def hostile(made, users, sequence=2, kind="deletion", sums=None):
    """Write a letter as somebody who has a silo's key might."""
    with Coordinator(made.root) as coordinator:
        statistic = coordinator.state.statistic
    digest = digest_of(write_arrow(sums)) if sums else ""
    header = Header(
        FORMAT, "test", "north", 1, sequence, key_of("north", 1, sequence), kind, statistic, users, digest
    )
    envelope = made.board.envelope("north", 1, sequence)
    envelope.write_bytes(seal(header, SigningKey.create(StatePaths(made.silo("north")))))


def test_letters_that_cannot_be_are_refused(made, caplog):
    """Sums, more users than the silo has, fewer than none: refused with the reason, and nothing changes."""
    made.everybody()
    with Coordinator(made.root) as coordinator:
        statistic = coordinator.state.statistic
    sums = sums_of(made.pooled().user_items, statistic)
    for users, contents, why in (
        (3, sums, "this federation takes none"),
        (21, None, "is of 21 users; the silo has 20"),
        (-1, None, "is of -1 users"),
    ):
        hostile(made, users, sums=contents)
        step = made.collect()
        assert (step.taken, step.refused, step.published) == (0, 1, None)
        assert why in caplog.text
    made.check()


def test_a_silo_that_opens_with_other_users_than_it_said_is_named(made):
    """Its letter says that two are gone, its rows do not: the coordinator stops, and says what to do."""
    made.everybody()
    hostile(made, 2)
    state = read_silo(made.silo("north"))
    state.sequence = 2
    (made.silo("north") / "silo.json").write_bytes(msgspec.json.encode(state))
    made.collect()
    made.look("north")
    with pytest.raises(SolveError, match=r"north opens with 20 users, and its messages leave 18; .*--again"):
        made.collect()


def test_a_product_that_no_rows_have_stops_the_coordinator_and_names_the_silo(made):
    """Signed and of the right form, but of no rows: nothing is published; without that silo it goes on."""

    def lie(name):
        place = silo_folder(made.board, name, 1) / "000001"
        signed = place.with_suffix(".json")
        if name == "south" and signed.exists():
            key = SigningKey.create(StatePaths(made.silo("south")))
            numbers = np.full(place.with_suffix(".numbers").stat().st_size // 8, np.nan).tobytes()
            said = read(signed.read_bytes(), Answer, key.public, "south")
            place.with_suffix(".numbers").write_bytes(numbers)
            signed.write_bytes(sign(msgspec.structs.replace(said, digest=digest_of(numbers)), key))

    made.meddle = lie
    with pytest.raises(SolveError, match=r"silo south: .*not finite; leave it out"):
        made.everybody()
    made.meddle = lambda name: None
    with Coordinator(made.root) as coordinator:
        coordinator.dismiss("south")
    del made.frames["south"]
    assert made.everybody() == 1
    made.check()


def test_terms_of_a_solve_that_is_over_are_not_taken_up_again(made):
    """Copied back onto the board, under their number or another: the silo says that it was in a later one."""
    for name in NAMES:
        made.look(name)
    made.collect()
    old = shutil.copytree(solve_folder(made.board, 1), made.folder / "kept")
    made.everybody()
    made.forget("north", "north-1")
    made.everybody()
    assert read_silo(made.silo("south")).solve == 2
    for number in (1, 3):
        shutil.copytree(old, place := solve_folder(made.board, number))
        with pytest.raises(SolveError, match="south was in solve 2 already: the board is not in order"):
            made.look("south")
        shutil.rmtree(place)
    assert not silo_folder(made.board, "south", 1).exists()


def test_a_silo_that_masks_takes_no_part(made):
    """Products hide nothing: who joined to send masked sums only is not asked for any."""
    state = read_silo(made.silo("north"))
    state.secure = True
    (made.silo("north") / "silo.json").write_bytes(msgspec.json.encode(state))
    with pytest.raises(FederationError, match="joined to send sums masked"):
        made.look("north")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--model", "ease"], "ease is made of sums that are sent once"),
        (["--model", "item_knn"], "products are for spectral_mf"),
        (["--model", "spectral_mf", "--secure"], "cannot be masked"),
        (["--model", "spectral_mf", "--settings", '{"values": "log"}'], "needs rows"),
    ],
)
def test_what_products_do_not_make_is_refused_when_a_federation_begins(tmp_path, options, why):
    """Models of sums, masks, settings that need rows: wrong use, with the reason; nothing is made."""
    (tmp_path / "items").write_text("a\nb\n")
    init = ["coordinator", "init", "--state", str(tmp_path / "hub"), "--board", str(tmp_path / "board")]
    init += ["--items", str(tmp_path / "items"), "--products"]
    result = CliRunner().invoke(cli.app, init + options)
    assert result.exit_code == 2
    assert why in result.output.replace("\n", " ")
    assert not (tmp_path / "hub" / "state.json").exists()
