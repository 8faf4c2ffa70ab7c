"""Models of this package as methods."""

import copy
from collections.abc import Callable
from typing import Any, Self, cast

import numpy as np
import scipy.sparse as sp

from ....models import MODELS, ForgettableALS
from ....models.base import Arrays, ForgettableModel, Interactions, IntVector
from ...attacks.served import Served, served
from ...oracle import item_weights_of, retrain
from ..protocol import Claim, FloatMatrix, Method, Removal


class Ours(Method):
    """A forgettable model, by its registry name.

    Parameters
    ----------
    name : of the model.
    settings : its constructor's.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.make = cast(
            Callable[..., ForgettableModel], {**MODELS, ForgettableALS.name: ForgettableALS}[name]
        )
        self.settings = settings
        self.model = self.make(**settings)

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit; the seed is the model's ``random_state``, where it has one."""
        seeded = {"random_state": seed} if "random_state" in self.make(**self.settings).settings() else {}
        self.model = self.make(**{**self.settings, **seeded}).fit(user_items)

    def forget(self, removal: Removal) -> None:
        """Forget as the model does."""
        self.model.forget(users=removal.users, pair_users=removal.pair_users, pair_items=removal.pair_items)

    def scores(self, users: IntVector) -> FloatMatrix:
        """Score as the model serves."""
        if hasattr(self.model, "user_factors"):
            return self._factors("user_factors")[users] @ self._factors("item_factors").T
        return _weighted(self.model.user_items[users], self.model)

    def fold_in(self, rows: Interactions) -> FloatMatrix:
        """Score rows that need not be the model's."""
        if hasattr(self.model, "user_factors"):
            folded = cast(Any, self.model).recalculate_user(np.arange(rows.shape[0]), rows)
            return np.asarray(folded, dtype=np.float64) @ self._factors("item_factors").T
        return _weighted(rows, self.model)

    def published(self) -> Arrays:
        """Return what the model publishes."""
        return self.model.published()

    def served(self) -> Served:
        """Return all that its publication gives away: counts and sums as well, where they can be had."""
        return served(self.model)

    def retrained(self, user_items: Interactions, seed: int) -> Self:
        """Fit anew; the lambda that the first fit chose and who is in which shard are part of the model."""
        fresh = copy.copy(self)
        fresh.settings = dict(self.settings)
        if self.model.settings().get("regularization", 0) is None:
            fresh.settings["regularization"] = cast(Any, self.model).regularization
        shards = getattr(self.model, "shard_of", np.zeros(0))
        if shards.size:
            fresh.model = cast(Any, self.make)(**{**fresh.settings, "random_state": seed})
            cast(Any, fresh.model).fit(user_items, shard_of=shards)
        else:
            fresh.fit(user_items, seed)
        return fresh

    def reference(self, user_items: Interactions, seed: int) -> Self | None:
        """Fit an iterative model a thousand times more tightly; an exact one needs no other truth."""
        if "tolerance" not in self.model.settings():
            return None
        fresh = copy.copy(self)
        fresh.model = retrain(self.model, user_items)
        return fresh

    def claim(self) -> Claim:
        """Give the model's own proof."""
        proof = self.model.proof()
        return Claim(proof.exact, proof.erased_at_least, proof.bound)

    def _factors(self, name: str) -> FloatMatrix:
        return np.asarray(getattr(self.model, name), dtype=np.float64)


def _weighted(rows: Interactions, model: ForgettableModel) -> FloatMatrix:
    weights = item_weights_of(model)
    product = sp.csr_matrix(rows, dtype=np.float64) @ weights
    return np.asarray(cast(Any, product).toarray() if sp.issparse(product) else product, dtype=np.float64)
