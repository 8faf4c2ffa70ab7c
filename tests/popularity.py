"""A small exact model, the engine's test double: it ranks items by how often they were taken.

It publishes one array of each kind that a version can hold: a vector, a matrix beside user ids, a CSR matrix.
"""

import contextlib
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from recunlearn.engine.ledger import Received
from recunlearn.models import MODELS
from recunlearn.models.base import ForgettableModel, Proof


class Popularity(ForgettableModel):
    """Item counts, user totals, and which items were taken together; all are sums over users."""

    name = "popularity"
    exact = True

    def __init__(self, weight=1.0):
        self.weight = weight
        self.removals = 0

    def _fit(self, user_items, show_progress):
        self._set(user_items)

    def _set(self, user_items):
        self.item_counts = np.asarray(user_items.sum(axis=0)).reshape(-1).astype(np.float64)
        self.user_factors = np.asarray(user_items.sum(axis=1), dtype=np.float32).reshape(-1, 1)
        self.together = sp.csr_matrix(user_items.T @ user_items)
        self.together.sort_indices()

    def _forget(self, change):
        if "poison" in POISON and any(
            user in POISON["poison"] for user in change.before.sum(axis=1).ravel().tolist()[0]
        ):
            raise RuntimeError("this row cannot be forgotten")
        self._set(change.user_items)
        self.removals += 1

    def proof(self):
        """Say that it is exact."""
        return Proof(True, 0.0, 1.0 if self.removals else None, True)

    def recommend(self, userid, user_items, N=10, filter_already_liked_items=True):
        """Rank by count."""
        scores = self.weight * self.item_counts
        rows = self.user_items[userid] if user_items is None else user_items
        liked = set(rows.indices.tolist()) if filter_already_liked_items else set()
        ids = [i for i in np.argsort(-scores, kind="stable") if i not in liked and scores[i] > 0][:N]
        return np.array(ids, dtype=np.int32), scores[ids]

    def similar_items(self, itemid, N=10):
        """Rank by how often they were taken together."""
        row = self.together[itemid]
        order = np.argsort(-row.data, kind="stable")[:N]
        return row.indices[order], row.data[order]

    def settings(self):
        """Return the one setting."""
        return {"weight": self.weight}

    def published(self):
        """Return one array of each kind."""
        return {"item_counts": self.item_counts, "user_factors": self.user_factors, "together": self.together}

    def proof_record(self):
        """Return a record with a number that JSON has no name for."""
        return {"removals": self.removals, "never": float("inf")}

    @classmethod
    def restore(cls, settings, arrays, record, user_items):
        """Take back what was published."""
        assert record["never"] == float("inf")
        model = cls(**settings)
        model.item_counts, model.user_factors = arrays["item_counts"], arrays["user_factors"]
        model.together = arrays["together"]
        model.removals = record["removals"]
        model._user_items = user_items
        model._forgotten = np.zeros(user_items.shape[0], dtype=np.bool_)
        return model

    def restrict(self, users, items):
        """Fit to the rows and columns that are kept."""
        kept = self.user_items[users][:, items]
        if kept.nnz != self.user_items.nnz:
            raise ValueError("a row or column that is dropped has interactions")
        model = Popularity(self.weight).fit(kept)
        model.removals = self.removals
        return model


POISON = {}
"""``{"poison": {total, ...}}``: rows with such a total cannot be forgotten."""

MODELS["popularity"] = Popularity


def interactions(rows):
    """Make an interaction frame of (user, item) or (user, item, value) rows."""
    rows = [(*row, 1.0) if len(row) == 2 else row for row in rows]
    users, items, values = zip(*rows, strict=True) if rows else ((), (), ())
    frame = pl.DataFrame({"user_id": list(users), "item_id": list(items), "value": list(values)})
    return frame.sort("user_id", "item_id")


def files_with(root, *needles):
    """Find files under ``root`` whose bytes or names hold a needle, in UTF-8 or UTF-16."""
    found = []
    for path in sorted(Path(root).rglob("*")):
        content = str(path.relative_to(root)).encode()
        with contextlib.suppress(IsADirectoryError):
            content += path.read_bytes()
        found += [
            (str(path.relative_to(root)), needle)
            for needle in needles
            if needle.encode() in content or needle.encode("utf-16-le") in content
        ]
    return found


def ask(engine, *requests):
    """Record requests and carry them out."""
    engine.ledger.record([Received(request) for request in requests])
    return engine.apply(engine.pending())
