"""Who is removed, how many, and in which order: the regimes of a study."""

from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...models.base import Interactions, IntVector
from .protocol import Removal


class StudyError(ValueError):
    """A study cannot be run as it is written; the message says which entry, its value and what to do."""


class Regime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way of removing people.

    Attributes
    ----------
    name : of the regime, and of its folder.
    who : "random"; "core": the most active; "edge": the least active.
    users : how many people; or share: of those with interactions, at least one. One of the two.
    interactions : remove half of each one's interactions, singly, rather than their accounts.
    batch : requests handed to the method at a time; None: all at once. 1 is a sequential stream.
    checkpoints : how often, evenly over the stream, a retrain is made to compare with.
    """

    name: str
    who: Literal["random", "core", "edge"] = "random"
    users: int | None = None
    share: float | None = None
    interactions: bool = False
    batch: int | None = None
    checkpoints: int = 1

    def __post_init__(self) -> None:
        if (self.users is None) == (self.share is None):
            raise ValueError(f"regime {self.name!r}: give either users or share")
        if self.users is not None and self.users < 1:
            raise ValueError(f"regime {self.name!r}: users is {self.users}; remove at least one")
        if self.share is not None and not 0 < self.share <= 0.5:
            raise ValueError(f"regime {self.name!r}: share is {self.share}; it must be above 0, at most 0.5")
        if (self.batch is not None and self.batch < 1) or self.checkpoints < 1:
            raise ValueError(f"regime {self.name!r}: batch and checkpoints are at least 1")


def chosen_users(user_items: Interactions, regime: Regime, seed: int) -> IntVector:
    """Choose the people of a draw: int64 [k], in the order in which they ask to be forgotten.

    "core" and "edge" draw from the most and the least active fifth (or twice as many as are asked for, where
    that is more), so that draws differ; the least active have at least two interactions, so that there is
    something to look for afterwards.

    Raises
    ------
    StudyError
        There are too few people.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> x = sp.csr_matrix(np.tril(np.ones((10, 10))))
    >>> chosen_users(x, Regime(name="a", who="core", users=1), seed=3)
    array([9])
    """
    sizes = np.diff(user_items.indptr)
    people = np.flatnonzero(sizes >= 2)
    count = regime.users or max(1, round((regime.share or 0) * people.size))
    if count > people.size // 2:
        raise StudyError(
            f"regime {regime.name!r} removes {count} people, of {people.size} with two interactions or more; "
            "remove at most half of them"
        )
    rng = np.random.default_rng([seed, 1])
    if regime.who == "random":
        return rng.permutation(people)[:count].astype(np.int64)
    ordered = people[np.lexsort((rng.random(people.size), sizes[people]))]
    pool = max(min(2 * count, people.size), people.size // 5)
    pool_users = ordered[-pool:] if regime.who == "core" else ordered[:pool]
    return rng.permutation(pool_users)[:count].astype(np.int64)


def removal_of(user_items: Interactions, regime: Regime, users: IntVector, seed: int) -> Removal:
    """Build the removal of some people: their accounts, or half of each one's interactions."""
    if not regime.interactions:
        return Removal.of_users(np.sort(users))
    pairs: list[tuple[int, NDArray[np.int64]]] = []
    for user in users:
        items = user_items.indices[user_items.indptr[user] : user_items.indptr[user + 1]].astype(np.int64)
        order = np.random.default_rng([seed, 2, int(user)]).permutation(items)
        pairs.append((int(user), np.sort(order[: max(1, items.size // 2)])))
    return Removal(
        np.zeros(0, dtype=np.int64),
        np.repeat([user for user, _ in pairs], [items.size for _, items in pairs]).astype(np.int64),
        np.concatenate([items for _, items in pairs]),
    )


def batches_of(users: IntVector, regime: Regime) -> Iterator[IntVector]:
    """Yield the people of a draw as they are handed to the method."""
    step = regime.batch or users.size
    for start in range(0, users.size, step):
        yield users[start : start + step]


def checkpoints_of(batches: int, regime: Regime) -> set[int]:
    """Name the batches after which a retrain is made: counted from 1; the last is one of them.

    Examples
    --------
    >>> sorted(checkpoints_of(10, Regime(name="a", users=10, batch=1, checkpoints=4)))
    [2, 5, 8, 10]
    """
    return {max(1, round(batches * part / regime.checkpoints)) for part in range(1, regime.checkpoints + 1)}
