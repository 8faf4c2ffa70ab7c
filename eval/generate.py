"""Social-like interactions from a seed: power laws on both sides, and communities of taste.

The model, drawn in this order:

1. *Activity.* User ranks give weights ``((r + 1/2) / n_users)^(-1/(user_exponent - 1))``, the quantiles of
   a power law with that density exponent. Degrees are proportional to them, between 1 and a quarter of
   all items (more only where the asked-for number of interactions needs it), and sum exactly to
   ``interactions``; ranks are dealt to users at random.
2. *Popularity.* Item ranks give Zipf weights ``(r + 1)^-item_exponent``, dealt to items at random.
3. *Communities.* Each item has one home community, each user up to three favourites (the first is visited
   most); big communities are chosen more often, sizes falling with the square root of the rank.
4. *Interactions.* Each draw of a user goes, with probability ``loyalty``, to one of their favourites, by
   the popularity of its items, else to any item by popularity. An item drawn twice is drawn again, so
   every user ends with as many distinct items as their degree says. A user who has nearly exhausted their
   communities widens to all items, and in the end takes what is left.
"""

from typing import Final, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..models.base import Interactions
from ..models.kernels import kernel

FAVOURITES: Final = 3
_FAVOURITE_SHARES: Final = (0.6, 0.3, 0.1)
_COUNT_EXPONENT: Final = 2.5
_MOST_COUNTS: Final = 1000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Tastes(NamedTuple):
    """Who likes what kind of thing.

    Attributes
    ----------
    home : int64 [n_items], the community of each item; every community has at least one.
    favourites : int64 [n_users, 3], the communities of each user, most visited first; may repeat.
    """

    home: Ints
    favourites: Ints


def social_interactions(
    users: int,
    items: int,
    interactions: int,
    *,
    communities: int | None = None,
    loyalty: float = 0.8,
    user_exponent: float = 2.5,
    item_exponent: float = 0.8,
    counts: bool = False,
    seed: int = 0,
) -> Interactions:
    """Generate interactions as a social platform might have them; see the module for the model.

    Parameters
    ----------
    users, items : size of the matrix. No user is empty; an unpopular item may be.
    interactions : exact number of distinct pairs, ``users <= interactions <= users * items``.
    communities : how many; None: ``sqrt(items) / 4``, at least one.
    loyalty : share of draws inside a user's communities, 0 to 1.
    user_exponent : density exponent of activity, above 1; smaller means heavier heavy users.
    item_exponent : Zipf exponent of popularity, at least 0.
    counts : values are counts from 1 to 1000, ``P(count >= c) = c^-1.5``, instead of ones.
    seed : the same seed gives the same matrix.

    Returns
    -------
    Canonical CSR float64 [users, items].

    Raises
    ------
    ValueError
        An argument is out of its range; the message names it.

    Notes
    -----
    O(interactions log items), one thread. See :func:`draw_tastes` for the communities behind a seed.

    Examples
    --------
    >>> x = social_interactions(100, 50, 800, seed=3)
    >>> x.shape, x.nnz, int(np.diff(x.indptr).min()) >= 1
    ((100, 50), 800, True)
    """
    _check(users, items, interactions, loyalty, user_exponent, item_exponent)
    tastes = draw_tastes(users, items, communities, seed)
    activity, popularity, draws, values = (
        np.random.default_rng(child) for child in np.random.SeedSequence([seed, 1]).spawn(4)
    )
    weights = ((np.arange(users) + 0.5) / users) ** (-1 / (user_exponent - 1))
    degrees = apportion(activity.permutation(weights), interactions, items)
    liking = popularity.permutation((np.arange(items) + 1.0) ** -item_exponent)

    by_home = np.argsort(tastes.home, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(tastes.home))])
    within = np.concatenate([[0.0], np.cumsum(liking[by_home])])
    starts = np.concatenate([[0], np.cumsum(degrees)])
    indices = np.empty(interactions, dtype=np.int32)
    shares = np.cumsum(_FAVOURITE_SHARES) * loyalty
    _draw_items(draws, starts, tastes.favourites, by_home, bounds, within, shares, indices)

    data = _draw_counts(values, interactions) if counts else np.ones(interactions)
    index_type = np.int32 if interactions < 2**31 else np.int64
    matrix: Interactions = sp.csr_matrix(
        (data, indices.astype(index_type, copy=False), starts.astype(index_type)), shape=(users, items)
    )
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def _draw_counts(rng: np.random.Generator, size: int) -> Floats:
    """Draw whole numbers, ``P(count >= c) = c^-1.5``, at most ``_MOST_COUNTS``."""
    pareto = (1 - rng.random(size)) ** (-1 / (_COUNT_EXPONENT - 1))
    return np.minimum(np.floor(pareto), _MOST_COUNTS)


def draw_tastes(users: int, items: int, communities: int | None = None, seed: int = 0) -> Tastes:
    """Draw the communities that :func:`social_interactions` uses for the same arguments.

    Parameters
    ----------
    users, items, communities, seed : as there.

    Raises
    ------
    ValueError
        ``communities`` is not between 1 and ``items``.

    Examples
    --------
    >>> tastes = draw_tastes(4, 10, communities=2, seed=0)
    >>> sorted(set(tastes.home.tolist())), tastes.favourites.shape
    ([0, 1], (4, 3))
    """
    count = max(1, round(items**0.5 / 4)) if communities is None else communities
    if not 1 <= count <= items:
        raise ValueError(f"communities is {count}; choose between 1 and the number of items, {items}")
    rng = np.random.default_rng([seed, 0])
    sizes = (np.arange(count) + 1.0) ** -0.5
    sizes /= sizes.sum()
    home = rng.choice(count, size=items, p=sizes)
    home[rng.permutation(items)[:count]] = np.arange(count)  # none is without an item
    favourites = rng.choice(count, size=(users, FAVOURITES), p=sizes)
    return Tastes(home.astype(np.int64), favourites.astype(np.int64))


def apportion(weights: Floats, total: int, most: int) -> Ints:
    """Deal out ``total`` in proportion to weights, at least 1 and at most ``most`` to each.

    Shares are kept below a quarter of ``most`` where the total allows it.

    Parameters
    ----------
    weights : float64 [n], positive.
    total : ``n <= total <= n * most``.
    most : the most that one can have.

    Returns
    -------
    int64 [n], summing to ``total``.

    Raises
    ------
    ValueError
        ``total`` is out of its range.

    Examples
    --------
    >>> apportion(np.array([1.0, 2.0, 6.0]), 9, 100).tolist()
    [1, 2, 6]
    """
    if not weights.size <= total <= weights.size * most:
        raise ValueError(f"{total} cannot be dealt to {weights.size} with 1 to {most} each")
    cap = min(most, max(most // 4, -(-3 * total // (2 * weights.size))))
    low, high = 0.0, cap / float(weights.min())
    for _ in range(200):  # bisection down to neighbouring floats
        scale = (low + high) / 2
        if scale in (low, high):
            break
        low, high = (scale, high) if np.clip(weights * scale, 1, cap).sum() <= total else (low, scale)
    shares = np.clip(weights * low, 1, cap)
    dealt = np.floor(shares).astype(np.int64)
    while (left := total - int(dealt.sum())) > 0:
        room = np.flatnonzero(dealt < cap)
        order = room[np.argsort(dealt[room] - shares[room], kind="stable")]
        dealt[order[:left]] += 1
    return dealt


def _check(
    users: int, items: int, interactions: int, loyalty: float, user_exponent: float, item_exponent: float
) -> None:
    if users < 1 or not 1 <= items < 2**31:
        raise ValueError(f"{users} users and {items} items; there must be at least one of each")
    if not users <= interactions <= users * items:
        raise ValueError(
            f"{interactions} interactions for {users} users and {items} items; "
            f"choose between {users} (no user is empty) and {users * items} (all pairs)"
        )
    if not 0 <= loyalty <= 1:
        raise ValueError(f"loyalty is {loyalty}; choose a share between 0 and 1")
    if not 1 < user_exponent < np.inf:
        raise ValueError(f"user_exponent is {user_exponent}; choose a finite number above 1, usually 2 to 3")
    if not 0 <= item_exponent < np.inf:
        raise ValueError(f"item_exponent is {item_exponent}; choose a finite number of at least 0")


@kernel
def _draw_items(
    rng: np.random.Generator,
    starts: Ints,
    favourites: Ints,
    by_home: Ints,
    bounds: Ints,
    within: Floats,
    shares: Floats,
    indices: NDArray[np.int32],
) -> None:
    """Draw each user's distinct items into ``indices[starts[u]:starts[u + 1]]``, ascending.

    Items lie in ``by_home``, community c at ``bounds[c]:bounds[c + 1]``, with cumulated popularity
    ``within``; ``shares`` are the cumulated probabilities of a user's favourites.
    """
    n_items = by_home.size
    last = np.full(n_items, -1, dtype=np.int64)  # the last user who has this item
    for user in range(starts.size - 1):
        at, stop = starts[user], starts[user + 1]
        patience = 4 * (stop - at) + 16
        tries = 0
        while at < stop and tries < 2 * patience:
            low, high = 0, n_items
            choice = rng.random()
            if tries < patience and choice < shares[-1]:
                rank = np.searchsorted(shares, choice, side="right")
                community = favourites[user, rank]
                low, high = bounds[community], bounds[community + 1]
            mark = within[low] + rng.random() * (within[high] - within[low])
            position = np.searchsorted(within[low + 1 : high], mark, side="right") + low
            item = by_home[position]
            if last[item] != user:
                last[item] = user
                indices[at] = item
                at += 1
            tries += 1
        position = int(rng.random() * n_items)
        while at < stop:
            item = by_home[position]
            if last[item] != user:
                last[item] = user
                indices[at] = item
                at += 1
            position = (position + 1) % n_items
        indices[starts[user] : stop].sort()
