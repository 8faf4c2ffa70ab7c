"""Serving somebody who is in no version: a row of interactions is folded into a model, and nothing is kept.

Item models score a row as it is. Factorisations solve for the factors that a user with this row would have.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..models.base import ForgettableModel, Interactions, IntVector
from ..models.factorization import Factorization

Ranked = tuple[NDArray[Any], NDArray[Any]]


def liked_row(columns: IntVector, model: ForgettableModel) -> Interactions:
    """Make the row of somebody who has ``columns``, each once with value 1: CSR [1, n_items].

    Examples
    --------
    >>> from recunlearn.models import ItemKNN
    >>> model = ItemKNN(K=2).fit(sp.csr_matrix([[1, 1, 0], [0, 1, 1]]))
    >>> liked_row(np.array([2, 0, 2]), model).toarray()
    array([[1., 0., 1.]])
    """
    items = np.unique(columns).astype(np.int32)
    row: Interactions = sp.csr_matrix(
        (np.ones(items.size), items, np.array([0, items.size], np.int32)), shape=(1, _n_items(model))
    )
    return row


def fold_in(model: ForgettableModel, rows: Interactions, n: int, *, keep_liked: bool = False) -> Ranked:
    """Rank items for rows that need not be anybody's.

    Parameters
    ----------
    rows : CSR [b, n_items].
    n : how many items at the most.
    keep_liked : rank the items of the rows, too.

    Returns
    -------
    ids, scores : [b, n], padded with id -1 and score -inf.

    Examples
    --------
    >>> from recunlearn.models import ItemKNN
    >>> model = ItemKNN(K=2).fit(sp.csr_matrix([[1, 1, 0], [0, 1, 1]]))
    >>> fold_in(model, liked_row(np.array([0]), model), 1)[0].tolist()
    [[1]]
    """
    users = np.zeros(rows.shape[0], dtype=np.int64)
    if isinstance(model, Factorization):
        return model.recommend(
            users, rows, N=n, filter_already_liked_items=not keep_liked, recalculate_user=True
        )
    return model.recommend(users, rows, N=n, filter_already_liked_items=not keep_liked)


def support(model: ForgettableModel, row: Interactions, columns: IntVector, n: int) -> list[Ranked]:
    """Say which items of a row speak for each of ``columns``: the score that each of them alone would give.

    For `EASE` and `ItemKNN` these are the very terms of the score; for factorisations the score of a user
    who has nothing else.

    Parameters
    ----------
    row : CSR [1, n_items]; the items in it are asked one by one.
    columns : int [k], recommended items.
    n : how many reasons for each at the most.

    Returns
    -------
    For each column: items of the row int [<= n], and their scores, best first, positive ones only.

    Notes
    -----
    O(items in the row * n_items).

    Examples
    --------
    >>> from recunlearn.models import ItemKNN
    >>> model = ItemKNN(K=2).fit(sp.csr_matrix([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]))
    >>> liked = liked_row(np.array([0, 3]), model)
    >>> support(model, liked, np.array([1]), 2)[0][0].tolist()
    [0]
    """
    owned = np.asarray(row.indices, dtype=np.int64)
    alone: Interactions = sp.csr_matrix(
        (row.data, row.indices, np.arange(owned.size + 1)), shape=(owned.size, row.shape[1])
    )
    ids, scores = fold_in(model, alone, row.shape[1], keep_liked=True)
    terms = np.zeros((owned.size, row.shape[1]))
    which = np.broadcast_to(np.arange(owned.size)[:, None], ids.shape)
    real = ids >= 0
    terms[which[real], ids[real]] = scores[real]
    reasons = []
    for column in columns:
        order = np.argsort(-terms[:, column], kind="stable")[:n]
        best = order[terms[order, column] > 0]
        reasons.append((owned[best], terms[best, column]))
    return reasons


def _n_items(model: ForgettableModel) -> int:
    return int(model.user_items.shape[1])
