"""Re-admission: a person who comes back is let in by an explicit, later event, and by nothing else."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion, Anonymisation, InteractionRemoval, Readmission
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state

from .popularity import interactions

MODELS = {"popularity": {}}
ROWS = [("anna", "x"), ("anna", "y"), ("bob", "x"), ("bob", "z"), ("cleo", "y")]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), MODELS)
    return tmp_path / "state"


@pytest.fixture
def fence(state):
    """Open the fence as a server has it."""
    fence = Fence(state)
    yield fence
    fence.close()


def record(engine, *requests):
    """Record requests as the intake does."""
    return engine.ledger.record([Received(request) for request in requests])


def work_off(state, *requests):
    """Record requests and carry out all that waits."""
    with Engine.open(state) as engine:
        record(engine, *requests)
        engine.apply(engine.pending())
        return engine.ledger.counts()


def said(state):
    """Return request id -> (kind, outcome) of every receipt."""
    public = state_public_key(StatePaths(state))
    predicates = [open_receipt(line, public)["predicate"] for line in read_lines(StatePaths(state))]
    return {one["request"]["id"]: (one["request"]["kind"], one["outcome"]) for one in predicates}


def test_who_comes_back_is_admitted_and_their_new_data_is_taken(state, fence):
    """After the event the user is not fenced, a fit takes them in, and the receipt says readmitted."""
    work_off(state, AccountDeletion("d-1", "anna"), InteractionRemoval("r-1", "bob", "z"))
    counts = work_off(state, Readmission("b-1", "anna"))
    assert (counts["admitted"], counts["received"]) == (1, 0)
    assert not fence.is_fenced("anna")
    assert said(state)["b-1"] == ("readmission", "readmitted")
    report = fit(state, interactions([*ROWS, ("anna", "z")]), MODELS)
    assert (report.refused_users, report.refused_interactions) == (0, 1)
    assert load_snapshot(state).user_ids() == ["anna", "bob", "cleo"]
    assert verify_state(state).problems == []


def test_what_is_older_than_the_return_stays_out(state):
    """With times in the data, a re-admission does not open the door for the file from before the erasure."""
    work_off(state, AccountDeletion("d-1", "anna", NOON))
    work_off(state, Readmission("b-1", "anna", NOON + HOUR))
    rows = [("anna", "x", NOON - HOUR), ("anna", "y", NOON + 2 * HOUR), ("bob", "x", NOON - HOUR)]
    users, items, times = zip(*rows, strict=True)
    frame = pl.DataFrame({"user_id": users, "item_id": items, "value": [1.0] * 3, "time": times})
    report = fit(state, frame, MODELS)
    assert (report.refused_users, report.refused_interactions, report.interactions) == (0, 1, 2)
    assert fit(state, None).interactions == 2


def test_data_without_times_is_taken_with_a_warning(state, caplog):
    """Old and new cannot be told apart then; the log says how many rows that concerns, and names nobody."""
    work_off(state, AccountDeletion("d-1", "anna"))
    work_off(state, Readmission("b-1", "anna"))
    fit(state, interactions(ROWS), MODELS)
    (record,) = [entry for entry in caplog.records if "admitted again" in entry.message]
    assert record.message.startswith("2 interactions")
    assert "anna" not in record.message


def test_it_waits_for_the_deletion_that_came_before_it(state, fence):
    """Deleted and back before the cycle ran: first erased, then admitted, in one run."""
    with Engine.open(state) as engine:
        record(engine, AccountDeletion("d-1", "anna"), Readmission("b-1", "anna"))
        waiting = engine.pending()
        assert engine.ledger.counts()["received"] == 1
        assert fence.is_fenced("anna")
        engine.apply(waiting)
        assert engine.ledger.counts()["admitted"] == 1
    assert not fence.is_fenced("anna")
    assert load_snapshot(state).user_ids() == ["bob", "cleo"]
    assert verify_state(state).problems == []


def test_a_replayed_event_changes_nothing(state, fence):
    """The same re-admission, again after a second deletion, is a repetition; the user stays fenced."""
    work_off(state, AccountDeletion("d-1", "anna"))
    work_off(state, Readmission("b-1", "anna"))
    work_off(state, AccountDeletion("d-2", "anna"))
    with Engine.open(state) as engine:
        assert record(engine, Readmission("b-1", "anna"), AccountDeletion("d-1", "anna")) == 0
        engine.apply(engine.pending())
    assert fence.is_fenced("anna")


def test_a_late_duplicate_of_the_deletion_does_nothing_and_another_id_deletes_anew(state, fence):
    """Same id: a repetition. Another id: somebody asked again, after the return."""
    work_off(state, AccountDeletion("d-1", "anna"))
    work_off(state, Readmission("b-1", "anna"))
    fit(state, interactions(ROWS), MODELS)
    work_off(state, AccountDeletion("d-1", "anna"))
    assert not fence.is_fenced("anna")
    assert load_snapshot(state).has_user("anna")
    work_off(state, AccountDeletion("d-9", "anna"))
    assert fence.is_fenced("anna")
    assert said(state)["d-9"] == ("account", "removed")
    assert load_snapshot(state).user_ids() == ["bob", "cleo"]


def test_a_readmission_from_before_the_deletion_is_refused(state, fence):
    """It arrived late: what it says was undone by the deletion. That is an answer, with a receipt."""
    work_off(state, AccountDeletion("d-1", "anna", NOON))
    counts = work_off(state, Readmission("b-1", "anna", NOON - HOUR), Readmission("b-2", "anna", NOON))
    assert (counts["refused"], counts["admitted"]) == (2, 0)
    assert fence.is_fenced("anna")
    assert said(state)["b-1"] == ("readmission", "refused")
    assert verify_state(state).problems == []


def test_a_deletion_after_it_keeps_the_fence_up(state, fence):
    """Deleted, back, deleted again before any of it was carried out: the last word counts."""
    work_off(
        state, AccountDeletion("d-1", "anna"), Readmission("b-1", "anna"), AccountDeletion("d-2", "anna")
    )
    assert fence.is_fenced("anna")
    assert fit(state, interactions(ROWS), MODELS).refused_users == 1


def test_taking_back_the_deletion_after_it_leaves_the_return(state, fence):
    """Deleted, back, deleted again, the last taken back: the user is in."""
    work_off(state, AccountDeletion("d-1", "anna"))
    work_off(state, Readmission("b-1", "anna"))
    with Engine.open(state) as engine:
        record(engine, AccountDeletion("d-2", "anna"))
        assert fence.is_fenced("anna")
        engine.ledger.cancel("d-2")
    assert not fence.is_fenced("anna")


def test_who_was_never_erased_is_answered_so(state, fence):
    """A re-admission of somebody who is there, or unknown, is answered with nothing; removals stay."""
    work_off(state, InteractionRemoval("r-1", "anna", "x"))
    work_off(state, Readmission("b-1", "anna"), Readmission("b-2", "nobody"))
    assert said(state)["b-1"] == said(state)["b-2"] == ("readmission", "nothing")
    assert fit(state, interactions(ROWS), MODELS).refused_interactions == 1
    work_off(state, AccountDeletion("d-1", "nobody"))
    assert fence.is_fenced("nobody")


def test_single_interactions_of_who_comes_back_are_admitted_too(state):
    """The fence of a person's single interactions comes down with that of their account."""
    work_off(state, InteractionRemoval("r-1", "anna", "x"), AccountDeletion("d-1", "anna"))
    work_off(state, Readmission("b-1", "anna"))
    assert fit(state, interactions(ROWS), MODELS).refused_interactions == 0


def test_its_request_id_cannot_be_that_of_a_deletion(state):
    """A known id on another kind of request is a conflict, not a repetition."""
    with Engine.open(state) as engine:
        record(engine, AccountDeletion("d-1", "anna"))
        assert engine.ledger.check([Received(Readmission("d-1", "anna"))]).conflicts == {0}


def test_a_crash_between_record_and_admission_is_made_good(state, fence):
    """A re-admission that is only recorded is carried out by the next start, or by a fit."""
    work_off(state, AccountDeletion("d-1", "anna"))
    with Engine.open(state) as engine:
        record(engine, Readmission("b-1", "anna"))
    assert fence.is_fenced("anna")
    assert fit(state, interactions(ROWS), MODELS).refused_users == 0
    assert not fence.is_fenced("anna")
    assert said(state)["b-1"] == ("readmission", "readmitted")


def test_two_returns_and_two_anonymisations_that_all_wait(state, fence):
    """Each return answers what came before it; the last anonymisation, taken back, leaves the user in."""
    work_off(state, Anonymisation("a-1", "anna"))
    with Engine.open(state) as engine:
        record(
            engine,
            InteractionRemoval("r-1", "anna", "x"),
            Readmission("b-1", "anna"),
            Anonymisation("a-2", "anna"),
            Readmission("b-2", "anna"),
            Anonymisation("a-3", "anna"),
        )
        engine.ledger.cancel("a-3")
        engine.apply(engine.pending())
    assert not fence.is_fenced("anna")
    assert said(state)["b-1"] == said(state)["b-2"] == ("readmission", "readmitted")


def test_a_refit_keeps_who_waits_to_be_anonymised(state, fence):
    """Their rows are to stay: a fit that comes first does not lose them, and nobody is served them."""
    with Engine.open(state) as engine:
        record(engine, Anonymisation("a-1", "anna"))
    assert fit(state, None).refused_users == 0
    assert fence.is_fenced("anna")
    work_off(state)
    assert len(load_snapshot(state).user_ids()) == 3
    assert said(state)["a-1"] == ("anonymisation", "anonymised")
    assert fit(state, interactions(ROWS), MODELS).refused_users == 1
