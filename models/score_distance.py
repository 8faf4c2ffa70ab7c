"""The distance between two low-rank score matrices, without forming them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 512
GRAM_DIGITS = 1e-5
"""Below this share of the norms, squares of differences lose digits: the QR form takes over."""


def score_distance(
    users_a: NDArray[Any],
    items_a: NDArray[Any],
    users_b: NDArray[Any],
    items_b: NDArray[Any],
    user_weights: NDArray[Any] | None = None,
    item_weights: NDArray[Any] | None = None,
) -> float:
    """``|D1 (A1 A2' - B1 B2') D2|_F``, D1 and D2 the diagonals of the weights.

    Parameters
    ----------
    users_a : [m, r], items_a : [n, r], users_b : [m, s], items_b : [n, s]; any float dtype.
    user_weights : [m], item_weights : [n]; None: all one.

    Returns
    -------
    float, with a relative error of about 1e-5 or better down to distances of 1e-10 of the norms.

    Notes
    -----
    With ``L = [A1 B1]``, ``R = [A2 -B2]``: ``|L R'|_F^2 = <L'L, R'R>``; where that cancels,
    ``|T_L T_R'|_F`` with the triangles of their QR factorisations. O((m + n) (r + s)^2).

    Examples
    --------
    >>> one = np.ones((2, 1))
    >>> score_distance(one, one, 0.5 * one, one)
    1.0
    """
    grams = _gram(users_a, users_b, user_weights), _gram(items_a, items_b, item_weights, -1.0)
    squared = float(np.sum(grams[0] * grams[1]))
    size = float(np.sqrt(np.sum(grams[0] ** 2) * np.sum(grams[1] ** 2)))
    if squared > GRAM_DIGITS**2 * size:
        return float(np.sqrt(squared))
    left = np.concatenate([users_a, users_b], axis=1, dtype=np.float64)
    right = np.concatenate([items_a, -items_b], axis=1, dtype=np.float64)
    for columns, weights in ((left, user_weights), (right, item_weights)):
        if weights is not None:
            columns *= weights[:, None]
    return float(np.linalg.norm(_triangle(left) @ _triangle(right).T))


def _gram(
    a: NDArray[Any], b: NDArray[Any], weights: NDArray[Any] | None, sign: float = 1.0
) -> NDArray[np.float64]:
    """Return ``[a sign*b]' D^2 [a sign*b]`` in float64, some rows at a time."""
    width = a.shape[1] + b.shape[1]
    total = np.zeros((width, width))
    rows = np.empty((min(ROWS_AT_ONCE, a.shape[0]), width))
    for start in range(0, a.shape[0], ROWS_AT_ONCE):
        part = rows[: min(ROWS_AT_ONCE, a.shape[0] - start)]
        part[:, : a.shape[1]] = a[start : start + ROWS_AT_ONCE]
        part[:, a.shape[1] :] = b[start : start + ROWS_AT_ONCE]
        part[:, a.shape[1] :] *= sign
        if weights is not None:
            part *= weights[start : start + ROWS_AT_ONCE, None]
        total += part.T @ part
    return total


def _triangle(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of the thin QR factorisation."""
    return np.asarray(np.linalg.qr(columns, mode="r"), dtype=np.float64)
