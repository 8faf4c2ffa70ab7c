"""A federation in a directory, for the tests: some silos, one coordinator, everybody run by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from recunlearn.engine.state import StatePaths
from recunlearn.models import MODELS, SpectralMF
from recunlearn.models.base import canonical_interactions
from recunlearn.models.summed import model_at_home
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.coordinator import Coordinator
from recunlearn.streaming.federated.coordinator_state import found_federation
from recunlearn.streaming.federated.publication import read_version
from recunlearn.streaming.federated.secure.adding import ask_for_round
from recunlearn.streaming.federated.silo import Silo, join
from recunlearn.streaming.federated.silo_state import ask

ITEMS = [f"item-{k}" for k in range(30)]
MANY_ITEMS = [f"item-{k}" for k in range(150)]
"""More than a solve by products asks about at once."""


def rows_of(users, seed=0, items=ITEMS):
    """Draw users with two to nine items each: user_id, item_id, value."""
    draw = np.random.default_rng(seed)
    rows = [
        (user, items[item], float(draw.integers(1, 4)))
        for user in users
        for item in draw.choice(len(items), draw.integers(2, 10), replace=False)
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "value"], orient="row")


class Federation:
    """A coordinator and its silos, in directories under one folder."""

    def __init__(self, folder, frames, model="item_knn", settings=None, *, secure=False, **options):
        self.folder, self.frames = Path(folder), dict(frames)
        self.board = Board(self.folder / "board")
        self.root = self.folder / "coordinator"
        self.model, self.settings = model, settings or {}
        self.secure, self.items = secure, options.pop("items", ITEMS)
        if secure:
            options.setdefault("round_every", 3600.0)
        found_federation(
            self.root, self.board.root, "test", self.items, model, self.settings, **{"batch": 1, **options}
        )
        for name, frame in self.frames.items():
            self.add(name, frame)

    def add(self, name, frame):
        """Let a silo join, and admit it."""
        self.frames[name] = frame
        with Coordinator(self.root) as coordinator:
            trusted = StatePaths(self.root).receipt_public_key.read_bytes()
            key = join(self.silo(name), self.board.root, name, frame, trusted, secure=self.secure)
            coordinator.admit(name, key.read_bytes())
        if self.secure:
            self.introduce()

    def introduce(self):
        """Give each silo the others' keys."""
        keys = {name: StatePaths(self.silo(name)).receipt_public_key for name in self.frames}
        for name in (there := [name for name in self.frames if self.silo(name).exists()]):
            with Silo(self.silo(name)) as silo:
                for other in there:
                    if other != name:
                        silo.trust(other, keys[other].read_bytes())

    def silo(self, name):
        """Directory of a silo."""
        return self.folder / name

    def look(self, name, **options):
        """Run a silo once."""
        with Silo(self.silo(name)) as silo:
            return silo.step(**options)

    def collect(self):
        """Run the coordinator once."""
        with Coordinator(self.root) as coordinator:
            return coordinator.step()

    def round(self, **options):
        """Everybody once: silos, coordinator, silos; under masks, until a round is over."""
        names = [name for name in self.frames if self.silo(name).exists()]
        for name in names:
            self.look(name, **options)
        if self.secure:
            return self.masked_round(names)
        step = self.collect()
        for name in names:
            self.look(name)
        return step

    def masked_round(self, names):
        """Run a round of secure sums among silos; returns what the coordinator's last look came to."""
        ask_for_round(self.root)
        for _ in range(4):
            step = self.collect()
            for name in names:
                self.look(name)
        return step

    def forget(self, name, *users):
        """Ask a silo to forget users, and take them out of what is expected."""
        ask(self.silo(name), users)
        self.frames[name] = self.frames[name].filter(~pl.col("user_id").is_in(users))

    def published(self):
        """Read the manifest and the model that is published."""
        with Coordinator(self.root) as coordinator:
            return read_version(self.board, coordinator._key.public)

    def pooled(self):
        """Fit on the rows of everybody who is left, brought together."""
        frame = pl.concat(self.frames.values())
        users = {user: k for k, user in enumerate(sorted(set(frame["user_id"])))}
        place = (
            [users[user] for user in frame["user_id"]],
            [self.items.index(item) for item in frame["item_id"]],
        )
        x = sp.csr_matrix((frame["value"].to_numpy(), place), shape=(len(users), len(self.items)))
        return MODELS[self.model](**self.settings).fit(canonical_interactions(x))

    def is_exact(self):
        """Tell whether what is published is, bit for bit, the pooled fit."""
        _, published = self.published()
        return same_published(published, self.pooled())


def is_within_certificate(published, rows, **options):
    """Tell whether what is served at home of a SpectralMF is within its bound of a far tighter fit."""
    lam = published.settings["regularization"]
    settings = {**published.settings, **options, "regularization": lam, "tolerance": 1e-9, "dtype": "float64"}
    home, truth = model_at_home(published, rows), SpectralMF(**settings).fit(rows)
    scale = np.asarray(published.arrays["item_scale"])
    ours, theirs = (
        (m.user_factors.astype(float) @ m.item_factors.astype(float).T) * scale for m in (home, truth)
    )
    proof, apart = home.certificate, np.linalg.norm(ours - theirs)
    is_near = bool(apart <= proof.bound * np.linalg.norm(ours) * 1.001)
    return proof.certified and 0 < proof.bound <= home.tolerance and is_near


def same_published(published, fitted):
    """Tell whether all that the fitted model publishes was published: the same bits."""
    return all(
        all(
            np.array_equal(getattr(published.arrays[name], part), getattr(array, part))
            for part in ("indptr", "indices", "data")
        )
        if sp.issparse(array)
        else np.array_equal(published.arrays[name], array)
        for name, array in fitted.published().items()
    )
