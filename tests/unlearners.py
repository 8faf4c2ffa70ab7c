"""Unlearners whose faults are known, to see whether they are found."""

import numpy as np
import scipy.sparse as sp
from recunlearn.eval.battery.methods.factors import FactorMethod
from recunlearn.eval.battery.protocol import Method, kept_after


class Counts(Method):
    """Scores are rows times co-occurrences: exact by construction."""

    def fit(self, user_items, seed):
        """Count."""
        self.kept = user_items.copy()
        self.similarity = _counts(self.kept)

    def forget(self, removal):
        """Count again."""
        self.fit(kept_after(self.kept, removal), 0)

    def scores(self, users):
        """Score by one's own row."""
        return self.fold_in(self.kept[users])

    def fold_in(self, rows):
        """Score by any row."""
        return (rows @ self.similarity).toarray()

    def published(self):
        """Give the counts."""
        return {"similarity": self.similarity}


class ZeroInPattern(Counts):
    """Subtracts, and leaves the pairs that fell to zero stored."""

    def forget(self, removal):
        """Subtract in place."""
        before, self.kept = self.similarity, kept_after(self.kept, removal)
        now, coo = _counts(self.kept), before.tocoo()
        values = np.asarray(now[coo.row, coo.col]).ravel()
        self.similarity = sp.csr_matrix((values, before.indices, before.indptr), shape=before.shape)


class NothingDone(Counts):
    """Says that it forgot."""

    def forget(self, removal):
        """Do nothing."""


class RowOnlyCounts(Counts):
    """Drops the rows; the counts stay."""

    def forget(self, removal):
        """Empty the rows."""
        self.kept = kept_after(self.kept, removal)


class RowLeft(Counts):
    """Counts again, and keeps the rows to serve them."""

    def forget(self, removal):
        """Count again beside the old rows."""
        self.similarity = _counts(kept_after(self.kept, removal))


class Blend(Counts):
    """Leaves a known share of everything: ``(1 - left)`` of the retrain and ``left`` of what was there."""

    def __init__(self, left=0.1):
        self.left = left

    def forget(self, removal):
        """Mix."""
        before = self.similarity
        super().forget(removal)
        self.similarity = sp.csr_matrix((1 - self.left) * self.similarity + self.left * before)


class KeepsItems(FactorMethod):
    """Solves for everybody's factors again, the item factors left as they were."""

    def forget(self, removal):
        """Half a sweep."""
        self.kept = kept_after(self.kept, removal)
        self.users = self.loss.swept(self.kept, self.users, self.items, 1)[0]


class Fails(Counts):
    """Cannot forget."""

    def forget(self, removal):
        """Raise."""
        raise RuntimeError("the disk of the model server is full")


def _counts(user_items):
    counts = sp.csr_matrix(user_items.T @ user_items)
    counts.setdiag(0)
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts
