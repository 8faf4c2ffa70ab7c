"""What a sparsity pattern would give away: an entry, a row or a column that only the erased had.

Values can be right and the pattern wrong: a zero that is stored says that something was there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..models.base import Interactions

_ENTRIES_AT_ONCE = 1 << 14


def pattern_problems(name: str, published: Mapping[str, Any], user_items: Interactions) -> list[str]:
    """Check the sparse matrices that a model publishes; one line for each that says too much.

    No stored zero, no entry twice, no place outside; and between items, no entry that no kept user has both
    items of. O(entries times the users of an item).

    Parameters
    ----------
    published : name -> array, or CSR matrix.
    user_items : CSR [n_users, n_items], what is kept.

    Examples
    --------
    >>> kept = sp.csr_matrix([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> similar = sp.csr_matrix([[0.0, 0.5, 0.0], [0.5, 0.0, 0.1], [0.0, 0.0, 0.0]])
    >>> pattern_problems("item_knn", {"similarity": similar}, kept)
    ['model item_knn: similarity has an entry that no kept user supports']
    """
    problems = []
    n_items = user_items.shape[1]
    matrices: dict[str, Any] = {key: array for key, array in published.items() if sp.issparse(array)}
    for key, matrix in matrices.items():
        csr: Interactions = sp.csr_matrix(matrix)
        if said := _says_too_much(csr):
            problems.append(f"model {name}: {key} has {said}")
        elif csr.shape == (n_items, n_items) and not _is_supported(csr, user_items):
            problems.append(f"model {name}: {key} has an entry that no kept user supports")
    return problems


def _says_too_much(matrix: Interactions) -> str | None:
    """Say what is in a CSR matrix beside its values; None if nothing is."""
    places, (rows, columns) = matrix.indices, matrix.shape
    if len(matrix.indptr) != rows + 1 or len(places) != len(matrix.data):
        return "arrays that do not fit its shape"
    if len(places) and not (places.min() >= 0 and places.max() < columns):
        return "an entry outside its shape"
    if not np.all(matrix.data):
        return "a stored zero"
    owners = np.repeat(np.arange(rows, dtype=np.int64), np.diff(matrix.indptr))
    if len(np.unique(owners * columns + places)) != len(places):
        return "an entry twice"
    return None


def _is_supported(between: Interactions, user_items: Interactions) -> bool:
    """Tell whether somebody has both items of each entry of a CSR [n_items, n_items]."""
    by_item = sp.csr_matrix(user_items.T)
    by_item.data = np.ones_like(by_item.data)
    firsts = np.repeat(np.arange(between.shape[0]), np.diff(between.indptr))
    for start in range(0, len(firsts), _ENTRIES_AT_ONCE):
        chunk = slice(start, start + _ENTRIES_AT_ONCE)
        shared = by_item[firsts[chunk]].multiply(by_item[between.indices[chunk]])
        if not np.all(np.diff(sp.csr_matrix(shared).indptr)):
            return False
    return True


def is_same(one: Interactions, other: Interactions) -> bool:
    """Tell whether two CSR matrices hold the same entries at the same places, stored zeros among them."""
    return one.shape == other.shape and all(
        np.array_equal(getattr(one, part), getattr(other, part)) for part in ("indptr", "indices", "data")
    )
