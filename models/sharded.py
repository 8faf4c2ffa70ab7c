"""The peer to beat: exact, given who is in which shard, by retraining the user's shard (SISA, RecEraser)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import ArrayLike, NDArray

from .als import exact_solver
from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar, canonical_interactions
from .factorization import Factorization, FloatArray
from .item_model import restricted
from .threads import one_blas_thread


class ShardedMF(Factorization):
    """ALS on shards of the users, averaged; forgetting retrains the shards touched and nothing else.

    SISA (Bourtoule et al. 2021) for recommenders, as RecEraser (Chen et al. 2022) has it, with the plain mean
    as the aggregation: every shard fits implicit's ALS on its own users, every user is folded into every
    shard's item factors, and the scores are averaged. What forgetting costs is a retrain of ``1 / shards`` of
    the data for one user and of nearly all of it for a batch, and the quality that small shards lose.

    Exact, given the shards: forgetting, and leaving out rows and columns that became empty, ends at the same
    bits as a fresh fit of what is kept with everybody in the shard that they are in (``fit(...,
    shard_of=model.shard_of)``). Which shard that is was decided at the first fit, by the row's number alone:
    it knows nothing of anybody's interactions, but a number counts the rows before it, those since forgotten
    included. A fit without ``shard_of`` deals the users out anew, and is another model altogether.

    Parameters
    ----------
    shards : how many; at a fit, a user's shard is a hash of their row number unless it is given.
    factors, regularization, alpha, iterations, random_state : of each shard's ALS, as implicit's.
    num_threads : of implicit's solver and top-k; 0: all cores.

    Attributes
    ----------
    user_factors : [n_users, shards * factors], divided by ``shards``, so that scores are means.
    item_factors : [n_items, shards * factors].
    shard_of : int64 [n_users], each row's shard. A user stays in theirs.
    retrained : shards that the last fit or forgetting trained.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> x = sp.csr_matrix(np.kron(np.eye(2), np.ones((8, 5))))
    >>> model = ShardedMF(shards=4, factors=3).fit(x)
    >>> model.forget_users([3])
    >>> again = ShardedMF(shards=4, factors=3).fit(model.user_items)
    >>> bool(np.array_equal(model.item_factors, again.item_factors)), model.retrained
    (True, 1)
    """

    name: ClassVar[str] = "sharded_mf"
    exact: ClassVar[bool] = True

    def __init__(
        self,
        shards: int = 10,
        factors: int = 32,
        regularization: float = 0.01,
        alpha: float = 1.0,
        iterations: int = 15,
        random_state: int = 0,
        num_threads: int = 0,
    ) -> None:
        super().__init__(num_threads=num_threads)
        if shards < 1 or factors < 1 or iterations < 1:
            raise ValueError(f"shards {shards}, factors {factors}, iterations {iterations}: at least 1 each")
        if not (regularization > 0 and alpha > 0):
            raise ValueError(f"regularization is {regularization} and alpha {alpha}; both must be positive")
        self.shards, self.factors, self.iterations = int(shards), int(factors), int(iterations)
        self.regularization, self.alpha, self.random_state = (
            float(regularization),
            float(alpha),
            int(random_state),
        )
        self.retrained = 0
        self._has_forgotten = False
        self.shard_of: IntVector = np.zeros(0, np.int64)
        self._given_shards: ArrayLike | None = None

    def fit(self, user_items: Any, show_progress: bool = False, shard_of: ArrayLike | None = None) -> Self:
        """Fit from scratch, as :meth:`.ForgettableModel.fit`.

        Parameters
        ----------
        shard_of : int [n_users], each row's shard, 0 .. shards - 1; None: a hash of the row's number.

        Raises
        ------
        ValueError
            A value is negative, NaN or infinite, or ``shard_of`` has another length or an unknown shard.
        """
        self._given_shards = shard_of
        try:
            return super().fit(user_items, show_progress)
        finally:
            self._given_shards = None

    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        n_users, given = user_items.shape[0], self._given_shards
        shard_of = (
            shard_of_rows(n_users, self.shards) if given is None else _checked(given, n_users, self.shards)
        )
        items = np.zeros((user_items.shape[1], self.shards * self.factors), np.float32)
        users = np.zeros((user_items.shape[0], self.shards * self.factors), np.float32)
        for shard in range(self.shards):
            self._train(user_items, shard_of, shard, items)
            users[:, self._columns(shard)] = self._folded(user_items, items, shard)
        self.shard_of, self.retrained, self._has_forgotten = shard_of, self.shards, False
        self._publish(users, items)

    def _forget(self, change: Change) -> None:
        touched = np.unique(self.shard_of[change.users])
        items, users = self.item_factors.copy(), self.user_factors.copy()
        rows = change.user_items[change.users]
        for shard in range(self.shards):
            if shard in touched:
                self._train(change.user_items, self.shard_of, shard, items)
                users[:, self._columns(shard)] = self._folded(change.user_items, items, shard)
            else:
                users[change.users, self._columns(shard)] = self._folded(rows, items, shard)
        self._publish(users, items)
        self.retrained, self._has_forgotten = touched.size, True

    def _columns(self, shard: int) -> slice:
        return slice(shard * self.factors, (shard + 1) * self.factors)

    def _train(
        self, user_items: Interactions, shard_of: NDArray[np.int64], shard: int, items: FloatArray
    ) -> None:
        """Fit the shard's ALS on its own rows, from its own seed, and write its item factors.

        Without rows and items that are empty: they would draw from the seed, and be a trace of who was there.
        """
        sizes = np.diff(user_items.indptr)
        rows = user_items[np.flatnonzero((shard_of == shard) & (sizes > 0))].astype(np.float32)
        items[:, self._columns(shard)] = 0.0
        if not rows.nnz:
            return
        own = np.unique(rows.indices)
        rows = rows[:, own]
        rows.sort_indices()
        with one_blas_thread():
            model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                random_state=self.random_state + shard,
                num_threads=self.num_threads,
            )
            model.fit(rows, show_progress=False)
        items[own, self._columns(shard)] = model.item_factors

    def _folded(self, rows: Interactions, items: FloatArray, shard: int) -> FloatArray:
        """Solve for the rows' factors in one shard; [b, factors], divided by the number of shards.

        Items that the shard does not know are left out: they add zeros, but move where sums are split.
        """
        block = items[:, self._columns(shard)]
        known = np.flatnonzero(block.any(axis=1))
        block = np.ascontiguousarray(block[known])
        folded = np.zeros((rows.shape[0], self.factors), np.float32)
        if not known.size:
            return folded
        weighted = (rows[:, known] * self.alpha).astype(np.float32).tocsr()
        with one_blas_thread():
            exact_solver()(weighted, folded, block, self.regularization, num_threads=self.num_threads)
        return cast(FloatArray, folded / np.float32(self.shards))

    def _fold_in(self, rows: Interactions) -> FloatArray:
        """Fold rows into every shard, as known users are."""
        kept = canonical_interactions(rows)
        return np.concatenate(
            [self._folded(kept, self.item_factors, shard) for shard in range(self.shards)], axis=1
        )

    def proof(self) -> Proof:
        """Say that what was removed was never seen by the shards as they are; exact, given ``shard_of``."""
        return Proof(
            exact=True, bound=0.0, erased_at_least=1.0 if self._has_forgotten else None, certified=True
        )

    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments."""
        names = (
            "shards", "factors", "regularization", "alpha", "iterations", "random_state", "num_threads",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def published(self) -> Arrays:
        """Return the factors, and ``shard_of`` int64 [n_users], each row's shard."""
        return {
            "user_factors": self.user_factors,
            "item_factors": self.item_factors,
            "shard_of": self.shard_of,
        }

    def proof_record(self) -> Mapping[str, Scalar]:
        """Return whether anything was forgotten, and how many shards were trained last."""
        return {"has_forgotten": self._has_forgotten, "retrained": self.retrained}

    @classmethod
    def restore(
        cls,
        settings: Mapping[str, Any],
        arrays: Arrays,
        record: Mapping[str, Any],
        user_items: Interactions,
    ) -> Self:
        """Rebuild the model from what it published; its users are in the shards that they were in."""
        model = cls(**settings)
        model._publish(cast(FloatArray, arrays["user_factors"]), cast(FloatArray, arrays["item_factors"]))
        model.shard_of = cast(NDArray[np.int64], arrays["shard_of"])
        model._has_forgotten, model.retrained = bool(record["has_forgotten"]), int(record["retrained"])
        model._user_items = user_items
        model._forgotten = np.zeros(user_items.shape[0], dtype=np.bool_)
        return model

    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the same model without its empty rows and columns; users stay in the shards they are in.

        Raises
        ------
        ValueError
            A row or column that is not kept has interactions.
        """
        kept = restricted(self.user_items, users, items)
        arrays: Arrays = {
            "user_factors": np.ascontiguousarray(self.user_factors[users]),
            "item_factors": np.ascontiguousarray(self.item_factors[items]),
            "shard_of": self.shard_of[users],
        }
        model = type(self).restore(self.settings(), arrays, self.proof_record(), kept)
        model._forgotten = self._forgotten[users].copy()
        return model


def _checked(shard_of: ArrayLike, n_users: int, shards: int) -> IntVector:
    """Return given shards as int64 [n_users], a copy, or say what is wrong with them."""
    given = np.array(shard_of)
    if given.shape != (n_users,) or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            f"shard_of is {given.dtype} {given.shape}; pass one whole number for each of {n_users} rows"
        )
    wrong = (given < 0) | (given >= shards)
    if wrong.any():
        raise ValueError(f"shard_of names shard {given[wrong][0]}; the model has shards 0..{shards - 1}")
    return given.astype(np.int64)


def shard_of_rows(n_users: int, shards: int) -> NDArray[np.int64]:
    """Hash row numbers to shards (SplitMix64, Steele et al. 2014): int64 [n_users], even and fixed for ever.

    Examples
    --------
    >>> np.bincount(shard_of_rows(10_000, 4)).min() > 2400
    np.True_
    """
    x = np.arange(1, n_users + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(shards)).astype(np.int64)
