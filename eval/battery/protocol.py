"""What a method must be able to do to be evaluated: fit, forget, score. One file, one row of a registry."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...models.base import Arrays, Interactions, IntVector, plan_change
from ..attacks.served import Served, served_arrays

FloatMatrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Removal:
    """What is to be forgotten, in dense row and column numbers.

    Attributes
    ----------
    users : int64 [a], ascending: accounts.
    pair_users, pair_items : int64 [b], parallel: single interactions of users who stay.
    """

    users: IntVector
    pair_users: IntVector
    pair_items: IntVector

    @classmethod
    def of_users(cls, users: IntVector) -> Self:
        """Remove accounts only."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(users, nothing, nothing)

    @property
    def touched(self) -> IntVector:
        """Rows that the removal touches, ascending."""
        return np.union1d(self.users, self.pair_users).astype(np.int64)


@dataclass(frozen=True)
class Claim:
    """What a method says of its own forgetting, to be held against the truth.

    Attributes
    ----------
    exact : it says that it equals a retrain up to rounding.
    erased_at_least : share of the influence on those who stay that it shows to be gone; None: it shows none.
    bound : on the relative distance to a retrain, in the method's own norm; None: it shows none.
    """

    exact: bool = False
    erased_at_least: float | None = None
    bound: float | None = None


class Method(ABC):
    """A recommender with a way to forget, as the battery sees it.

    Four methods are needed; the others have defaults that say "nothing to add". An instance is copied with
    ``copy.deepcopy`` before it forgets, so that the model before can be asked as well.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> class Popularity(Method):
    ...     def fit(self, user_items, seed):
    ...         self.user_items = user_items.copy()
    ...     def forget(self, removal):
    ...         self.user_items = kept_after(self.user_items, removal)
    ...     def scores(self, users):
    ...         return np.tile(np.asarray(self.user_items.sum(axis=0)), (users.size, 1))
    ...     def fold_in(self, rows):
    ...         return self.scores(np.arange(rows.shape[0]))
    >>> method = Popularity()
    >>> method.fit(sp.csr_matrix([[1.0, 1.0], [0.0, 1.0]]), seed=0)
    >>> method.forget(Removal.of_users(np.array([0])))
    >>> method.scores(np.array([1])).tolist()
    [[0.0, 1.0]]
    """

    @abstractmethod
    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit from scratch to CSR float64 [n_users, n_items]; the matrix must not be modified."""

    @abstractmethod
    def forget(self, removal: Removal) -> None:
        """Forget accounts and single interactions; what is removed is among what is kept."""

    @abstractmethod
    def scores(self, users: IntVector) -> FloatMatrix:
        """Score all items for rows of the model as it stands: float64 [k, n_items]."""

    @abstractmethod
    def fold_in(self, rows: Interactions) -> FloatMatrix:
        """Score all items for people with these interactions, CSR [k, n_items]: float64 [k, n_items]."""

    def published(self) -> Arrays:
        """Return the arrays that serving would hold, by name, for the scan and the attacks.

        ``user_factors`` [n_users, k]; ``item_factors`` [n_items, k], ``item_weights`` (dense) or
        ``similarity`` (CSR) [n_items, n_items]; others under names of their own. Default: nothing to look at.
        """
        return {}

    def served(self) -> Served:
        """Return what a client gets of the method as it stands, for the attacks; it is not to change later.

        Default: :meth:`published` under the names known, and :meth:`fold_in` of a copy. Override it where
        more can be worked out of what is published.
        """
        now = copy.deepcopy(self)
        n_items = now.scores(np.zeros(1, dtype=np.int64)).shape[1]
        return served_arrays(now.published(), now.fold_in, n_items)

    def retrained(self, user_items: Interactions, seed: int) -> Self:
        """Fit the same method anew, with every hyperparameter that the first fit chose held fixed; timed."""
        fresh = copy.deepcopy(self)
        fresh.fit(user_items, seed)
        return fresh

    def reference(self, user_items: Interactions, seed: int) -> Self | None:
        """Fit the retrain more accurately than the method does, as the truth; None: its own retrain is it."""
        return None

    def idle(self) -> None:  # noqa: B027 - doing nothing is right for most
        """Do the work that forgetting does, with nobody removed; a method that iterates goes on iterating."""

    def claim(self) -> Claim:
        """Say what the method shows about itself after forgetting."""
        return Claim()


def kept_after(user_items: Interactions, removal: Removal) -> Interactions:
    """Take a removal out of a matrix: CSR of the same shape, without explicit zeros.

    Raises
    ------
    ValueError
        As :func:`recunlearn.models.base.plan_change`.
    """
    nobody = np.zeros(user_items.shape[0], dtype=np.bool_)
    return plan_change(
        user_items, nobody, removal.users, removal.pair_users, removal.pair_items
    ).user_items.copy()


class RowOnly(Method):
    """A control: what deletion usually is. The rows are gone; what was learned from them stays.

    Parameters
    ----------
    fitted : a method that has not forgotten; it is not changed.
    """

    def __init__(self, fitted: Method) -> None:
        self.fitted = fitted
        self.gone: IntVector = np.zeros(0, dtype=np.int64)

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit the method below."""
        self.fitted.fit(user_items, seed)

    def forget(self, removal: Removal) -> None:
        """Empty the rows of the accounts."""
        self.gone = np.union1d(self.gone, removal.users).astype(np.int64)

    def scores(self, users: IntVector) -> FloatMatrix:
        """Score as before, but zero for those who left."""
        scores = self.fitted.scores(users)
        scores[np.isin(users, self.gone)] = 0.0
        return scores

    def fold_in(self, rows: Interactions) -> FloatMatrix:
        """Fold in as before."""
        return self.fitted.fold_in(rows)
