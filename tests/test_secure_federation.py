"""Sums added under masks: what is published is the same, what the coordinator sees is not."""

import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from recunlearn import cli
from recunlearn.engine.signing import SigningKey
from recunlearn.engine.state import StatePaths
from recunlearn.models import ItemKNN
from recunlearn.models.summed import statistic_of
from recunlearn.models.sums import Sums, merge, sums_of
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import read_state
from recunlearn.streaming.federated.home import recommend
from recunlearn.streaming.federated.message import FederationError
from recunlearn.streaming.federated.publication import read_version
from recunlearn.streaming.federated.said import open_said
from recunlearn.streaming.federated.secure import exchange, sealing
from recunlearn.streaming.federated.secure.adding import ask_for_round, waits_for
from recunlearn.streaming.federated.secure.masks import stream
from recunlearn.streaming.federated.secure.terms import Confirmation, RoundError
from recunlearn.streaming.federated.secure.vector import write_vector
from recunlearn.streaming.federated.silo import Silo
from recunlearn.streaming.federated.silo_rows import matrix_of
from recunlearn.streaming.federated.silo_state import read_state as read_silo
from recunlearn.streaming.federated.sums_file import read_arrow, write_arrow
from typer.testing import CliRunner

from .federation import Federation, rows_of, same_published

NAMES = ("east", "north", "south")


def frames_of(names=NAMES, users=12):
    """Draw the rows of some silos."""
    return {name: rows_of([f"{name}-{k}" for k in range(users)], seed) for seed, name in enumerate(names)}


@pytest.fixture
def federation(tmp_path):
    """Three silos under masks, fitted once."""
    made = Federation(tmp_path, frames_of(), secure=True)
    made.round()
    return made


@pytest.fixture
def four(tmp_path):
    """Four silos under masks, whom the coordinator has no patience with; fitted once."""
    made = Federation(tmp_path, frames_of((*NAMES, "west")), secure=True, patience=3600.0)
    made.round()
    return made


def advance(made, *names, looks=4):
    """Let the coordinator and some silos look in turns."""
    for _ in range(looks):
        step = made.collect()
        for name in names:
            made.look(name)
    return step


def without_patience(made):
    """Let the patience with the open round have ended."""
    with Coordinator(made.root) as coordinator:
        coordinator.state.rounds.since -= 10_000.0
        coordinator._commit()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("ease", {"regularization": 3.0}),
        ("item_knn", {"K": 5, "weighting": "tfidf"}),
        ("spectral_mf", {"factors": 4}),
    ],
)
def test_what_is_published_has_the_bits_of_the_open_federation_and_of_the_pooled_fit(
    tmp_path, model, settings
):
    """After the fit, and after deletions at two of three silos."""
    masked = Federation(tmp_path / "masked", frames_of(), model, settings, secure=True)
    in_the_open = Federation(tmp_path / "open", frames_of(), model, settings)
    for gone in ({}, {"east": ["east-3", "east-4"], "south": ["south-0"]}):
        for made in (masked, in_the_open):
            for name, users in gone.items():
                made.forget(name, *users)
            made.round()
        (ours, published), (theirs, expected) = masked.published(), in_the_open.published()
        assert ours.digests == theirs.digests
        assert (ours.users, ours.settings, ours.record) == (theirs.users, theirs.settings, theirs.record)
        assert ours.version == 1 + bool(gone)
        assert published.arrays.keys() == expected.arrays.keys()
        assert model == "spectral_mf" or masked.is_exact()
    assert masked.is_exact() if model != "spectral_mf" else ours.record["certified"]
    assert read_silo(masked.silo("east")).done[-1].erased == 2
    assert not list(masked.board.root.glob("inbox/*/*"))


def test_silos_that_have_nothing_to_forget_are_answered_as_the_others(federation):
    """The receipts of a round do not show who asked; a round in which nobody did publishes nothing."""
    federation.forget("north", "north-1")
    federation.round()
    found = sorted(path.relative_to(federation.root).as_posix() for path in federation.root.rglob("*-2.json"))
    assert found == [f"receipts/{name}/000001-round-2.json" for name in NAMES]
    assert federation.round().published is None
    assert read_state(federation.root).version == 2
    assert not read_state(federation.root).unanswered
    assert [one.key for one in read_silo(federation.silo("north")).done] == [
        "north/1/round-1",
        "north/1/round-2",
    ]


def test_deletions_wait_for_their_batch_and_one_message_goes_in_a_round(tmp_path):
    """Fewer than k wait, whoever begins a round; who asks while a message is on its way goes in the next."""
    made = Federation(tmp_path, frames_of(), secure=True, batch=2)
    made.round()
    made.forget("north", "north-1")
    assert made.round().published is None
    made.forget("north", "north-2")
    made.look("north")
    made.forget("north", "north-3", "north-4")
    made.look("north")
    at = read_silo(made.silo("north"))
    assert ([one.erases for one in at.outgoing], len(at.pending)) == ([2], 2)
    made.round()
    assert made.published()[0].users == 34
    made.round()
    assert made.published()[0].users == 32
    assert made.is_exact()


def test_a_round_begins_by_itself_when_it_is_time(federation):
    """Every so many seconds after the last one ended, if nobody asks before."""
    federation.forget("east", "east-2")
    for name in NAMES:
        federation.look(name)
    federation.collect()
    assert waits_for(federation.board, read_state(federation.root)) == ("", [])
    without_patience(federation)
    federation.collect()
    assert waits_for(federation.board, read_state(federation.root)) == ("opening", list(NAMES))
    advance(federation, *NAMES)
    assert federation.is_exact()


def test_a_silo_that_is_away_stops_a_round_by_name_or_is_left_out_of_it(four):
    """Before the patience ends it is waited for; then three go on, and it forgets in the next round."""
    four.forget("north", "north-1")
    four.forget("west", "west-1")
    ask_for_round(four.root)
    for name in NAMES:
        four.look(name)
    advance(four, *NAMES)
    assert waits_for(four.board, read_state(four.root)) == ("opening", ["west"])
    four.look("west")
    four.collect()  # west has its opening, all openings are shown, and then it goes away
    for name in NAMES:
        four.look(name)
    four.collect()
    assert waits_for(four.board, read_state(four.root)) == ("masked", ["west"])
    without_patience(four)
    assert advance(four, *NAMES, looks=5).published == 2
    assert four.published()[0].users == 47
    assert [one.erased for one in read_silo(four.silo("north")).done] == [0, 1]
    four.round()
    assert four.published()[0].users == 46
    assert four.is_exact()


def test_two_silos_are_no_round(federation):
    """With three, one that is away stops every round: the total of two would give each the other's."""
    ask_for_round(federation.root)
    federation.collect()
    without_patience(federation)
    advance(federation, "east", "north")
    assert waits_for(federation.board, read_state(federation.root)) == ("opening", ["south"])
    assert read_state(federation.root).rounds.number == 2


def test_an_epoch_goes_on_without_a_silo_and_takes_it_in_with_the_next(tmp_path):
    """Away at the rows: it is in no total, forgets at home, and comes with the next epoch."""
    made = Federation(tmp_path, frames_of((*NAMES, "west")), secure=True, patience=3600.0)
    made.collect()
    advance(made, *NAMES)
    assert read_state(made.root).version == 0
    without_patience(made)
    advance(made, *NAMES, looks=5)
    assert made.published()[0].parties == list(NAMES)
    made.forget("west", "west-1")
    made.round()
    assert made.published()[0].users == 36
    with pytest.raises(FederationError, match="no such user"):
        recommend(made.silo("west"), "west-1")
    with Coordinator(made.root) as coordinator:
        coordinator.extend([], again=True)
    made.round()
    assert made.published()[0].parties == [*NAMES, "west"]
    assert made.is_exact()


def test_who_goes_away_before_all_have_agreed_ends_the_epoch(four):
    """Others have agreed and mask that no more: after twice the patience everybody sums up again."""
    four.forget("north", "north-1")
    four.forget("south", "south-1")
    for name in four.frames:
        four.look(name)
    ask_for_round(four.root)
    advance(four, *four.frames, looks=2)
    four.collect()  # all masked sums are there, and shown
    for name in NAMES:
        four.look(name)
    four.collect()
    assert waits_for(four.board, read_state(four.root)) == ("confirmation", ["west"])
    without_patience(four)
    four.collect()
    assert read_state(four.root).epoch == 2
    advance(four, *four.frames)
    assert four.is_exact()
    assert [one.erased for one in read_silo(four.silo("south")).done] == [0, 1]


def test_who_leaves_or_is_dismissed_is_out_with_the_next_epoch(four):
    """The others sum up again; the silo that left gets its receipt, which names the version without it."""
    with Silo(four.silo("west")) as silo:
        silo.leave()
    assert four.collect().taken == 1
    assert four.look("west").version == 1  # no answer yet
    del four.frames["west"]
    advance(four, *NAMES, looks=5)
    assert four.is_exact()
    assert four.look("west").version == 2
    assert read_silo(four.silo("west")).left
    with Coordinator(four.root) as coordinator:
        coordinator.dismiss("south")
        assert coordinator.step().published == 3
    manifest, published = four.published()  # two are left: nobody may be in it
    assert (manifest.users, manifest.parties) == (0, [])
    assert not published.arrays["counts"].any()


def test_who_comes_later_comes_with_another_epoch(federation):
    """In one epoch, the total with a silo more less that without it would be that silo."""
    federation.add("west", rows_of([f"west-{k}" for k in range(7)], 9))
    assert read_state(federation.root).epoch == 2
    federation.round()
    assert federation.is_exact()
    assert federation.published()[0].parties == [*NAMES, "west"]


def test_a_silo_masks_only_with_silos_whose_keys_it_was_given(federation):
    """One that the coordinator lets in, and nobody else knows, stops the others."""
    federation.introduce = lambda: None
    federation.add("sybil", rows_of(["sybil-1"], 9))
    federation.collect()
    with pytest.raises(RoundError, match="silo sybil of round 2 is not known to east with this key"):
        federation.look("east")
    with Silo(federation.silo("east")) as silo:
        silo.trust("sybil", StatePaths(federation.silo("sybil")).receipt_public_key.read_bytes())
    federation.look("east")


def test_sums_in_the_open_are_neither_sent_nor_taken(federation, tmp_path):
    """A silo that masks refuses a federation that does not, and the other way round; a letter is refused."""
    in_the_open = Federation(tmp_path / "open", frames_of())
    with pytest.raises(FederationError, match="sends its sums in the open and needs no other's key"):
        in_the_open.introduce()
    in_the_open.secure = True
    with Coordinator(in_the_open.root) as coordinator:
        coordinator.dismiss("east")
    in_the_open.frames.pop("east")
    in_the_open.introduce = lambda: None
    in_the_open.add("masked", rows_of(["m-1"], 5))
    with pytest.raises(FederationError, match="masked, and the federation adds them in the open"):
        in_the_open.look("masked")
    federation.secure, federation.introduce = False, lambda: None
    federation.add("open", rows_of(["o-1"], 5))
    with pytest.raises(FederationError, match="in the open, and the federation adds them masked"):
        federation.look("open")


@pytest.mark.parametrize("what", ["opening.json", "masked.json", "masked.u64", "confirmation.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_lost_or_damaged_on_the_way_is_said_again(federation, what, damage):
    """Cut short or gone, in any phase of a round: it is written again, and the total is right."""
    federation.forget("north", "north-1")
    for name in NAMES:
        federation.look(name)
    ask_for_round(federation.root)
    damaged = False
    for _ in range(7):
        federation.collect()
        for name in NAMES:
            federation.look(name)
        path = exchange.said_path(federation.board, "north", 2, "opening").with_name(what)
        if path.exists() and not damaged:
            damaged = True
            content = path.read_bytes()
            path.unlink()
            if damage == "cut":
                path.write_bytes(content[:-3])
    assert damaged
    assert federation.published()[0].users == 35
    assert federation.is_exact()


def test_a_silo_that_lies_stops_the_round_and_a_new_epoch_goes_on(federation, monkeypatch):
    """More is subtracted than there is: no total, with the way out; what is published stays."""
    federation.forget("north", "north-1")
    for name in NAMES:
        federation.look(name)
    ask_for_round(federation.root)
    honest = sealing.UnderMasks._contents

    def lying(self, terms, charter):
        key, sums = honest(self, terms, charter)
        return (
            (key, sums.add(sums_of(sp.csr_matrix(np.ones((50, 30))), terms.statistic)))
            if key
            else (key, sums)
        )

    monkeypatch.setattr(sealing.UnderMasks, "_contents", lying)
    with pytest.raises(FederationError, match=r"round 2 has no total that counts: .*extend --again"):
        advance(federation, *NAMES, looks=5)
    monkeypatch.undo()
    with pytest.raises(FederationError, match="no total that counts"):
        federation.collect()
    assert read_state(federation.root).version == 1
    with Coordinator(federation.root) as coordinator:
        coordinator.extend([], again=True)
    federation.round()
    assert federation.is_exact()


ITEMS = [f"item-{k}" for k in range(200)]


def write_files(folder):
    """Write a catalogue and three silos' rows of 200 items; returns the frames."""
    draw = np.random.default_rng(5)
    (folder / "items.txt").write_text("\n".join(ITEMS) + "\n")
    frames = {}
    for name in NAMES:
        rows = [
            (f"{name}-{user}", ITEMS[item], 1.0)
            for user in range(12)
            for item in draw.choice(len(ITEMS), 20, replace=False)
        ]
        frames[name] = pl.DataFrame(rows, schema=["user_id", "item_id", "value"], orient="row")
        frames[name].write_csv(folder / f"{name}.csv")
    return frames


def run(*arguments):
    """Run a command in this process; it must end well."""
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@contextmanager
def silo_processes(folder):
    """Run the silos, each a process, and stop them."""
    command = [sys.executable, "-m", "recunlearn.cli", "silo", "run", "--every", "0.05", "--state"]
    running = [subprocess.Popen([*command, str(folder / name)], stdout=subprocess.DEVNULL) for name in NAMES]
    try:
        yield
    finally:
        for one in running:
            one.terminate()
            one.wait(timeout=60)


def seen_in_a_round(folder):
    """Run the coordinator look by look through a round: every file that it can read, as it stood then."""
    seen = {}
    for phase in ("opening", "masked", "confirmation", ""):
        run("coordinator", "run", "--state", folder / "hub", "--once")
        end = time.monotonic() + 60
        while waits_for(Board(folder / "board"), read_state(folder / "hub"))[1]:
            assert time.monotonic() < end, phase
            time.sleep(0.02)
        for path in (*(folder / "board").rglob("*"), *(folder / "hub").rglob("*")):
            if path.is_file() and not path.name.endswith(".partial"):
                seen[path.relative_to(folder).as_posix()] = path.read_bytes()
    return seen


def assert_is_noise(numbers):
    """Bits are fair, bytes even, neighbours unrelated: what no silo's sums are."""
    content = np.frombuffer(numbers.tobytes(), np.uint8)
    bits = np.unpackbits(content.reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 6 * 0.5 / np.sqrt(content.size / 8)
    chi = ((np.bincount(content, minlength=256) - content.size / 256) ** 2 / (content.size / 256)).sum()
    assert abs(chi - 255) < 6 * np.sqrt(2 * 255)
    centred = content - 127.5
    assert abs(np.mean(centred[8:] * centred[:-8])) < 6 * (256**2 - 1) / 12 / np.sqrt(content.size)


def assert_hides(seen, silos, parts, number, sign):
    """No silo's sums are in what the coordinator saw of a round, nor under the masks that it was told."""
    for name, sums in parts.items():
        vector = write_vector(sums, 3)
        forms = [write_arrow(sums), vector.tobytes(), sums.counts.tobytes(), sums.coarse.tobytes()]
        if sums.users:
            assert not any(form in content for content in seen.values() for form in forms), name
        inbox = f"board/inbox/{name}/secure-{number:06d}"
        masked = np.frombuffer(seen[f"{inbox}/masked.u64"], np.uint64)
        said = open_said(seen[f"{inbox}/confirmation.json"], Confirmation, silos[name].public)
        told = masked - stream(said.seed, masked.size)
        for numbers in (masked, told):
            assert numbers.size == vector.size
            assert_is_noise(numbers)
            assert not np.any(numbers == (vector if sign > 0 else np.uint64(0) - vector))


def test_through_the_commands_the_coordinator_sees_noise_and_the_total(tmp_path):
    """Real silo processes: what can be read of a silo is uniform, what is published the pooled fit."""
    frames = write_files(tmp_path)
    hub, board = tmp_path / "hub", tmp_path / "board"
    run(
        "coordinator", "init", "--state", hub, "--board", board, "--items", tmp_path / "items.txt",
        "--model", "item_knn", "--batch", 2, "--secure",
    )  # fmt: skip
    keys = {name: tmp_path / name / "keys" / "receipts.pub" for name in NAMES}
    for name in NAMES:
        run(
            "silo", "join", "--state", tmp_path / name, "--board", board, "--name", name, "--secure",
            "--coordinator-key", hub / "keys" / "receipts.pub", "--data", tmp_path / f"{name}.csv",
        )  # fmt: skip
        run("coordinator", "admit", "--state", hub, "--name", name, "--key", keys[name])
    for name in NAMES:
        others = [f"--peer={other}={keys[other]}" for other in NAMES if other != name]
        run("silo", "trust", "--state", tmp_path / name, *others)
    silos = {name: SigningKey.load(tmp_path / name / "keys" / "receipts.key") for name in NAMES}
    statistic = statistic_of("item_knn", {}, len(ITEMS))
    rows = {name: sums_of(matrix_of(frame, ITEMS), statistic) for name, frame in frames.items()}
    leaving = frames["north"].filter(pl.col("user_id").is_in(["north-3", "north-7"]))
    gone = {name: Sums.nothing(statistic) for name in NAMES}
    gone["north"] = sums_of(matrix_of(leaving, ITEMS), statistic)
    with silo_processes(tmp_path):
        assert_hides(seen_in_a_round(tmp_path), silos, rows, 1, +1)
        assert held_by(hub).same_as(merge(rows.values(), statistic))
        run("silo", "forget", "--state", tmp_path / "north", "--user", "north-3", "--user", "north-7")
        until(lambda: any(one.kind == "deletion" for one in read_silo(tmp_path / "north").outgoing))
        run("coordinator", "round", "--state", hub)
        assert_hides(seen_in_a_round(tmp_path), silos, gone, 2, -1)
        until(lambda: not read_silo(tmp_path / "north").outgoing)
    assert "34 users in all" in run("coordinator", "status", "--state", hub)
    left = pl.concat(frames.values()).filter(~pl.col("user_id").is_in(["north-3", "north-7"]))
    with Coordinator(hub) as coordinator:
        _, published = read_version(coordinator.board, coordinator._key.public)
    assert same_published(published, ItemKNN().fit(matrix_of(left, ITEMS)))
    assert "1 users out" not in run("silo", "status", "--state", tmp_path / "east")
    assert "north/1/round-2 (deletion, 2 users out): version 2" in run(
        "silo", "status", "--state", tmp_path / "north"
    )


def test_the_commands_say_what_is_wrong_with_masks(federation, tmp_path):
    """Peers that are none, rounds where there are none: exit code 2 and the reason."""
    in_the_open = Federation(tmp_path / "open", {})
    (tmp_path / "no.key").write_text("no key")
    for wrong, why in (
        (["silo", "trust", "--state", federation.silo("east"), "--peer", "north"], "NAME=FILE"),
        (["silo", "trust", "--state", federation.silo("east"), "--peer", "north=gone"], "No such file"),
        (["silo", "trust", "--state", federation.silo("east"), "--peer", f"north={tmp_path}/no.key"], "key"),
        (["coordinator", "round", "--state", in_the_open.root], "rounds are for sums under masks"),
        (
            ["coordinator", "init", "--state", "x", "--board", "y", "--items", "z", "--round-every", "5"],
            "add --secure",
        ),
    ):
        result = CliRunner().invoke(cli.app, [str(one) for one in wrong])
        assert result.exit_code == 2, result.output
        assert why in " ".join(result.output.split())


def held_by(hub):
    """Read the one file of sums that a coordinator keeps."""
    (file,), rounds = (hub / "sums").iterdir(), read_state(hub).rounds
    return read_arrow(file.read_bytes(), read_state(hub).statistic, rounds.users)


def until(holds):
    """Wait for something to hold."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
