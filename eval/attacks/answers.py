"""Differencing by answers only: what two versions say to the same questions over HTTP, before and after.

Nothing but lists with scores is read. The question is the smallest that the API takes: what is there for
somebody who likes this one item? It needs no account, and asked of every item it gives a top list of each.
"""

from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from .differencing import measured, popularity_of
from .evidence import Evidence, lost_by_similarity
from .outcome import AttackResult
from .scene import Scene, rows_of
from .served import FloatMatrix, FloatVector, Served

LIST_LENGTH: Final = 100
"""Items that are asked for with each question; the API gives up to a thousand."""
_BLOCK: Final = 256


def differencing_answers(scene: Scene) -> AttackResult:
    """Reconstruct the profiles of those who left from lists of both versions, one victim at a time.

    Same result as :func:`~recunlearn.eval.attacks.differencing.differencing`, but the attacker has no file
    of either version: only the top ``LIST_LENGTH`` items, with scores, for somebody who likes one item.

    Raises
    ------
    SceneError
        Nobody to attack.

    Notes
    -----
    ``2 n_items`` questions, then O(n_items LIST_LENGTH).
    """
    popularity = popularity_of(scene)
    before, after = (answers_of(version) for version in (scene.before, scene.after))
    if scene.before.kind == "weights":
        evidence = lost_by_similarity(before, after, popularity)
    else:
        evidence = _moved_scores(before, after)
    return measured("differencing_answers", scene, evidence, popularity)


def answers_of(version: Served, length: int = LIST_LENGTH) -> sp.csr_matrix[Any]:
    """Ask for the best items for somebody who likes one, for each item: CSR [n_items, n_items] of scores.

    Examples
    --------
    >>> from recunlearn.eval.attacks import served_weights
    >>> weights = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    >>> answers_of(served_weights(weights), 1).toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]]
    """
    n_items = version.n_items
    length = min(length, max(0, n_items - 1))
    columns, values = np.zeros((n_items, length), np.int64), np.zeros((n_items, length))
    for start in range(0, n_items, _BLOCK):
        items = np.arange(start, min(start + _BLOCK, n_items), dtype=np.int64)
        scores = np.array(version.score(rows_of([np.array([item]) for item in items], n_items)), np.float64)
        scores[np.arange(items.size), items] = -np.inf  # what one has is never in one's list
        columns[items] = np.argsort(-scores, axis=1, kind="stable")[:, :length]
        values[items] = np.take_along_axis(scores, columns[items], axis=1)
    indptr = np.arange(n_items + 1, dtype=np.int64) * length
    listed = sp.csr_matrix((values.ravel(), columns.ravel(), indptr), shape=(n_items, n_items))
    listed.sort_indices()
    listed.eliminate_zeros()
    return listed


def _moved_scores(before: sp.csr_matrix[Any], after: sp.csr_matrix[Any]) -> Evidence:
    """How far scores moved in each item's list and in the lists where it stands: relative, both added."""
    stood, stands = before.astype(np.bool_), after.astype(np.bool_)
    common = before.multiply(stands).tocsr()
    moved = abs(after.multiply(stood) - common).tocsr()
    size = abs(common).tocsr()

    def share(axis: int) -> FloatVector:
        top, bottom = (np.asarray(matrix.sum(axis=axis)).ravel() for matrix in (moved, size))
        shares: FloatVector = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        return shares

    both = sp.csr_matrix(moved + moved.T)
    shares = share(1) + share(0)
    items: FloatVector = shares / (shares.max(initial=0.0) or 1.0)

    def rows(known: Any) -> FloatMatrix:
        """Of each known item: how far its pairs moved, as a share of the farthest, where it itself is 1."""
        found = np.asarray(both[known].toarray(), dtype=np.float64)
        found[np.arange(known.size), known] = found.max(axis=1, initial=0.0)
        return found

    return Evidence(items, False, rows)
