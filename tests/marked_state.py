"""State directories whose versions identify themselves, and a process that serves one.

Every item id, score and list length of version v says v, so that an answer mixed from two versions shows.
Run as a script, ``python marked_state.py STATE`` serves STATE on a free port and prints it.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from recunlearn.engine import durable
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.ledger import Ledger, Received
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.server import Service, hosts_of, listen, serve
from recunlearn.engine.serving import guards, protocol
from recunlearn.engine.state import Config, StatePaths, write_config
from recunlearn.engine.version import Store, set_current, write_version
from recunlearn.models import MODELS, ForgettableModel, Proof

ITEMS = 8


class Marked(ForgettableModel):
    """Recommends every item, with the mark that it was given as the score."""

    name = "marked"
    exact = True

    def __init__(self):
        self.marks = np.zeros(0)

    def _fit(self, user_items, show_progress):
        self.marks = np.zeros(user_items.shape[1])

    def _forget(self, change):
        raise NotImplementedError

    def proof(self):
        """Claim what an exact model claims."""
        return Proof(exact=True, bound=0.0, erased_at_least=None, certified=True)

    def recommend(self, userid, user_items, N=10, filter_already_liked_items=True):
        """Rank all items in their own order."""
        return np.arange(self.marks.size)[:N], self.marks[:N]

    def similar_items(self, itemid, N=10):
        """Rank all items in their own order."""
        return np.arange(self.marks.size)[:N], self.marks[:N]

    def settings(self):
        """Return no settings."""
        return {}

    def published(self):
        """Publish the marks."""
        return {"marks": self.marks}

    def proof_record(self):
        """Return nothing to remember."""
        return {}

    @classmethod
    def restore(cls, settings, arrays, record, user_items):
        """Take the marks back."""
        model = cls()
        model.marks = arrays["marks"]
        model._user_items, model._forgotten = user_items, np.zeros(user_items.shape[0], bool)
        return model

    def restrict(self, users, items):
        """Never asked for here."""
        raise NotImplementedError


class MarkedState:
    """A state directory with users 0..n-1 (or the ids given) that publishes marked versions on demand."""

    def __init__(self, root, users=range(40)):
        self.root = Path(root)
        self.users = pl.Series(sorted(users))
        self.paths = StatePaths(self.root)
        durable.make_directory(self.root)
        durable.make_directory(self.paths.versions)
        write_config(self.paths, Config(models={"marked": {}}))
        self.key = FenceKey.create(self.paths)
        Ledger.create(self.paths, self.key).close()
        self.publish(1)

    def publish(self, version):
        """Publish version ``version``; all that it serves is marked with its number."""
        model = Marked().fit(sp.csr_matrix(np.ones((len(self.users), ITEMS))))
        model.marks = np.full(ITEMS, float(version))
        items = pl.Series([f"v{version}/i{k}" for k in range(ITEMS)])
        digest = write_version(
            self.paths, version, {"marked": model}, self.users, items, Store({}, 1), software="test"
        )
        set_current(self.paths, version, digest)

    def fence(self, user):
        """Record an account deletion durably; nothing else is done about it."""
        with Ledger(self.paths.ledger, self.key) as ledger:
            ledger.record([Received(AccountDeletion(f"delete-{user}", user))])


STATUS = {"version": 0, "requests": {"pending": 0}, "oldest_pending_seconds": None}


def status():
    """Say how things stand, always the same."""
    return STATUS


@dataclass(frozen=True)
class MarkedService(Service):
    """A service whose worker processes know the marked model."""

    def application(self):
        """Register the model first, and be as patient as the test says."""
        MODELS[Marked.name] = Marked
        if patience := os.environ.get("RECUNLEARN_TEST_PATIENCE"):
            protocol.HEADER_SECONDS = guards.BODY_SECONDS = float(patience)
        return super().application()


def main():
    """Serve the state directory named on the command line, with as many workers as it says."""
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    state, workers = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    token = os.environ.get("RECUNLEARN_TEST_TOKEN")
    serve(MarkedService(Path(state), status, hosts_of(listener), token), listener, workers)


if __name__ == "__main__":
    main()
