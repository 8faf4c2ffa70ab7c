"""Silos and a coordinator: exact, in any order of messages, and against whoever breaks the rules."""

import base64
import io
import re
import shutil

import msgspec
import numpy as np
import polars as pl
import pytest
from recunlearn.engine.signing import ReceiptError, SigningKey, open_envelope
from recunlearn.engine.state import StateInUseError, StatePaths
from recunlearn.models.sums import Statistic, Sums, SumsError
from recunlearn.streaming.federated import home
from recunlearn.streaming.federated.board import Refusal
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import found_federation, read_state
from recunlearn.streaming.federated.home import recommend
from recunlearn.streaming.federated.message import (
    FORMAT,
    FederationError,
    Header,
    digest_of,
    key_of,
    open_header,
    seal,
)
from recunlearn.streaming.federated.silo import Silo, join
from recunlearn.streaming.federated.silo_state import ask, write_state
from recunlearn.streaming.federated.silo_state import read_state as read_silo
from recunlearn.streaming.federated.sums_file import read_arrow, write_arrow
from typer.testing import CliRunner

from .federation import ITEMS, Federation, rows_of

NORTH, SOUTH = [f"n{k}" for k in range(12)], [f"s{k}" for k in range(9)]


@pytest.fixture
def federation(tmp_path):
    """Two silos, fitted once."""
    made = Federation(tmp_path, {"north": rows_of(NORTH, 1), "south": rows_of(SOUTH, 2)})
    made.round()
    return made


@pytest.mark.parametrize(
    ("model", "settings"), [("ease", {"regularization": 3.0}), ("item_knn", {"K": 5, "weighting": "tfidf"})]
)
def test_one_round_gives_the_pooled_model_and_so_does_every_deletion(tmp_path, model, settings):
    """What is published is the fit on all rows, bit for bit; then on the rows of who is left."""
    frames = {name: rows_of([f"{name}-{k}" for k in range(8)], seed) for seed, name in enumerate("abc")}
    made = Federation(tmp_path, frames, model, settings)
    assert made.round().published == 1
    assert made.is_exact()
    made.forget("a", "a-3")
    made.forget("c", "c-0", "c-5")
    assert made.round().published == 2
    assert made.is_exact()
    assert made.published()[0].users == 21


def test_spectral_mf_is_published_with_its_certificate_and_keeps_lambda(tmp_path):
    """One round of additive M; lambda, once chosen, stays through the deletions."""
    frames = {name: rows_of([f"{name}-{k}" for k in range(20)], seed) for seed, name in enumerate("ab")}
    made = Federation(tmp_path, frames, "spectral_mf", {"factors": 4})
    made.round()
    manifest, _ = made.published()
    assert manifest.record["certified"]
    made.forget("a", "a-1")
    made.round()
    later, published = made.published()
    assert later.record["certified"]
    assert later.settings["regularization"] == manifest.settings["regularization"]
    made.settings = {**manifest.settings, "dtype": "float64", "tolerance": 1e-9}
    pooled = made.pooled()
    users = sorted(set(made.frames["a"]["user_id"]))
    for row, user in enumerate(users):
        ours, theirs = recommend(made.silo("a"), user, 3), recommend_pooled(pooled, row)
        assert np.allclose([score for _, score in ours], theirs, atol=1e-3)
    assert np.asarray(published.arrays["item_factors"]).dtype == np.float32


def recommend_pooled(model, row):
    """Score the best three of a row of the pooled model."""
    return model.recommend(row, model.user_items[row], 3)[1]


def test_rows_and_user_ids_never_leave_a_silo(federation):
    """No id of a user is anywhere on the board, or with the coordinator; nor is a row."""
    federation.forget("north", "n3")
    federation.look("north", flush=True)
    for folder in (federation.board.root, federation.root):
        content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert not any(f'"{user}"'.encode() in content for user in NORTH + SOUTH)
        assert b"item_id" not in content


def test_a_deletion_ends_with_a_receipt_that_names_where_it_is_out(federation):
    """Asked for, not served at once, sent, answered; then neither rows nor id are left at the silo."""
    assert recommend(federation.silo("north"), "n3")
    federation.forget("north", "n3")
    with pytest.raises(FederationError, match="no such user"):
        recommend(federation.silo("north"), "n3")
    federation.round()
    state = read_silo(federation.silo("north"))
    assert [(one.key, one.kind, one.erased, one.epoch, one.version) for one in state.done] == [
        ("north/1/1", "rows", 0, 1, 1),
        ("north/1/2", "deletion", 1, 1, 2),
    ]
    assert b'"n3"' not in (federation.silo("north") / "silo.json").read_bytes()
    users = [set(pl.read_parquet(path)["user_id"]) for path in federation.silo("north").glob("*.parquet")]
    assert users == [set(NORTH) - {"n3"}]
    assert federation.is_exact()


def test_a_request_taken_up_while_a_home_reads_is_not_missed(tmp_path, monkeypatch):
    """The silo makes the user pending right after the state was read: not served all the same."""
    made = Federation(tmp_path, {"north": rows_of(NORTH, 1)}, batch=3)
    made.round()
    made.forget("north", "n3")

    def read_then_step(root):
        state = read_silo(root)
        made.look("north")
        return state

    monkeypatch.setattr(home, "read_state", read_then_step)
    with pytest.raises(FederationError, match="no such user"):
        recommend(made.silo("north"), "n3")
    assert [one.user for one in read_silo(made.silo("north")).pending] == ["n3"]


def test_lost_rows_are_named(federation):
    """A silo's file of rows is gone: a home says which, and does not look for ever."""
    (federation.silo("north") / (name := read_silo(federation.silo("north")).rows)).unlink()
    with pytest.raises(FederationError, match=f"{name} is missing; restore it"):
        recommend(federation.silo("north"), "n3")


def test_small_deletions_wait_for_their_batch_but_not_for_ever(tmp_path):
    """Fewer than k users wait; k go, so does anybody when the patience ends or somebody says so."""
    made = Federation(tmp_path, {"north": rows_of(NORTH, 1)}, batch=3)
    made.round()
    made.forget("north", "n1", "n2")
    assert made.round().published is None
    assert len(read_silo(made.silo("north")).pending) == 2
    made.forget("north", "n7")
    assert made.round().published == 2
    made.forget("north", "n8")
    assert made.round().published is None
    assert made.round(flush=True).published == 3
    made.forget("north", "n9")
    made.round()
    state = read_silo(made.silo("north"))
    state.patience = 0.0
    write_state(made.silo("north"), state)
    assert made.round().published == 4
    assert made.is_exact()


def test_a_silo_that_leaves_is_forgotten_as_a_whole(federation):
    """By its own wish, or dismissed: what is published is the fit on the others; its sums are gone."""
    federation.add("east", rows_of([f"e{k}" for k in range(5)], 3))
    federation.round()
    assert federation.is_exact()
    with Silo(federation.silo("south")) as silo:
        silo.leave()
    federation.collect()
    assert federation.look("south").version == 3
    assert read_silo(federation.silo("south")).left
    del federation.frames["south"]
    assert federation.is_exact()
    with Coordinator(federation.root) as coordinator:
        coordinator.dismiss("east")
        coordinator.step()
    del federation.frames["east"]
    assert federation.is_exact()
    assert len(list((federation.root / "sums").iterdir())) == 1
    with pytest.raises(FederationError, match="no silo 'east' with this key"):
        federation.look("east")
    with (
        Coordinator(federation.root) as coordinator,
        pytest.raises(FederationError, match="left in this epoch"),
    ):
        coordinator.admit("east", StatePaths(federation.silo("east")).receipt_public_key.read_bytes())


def kept_at(silo):
    """Return the users of whom a silo keeps rows, in any file, and those it has yet to forget."""
    users = [set(pl.read_parquet(path)["user_id"]) for path in silo.glob("*.parquet")]
    return set().union(*users), {one.user for one in read_silo(silo).pending}


def test_who_asks_while_a_silo_leaves_or_after_is_forgotten_there(federation):
    """With the silo all sums are out: no deletion is sent after, and rows go from the silo itself."""
    with Silo(federation.silo("south")) as silo:
        silo.leave()
    federation.forget("south", "s1")
    federation.look("south")
    assert [one.kind for one in read_silo(federation.silo("south")).outgoing] == ["leave"]
    federation.collect()
    assert federation.look("south").erased == 1
    assert kept_at(federation.silo("south")) == (set(SOUTH) - {"s1"}, set())
    federation.forget("south", "s2")
    assert federation.look("south").erased == 1
    assert kept_at(federation.silo("south")) == (set(SOUTH) - {"s1", "s2"}, set())
    assert not list((federation.board.root / "inbox" / "south").iterdir())
    del federation.frames["south"]
    assert federation.is_exact()


def test_the_wish_to_leave_outlives_an_epoch(federation):
    """A new epoch begins before the coordinator read it: the silo leaves in that one."""
    with Silo(federation.silo("south")) as silo:
        silo.leave()
    with Coordinator(federation.root) as coordinator:
        coordinator.extend([], again=True)
    federation.round()
    federation.round()
    assert read_silo(federation.silo("south")).left
    del federation.frames["south"]
    assert federation.is_exact()


def test_an_epoch_waits_for_all_or_goes_on_without_who_is_away(tmp_path):
    """No patience: nothing is published before all are in. With it: who is late is added to what is there."""
    frames = {"north": rows_of(NORTH, 1), "south": rows_of(SOUTH, 2)}
    waits = Federation(tmp_path / "waits", frames)
    waits.look("north")
    assert waits.collect().published is None
    waits.look("south")
    assert waits.collect().published == 1
    goes_on = Federation(tmp_path / "goes-on", frames, patience=0.0)
    assert goes_on.collect().published is None  # nobody at all is no version
    goes_on.look("north")
    assert goes_on.collect().published == 1
    assert goes_on.published()[0].parties == ["north"]
    goes_on.look("south")
    assert goes_on.collect().published == 2
    assert goes_on.is_exact()


def test_messages_in_any_order_and_number_count_once_each(federation):
    """A later one waits for the earlier; a copy of one that counted is answered again and changes nothing."""
    with Silo(federation.silo("north")) as silo:
        for user in ("n1", "n2"):
            ask(federation.silo("north"), [user])
            silo.step()
    federation.frames["north"] = federation.frames["north"].filter(~pl.col("user_id").is_in(["n1", "n2"]))
    second = [federation.board.root / "inbox" / "north" / f"000001-000002.{end}" for end in ("json", "arrow")]
    kept = [path.read_bytes() for path in second]
    for path in second:
        path.unlink()
    assert federation.collect().taken == 0
    assert federation.board.missing("north", 1, 1) == 2
    for path, content in zip(second, kept, strict=True):
        path.write_bytes(content)
    assert federation.collect().taken == 2
    assert federation.is_exact()
    before = federation.published()[0]
    for _ in range(2):
        for path, content in zip(second, kept, strict=True):
            path.write_bytes(content)
        shutil.rmtree(federation.board.root / "answers")
        assert federation.collect().taken == 0
        assert not second[0].exists()
        assert federation.board.receipt_of("north/1/2").exists()
    assert federation.published()[0] == before
    federation.look("north")
    assert not read_silo(federation.silo("north")).outgoing


def test_a_message_that_is_lost_or_damaged_on_the_way_is_written_again(federation):
    """Cut short, altered, or gone: set aside, and the silo sends the same again."""
    for damage in (b"", b"{}", None):
        federation.forget("north", user := federation.frames["north"]["user_id"][0])
        federation.look("north")
        sequence = read_silo(federation.silo("north")).sequence
        envelope = federation.board.envelope("north", 1, sequence)
        sums = envelope.with_suffix(".arrow")
        if damage is None:
            envelope.unlink()
            sums.unlink()
        else:
            sums.write_bytes(sums.read_bytes()[:-9] + damage)
        assert federation.collect().taken == 0, user
        assert federation.look("north").sent == 1
        assert federation.collect().taken == 1
        assert federation.look("north").erased == 1
        assert federation.is_exact()


def test_a_new_epoch_asks_for_all_sums_again_and_nobody_who_left_comes_back(federation):
    """Items are appended, old messages say nothing any more, deletions on their way are done by it."""
    federation.forget("north", "n4")
    federation.look("north")  # on its way when the epoch ends
    ask(federation.silo("south"), ["s2"])  # asked for, not sent
    federation.frames["south"] = federation.frames["south"].filter(pl.col("user_id") != "s2")
    with Coordinator(federation.root) as coordinator:
        assert coordinator.extend([*ITEMS, "item-new"]) == 1
        assert coordinator.extend(ITEMS) == 0
    assert federation.collect().published is None
    federation.round()
    manifest, published = federation.published()
    assert (manifest.epoch, published.arrays["counts"].size) == (2, len(ITEMS) + 1)
    assert published.arrays["counts"][: len(ITEMS)].tolist() == counts_of(federation)
    assert [one.erased for one in read_silo(federation.silo("north")).done] == [0, 1]
    assert [one.erased for one in read_silo(federation.silo("south")).done] == [0, 1]


def counts_of(federation):
    """Users of each item, among the rows that are left."""
    items = pl.concat(federation.frames.values())["item_id"].to_list()
    return [items.count(item) for item in ITEMS]


def hostile(made, sums, *, sequence=2, epoch=1, kind="deletion", name="north", key=None, **changes):
    """Write a message as somebody who has a silo's key might; returns where it lies."""
    statistic = changes.pop("statistic", sums.statistic)
    content = write_arrow(sums)
    header = Header(
        FORMAT, "test", name, epoch, sequence, key_of(name, epoch, sequence), kind, statistic, sums.users,
        digest_of(content),
    )  # fmt: skip
    header = msgspec.structs.replace(header, **changes)
    envelope = made.board.envelope(name, epoch, sequence)
    envelope.with_suffix(".arrow").write_bytes(content)
    envelope.write_bytes(seal(header, key or SigningKey.create(StatePaths(made.silo(name)))))
    return envelope


def own_sums(federation, name="north"):
    """Return the sums that a silo has with the coordinator."""
    with Coordinator(federation.root) as coordinator:
        return coordinator._adding.sums_of(name)


def altered(sums, **arrays):
    """Change arrays, unchecked."""
    return Sums(**{**{field: getattr(sums, field) for field in Sums.__dataclass_fields__}, **arrays})


LIES = {
    "of others' users": (lambda own, other: other, "never added here"),
    "more users than it has": (lambda own, _: own.add(own), "never added here"),
    "negative counts": (lambda own, _: altered(own, counts=-own.counts), "counts\\[\\d+\\] is -"),
    "more users of an item than users": (lambda own, _: altered(own, users=0), "counts\\[\\d+\\] is"),
    "sums below the diagonal": (
        lambda own, _: altered(own, keys=own.keys + own.statistic.n_items),
        "no pair of items|no users|more than the squares",
    ),
    "sums that are too large": (lambda own, _: altered(own, coarse=own.coarse + 2**61), "it must be in"),
    "pairs that do not go with their squares": (
        lambda own, _: altered(own, coarse=np.where(np.arange(own.coarse.size) == 1, 9999, own.coarse)),
        "more than the squares",
    ),
    "no arrays": (lambda own, _: altered(own, keys=own.keys[:0]), "coarse has"),
    "what leaves impossible sums": (
        lambda own, _: altered(own, users=1, counts=own.counts * 0, keys=own.keys[:1], coarse=own.coarse[:1]),
        "squares, but no users",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_sums_that_cannot_be_are_refused_and_nothing_changes(federation, lie):
    """A signed lie that shows is refused with its reason, once, and the silo is told; the rest goes on."""
    make, why = LIES[lie]
    sums = make(own_sums(federation), own_sums(federation, "south"))
    envelope = hostile(federation, sums)
    federation.forget("south", "s1")
    federation.look("south")
    step = federation.collect()
    assert (step.taken, step.refused, step.published) == (1, 1, 2)
    assert federation.is_exact()
    assert not envelope.exists()
    refusal = refusal_of(federation, 1, 2)
    assert refusal.code == "not-so"
    assert re.search(why, refusal.why)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"federation": "another"}, "says that it is"),
        ({"party": "south"}, "says that it is"),
        ({"sequence": 2, "key": "stranger"}, "another key"),
    ],
)
def test_what_nobody_can_be_held_to_is_set_aside(federation, changes, why, caplog):
    """Of another federation, of another silo, or signed by a stranger: out of the way, and no refusal."""
    key = SigningKey.generate(federation.folder / "stranger.key") if changes.pop("key", None) else None
    envelope = hostile(federation, own_sums(federation), key=key, **changes)
    assert federation.collect().refused == 1
    assert not envelope.exists()
    assert envelope.with_suffix(".set-aside").exists()
    assert why in caplog.text
    assert not federation.board.refusal("north", 1, 2).exists()
    assert federation.is_exact()


def test_another_epoch_another_statistic_and_another_format_are_refused(federation):
    """Each by its name."""
    own = own_sums(federation)
    for changes, why in (
        ({"statistic": Statistic("tfidf", len(ITEMS))}, "the charter asks for"),
        ({"format": 2}, "format 2"),
    ):
        hostile(federation, own, **changes)
        assert federation.collect().refused == 1
        assert why in refusal_of(federation, 1, 2).why
    hostile(federation, own, epoch=7)
    assert federation.collect().refused == 1  # set aside: nobody can have seen that epoch
    assert not federation.board.refusal("north", 7, 2).exists()
    assert federation.is_exact()
    with Coordinator(federation.root) as coordinator:
        coordinator.extend([], again=True)
    hostile(federation, own, sequence=3)
    federation.collect()
    assert "this is epoch 2" in refusal_of(federation, 1, 3).why
    federation.round()
    assert federation.is_exact()


def refusal_of(federation, epoch, sequence):
    """Read how a message was refused."""
    content = federation.board.refusal("north", epoch, sequence).read_bytes()
    with Coordinator(federation.root) as coordinator:
        payload = open_envelope(
            content, "application/vnd.recunlearn.federation-refusal.v1+json", coordinator._key.public
        )
    return msgspec.json.decode(payload, type=Refusal)


def test_a_place_that_is_taken_is_not_given_twice(federation):
    """Another message in the place of one that counts is set aside, signed or not."""
    hostile(federation, own_sums(federation), sequence=1)
    assert federation.collect().refused == 1
    assert federation.is_exact()


def test_a_refused_silo_stops_and_comes_back_in_a_new_epoch(federation):
    """It says why and what to do; after that everything is as it should be."""
    hostile(federation, own_sums(federation, "south"))
    federation.collect()
    federation.forget("north", "n1")
    federation.look("north")
    with pytest.raises(FederationError, match=r"refused message north/1/2: .*extend --again"):
        federation.look("north")
    with Coordinator(federation.root) as coordinator:
        coordinator.extend([], again=True)
    federation.round()
    assert federation.is_exact()


def test_a_silo_believes_only_the_coordinator_whose_key_it_was_given(federation, tmp_path):
    """A charter, a receipt or a version by anybody else is refused."""
    other = Federation(tmp_path / "other", {"north": rows_of(NORTH, 1)})
    other.round()
    shutil.copy(other.board.root / "charter.json", federation.board.root / "charter.json")
    with pytest.raises(FederationError, match=r"charter.json: .*another key"):
        federation.look("north")
    with pytest.raises(FederationError, match="another key"):
        recommend(federation.silo("north"), "n1")


def test_a_catalogue_that_changed_its_past_is_refused(federation):
    """Columns keep their meaning: a silo that saw other items at the beginning stops."""
    with Coordinator(federation.root) as coordinator:
        coordinator.state.items[0] = "something-else"
        coordinator.extend(["item-new"])
    with pytest.raises(FederationError, match="columns would be mixed up"):
        federation.look("north")


def test_altered_versions_are_not_served(federation):
    """One bit of what was published, and the silo says which file."""
    file = next((federation.board.root / "versions").glob("*/similarity.data.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(FederationError, match=r"similarity.data.arrow was altered"):
        recommend(federation.silo("north"), "n1")


def test_items_that_are_not_in_the_catalogue_stop_the_silo(tmp_path):
    """It names the first of them and how to have them added; nothing is sent."""
    frame = pl.concat(
        [rows_of(NORTH, 1), pl.DataFrame({"user_id": ["n1"], "item_id": ["x"], "value": [1.0]})]
    )
    made = Federation(tmp_path, {"north": frame})
    with pytest.raises(FederationError, match="1 items are not in the catalogue, the first is 'x'"):
        made.look("north")
    with Coordinator(made.root) as coordinator:
        coordinator.extend(["x"])
    assert made.round().published == 1


def test_rows_without_exact_sums_are_refused_before_anything_is_sent(tmp_path):
    """Fractions where whole numbers are summed: the silo says so and stays as it was."""
    frame = rows_of(NORTH, 1).with_columns(value=pl.lit(0.5))
    made = Federation(tmp_path, {"north": frame})
    with pytest.raises(FederationError, match=r"no exact sums: a value is 0.5"):
        made.look("north")
    assert read_silo(made.silo("north")).epoch == 0
    fractions = Federation(tmp_path / "fractions", {"north": frame}, fractions=True)
    assert fractions.round().published == 1
    assert fractions.is_exact()


def test_the_commands_say_what_is_wrong(tmp_path):
    """Settings that are no JSON or no model's, keys that are none: exit code 2 and the reason."""
    from recunlearn import cli

    (tmp_path / "items").write_text("a\nb\n")
    init = ["coordinator", "init", "--state", str(tmp_path / "hub"), "--board", str(tmp_path / "board")]
    init += ["--items", str(tmp_path / "items")]
    run = CliRunner().invoke
    for wrong, why in (
        (["--settings", "{"], "wrong use"),
        (["--settings", '{"taste": 1}'], "taste"),
        (["--model", "als"], "not made of sums"),
        (["--model", "spectral_mf", "--settings", '{"regularization": "auto"}'], "give a number for lambda"),
    ):
        result = run(cli.app, init + wrong)
        assert result.exit_code == 2, result.output
        assert why in result.output.replace("\n", " ")
    assert run(cli.app, init).exit_code == 0
    admit = ["coordinator", "admit", "--state", str(tmp_path / "hub"), "--name", "x", "--key"]
    assert run(cli.app, [*admit, str(tmp_path / "items")]).exit_code == 2
    assert run(cli.app, ["coordinator", "extend", "--state", str(tmp_path / "hub")]).exit_code == 2
    assert run(cli.app, ["silo", "forget", "--state", str(tmp_path / "hub")]).exit_code == 2


def test_wrong_use_is_refused_with_the_way_out(federation, tmp_path):
    """Directories that are there or not, names, keys, a second process."""
    with pytest.raises(FederationError, match="has a coordinator already"):
        found_federation(federation.root, federation.board.root, "test", ITEMS, "ease", {})
    with pytest.raises(FederationError, match="named twice"):
        found_federation(tmp_path / "new", federation.board.root, "test", ["a", "a"], "ease", {})
    with pytest.raises(FederationError, match="batch is 0"):
        found_federation(tmp_path / "new", federation.board.root, "test", ["a"], "ease", {}, batch=0)
    with pytest.raises(ValueError, match="not made of sums"):
        found_federation(tmp_path / "new", federation.board.root, "test", ["a"], "als", {})
    with pytest.raises(FederationError, match="has a silo already"):
        join(federation.silo("north"), federation.board.root, "north", rows_of(NORTH), b"")
    for missing in (Coordinator, Silo):
        with pytest.raises(FederationError, match="make one with"):
            missing(tmp_path / "nowhere")
    with Coordinator(federation.root) as coordinator:
        with pytest.raises(StateInUseError):
            Coordinator(federation.root)
        with pytest.raises(FederationError, match="cannot be called"):
            coordinator.admit("../x", b"")
        with pytest.raises(ReceiptError):
            coordinator.admit("west", b"")
        with pytest.raises(FederationError, match="another key already"):
            coordinator.admit("north", StatePaths(federation.silo("south")).receipt_public_key.read_bytes())
        with pytest.raises(FederationError, match="there is no silo 'west'"):
            coordinator.dismiss("west")


def test_strange_arrow_files_are_refused():
    """Bytes that are no Arrow, other columns, other types, missing numbers, wrapping keys: one error each."""
    what = Statistic("whole", 3)
    good = Sums.nothing(what)
    assert read_arrow(write_arrow(good), what, 0).same_as(good)

    def arrow(**columns):
        lists = {
            name: pl.Series([array.tolist()], dtype=pl.List(pl.Int64)) for name, array in good.arrays.items()
        }
        file = io.BytesIO()
        pl.DataFrame(lists | {name: pl.Series(column) for name, column in columns.items()}).write_ipc(file)
        return file.getvalue()

    for content, why in (
        (b"", "not readable Arrow"),
        (b"ARROW1" * 40, "not readable Arrow"),
        (write_arrow(good)[:-40], "not readable Arrow"),
        (arrow(more=[[1]]), "one row of int64 lists"),
        (arrow(counts=[[1.5]]), "one row of int64 lists"),
        (arrow(counts=[[0, None, 0]]), "missing"),
        (arrow(counts=pl.Series([None], dtype=pl.List(pl.Int64))), "missing"),
        (arrow(keys=[[0, -1]], coarse=[[1, 1]]), "steps between pairs are negative"),
        (arrow(keys=[[5, 2**62, 2**62]], coarse=[[1, 1, 1]]), "no pair of items"),
    ):
        with pytest.raises(SumsError, match=why):
            read_arrow(content, what, 0)


def test_a_header_is_read_only_as_it_was_signed(federation):
    """Fields that are unknown, missing or written otherwise: no header."""
    key = SigningKey.generate(federation.folder / "k.key")
    for payload in (b"{}", b'{"format": 1}', b"[]", b"nonsense"):
        envelope = key.envelope(payload, "application/vnd.recunlearn.federated-sums.v1+json")
        with pytest.raises(ReceiptError):
            open_header(envelope, key.public)


def test_the_coordinator_keeps_one_file_of_sums_for_each_silo(federation):
    """Old sums and old versions go: what was subtracted is nowhere any more."""
    for user in ("n1", "n2", "n5"):
        federation.forget("north", user)
        federation.round()
    names = sorted(path.name for path in (federation.root / "sums").iterdir())
    assert names == ["north-000001-000004.arrow", "south-000001-000001.arrow"]
    assert [path.name for path in (federation.board.root / "versions").iterdir()] == ["000004"]
    assert not [path for path in (federation.board.root / "inbox").rglob("*") if path.is_file()]
    assert read_state(federation.root).version == 4


def test_a_state_of_another_format_is_refused_by_its_number(federation):
    """Whatever else is in it: coordinator and silo say what they read, and that another release wrote it."""
    for path, opened in (
        (federation.root / "state.json", Coordinator),
        (federation.silo("north") / "silo.json", Silo),
    ):
        path.write_bytes(b'{"format": 9, "new": true}')
        with pytest.raises(FederationError, match=rf"{path.name} has format 9; this release reads 1: use"):
            opened(path.parent)
        path.write_bytes(b'{"format": 1}')
        with pytest.raises(FederationError, match=r"cannot be read \(.*restore it from a backup"):
            opened(path.parent)


def test_states_do_not_grow_with_the_messages_that_were_answered(federation, monkeypatch):
    """Receipts are files of their own at the coordinator; a silo remembers the last of its answers."""
    monkeypatch.setattr("recunlearn.streaming.federated.silo.DONE_KEPT", 2)
    sizes = []
    for user in ("n1", "n2", "n3"):
        federation.forget("north", user)
        federation.round()
        sizes.append((federation.root / "state.json").stat().st_size)
    assert max(sizes) - min(sizes) < 3  # digits
    assert [one.key for one in read_silo(federation.silo("north")).done] == ["north/1/3", "north/1/4"]
    kept = federation.root / "receipts" / "north"
    assert sorted(path.name for path in kept.iterdir()) == [f"000001-{k:06d}.json" for k in (1, 2, 3, 4)]
    posted = federation.board.answers("north")
    assert all((posted / path.name).read_bytes() == path.read_bytes() for path in kept.iterdir())


def test_receipts_that_a_crash_kept_from_the_board_are_posted_at_the_next_start(federation):
    """Committed to and not posted: the coordinator posts them when it is opened again."""
    federation.forget("north", "n1")
    federation.look("north")
    federation.collect()
    posted = federation.board.receipt_of("north/1/2")
    content = posted.read_bytes()
    posted.unlink()
    with Coordinator(federation.root):
        assert posted.read_bytes() == content


def test_the_room_for_all_sums_is_kept_up_to_date_by_every_message(tmp_path):
    """Rows, deletions, a silo that goes: what is compared with the limit is the sum of who is there."""
    made = Federation(tmp_path, {name: rows_of([f"{name}{k}" for k in range(9)], 1) for name in "abc"})
    with Coordinator(made.root) as coordinator:
        for name in "abc":
            made.look(name)
            coordinator.step()
        made.forget("a", "a1")
        made.look("a")
        coordinator.step()
        room = coordinator._adding._room
        assert room["counts"].tolist() == coordinator._adding.total()[0].counts.tolist()
        assert room["squares"].tolist() == coordinator._adding.total()[0].diagonal().tolist()
        coordinator.dismiss("b")
        assert not coordinator._adding._room


def test_rows_with_which_the_total_would_not_fit_are_refused(tmp_path):
    """Each silo's sums fit, those of both do not: the second is refused, the first stays."""
    made = Federation(tmp_path, {"north": rows_of(NORTH, 1), "south": rows_of(SOUTH, 2)}, "ease")
    what, one = Statistic("whole", len(ITEMS)), np.zeros(len(ITEMS), np.int64)
    one[3] = 1
    large = np.array([2**61 - 2**58], np.int64)
    sums = Sums(what, 1, one, one[:0], np.array([3 * len(ITEMS) + 3]), large, one[:0])
    for name, taken in (("north", 1), ("south", 0)):
        hostile(made, sums, sequence=1, kind="rows", name=name)
        assert made.collect().taken == taken
    refused = msgspec.json.decode(made.board.refusal("south", 1, 1).read_bytes())["payload"]
    assert b"the squares of item 3 of all silos would sum to 2^61" in base64.b64decode(refused)
