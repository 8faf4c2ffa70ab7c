"""Taking a request back: before erasing only, once for all, and as if it had never been asked."""

import json
import threading

import pytest
import typer.testing
from recunlearn import cli
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger, LedgerError, Received
from recunlearn.engine.metrics import duties
from recunlearn.engine.overview import overview
from recunlearn.engine.receipts import read_lines
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.status import state_status
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker

from .popularity import interactions

ROWS = [("anna", "x"), ("anna", "y"), ("bob", "x"), ("bob", "z"), ("cleo", "y")]
EVENT = b'{"id": "e-1", "type": "account.deleted", "user_id": "anna"}'


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    return tmp_path / "state"


@pytest.fixture
def fence(state):
    """Open the fence as a server has it."""
    fence = Fence(state)
    yield fence
    fence.close()


def invoke(*arguments):
    """Run a command; returns its exit code and what it said."""
    done = typer.testing.CliRunner().invoke(cli.app, [*map(str, arguments)])
    return done.exit_code, done.stdout or str(done.exception)


def test_what_waits_in_the_journal_is_taken_back_and_never_carried_out(state, fence):
    """Nobody has read it yet: it is read, taken back, and the user is served as before."""
    append(state / "journal", [EVENT])
    code, said = invoke("cancel", "--state", state, "e-1", "--json")
    assert (code, json.loads(said)) == (
        0, {"request_id": "e-1", "kind": "account", "state": "cancelled", "before": False, "fenced": False}
    )  # fmt: skip
    assert invoke("run", "--state", state, "--once")[0] == 0
    assert not fence.is_fenced("anna")
    assert load_snapshot(state).has_user("anna")
    assert load_snapshot(state).version == 1


def test_the_same_event_late_or_replayed_does_not_revive_it(state, fence):
    """Its id stays known; the same wish under another id is another request."""
    append(state / "journal", [EVENT])
    assert invoke("cancel", "--state", state, "e-1")[0] == 0
    append(state / "journal", [EVENT, EVENT])
    assert invoke("run", "--state", state, "--once")[0] == 0
    assert not fence.is_fenced("anna")
    append(state / "journal", [EVENT.replace(b"e-1", b"e-2")])
    assert invoke("run", "--state", state, "--once")[0] == 0
    assert fence.is_fenced("anna")
    assert not load_snapshot(state).has_user("anna")


def test_taken_back_twice_is_taken_back_once(state):
    """A second call says so and changes nothing."""
    append(state / "journal", [EVENT])
    assert "is taken back" in invoke("cancel", "--state", state, "e-1")[1]
    stamped = done_at(state)
    code, said = invoke("cancel", "--state", state, "e-1")
    assert (code, "was taken back before" in said) == (0, True)
    assert done_at(state) == stamped > 0


def done_at(state):
    """Return when the first request ended, as the ledger has it."""
    with Engine.open(state) as engine:
        ((at,),) = engine.ledger._connection.execute("SELECT done_at FROM requests WHERE seq = 1")
        return at


@pytest.mark.parametrize("other", [AccountDeletion("e-2", "anna"), None])
def test_what_another_request_or_an_erasure_fences_stays_fenced(state, fence, other):
    """Only the fence that the request alone put up comes down, and the command says which."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(other or AccountDeletion("e-0", "anna"))])
        if other is None:
            engine.apply(engine.pending())
        engine.ledger.record([Received(AccountDeletion("e-1", "anna"))])
    code, said = invoke("cancel", "--state", state, "e-1", "--json")
    assert (code, json.loads(said)["fenced"]) == (0, True)
    assert fence.is_fenced("anna")


def test_too_late_or_unknown_is_an_error_that_says_so(state):
    """What is erased cannot be taken back; what nobody asked neither; exit code 1, nothing changed."""
    append(state / "journal", [EVENT])
    assert invoke("run", "--state", state, "--once")[0] == 0
    code, said = invoke("cancel", "--state", state, "e-1")
    assert (code, "is erased: it cannot become cancelled" in said) == (1, True)
    code, said = invoke("cancel", "--state", state, "e-9")
    assert (code, "'e-9' is not in the ledger" in said) == (1, True)


def test_taken_back_while_a_batch_is_planned_the_others_are_erased(state, fence):
    """The request was among those that wait, and is cancelled before the cycle takes them up."""
    with Engine.open(state) as engine:
        requests = [AccountDeletion("e-1", "anna"), AccountDeletion("e-2", "bob")]
        engine.ledger.record([Received(request) for request in requests])
        batch = engine.pending()
        engine.ledger.cancel("e-1")
        assert (engine.apply(batch).erased, engine.manifest.version) == (1, 2)
        engine.ledger.record([Received(InteractionRemoval("e-3", "anna", "x"))])
        batch = engine.pending()
        engine.ledger.cancel("e-3")
        report = engine.apply(batch)
        assert (report.erased, report.failed, report.version) == (0, 0, 2)
    assert load_snapshot(state).user_ids() == ["anna", "cleo"]
    assert not fence.is_fenced("anna")


def test_taken_back_while_a_model_fails_at_it_it_is_no_failure(state):
    """The last word is whoever asked's: it does not become a duty that is not fulfilled."""
    with Engine.open(state) as engine:
        engine.ledger.record([Received(AccountDeletion("e-1", "anna"))])
        engine.ledger.cancel("e-1")
        assert not engine.ledger.fail(1, "model popularity could not forget: RuntimeError")
        assert engine.ledger.counts()["failed"] == 0


def test_beside_a_running_worker_the_last_word_is_one_of_the_two(state):
    """Cancelled while the worker is at it, each request ends erased or cancelled, and the store agrees."""
    users = [f"user-{k:03d}" for k in range(30)]
    fit(state, interactions([(user, "x") for user in users]), {"popularity": {}})
    cancelled = set()

    def ask_and_take_back():
        try:
            for k, user in enumerate(users):
                event = EVENT.replace(b"e-1", b"e-%d" % k).replace(b"anna", user.encode())
                append(state / "journal", [event])
                if invoke("cancel", "--state", state, f"e-{k}")[0] == 0:
                    cancelled.add(user)
        finally:
            worker.stop()

    with Engine.open(state) as engine:
        worker = Worker(engine, lambda: Journal(state / "journal"))
        asking = threading.Thread(target=ask_and_take_back)
        asking.start()
        worker.run()
        asking.join()
        engine.apply(engine.pending())
        counts = engine.ledger.counts()
    assert (counts["cancelled"], counts["erased"]) == (len(cancelled), len(users) - len(cancelled))
    assert set(load_snapshot(state).user_ids()) == cancelled


def test_it_is_counted_and_gets_no_receipt(state):
    """Status, page and metrics count it; a receipt says what was done, and nothing was."""
    append(state / "journal", [EVENT])
    assert invoke("cancel", "--state", state, "e-1")[0] == 0
    assert invoke("run", "--state", state, "--once")[0] == 0
    paths = StatePaths(state)
    status = state_status(paths)
    assert status["other_requests"]["cancelled"] == 1
    assert (status["requests"]["pending"], status["oldest_pending_seconds"]) == (0, 0.0)
    gauges = {
        sample.labels["state"]: sample.value
        for metric in duties(status) if metric.name == "recunlearn_requests" for sample in metric.samples
    }  # fmt: skip
    assert gauges["cancelled"] == 1.0
    assert overview(paths)["states"]["cancelled"]["count"] == 1
    assert read_lines(paths) == []


def test_an_id_that_another_process_uses_meanwhile_does_not_pass_for_a_repetition(state):
    """Between looking up and recording, for somebody else: an error, and nothing of the batch is recorded."""
    paths = StatePaths(state)
    key = FenceKey.load(paths)
    with Ledger(paths.ledger, key) as ledger, Ledger(paths.ledger, key) as other:
        checked = ledger.check(
            [Received(AccountDeletion("e-2", "cleo")), Received(AccountDeletion("e-1", "bob"))]
        )
        other.record([Received(AccountDeletion("e-1", "anna"))])
        with pytest.raises(LedgerError, match="another subject"):
            ledger.record(checked)
        assert [one.request.user_id for one in ledger.pending()] == ["anna"]
        repeated = ledger.check([Received(AccountDeletion("e-2", "cleo"))])
        other.record([Received(AccountDeletion("e-2", "cleo"))])
        assert ledger.record(repeated) == 0
