"""Choosing lambda on held-out interactions, along a path that costs little more than one fit.

All soft-thresholded fits share their singular vectors: one subspace of the training part gives every point of
the path, and scoring a point is one product of small matrices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import Interactions
from .gram_operator import GramOperator
from .statistics import select_entries
from .subspace import RitzPairs, shrinkage

SEED = 20091007
HELD_OUT = 0.1
MOST_USERS = 1024
USERS_AT_ONCE = 512
CUTOFF = 10
POINTS = 9


@dataclass(frozen=True)
class HeldOut:
    """Interactions split for validation.

    Attributes
    ----------
    training : CSR [n_users, n_items], about nine tenths of the entries.
    users : int64 [k], the rows to validate on, which have entries on both sides.
    wanted : CSR [k, n_items], what is held out of those rows.
    """

    training: Interactions
    users: NDArray[np.int64]
    wanted: Interactions


def hold_out(interactions: Interactions, most_users: int = MOST_USERS) -> HeldOut:
    """Hold a tenth of the interactions out, at random, seed fixed; validate on ``most_users`` at the most.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> split = hold_out(sp.csr_matrix(np.ones((30, 40))))
    >>> split.training.nnz + split.wanted.nnz, split.users.size
    (1200, 30)
    """
    rng = np.random.default_rng(SEED)
    held = rng.random(interactions.nnz) < HELD_OUT
    training, wanted = (select_entries(interactions, chosen) for chosen in (~held, held))
    both = np.flatnonzero((np.diff(training.indptr) > 0) & (np.diff(wanted.indptr) > 0))
    users = np.sort(rng.permutation(both)[:most_users])
    return HeldOut(training, users, wanted[users])


def best_rank(gram: GramOperator, pairs: RitzPairs, split: HeldOut, factors: int) -> int:
    """Return the rank, at most ``factors``, whose lambda ranks the held-out interactions best by NDCG@10.

    Parameters
    ----------
    gram, pairs : of ``split.training``'s weights; more pairs than ``factors``.
    split : what to rank.
    factors : the largest rank tried; the path goes down to a sixteenth by half octaves.

    Notes
    -----
    O(users n_items rank) for each of the nine points.
    """
    ranks = np.unique(np.round(factors * 2.0 ** (-np.arange(POINTS) / 2)).astype(int))
    ranks = ranks[(ranks >= 1) & (ranks < pairs.values.size)]
    if not split.users.size or not ranks.size:
        return factors
    rows = gram.rows_times(pairs.vectors)[split.users] / gram.user_scale[split.users, None]
    items = pairs.vectors / gram.item_scale[:, None]
    roots = np.sqrt(np.maximum(pairs.values, 0.0))
    gains = np.zeros(ranks.size)
    for start in range(0, split.users.size, USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        liked = split.training[split.users[part]]
        for point, rank in enumerate(ranks):
            weights = shrinkage(pairs.values[:rank], float(roots[rank]))
            scores = (rows[part, :rank] * weights) @ items[:, :rank].T
            gains[point] += _ndcg(scores, liked, split.wanted[part]).sum()
    return int(ranks[gains.argmax()])


def _ndcg(scores: NDArray[np.float64], liked: Interactions, wanted: Interactions) -> NDArray[np.float64]:
    """NDCG@10 of each row, items already liked left out: float64 [users]."""
    scores[np.repeat(np.arange(liked.shape[0]), np.diff(liked.indptr)), liked.indices] = -np.inf
    cutoff = min(CUTOFF, scores.shape[1])
    top = np.argpartition(-scores, cutoff - 1, axis=1)[:, :cutoff]
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
    top = np.take_along_axis(top, order, axis=1)
    relevant = np.asarray(wanted.astype(bool).todense())
    discounts = 1.0 / np.log2(np.arange(cutoff) + 2.0)
    best = np.cumsum(discounts)[np.minimum(np.diff(wanted.indptr), cutoff) - 1]
    return np.asarray((np.take_along_axis(relevant, top, axis=1) * discounts).sum(axis=1) / best)
