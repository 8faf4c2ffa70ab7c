"""Random interleavings of everything that can be asked, with kills, replays and re-imports, against a model.

``RECUNLEARN_INTERLEAVINGS=1000 pytest tests/test_interleavings.py`` for the long run.
"""

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from recunlearn.engine import durable
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.interactions import read_store
from recunlearn.engine.ledger import LedgerError, Received
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion, Anonymisation, InteractionRemoval, Readmission
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import Store

from .interleavings import CANCELLED, OPEN, World
from .popularity import interactions

RUNS = int(os.environ.get("RECUNLEARN_INTERLEAVINGS", "100"))
SHELF = Path("/dev/shm")  # noqa: S108  a folder of one's own is made in it
USERS, ITEMS = range(1, 5), range(1, 4)
TIMES = {"old": datetime(1990, 1, 1, tzinfo=UTC), "new": datetime(2190, 1, 1, tzinfo=UTC)}
ORIGINAL = {(user, item): "old" for user in USERS for item in ITEMS if (user + item) % 3} | {(9, 1): "old"}
KINDS = {
    "account": AccountDeletion,
    "anonymisation": Anonymisation,
    "readmission": Readmission,
}
kills = st.one_of(st.none(), st.none(), st.integers(1, 130))
users, items = st.sampled_from((1, 1, 1, 1, 2, 2, 3, 4)), st.sampled_from((1, 1, 2, 3))  # most meet


class KilledError(BaseException):
    """Stands for a crash at a step."""


class Interleavings(RuleBasedStateMachine):
    """The engine beside the model."""

    @initialize()
    def begin(self):
        """Fit a state."""
        self.root = Path(tempfile.mkdtemp(dir=SHELF if os.access(SHELF, os.W_OK) else None))
        self.state = self.root / "state"
        self.world = World((user, item, age) for (user, item), age in ORIGINAL.items())
        fit(self.state, frame(ORIGINAL), {"popularity": {}})
        self.engine = Engine.open(self.state)
        self.fence = Fence(self.state)
        self.version = 1

    def teardown(self):
        """Carry out what waits, and look at everything."""
        if hasattr(self, "engine"):
            self.work_off(None)
            self.check_everything()
            self.engine.close()
            self.fence.close()
            shutil.rmtree(self.root)

    def killed_in(self, work, kill):
        """Do some work, killed at a step if it comes to it; then start again. Tells whether it was."""
        left = kill or 0

        def step(name):
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError(name)

        plain = durable.reached
        durable.reached = step if kill else plain
        try:
            work()
        except KilledError:
            was_killed = True
        else:
            was_killed = False
        finally:
            durable.reached = plain
        if was_killed:
            self.restart()
        return was_killed

    @rule()
    def restart(self):
        """Stop and start the worker."""
        self.engine.close()
        self.engine = Engine.open(self.state)
        if not hasattr(self, "unsure"):
            self.world.settle()

    @rule(kind=st.sampled_from(("account", "account", *sorted(KINDS))), user=users, kill=kills)
    def ask_about_an_account(self, kind, user, kill):
        """Delete, anonymise or admit somebody."""
        self.ask(kind, KINDS[kind](self.new_id(), user), kill)

    @rule(user=users, item=items, kill=kills)
    def ask_about_an_interaction(self, user, item, kill):
        """Remove one interaction."""
        self.ask("interaction", InteractionRemoval(self.new_id(), user, item), kill)

    @rule(kinds=st.lists(st.sampled_from((*KINDS, "interaction")), min_size=2, max_size=4), user=users)
    def ask_in_a_row(self, kinds, user):
        """Ask for several things about one person before anything is carried out."""
        for kind in kinds:
            if kind == "interaction":
                self.ask(kind, InteractionRemoval(self.new_id(), user, 1), None)
            else:
                self.ask(kind, KINDS[kind](self.new_id(), user), None)

    def new_id(self):
        """Make the id of the next request."""
        return f"e-{len(self.world.asked) + 1}"

    def ask(self, kind, request, kill):
        """Record; after a kill the source sends it again."""
        self.killed_in(lambda: self.engine.ledger.record([Received(request)]), kill)
        self.engine.ledger.record([Received(request)])
        self.world.ask(request.request_id, kind, request.user_id, getattr(request, "item_id", None))

    @precondition(lambda self: self.world.asked)
    @rule(pick=st.integers(0, 10_000))
    def replay(self, pick):
        """Any event of the past arrives again."""
        one = self.world.asked[pick % len(self.world.asked)]
        if one.kind == "interaction":
            request = InteractionRemoval(one.request_id, one.user, one.item)
        else:
            request = KINDS[one.kind](one.request_id, str(one.user))
        assert self.engine.ledger.check([Received(request)]).conflicts == set()
        assert self.engine.ledger.record([Received(request)]) == 0

    @precondition(lambda self: self.world.asked)
    @rule(pick=st.integers(0, 10_000), kill=kills)
    def cancel(self, pick, kill):
        """Take a request back, if it is not too late; after a kill it is asked for again."""
        one = self.world.asked[pick % len(self.world.asked)]
        if one.state in (OPEN, CANCELLED):
            self.killed_in(lambda: self.engine.ledger.cancel(one.request_id), kill)
            if one.state == OPEN and self.states()[one.request_id] not in ("cancelled", "fenced", "received"):
                assert kill  # the restart admitted who comes back before it could be asked for again
                return
            assert self.engine.ledger.cancel(one.request_id).kind == one.kind
            self.world.cancel(one)
        else:
            with pytest.raises(LedgerError, match="cannot become cancelled"):
                self.engine.ledger.cancel(one.request_id)

    @rule(kill=kills)
    def work_off(self, kill):
        """Run a cycle over all that waits; a kill leaves it whole or undone."""
        batch = [one.request_id for one in self.world.waiting()]
        self.killed_in(lambda: self.engine.apply(self.engine.pending()), kill)
        states = self.states()
        done = {states[request_id] not in ("fenced", "received") for request_id in batch}
        assert len(done) <= 1
        if done == {False}:
            assert kill
            self.world.settle()
        else:
            self.world.carry_out()

    @rule(kill=kills, newcomers=st.sets(st.tuples(users, items), max_size=4))
    def import_again(self, kill, newcomers):
        """Fit from the original file, with some new rows at its end."""
        self.fit(ORIGINAL | dict.fromkeys(newcomers, "new"), kill)

    @rule(kill=kills)
    def refit(self, kill):
        """Fit from what the state keeps."""
        self.fit(None, kill)

    def fit(self, rows, kill):
        """Fit; a kill leaves the version before or the one after."""
        given = self.world.rows if rows is None else rows
        self.engine.close()
        self.unsure = True
        was_killed = self.killed_in(lambda: fit(self.state, None if rows is None else frame(rows)), kill)
        del self.unsure
        if not was_killed:
            self.engine = Engine.open(self.state)
        self.world.settle()
        after = self.world.admissible(given)
        hidden = self.world.hidden if rows is None else []
        if was_killed and self.kept() != (sorted(after), sorted(hidden)):
            return
        self.world.rows, self.world.hidden = after, hidden

    def states(self):
        """Return request id -> state, from the ledger."""
        rows = self.engine.ledger._connection.execute(
            "SELECT coalesce(open_ids.request_id, requests.request_id), state "
            "FROM requests LEFT JOIN open_ids USING (seq)"
        )
        return dict(rows)

    def kept(self):
        """Return what the store holds: pairs of the named, item lists of the others."""
        manifest = load_snapshot(self.state, mapped=False).manifest
        stored = read_store(StatePaths(self.state), Store(manifest.interactions, manifest.partitions))
        pairs = [] if stored is None else [row[:2] for row in stored.select("user_id", "item_id").rows()]
        hidden = {}
        for user, item in pairs:
            if user >= 2**52:
                hidden.setdefault(user, []).append(item)
        return sorted(pair for pair in pairs if pair[0] < 2**52), sorted(map(sorted, hidden.values()))

    @invariant()
    def the_fence_is_the_models(self):
        """Who must not be served is not served."""
        for user in USERS:
            assert self.fence.is_fenced(user) == self.world.is_fenced(user), user

    @invariant()
    def the_store_is_the_models(self):
        """Exactly what should be kept is kept, and no version goes back."""
        assert self.kept() == self.world.kept()
        assert self.engine.manifest.version >= self.version
        self.version = self.engine.manifest.version

    def check_everything(self):
        """One receipt for each request that is done, with the model's outcome; verified; nothing open."""
        public = state_public_key(StatePaths(self.state)) if self.world.asked else None
        said = [
            open_receipt(line, public)["predicate"] for line in read_lines(StatePaths(self.state)) if public
        ]
        expected = {one.request_id: one.outcome for one in self.world.asked if one.state != CANCELLED}
        assert {one["request"]["id"]: one["outcome"] for one in said} == expected
        assert len(said) == len(expected)
        assert verify_state(self.state).problems == []


def frame(rows):
    """Make a data file: what is new has a time from after any return."""
    plain = interactions([(*pair, 1.0) for pair in rows])
    times = [TIMES[rows[pair]] for pair in plain.select("user_id", "item_id").iter_rows()]
    return plain.with_columns(pl.Series("time", times, dtype=pl.Datetime("us", "UTC")))


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=RUNS, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
