"""Slow, obvious twins of the item models and their kernels, written from the definitions."""

from itertools import product
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Dense = NDArray[np.float64]


def ease_weights(x: Dense, regularization: float) -> Dense:
    """Steck 2019, eq. 8: ``B = I - P diag(1 / P_jj)`` with ``P = (X'X + lambda I)^-1``."""
    p = np.linalg.inv(x.T @ x + regularization * np.eye(x.shape[1]))
    return np.eye(x.shape[1]) - p / np.diag(p)


def similarity(x: Dense, weighting: str, k1: float = 1.2, b: float = 0.75) -> Dense:
    """All similarities, as ``implicit.nearest_neighbours`` defines them, one entry at a time."""
    n_users, n_items = x.shape
    weights = np.zeros_like(x)
    lengths = x.sum(axis=0)
    mean = lengths.mean() if n_items else 0.0
    for u, i in product(range(n_users), range(n_items)):
        if x[u, i] == 0:
            continue
        idf = log(n_items) - log(1 + np.count_nonzero(x[u]))
        if weighting == "cosine":
            weights[u, i] = x[u, i]
        elif weighting == "tfidf":
            weights[u, i] = sqrt(x[u, i]) * idf
        else:
            norm = (1 - b) + b * lengths[i] / mean
            weights[u, i] = x[u, i] * (k1 + 1) / (k1 * norm + x[u, i]) * idf
    if weighting != "bm25":
        for i in range(n_items):
            norm = sqrt(sum(w * w for w in weights[:, i]))
            weights[:, i] = weights[:, i] / norm if norm else 0.0
    return np.array(
        [[sum(weights[:, i] * weights[:, j]) for j in range(n_items)] for i in range(n_items)]
    ).reshape(n_items, n_items)


def nearest(similarities: Dense, k: int) -> list[list[int]]:
    """For each row the ``k`` best columns that are not zero, best first, ties to the lower id."""
    return [ranked(row, row > 0, k) for row in similarities]


def ranked(scores: Any, usable: Any, n: int) -> list[int]:
    """Return the ids of the ``n`` best usable scores, best first; ties to the lower id, NaN never."""
    ids = [i for i in range(len(scores)) if usable[i] and scores[i] == scores[i]]
    return sorted(ids, key=lambda i: (-scores[i], i))[:n]


def co_occurrences(weights: Dense) -> Dense:
    """Return ``W'W``, one product at a time, users ascending."""
    n_items = weights.shape[1]
    out = np.zeros((n_items, n_items))
    for row in weights:
        for i, j in product(range(n_items), repeat=2):
            out[i, j] += row[i] * row[j]
    return out


def without(x: Dense, users: Any, pairs: Any) -> Dense:
    """Return what is left of ``x`` when users and pairs were never there."""
    left = x.copy()
    for user in users:
        left[user] = 0.0
    for user, item in pairs:
        left[user, item] = 0.0
    return left
