"""The intake: one portion is recorded while the next is read; nothing is lost, doubled or disordered."""

import json
import threading
import time

import pytest
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.state import StatePaths
from recunlearn.streaming.formats import Reader
from recunlearn.streaming.intake import Intake
from recunlearn.streaming.source import Record, SourceAwayError

from .topics import wait_until


def event(request_id, user):
    """Make an account deletion's bytes."""
    return json.dumps({"id": request_id, "type": "account.deleted", "user_id": user}).encode()


class Portions:
    """A source of one partition that hands over given portions; notes what it is told."""

    identity = None

    def __init__(self, *portions, away=0):
        values = [value for portion in portions for value in portion]
        self.records = [Record("t-0", offset, value) for offset, value in enumerate(values)]
        self.sizes, self.away = [len(portion) for portion in portions], away
        self.place, self.calls, self.letters = 0, [], []

    def poll(self, timeout, limit):
        """Return the next portion."""
        size = self.sizes.pop(0) if self.sizes else 0
        self.calls.append(("poll", timeout > 0))
        polled = self.records[self.place : self.place + size]
        self.place += size
        return polled

    def commit(self, positions):
        """Note it."""
        self.calls.append(("commit", positions["t-0"]))

    def seek(self, positions):
        """Go back, and hand over the rest one by one."""
        self.place = positions.get("t-0", 0)
        self.sizes = [1] * (len(self.records) - self.place)
        self.calls.append(("seek", self.place))

    def dead_letters(self, letters):
        """Keep them, unless the place for them is away."""
        self.away -= 1
        if self.away >= 0:
            raise SourceAwayError("the place for dead letters does not answer")
        self.letters += [(record.offset, reason) for record, reason in letters]


@pytest.fixture
def ledger(tmp_path):
    """Open a new ledger."""
    paths = StatePaths(tmp_path)
    with Ledger.create(paths, FenceKey.create(paths)) as ledger:
        yield ledger


@pytest.fixture
def held(monkeypatch):
    """Hold every recording until the event is set."""
    go_on, plain = threading.Event(), Ledger.record

    def record(ledger, *args, **kwargs):
        assert go_on.wait(20)
        return plain(ledger, *args, **kwargs)

    monkeypatch.setattr(Ledger, "record", record)
    return go_on


def intake_of(source, ledger, taken=lambda taken: None):
    """Make the intake of a source, with simple events."""
    return Intake(source, "topic", ledger, Reader(), taken)


def drain(source, ledger):
    """Take everything in."""
    with intake_of(source, ledger) as intake:
        while intake.poll():
            pass


def users(ledger):
    """Return whose requests wait, in order."""
    return [one.request.user_id for one in ledger.pending()]


def test_the_next_portion_is_read_while_one_is_recorded_and_no_further_one(ledger, held):
    """While the first is held, the second is polled without waiting; then everything waits for the first."""
    source = Portions(*([event(f"e-{k}", f"user-{k}")] for k in range(4)))
    told = []
    with intake_of(source, ledger, lambda taken: told.append(taken.records[0].offset)) as intake:
        assert intake.poll()
        second = threading.Thread(target=intake.poll)
        second.start()
        wait_until(lambda: len(source.calls) == 2, 20)
        time.sleep(0.05)
        assert second.is_alive()
        assert source.calls == [("poll", True), ("poll", False)]
        assert told == []
        held.set()
        second.join()
        while intake.poll():
            pass
    assert told == [0, 1, 2, 3]
    assert users(ledger) == [f"user-{k}" for k in range(4)]
    assert [at for call, at in source.calls if call == "commit"] == [1, 2, 3, 4]
    assert ledger.positions("topic") == {"t-0": 4}


def test_a_portion_is_committed_after_it_is_durable(ledger):
    """Each commit finds its position, and the requests before it, in the ledger already."""
    source = Portions(*([event(f"e-{k}", k)] for k in range(5)))
    plain, seen = source.commit, []

    def commit(positions):
        seen.append((positions["t-0"], ledger.positions("topic")["t-0"], len(ledger.pending())))
        plain(positions)

    source.commit = commit
    drain(source, ledger)
    assert seen == [(k, k, k) for k in range(1, 6)]


def test_a_repetition_is_told_in_the_portion_that_is_read_ahead(ledger, held):
    """The same request is recorded once, and its id for somebody else is set aside, though read early."""
    source = Portions(
        [event("e-1", "anna")], [event("e-1", "anna"), event("e-1", "bob"), event("e-2", "carl")], []
    )
    recorded = []
    with intake_of(source, ledger, lambda taken: recorded.append(taken.recorded)) as intake:
        intake.poll()
        threading.Timer(0.05, held.set).start()
        while intake.poll():
            pass
    assert recorded == [1, 1]
    assert users(ledger) == ["anna", "carl"]
    assert source.letters == [(2, "the request id was used for another subject before")]


def test_what_was_read_ahead_of_a_portion_that_is_not_recorded_is_read_again(ledger):
    """The place for dead letters is away: nothing after it is recorded before it, and nothing twice."""
    source = Portions([event("e-0", "anna")], [b"{broken"], [event("e-1", "bob")], away=2)
    told = []
    with intake_of(source, ledger, lambda taken: told.extend(one.offset for one in taken.records)) as intake:
        while intake.poll() or source.sizes:
            pass
    assert told == [0, 1, 2]
    assert users(ledger) == ["anna", "bob"]
    assert [call for call in source.calls if call[0] == "seek"] == [("seek", 1)] * 2
    assert source.letters == [(1, "not JSON")]


def test_an_error_of_the_recording_ends_the_intake_before_anything_else_is_recorded(ledger, monkeypatch):
    """It is raised where the next portion would be begun, which is then not recorded."""
    source, plain = Portions(*([event(f"e-{k}", k)] for k in range(3))), Ledger.record

    def breaks(ledger, checked, **kwargs):
        if kwargs["positions"] == {"t-0": 2}:
            raise OSError("the disk is gone")
        return plain(ledger, checked, **kwargs)

    monkeypatch.setattr(Ledger, "record", breaks)
    with pytest.raises(OSError, match="the disk is gone"):
        drain(source, ledger)
    assert users(ledger) == ["0"]
    assert ledger.positions("topic") == {"t-0": 1}
    assert "recording" not in {one.name for one in threading.enumerate()}


def test_what_is_under_way_at_the_end_is_durable_and_committed(ledger, held):
    """The block does not end before."""
    source = Portions([event("e-1", "anna")])
    threading.Timer(0.1, held.set).start()
    with intake_of(source, ledger) as intake:
        intake.poll()
    assert users(ledger) == ["anna"]
    assert source.calls[-1] == ("commit", 1)


@pytest.mark.parametrize("breaks", [False, True])
def test_what_is_under_way_when_the_source_breaks_is_finished_all_the_same(ledger, held, caplog, breaks):
    """The source's error is raised; that of the recording, if there is one, is logged."""
    source = Portions([b"{broken" if breaks else event("e-1", "anna")], away=int(breaks))

    def poll_once(timeout, limit, plain=source.poll):
        if source.calls:
            raise OSError("the source is gone")
        return plain(timeout, limit)

    source.poll = poll_once
    threading.Timer(0.1, held.set).start()
    with pytest.raises(OSError, match="the source is gone"):
        drain(source, ledger)
    assert users(ledger) == ([] if breaks else ["anna"])
    assert ("what was read last is not recorded: SourceAwayError" in caplog.text) == breaks
