"""What an attack is given: two versions, who left between them, and what the attacker can do beside."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...models.base import Interactions, IntVector
from ...models.statistics import select_entries
from .served import Served

SHADOW_PAIRS: Final = 2
"""Pairs of shadow models, each of a pair on one half of the attacker's population."""


class SceneError(ValueError):
    """An attack needs something that the scene does not have; the message says what."""


@dataclass(frozen=True)
class Shadow:
    """A model that the attacker trained.

    Attributes
    ----------
    served : what it serves.
    members : bool [n_users], who was in its data.
    """

    served: Served
    members: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A removal as an attacker sees it.

    Attributes
    ----------
    before, after : what was published before and after the removal; all over the same items.
    user_items : canonical CSR [n_users, n_items], the data before: the truth, and what the attacker knows of
        those who stay (the strong attacker of Carlini et al. 2022: the worst case for us).
    users : int64 [k], ascending: the rows that were forgotten.
    oracle : what a model fitted from scratch without them serves.
    fit : trains a model of the same kind on other data of the same shape, for the attacker's shadows.
    seed : of everything drawn; the same seed, the same figures.
    """

    before: Served
    after: Served
    user_items: Interactions
    users: IntVector
    oracle: Served | None = None
    fit: Callable[[Interactions], Served] | None = None
    seed: int = 0

    def require_oracle(self) -> Served:
        """Return the oracle.

        Raises
        ------
        SceneError
            There is none.
        """
        if self.oracle is None:
            raise SceneError("this attack is measured against a retrain; give the scene an oracle")
        return self.oracle

    @cached_property
    def kept(self) -> Interactions:
        """What stays: the data with the forgotten rows empty."""
        stays = np.ones(self.user_items.shape[0], dtype=np.bool_)
        stays[self.users] = False
        return only_rows(self.user_items, stays)

    @cached_property
    def shadows(self) -> tuple[Shadow, ...]:
        """The attacker's models, ``2 * SHADOW_PAIRS``: 0 and 1 are on disjoint halves, and so on.

        Raises
        ------
        SceneError
            The scene has no ``fit``.
        """
        if self.fit is None:
            raise SceneError("this attack trains shadow models; give the scene a function that fits one")
        rng = np.random.default_rng(self.seed)
        people = np.flatnonzero(np.diff(self.kept.indptr))
        shadows: list[Shadow] = []
        for _ in range(SHADOW_PAIRS):
            half = rng.permutation(people)[: people.size // 2]
            first = np.zeros(self.kept.shape[0], dtype=np.bool_)
            first[half] = True
            second = np.zeros_like(first)
            second[people] = ~first[people]
            shadows += [Shadow(self.fit(only_rows(self.kept, who)), who) for who in (first, second)]
        return tuple(shadows)


def only_rows(user_items: Interactions, keep: NDArray[np.bool_]) -> Interactions:
    """Copy a matrix with the rows that are not kept empty; the shape stays.

    Parameters
    ----------
    user_items : CSR [n_users, n_items]. keep : bool [n_users].

    Examples
    --------
    >>> only_rows(sp.csr_matrix([[1, 0], [2, 3]]), np.array([False, True])).toarray().tolist()
    [[0, 0], [2, 3]]
    """
    return select_entries(user_items, np.repeat(keep, np.diff(user_items.indptr)))


def split_profiles(
    user_items: Interactions, users: IntVector, seed: int
) -> tuple[IntVector, list[IntVector], list[IntVector]]:
    """Split each user's items into a half the attacker asks with and a half that is looked for.

    Returns
    -------
    users : int64, those with two items or more; asked, hidden : for each of them, ascending item numbers.
    """
    asked, hidden, kept = [], [], []
    for user in users:
        items = user_items.indices[user_items.indptr[user] : user_items.indptr[user + 1]]
        if items.size < 2:
            continue
        order = np.random.default_rng([seed, int(user)]).permutation(items).astype(np.int64)
        kept.append(int(user))
        asked.append(np.sort(order[: items.size // 2]))
        hidden.append(np.sort(order[items.size // 2 :]))
    return np.array(kept, dtype=np.int64), asked, hidden


def rows_of(profiles: list[IntVector], n_items: int) -> Interactions:
    """Build one row of ones for each list of items: CSR float64 [k, n_items]."""
    indptr = np.concatenate([[0], np.cumsum([p.size for p in profiles])]).astype(np.int64)
    items = np.concatenate([np.zeros(0, np.int64), *profiles])
    rows: Interactions = sp.csr_matrix((np.ones(items.size), items, indptr), shape=(len(profiles), n_items))
    return rows
