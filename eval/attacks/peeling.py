"""Peeling: reading whole profiles out of a difference of sums, one person at a time, knowing nothing.

An item that only one of those who left had gives that person away: the row of such an item in the difference
of two Grams is their profile, times a value. Subtract them, and more items have one owner left: the decoder
of sparse graph codes (Luby et al. 2001) and of invertible Bloom lookup tables. It needs exact differences of
sums, as a coordinator of silos has, or as anybody gets who inverts two published inverses of EASE.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.base import IntVector


@dataclass(frozen=True)
class Profile:
    """What was read of somebody: items int64 ascending, and the value of each."""

    items: IntVector
    values: NDArray[np.float64]


def peel(counts: IntVector, gram: NDArray[np.int64]) -> list[Profile]:
    """Read the profiles of those who left out of what their leaving changed.

    Parameters
    ----------
    counts : int64 [n_items], how many of those who left had each item.
    gram : int64 [n_items, n_items], the sum of ``x x'`` over them; values are whole numbers. Not modified.

    Returns
    -------
    Whoever could be read, exactly; of the others nothing is said.

    Notes
    -----
    O(n_items) and the square of the profile for each person read; a copy of ``gram``.

    Examples
    --------
    >>> x = np.array([[1, 1, 0, 2], [0, 1, 1, 0], [0, 1, 0, 0]])
    >>> for found in peel(np.count_nonzero(x, axis=0), x.T @ x):
    ...     print(found.items, found.values)
    [0 1 3] [1. 1. 2.]
    [1 2] [1. 1.]
    [1] [1.]
    """
    left, gram = counts.astype(np.int64), gram.copy()
    found = []
    while (alone := np.flatnonzero(left == 1)).size:
        item = int(alone[0])
        row = gram[item]
        items = np.flatnonzero(row)
        values = row[items] / np.sqrt(float(row[item]))
        whole = np.rint(values).astype(np.int64)
        if not np.allclose(values, whole) or np.any(left[items] < 1):
            break  # no difference of sums of whole numbers: nothing can be read
        gram[np.ix_(items, items)] -= np.outer(whole, whole)
        left[items] -= 1
        found.append(Profile(items, whole.astype(np.float64)))
    return found


def gram_of_inverse(inverse: NDArray[np.float64], regularization: float) -> NDArray[np.int64]:
    """Get X'X, whole numbers, back from what EASE publishes: ``P^-1 - lambda I``; O(n^3).

    Examples
    --------
    >>> x = np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> gram_of_inverse(np.linalg.inv(x.T @ x + 3.0 * np.eye(2)), 3.0)
    array([[1, 1],
           [1, 2]])
    """
    gram = np.linalg.inv(inverse)
    gram[np.diag_indices_from(gram)] -= regularization
    return np.asarray(np.rint(gram), dtype=np.int64)
