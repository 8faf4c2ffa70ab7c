"""How well scores rank what people took afterwards: per person, so that groups and intervals can be made."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...models.base import Interactions

CUTOFF: Final = 10


def top_items(scores: NDArray[np.float64], seen: Interactions, n: int = CUTOFF) -> NDArray[np.int64]:
    """Rank the items that were not seen: int64 [k, n], best first, ties by item number.

    Parameters
    ----------
    scores : float64 [k, n_items]; not modified. seen : CSR [k, n_items], what is left out.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> top_items(np.array([[3.0, 1.0, 2.0]]), sp.csr_matrix([[1.0, 0, 0]]), 2)
    array([[2, 1]])
    """
    ranked = scores.copy()
    ranked[np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)), seen.indices] = -np.inf
    n = min(n, scores.shape[1])
    return np.argsort(-ranked, axis=1, kind="stable")[:, :n].astype(np.int64)


def ndcg(listed: NDArray[np.int64], wanted: Interactions) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of each list, binary: float64 [k] (Järvelin & Kekäläinen 2002).

    Parameters
    ----------
    listed : int64 [k, n], best first. wanted : CSR [k, n_items], each row with an entry or more.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> ndcg(np.array([[2, 0]]), sp.csr_matrix([[1.0, 0, 0]])).round(4)
    array([0.6309])
    """
    discounts = 1.0 / np.log2(np.arange(listed.shape[1]) + 2)
    ideal = np.cumsum(discounts)[np.minimum(np.diff(wanted.indptr), listed.shape[1]) - 1]
    gains: NDArray[np.float64] = (_hits(listed, wanted) * discounts).sum(axis=1) / ideal
    return gains


def recall(listed: NDArray[np.int64], wanted: Interactions) -> NDArray[np.float64]:
    """Share of what was wanted that is in each list: float64 [k]; arguments as :func:`ndcg`."""
    found: NDArray[np.float64] = _hits(listed, wanted).sum(axis=1) / np.diff(wanted.indptr)
    return found


def overlap(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mean share of items that two lists of the same people have in common, whatever their order."""
    shared = [np.intersect1d(left, right).size for left, right in zip(a, b, strict=True)]
    return float(np.mean(shared)) / a.shape[1] if len(shared) else 1.0


def _hits(listed: NDArray[np.int64], wanted: Interactions) -> NDArray[np.bool_]:
    rows = np.repeat(np.arange(wanted.shape[0]), np.diff(wanted.indptr))
    keys = rows * wanted.shape[1] + wanted.indices
    return np.isin(np.arange(listed.shape[0])[:, None] * wanted.shape[1] + listed, keys)
