"""Who plays which part in the demo: pure choices from the data, the same for the same seed."""

from dataclasses import dataclass

import numpy as np

from ..models.base import Interactions, IntVector

_PERSON_QUANTILES = (0.6, 0.9)  # active enough to be missed, not so active as to be remarkable


@dataclass(frozen=True)
class Cast:
    """Rows and pairs of the demo.

    Attributes
    ----------
    person : row of the account that is deleted first.
    neighbour : row of the user most like them, who stays and is not touched.
    crowd : int64, ascending: rows deleted next, the most active user of all among them.
    pair_users, pair_items : int64, parallel: single interactions deleted with the crowd, of other users.
    """

    person: int
    neighbour: int
    crowd: IntVector
    pair_users: IntVector
    pair_items: IntVector


def choose_cast(user_items: Interactions, accounts: int, interactions: int, seed: int) -> Cast:
    """Choose who is deleted and who is watched.

    Parameters
    ----------
    user_items : canonical CSR [n_users, n_items].
    accounts, interactions : how many accounts the crowd has, how many single interactions go with it.

    Raises
    ------
    ValueError
        There are too few users or interactions for it.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> x = sp.csr_matrix(np.tril(np.ones((9, 9))))
    >>> cast = choose_cast(x, accounts=2, interactions=3, seed=1)
    >>> 8 in cast.crowd, cast.pair_users.size, cast.person in cast.crowd
    (True, 3, False)
    """
    rng = np.random.default_rng(seed)
    activity = np.diff(user_items.indptr)
    if (activity > 0).sum() < accounts + 4:
        raise ValueError(
            f"{(activity > 0).sum()} users are too few to delete {accounts + 1} and watch the others; "
            "name fewer accounts or a larger file"
        )
    most_active = int(np.argmax(activity))
    low, high = np.quantile(activity[activity > 0], _PERSON_QUANTILES)
    likely = np.flatnonzero(
        (activity >= low) & (activity <= high) & (np.arange(activity.size) != most_active)
    )
    person = int(rng.choice(likely))
    neighbour = _most_alike(user_items, person, most_active)
    rest = np.setdiff1d(np.flatnonzero(activity), [person, neighbour, most_active])
    crowd = np.sort(np.append(rng.choice(rest, accounts - 1, replace=False), most_active))
    pair_users, pair_items = _choose_pairs(user_items, np.setdiff1d(rest, crowd), interactions, rng)
    return Cast(person, neighbour, crowd.astype(np.int64), pair_users, pair_items)


def _most_alike(user_items: Interactions, person: int, excluded: int) -> int:
    """Find the row with the largest cosine to ``person``'s."""
    norms = np.sqrt(np.asarray(user_items.multiply(user_items).sum(axis=1), dtype=np.float64).ravel())
    overlap = np.asarray((user_items @ user_items[person].T).todense(), dtype=np.float64).ravel()
    cosine = np.divide(overlap, norms, out=np.zeros_like(overlap), where=norms > 0)
    cosine[[person, excluded]] = -1.0
    return int(np.argmax(cosine))


def _choose_pairs(
    user_items: Interactions, users: IntVector, number: int, rng: np.random.Generator
) -> tuple[IntVector, IntVector]:
    """Draw pairs of ``users`` that are among the interactions, never the last one of anybody."""
    rows = np.repeat(np.arange(user_items.shape[0]), np.diff(user_items.indptr))
    first = np.zeros(rows.size, dtype=np.bool_)
    first[user_items.indptr[:-1][np.diff(user_items.indptr) > 0]] = True
    candidates = np.flatnonzero(np.isin(rows, users) & ~first)
    if candidates.size < number:
        raise ValueError(
            f"{candidates.size} interactions can be removed, {number} were asked for; name fewer"
        )
    chosen = np.sort(rng.choice(candidates, number, replace=False))
    return rows[chosen].astype(np.int64), user_items.indices[chosen].astype(np.int64)
