"""The request ledger: recorded once, moved only along allowed transitions, no id left after erasure."""

import itertools
import random
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import apsw
import msgspec
import pytest
import recunlearn.engine.ledger_intake
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.ledger import TRANSITIONS, DeadLetter, Ledger, LedgerError, Received
from recunlearn.engine.ledger_schema import SCHEMA
from recunlearn.engine.request_states import STEPS
from recunlearn.engine.requests import (
    AccountDeletion,
    Anonymisation,
    InteractionRemoval,
    Readmission,
    canonical_id,
)
from recunlearn.engine.state import StateError, StatePaths

from .popularity import files_with


@pytest.fixture
def paths(tmp_path):
    """Make a state with a key."""
    paths = StatePaths(tmp_path)
    FenceKey.create(paths)
    return paths


@pytest.fixture
def ledger(paths):
    """Open a new ledger."""
    with Ledger.create(paths, FenceKey.load(paths)) as ledger:
        yield ledger


def record(ledger, *requests, **kwargs):
    """Record requests without coordinates."""
    return ledger.record([Received(request) for request in requests], **kwargs)


def erase(ledger, version=1):
    """Carry out all that waits."""
    cycle = ledger.begin_cycle(version, {pending.seq: "removed" for pending in ledger.pending()})
    ledger.publish_cycle(cycle, {"version": version})
    return ledger.finish_cycle(cycle, {})


def test_a_request_is_recorded_once(ledger):
    """The same request id again, or the same request in the other type of id, changes nothing."""
    assert record(ledger, AccountDeletion("e-1", 42), AccountDeletion("e-1", "42")) == 1
    assert record(ledger, AccountDeletion("e-1", "42")) == 0
    erase(ledger)
    assert record(ledger, AccountDeletion("e-1", "42")) == 0
    assert ledger.counts()["erased"] == 1


def test_fenced_is_stamped_once_the_fence_is_written(ledger, monkeypatch):
    """The last thing before the commit, for the requests of this transaction; not for who comes back."""
    clock = SimpleNamespace(time=partial(next, itertools.count(100.0)))
    monkeypatch.setattr(recunlearn.engine.ledger_intake, "time", clock)
    record(ledger, AccountDeletion("e-1", "anna"), AccountDeletion("e-2", "ben"))
    record(
        ledger, AccountDeletion("e-3", "carl"), Readmission("e-4", "anna", datetime(2026, 1, 1, tzinfo=UTC))
    )
    stamps = ledger._connection.execute("SELECT received_at, fenced_at FROM requests ORDER BY seq").fetchall()
    assert stamps == [(100.0, 101.0), (100.0, 101.0), (102.0, 103.0), (102.0, None)]


def test_a_request_id_used_for_somebody_else_is_a_conflict(ledger):
    """A second subject under a known request id is reported, within a batch, later, and after erasure."""
    anna, bob = AccountDeletion("e-1", "anna"), AccountDeletion("e-1", "bob")
    assert ledger.check([Received(anna), Received(bob), Received(anna)]).conflicts == {1}
    record(ledger, anna)
    assert ledger.check([Received(bob), Received(anna)]).conflicts == {0}
    assert ledger.check([Received(InteractionRemoval("e-1", "anna", "x"))]).conflicts == {0}
    erase(ledger)
    assert ledger.check([Received(bob), Received(anna)]).conflicts == {0}


_ids = st.one_of(
    st.sampled_from(["a", "b", "0", "00", "null", '"', "\\", "a\x00b", "\u2028", "\U0001f600", "1e3"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
)
_times = st.none() | st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
_requests = st.one_of(
    st.builds(AccountDeletion, _ids, _ids | st.integers(), _times),
    st.builds(Anonymisation, _ids, _ids, _times),
    st.builds(Readmission, _ids, _ids, _times),
    st.builds(InteractionRemoval, _ids, _ids, _ids | st.integers(), _times),
)
_TABLES = (
    "SELECT seq, hex(request_key), kind, hex(subject), source_partition, source_offset, requested_at, state, "
    "fenced_at IS NULL FROM requests ORDER BY seq",
    "SELECT seq, request_id, user_id, item_id FROM open_ids ORDER BY seq",
    "SELECT hex(subject), hex(owner), kind, first, last, erased FROM fence ORDER BY subject",
)


def tables_of(ledger):
    """Return what the tables hold, but for the times at which it came there."""
    return [ledger._connection.execute(query).fetchall() for query in _TABLES]


@settings(max_examples=25, deadline=None)
@given(st.lists(_requests, max_size=20))
def test_requests_recorded_at_once_are_as_those_recorded_one_by_one(tmp_path_factory, asked):
    """In every table, whatever is in their ids and times; and they wait as they were asked."""
    received = [Received(request, f"t-{k % 3}", k) for k, request in enumerate(asked)]
    found = []
    for portions in ([received], [[one] for one in received]):
        paths = StatePaths(tmp_path_factory.mktemp("state"))
        with Ledger.create(paths, FenceKey(bytes(32))) as ledger:
            new = sum(ledger.record(portion) for portion in portions)
            found.append((new, tables_of(ledger)))
            waiting = {one.request.request_id: one.request for one in ledger.pending()}
    assert found[0] == found[1]
    first = {}
    for request in asked:
        first.setdefault(request.request_id, request)
    expected = {name: as_canonical(one) for name, one in first.items() if not isinstance(one, Readmission)}
    assert waiting == expected


def as_canonical(request):
    """Return a request with its ids as texts."""
    ids = {"user_id": canonical_id(request.user_id)}
    if isinstance(request, InteractionRemoval):
        ids["item_id"] = canonical_id(request.item_id)
    return msgspec.structs.replace(request, **ids)


def test_what_waits_comes_back_as_it_was_asked(ledger):
    """Pending requests keep their order, ids and times."""
    at = datetime(2026, 11, 24, 10, tzinfo=UTC)
    record(ledger, AccountDeletion("e-1", "anna", at), InteractionRemoval("e-2", "bob", 7))
    first, second = ledger.pending()
    assert first.request == AccountDeletion("e-1", "anna", at)
    assert second.request == InteractionRemoval("e-2", "bob", "7")
    assert [pending.seq for pending in ledger.pending(1)] == [first.seq]


def test_positions_are_stored_with_the_requests_they_cover(ledger, monkeypatch):
    """If the transaction fails, neither the request nor the position is there."""
    record(ledger, AccountDeletion("e-1", "anna"), source="journal", positions={"journal": 1})
    with pytest.raises(TypeError):
        record(ledger, AccountDeletion("e-2", "bob"), AccountDeletion("e-3", None), positions={"journal": 9})
    assert ledger.positions("journal") == {"journal": 1}
    assert len(ledger.pending()) == 1
    assert ledger.positions("kafka") == {}


def test_after_erasure_no_file_holds_the_id(paths):
    """Ids, and request ids that give the user away, are gone from pages, free pages and log."""
    with Ledger.create(paths, FenceKey.load(paths)) as ledger:
        for batch in range(5):
            record(
                ledger,
                *(AccountDeletion(f"delete-subject-{batch}-{k}", f"subject-{batch}-{k}") for k in range(60)),
                InteractionRemoval(f"r-{batch}", "subject-of-one", f"unusual-item-{batch}"),
            )
        assert files_with(paths.root, "subject-3-31", "unusual-item-2")
        assert erase(ledger) == 305
        assert ledger.purge()
        assert not files_with(paths.root, "subject-", "unusual-item")
        assert ledger.counts()["erased"] == 305


def test_no_id_stays_in_the_gaps_of_pages(paths):
    """Of thousands of erasures in many batches, some of whose requests still wait, no byte of an id is left.

    SQLite's secure_delete leaves copies in pages whose cells were moved: with request ids in an index of
    their own, some of these were found.
    """
    order = random.Random(7)  # noqa: S311  a seed, not a secret
    people = [f"subject-{k:06d}" for k in range(3000)]
    order.shuffle(people)
    with Ledger.create(paths, FenceKey.load(paths)) as ledger:
        gone = []
        for start in range(0, len(people), 120):
            batch = people[start : start + 120]
            record(ledger, *(AccountDeletion(f"delete-{user}-{k}", user) for k, user in enumerate(batch)))
            chosen = order.sample(ledger.pending(), 100)
            cycle = ledger.begin_cycle(start + 2, {pending.seq: "removed" for pending in chosen})
            ledger.finish_cycle(cycle, {})
            ledger.purge()
            gone += [pending.request.user_id for pending in chosen]
            content = paths.ledger.read_bytes()
            assert not {user.encode() for user in gone} & set(re.findall(rb"subject-[0-9]{6}", content))
        assert len(ledger.pending()) == len(people) - len(gone)


def test_an_erased_user_stays_fenced_and_a_pair_does_not_fence_its_user(paths, ledger):
    """An account is fenced from the record on and for ever; a single interaction leaves its user served."""
    fence = Fence(paths.root)
    record(ledger, AccountDeletion("e-1", "anna"), InteractionRemoval("e-2", "bob", "x"))
    assert fence.is_fenced("anna")
    erase(ledger)
    assert fence.is_fenced("anna")
    assert not fence.is_fenced("bob")
    assert not fence.is_fenced("x")
    key = FenceKey.load(paths)
    assert ledger.fenced_users(erased_only=True) == {key.user("anna")}
    assert ledger.fenced_pairs() == ({key.pair("bob", "x")}, {key.user("bob")})
    fence.close()


def test_a_cancelled_request_leaves_nothing(paths, ledger):
    """Taken back before erasing, its id is cleared and its fence comes down, unless another holds it up."""
    fence = Fence(paths.root)
    record(
        ledger, AccountDeletion("e-1", "anna"), AccountDeletion("e-2", "anna"), AccountDeletion("e-3", "bob")
    )
    ledger.cancel("e-1")
    assert fence.is_fenced("anna")
    ledger.cancel("e-2")
    assert not fence.is_fenced("anna")
    assert fence.is_fenced("bob")
    erase(ledger)
    with pytest.raises(LedgerError, match="is erased: it cannot become cancelled"):
        ledger.cancel("e-3")
    with pytest.raises(LedgerError, match="'e-9' is not in the ledger"):
        ledger.cancel("e-9")
    fence.close()


def test_failed_requests_stay_fenced_and_wait_again(paths, ledger):
    """A failure is counted with its reason; a retry puts the request back."""
    record(ledger, AccountDeletion("e-1", "anna"))
    ledger.fail(1, "model ease could not forget: MemoryError")
    assert ledger.failures() == [("e-1", "model ease could not forget: MemoryError")]
    assert ledger.pending() == []
    assert ledger.oldest_pending() is not None
    assert ledger.retry_failed() == 1
    assert len(ledger.pending()) == 1


def test_an_abandoned_cycle_puts_its_requests_back(ledger):
    """A cycle that did not publish leaves the requests as they were."""
    record(ledger, AccountDeletion("e-1", "anna"))
    cycle = ledger.begin_cycle(2, {1: "removed"})
    assert ledger.pending() == []
    assert [c.version for c in ledger.unfinished_cycles()] == [2]
    ledger.abandon_cycle(cycle)
    assert len(ledger.pending()) == 1
    assert ledger.unfinished_cycles() == []
    assert ledger.published_version() == 0


@settings(max_examples=40, deadline=None)
@given(moves=st.lists(st.sampled_from(["begin", "finish", "abandon", "fail", "retry", "cancel"]), max_size=8))
def test_only_allowed_transitions_happen(tmp_path_factory, moves):
    """Whatever is tried in whatever order, a request moves only along the table of transitions."""
    paths = StatePaths(tmp_path_factory.mktemp("ledger"))
    with Ledger.create(paths, FenceKey.create(paths)) as ledger:
        record(ledger, AccountDeletion("e-1", "anna"))
        cycle, state = None, "fenced"
        for move in moves:
            expected = {
                "begin": "erasing", "finish": "erased", "abandon": "fenced",
                "fail": "failed", "retry": "fenced", "cancel": "cancelled",
            }[move]  # fmt: skip
            try:
                if move == "begin":
                    cycle = ledger.begin_cycle(2, {1: "removed"})
                elif move == "finish" and cycle is not None:
                    ledger.finish_cycle(cycle, {})
                elif move == "abandon" and cycle is not None:
                    ledger.abandon_cycle(cycle)
                elif move == "fail":
                    ledger.fail(1, "why")
                elif move == "retry":
                    ledger.retry_failed()
                elif move == "cancel":
                    ledger.cancel("e-1")
            except LedgerError:
                assert expected not in TRANSITIONS[state]
            counts = ledger.counts()
            now = next(name for name in TRANSITIONS if counts[name])
            assert now == state or now in TRANSITIONS[state]
            state = now


def test_dead_letters_are_counted_once(ledger):
    """The same unreadable record, read again after a crash, is one duty that is not fulfilled."""
    letter = DeadLetter("journal", 3, "not JSON")
    for _ in range(2):
        record(ledger, source="journal", positions={"journal": 4}, dead_letters=[letter])
    assert ledger.counts()["dead_letters"] == 1


def test_a_ledger_that_is_not_one_is_refused_by_name(paths):
    """A missing ledger is not replaced, a damaged one is named."""
    with pytest.raises(LedgerError, match=r"ledger\.sqlite is missing"):
        Ledger(paths.ledger, FenceKey.load(paths))
    paths.ledger.write_bytes(b"this is not a database, it is text" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be read"):
        Ledger(paths.ledger, FenceKey.load(paths))


def test_the_keys_are_for_their_owner_only(paths):
    """Mode 0600 for the key, 0700 for its directory; a key of another length is refused."""
    assert paths.fence_key.stat().st_mode & 0o777 == 0o600
    assert paths.keys.stat().st_mode & 0o777 == 0o700
    paths.fence_key.write_bytes(b"short")
    with pytest.raises(StateError, match="32 bytes"):
        FenceKey.load(paths)


def test_erasure_needs_secure_delete(paths, ledger):
    """The connection zeroes freed bytes and syncs every commit."""
    connection = ledger._connection
    assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


@given(st.one_of(st.integers(), st.text(min_size=1)))
def test_ids_have_one_canonical_text(external_id):
    """An integer and its decimal text are one id; what UTF-8 cannot carry is refused."""
    try:
        text = canonical_id(external_id)
    except ValueError:
        assert any(0xD800 <= ord(letter) < 0xE000 for letter in external_id)
    else:
        assert text == str(external_id) == canonical_id(text)


def test_the_table_of_transitions_is_the_one_in_the_docs():
    """docs/explanation/cycle.md lists every step and its cause as the code has them, and no other."""
    page = (Path(recunlearn.__file__).parent / "docs/explanation/cycle.md").read_text(encoding="utf-8")
    rows = page.partition("| from | to | caused by |\n|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert [tuple(row.strip("| ").split(" | ")) for row in rows] == [tuple(step) for step in STEPS]


@pytest.mark.parametrize("before", TRANSITIONS)
@pytest.mark.parametrize("after", TRANSITIONS)
def test_the_tables_themselves_refuse_what_is_no_transition(ledger, before, after):
    """Even a statement past the ledger's code moves a request only along the table."""
    record(ledger, AccountDeletion("e-1", "anna"))
    connection = ledger._connection
    connection.execute("DROP TRIGGER requests_move")
    connection.execute("UPDATE requests SET state = ?", (before,))
    for statement in SCHEMA:
        connection.execute(statement)
    if after in TRANSITIONS[before]:
        connection.execute("UPDATE requests SET state = ?", (after,))
    else:
        with pytest.raises(apsw.ConstraintError, match="not allowed"):
            connection.execute("UPDATE requests SET state = ?", (after,))
    with pytest.raises(apsw.ConstraintError):
        connection.execute(
            "INSERT INTO requests (request_key, kind, subject, received_at, state) "
            "SELECT 'x', kind, subject, 0, 'erased' FROM requests"
        )


def test_a_ledger_of_another_release_is_refused(paths):
    """Tables of another version are named, not guessed at."""
    with Ledger.create(paths, FenceKey.load(paths)) as ledger:
        ledger._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="tables of version 99"):
        Ledger(paths.ledger, FenceKey.load(paths))


def test_the_ledger_forgets_what_receipts_say(ledger):
    """A cycle's record goes once its requests have receipts: the ledger does not grow with the models."""
    for number in range(3):
        record(ledger, AccountDeletion(f"e-{number}", f"user-{number}"))
        erase(ledger, number + 2)
    ledger.note_receipts({1: 0, 2: 1, 3: 2})
    records = ledger._connection.execute("SELECT record IS NULL FROM cycles ORDER BY cycle").fetchall()
    assert records == [(1,), (1,), (0,)]
    assert ledger.published_version() == 4
