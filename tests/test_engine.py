"""The erasure cycle: fit, forget, publish, purge; failures; what is left."""

import itertools
import os

import apsw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine.delivery import Delivery, _Target
from recunlearn.engine.engine import Engine
from recunlearn.engine.exporters.protocol import StoreSettings
from recunlearn.engine.fitting import fit
from recunlearn.engine.interactions import read_store
from recunlearn.engine.ledger import Received
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StateError, StateInUseError, StatePaths
from recunlearn.engine.version import Store, VersionError, read_current, set_current

from .popularity import POISON, ask, files_with, interactions

MODELS = {"popularity": {"weight": 2.0}}
ROWS = [("anna", "x"), ("anna", "y"), ("bob", "x"), ("bob", "z"), ("cleo", "y"), ("cleo", "only-cleo")]


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), MODELS)
    return tmp_path / "state"


def outcomes(state):
    """Return what the receipts say came of each request."""
    lines = read_lines(StatePaths(state))
    return [open_receipt(line, state_public_key(StatePaths(state)))["predicate"]["outcome"] for line in lines]


def content(state):
    """Read all that a state publishes: users, items, rows kept, and every array of the model."""
    snap = load_snapshot(state, mapped=False)
    model = snap._models["popularity"]
    frame = read_store(StatePaths(state), Store(snap.manifest.interactions, snap.manifest.partitions))
    arrays = {
        name: (array.toarray() if hasattr(array, "toarray") else array).tolist()
        for name, array in model.published().items()
    }
    return {
        "users": snap.user_ids(),
        "items": snap._items.series.to_list(),
        "rows": [] if frame is None else frame.rows(),
        "user_items": model.user_items.toarray().tolist(),
        **arrays,
    }


def test_a_forgotten_state_is_the_state_that_never_saw_them(state, tmp_path):
    """Users, items, store, matrix and model equal those of a fit without what was removed."""
    with Engine.open(state) as engine:
        report = ask(engine, AccountDeletion("e-1", "cleo"), InteractionRemoval("e-2", "anna", "y"))
        assert (report.version, report.erased, report.failed) == (2, 2, 0)
    never = [row for row in ROWS if row[0] != "cleo" and row != ("anna", "y")]
    fit(tmp_path / "never", interactions(never), MODELS)
    assert content(state) == content(tmp_path / "never")
    assert "only-cleo" not in content(state)["items"]


ids = st.integers(1, 7)
requests_strategy = st.lists(
    st.one_of(st.tuples(ids), st.tuples(ids, st.integers(1, 5))), min_size=1, max_size=12
)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(ids, st.integers(1, 5)), min_size=1, max_size=25, unique=True),
    asked=requests_strategy,
    cuts=st.sets(st.integers(0, 12)),
    restart=st.booleans(),
)
def test_any_split_into_batches_ends_in_the_same_state(tmp_path_factory, rows, asked, cuts, restart):
    """Whatever is asked, in whatever batches, with or without restarts, only the kept rows remain."""
    state = tmp_path_factory.mktemp("state") / "s"
    fit(state, interactions(rows), MODELS)
    requests = [
        AccountDeletion(f"e-{k}", ask_[0]) if len(ask_) == 1 else InteractionRemoval(f"e-{k}", *ask_)
        for k, ask_ in enumerate(asked)
    ]
    bounds = sorted({0, len(requests), *(cut for cut in cuts if cut < len(requests))})
    engine = Engine.open(state)
    for start, stop in itertools.pairwise(bounds):
        assert ask(engine, *requests[start:stop]).failed == 0
        if restart:
            engine.close()
            engine = Engine.open(state)
    gone = {ask_[0] for ask_ in asked if len(ask_) == 1}
    kept = sorted(row for row in rows if row[0] not in gone and row not in asked)
    assert engine.ledger.counts()["erased"] == len(requests)
    engine.close()
    found = content(state)
    assert [row[:2] for row in found["rows"]] == kept
    assert found["users"] == sorted({user for user, _ in kept})
    assert found["items"] == sorted({item for _, item in kept})
    counts = [float(sum(item == kept_item for _, kept_item in kept)) for item in found["items"]]
    assert found["item_counts"] == counts


def test_no_file_holds_the_erased_user(tmp_path):
    """A planted user with unique ids and items is in no file, name or encoding, after the cycle."""
    planted = [("planted-user-Ω-1", f"planted-item-{k}") for k in range(40)]
    fit(tmp_path, interactions(ROWS + planted), MODELS)
    assert files_with(tmp_path, "planted-user-Ω-1", "planted-item-7")
    with Engine.open(tmp_path) as engine:
        ask(engine, AccountDeletion("delete planted-user-Ω-1", "planted-user-Ω-1"))
        assert not files_with(tmp_path, "planted-user", "planted-item")
        assert engine.ledger.cycle(1).record["scan"]["found"] == []
    assert not files_with(tmp_path, "planted-user", "planted-item")
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["000002"]


def test_the_scan_at_the_end_of_a_cycle_finds_what_is_left(state):
    """A copy of an id that somebody left in the state directory is reported, in bytes and in Arrow."""
    (state / "notes.txt").write_bytes("remember cleo-longer".encode("utf-16-le"))
    pl.DataFrame({"user_id": ["cleo-longer"]}).write_ipc(state / "copy.arrow")
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "cleo-longer"))
        assert engine.ledger.cycle(1).record["scan"]["found"] == ["copy.arrow", "notes.txt"]


@pytest.mark.parametrize(
    "request_",
    [
        AccountDeletion("e", "nobody"),
        InteractionRemoval("e", "anna", "z"),
        InteractionRemoval("e", "nobody", "x"),
    ],
)
def test_what_is_not_there_is_answered_as_erased_nothing(state, request_):
    """An unknown user or interaction is an answer: erased, nothing, no new version."""
    with Engine.open(state) as engine:
        report = ask(engine, request_)
        assert (report.version, report.erased) == (1, 1)
    assert outcomes(state) == ["nothing"]


def test_a_request_for_a_user_already_erased_is_answered_so(state):
    """The second request for the same user finds nothing, and is erased."""
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "anna"))
        report = ask(engine, AccountDeletion("e-2", "anna"))
        assert (report.version, report.erased) == (2, 1)
    assert outcomes(state) == ["removed", "nothing"]


def test_a_second_request_that_still_waits_is_no_remains_of_the_first(state):
    """The ledger holds the id for the one that waits: the scan of the first does not take that for a leak."""
    with Engine.open(state) as engine:
        requests = [AccountDeletion("e-1", "cleo-unique"), AccountDeletion("e-2", "cleo-unique")]
        engine.ledger.record([Received(request) for request in requests])
        first, second = engine.pending()
        engine.apply([first])
        assert engine.ledger.cycle(1).record["scan"]["found"] == []
        assert files_with(state, "cleo-unique")
        engine.apply([second])
        assert not files_with(state, "cleo-unique")


def test_integer_ids_are_found_in_either_form(tmp_path):
    """42 and "42" are one user; "042" is another, who is not there."""
    fit(tmp_path, interactions([(42, 1), (42, 2), (7, 1)]), MODELS)
    with Engine.open(tmp_path) as engine:
        assert ask(engine, AccountDeletion("e-1", "042")).version == 1
        assert ask(engine, InteractionRemoval("e-2", "42", "2")).version == 2
        assert ask(engine, AccountDeletion("e-3", "42")).version == 3
    assert content(tmp_path)["rows"] == [(7, 1, 1.0)]


def test_everybody_can_be_forgotten(state):
    """The last user too: the state then is empty, and opens."""
    with Engine.open(state) as engine:
        ask(engine, *(AccountDeletion(name, name) for name in ("anna", "bob", "cleo")))
    assert content(state)["users"] == []
    with Engine.open(state) as engine:
        assert ask(engine, AccountDeletion("again", "anna")).erased == 1


def test_a_request_that_cannot_be_forgotten_does_not_take_the_others_down(state, monkeypatch):
    """It fails, loud and alone; the others are erased; the next start tries it again."""
    monkeypatch.setitem(POISON, "poison", {2.0})
    fit(state, interactions([*ROWS, ("dan", "x", 5.0), ("eve", "y", 6.0)]), MODELS)
    with Engine.open(state) as engine:
        report = ask(
            engine,
            AccountDeletion("e-1", "dan"),
            AccountDeletion("e-2", "anna"),
            AccountDeletion("e-3", "eve"),
        )
        assert (report.erased, report.failed) == (2, 1)
        assert engine.ledger.failures() == [("e-2", "model popularity could not forget: RuntimeError")]
    assert content(state)["users"] == ["anna", "bob", "cleo"]
    POISON.clear()
    with Engine.open(state) as engine:
        assert engine.apply(engine.ledger.pending()).erased == 1
    assert content(state)["users"] == ["bob", "cleo"]


def test_two_writers_are_refused_and_told_who_holds_the_lock(state):
    """The second writer gets the first one's process, host and start time."""
    with Engine.open(state):
        with pytest.raises(StateInUseError, match=f"in use by process {os.getpid()} on .* since 20"):
            Engine.open(state)
        with pytest.raises(StateInUseError):
            fit(state, None)
    Engine.open(state).close()


def test_a_store_that_cannot_be_closed_keeps_nothing_else_open(state):
    """Every other store, the ledger and the lock are closed all the same, and its error is raised."""
    closed = []

    class Store:
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)
            raise OSError(f"{self.name} hangs up")

    engine = Engine.open(state)
    targets = [_Target(StoreSettings(name, "any", "any://"), Store(name)) for name in ("web", "db")]
    engine.delivery = Delivery(engine.paths, targets)
    with pytest.raises(OSError, match="hangs up"), engine:
        pass
    assert sorted(closed) == ["db", "web"]
    with pytest.raises(apsw.ConnectionClosedError):
        engine.ledger.pending()
    with Engine.open(state) as again:  # the lock is free
        assert again.pending() == []


def test_a_state_of_another_layout_is_refused(state):
    """Another layout version is named, with the way out."""
    config = state / "config.toml"
    config.write_text(config.read_text().replace("layout = 1", "layout = 99"))
    with pytest.raises(StateError, match="layout version 99"):
        Engine.open(state)
    with pytest.raises(StateError, match="layout version 99"):
        fit(state, interactions(ROWS), MODELS)


@pytest.mark.parametrize("name", ["config.toml", "ledger.sqlite", "keys/fence.key", "CURRENT"])
def test_a_state_with_a_part_missing_is_refused_by_name(state, name):
    """Nothing is made up for a file that is lost."""
    (state / name).unlink()
    with pytest.raises(StateError) as refused:
        Engine.open(state)
    assert name.split("/")[-1] in str(refused.value) or str(state) in str(refused.value)


def test_a_refit_keeps_the_erased_out(state):
    """The original file, fitted again, brings back neither an erased user nor an erased interaction."""
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "cleo"), InteractionRemoval("e-2", "anna", "y"))
    report = fit(state, interactions(ROWS), MODELS)
    assert (report.version, report.refused_users, report.refused_interactions) == (3, 1, 3)
    assert content(state)["users"] == ["anna", "bob"]
    assert ("anna", "y", 1.0) not in content(state)["rows"]
    before = content(state)
    again = fit(state, None)
    assert (again.version, again.refused_users) == (4, 0)
    assert content(state) == before


def test_a_refit_keeps_out_who_only_waits_to_be_erased(state):
    """A request that is recorded but not carried out fences a refit already."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(AccountDeletion("e-1", "cleo"))])
    fit(state, interactions(ROWS), MODELS)
    assert content(state)["users"] == ["anna", "bob"]
    with Engine.open(state) as engine:
        assert engine.apply(engine.ledger.pending()).erased == 1


def test_nothing_left_to_fit_is_said(state):
    """A file of erased users only is refused, and the state stays as it was."""
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "cleo"))
    with pytest.raises(ValueError, match="no interaction is left to fit"):
        fit(state, interactions([("cleo", "x")]), MODELS)
    assert content(state)["users"] == ["anna", "bob"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"nonsense": {}}, "no model 'nonsense'"),
        ({"popularity": {"colour": 1}}, "colour"),
        ({}, "no model is named"),
    ],
)
def test_a_model_that_is_none_is_named(tmp_path, models, message):
    """Unknown models and settings are refused before anything is written."""
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "state", interactions(ROWS), models)
    assert not (tmp_path / "state" / "config.toml").exists()


def test_a_directory_with_other_things_in_it_is_refused(tmp_path):
    """A fit does not write among somebody's files."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StateError, match="not empty and not a state"):
        fit(tmp_path, interactions(ROWS), MODELS)


def test_going_back_past_an_erasure_is_refused_and_a_fit_is_the_way_out(state):
    """CURRENT set back to a version from before an erasure is refused by the engine, too."""
    number, digest = read_current(StatePaths(state))
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "cleo"))
    set_current(StatePaths(state), number, digest)
    with pytest.raises(VersionError, match="past an erasure is refused"):
        Engine.open(state)
    assert fit(state, interactions(ROWS), MODELS).version == 3
    assert content(state)["users"] == ["anna", "bob"]


def test_the_models_in_memory_are_those_on_disk(state):
    """After a cycle the engine goes on with the very arrays that it published."""
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "cleo"))
        kept = engine.models["popularity"].published()
        disk = load_snapshot(state)._models["popularity"].published()
        assert kept["item_counts"].tobytes() == disk["item_counts"].tobytes()
        assert np.array_equal(kept["together"].toarray(), disk["together"].toarray())


def test_each_request_is_stamped(state):
    """Received, fenced and erased times are there, in order."""
    with Engine.open(state) as engine:
        ask(engine, AccountDeletion("e-1", "cleo"))
        ((request_id, received, fenced, erased),) = engine.ledger.timings()
    assert request_id == "e-1"
    assert received <= fenced < erased < received + 60
