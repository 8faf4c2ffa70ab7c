"""Spectral matrix factorisation: a closed-form recommender with one optimum, and its forgetting."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar
from .certificate import Certificate
from .factorization import Factorization, FloatArray
from .gram_operator import GramOperator, ItemGram
from .item_model import restricted
from .progress import Report, solver_progress
from .regularization_path import best_rank, hold_out
from .score_distance import score_distance
from .spectral_solver import (
    Solution,
    Target,
    converge,
    norm_of,
    nothing,
    random_start,
    round_regularization,
    settle,
    whole_space,
    widened,
)
from .spectral_update import Update, closed_form_start
from .statistics import item_counts
from .subspace import RitzPairs, rayleigh_ritz, shrinkage
from .threads import one_blas_thread

Values = Literal["counts", "binary", "log"]
OVERSAMPLING = 0.5
"""Directions in the work subspace beyond the factors, as a share of them."""
COLUMNS_AT_ONCE = 32
"""Of the user factors, formed in float64 before they are rounded."""
SMALLEST_THRESHOLD = 1e-2
"""Of the largest singular value: lambda is never chosen below it."""


@dataclass(frozen=True)
class _Attempt:
    """A refinement to a target that rests on a guess of the influence, and what came of it."""

    solution: Solution
    factors: tuple[FloatArray, FloatArray]
    certificate: Certificate
    moved: float
    reached: bool


class SpectralMF(Factorization):
    """Nuclear-norm-regularised factorisation of degree-normalised interactions, in closed form.

    With degrees ``d_u``, ``d_i`` and ``X~ = D_u^-a X D_i^-b``, the unique minimiser of
    ``1/2 |X~ - S|_F^2 + lambda |S|_*`` is the soft-thresholded SVD of ``X~`` (Cai, Candes & Shen 2010,
    theorem 2.1). Published are ``p_u = X~_u V f^1/2`` and ``q_i = d_i^b V_i f^1/2`` with
    ``f = (1 - lambda / sigma)_+``, so that ``user_factors @ item_factors.T = S~ D_i^b``. A user vector is a
    fold-in of the user's own row: new users are served without a refit, and a deleted user touches others
    only through sums.

    Parameters
    ----------
    factors : how many singular values lie above lambda when lambda is chosen here.
    regularization : lambda. None: the ``(factors + 1)``-th singular value, rounded up to 3 digits, chosen at
        the first fit and then fixed (``.regularization``). When it is given, as many factors are kept as lie
        above it.
        "auto": the rank up to ``factors`` that ranks a held-out tenth of the interactions best (NDCG@10),
        for the price of one coarse fit more; then lambda as for that rank.
    user_power, item_power : a, b.
    tolerance : a fit ends when the relative distance to the optimum is proven to be at most this.
    erasure : forgetting ends when, besides, this share of the removed influence is proven to be gone.
    values : what an interaction weighs: "counts" its value, "binary" 1, "log" ``log(1 + value)``.
    dtype : of the published factors, "float32" or "float64".
    num_threads : of implicit's top-k in batches; 0: all.

    Attributes
    ----------
    user_factors : [n_users, rank]; item_factors : [n_items, rank], of ``dtype``, singular values descending,
        signs fixed.
    certificate : what is proven about them.

    Raises
    ------
    ValueError
        A parameter is out of range.

    Notes
    -----
    A fit takes about 20 passes over the interactions with a block of ``factors + 32`` columns, forgetting
    about 6: O(nnz factors) each; memory O((n_users + n_items) factors).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> likes = sp.csr_matrix((rng.random((200, 40)) < 0.2).astype(float))
    >>> model = SpectralMF(factors=8).fit(likes)
    >>> model.forget_users([17])
    >>> again = SpectralMF(factors=8, regularization=model.regularization).fit(model.user_items)
    >>> scores, fresh = (m.user_factors @ m.item_factors.T for m in (model, again))
    >>> bool(np.allclose(scores, fresh, atol=1e-4)), model.certificate.certified
    (True, True)
    """

    name: ClassVar[str] = "spectral_mf"
    exact: ClassVar[bool] = False

    certificate: Certificate
    _pairs: RitzPairs
    _callback: Report | None = None

    def __init__(
        self,
        factors: int = 128,
        regularization: float | Literal["auto"] | None = None,
        user_power: float = 0.25,
        item_power: float = 0.25,
        tolerance: float = 1e-4,
        erasure: float = 0.999,
        values: Values = "counts",
        dtype: Literal["float32", "float64"] = "float32",
        num_threads: int = 0,
    ) -> None:
        super().__init__(num_threads=num_threads)
        _require(factors >= 1, f"factors is {factors}; ask for at least one")
        _require(
            regularization in (None, "auto")
            or (isinstance(regularization, int | float) and regularization > 0),
            f"regularization is {regularization!r}; it must be positive, None (by rank) or 'auto' (held out)",
        )
        _require(0 < tolerance < 1, f"tolerance is {tolerance}; it is a share between 0 and 1")
        _require(0 < erasure < 1, f"erasure is {erasure}; it is a share between 0 and 1")
        _require(values in ("counts", "binary", "log"), f"values is {values!r}; use counts, binary or log")
        _require(dtype in ("float32", "float64"), f"dtype is {dtype!r}; use float32 or float64")
        self.factors = factors
        self.regularization: float | Literal["auto"] | None = (
            float(regularization) if isinstance(regularization, int) else regularization
        )
        self.user_power, self.item_power = user_power, item_power
        self.tolerance, self.erasure = tolerance, erasure
        self.values, self.dtype = values, dtype

    def fit(self, user_items: Any, show_progress: bool = False, callback: Report | None = None) -> Self:
        """Fit from scratch, as every model.

        ``callback``: called after each round with the passes made over the data and the relative distance to
        the optimum, estimated.
        """
        self._callback = callback
        try:
            return super().fit(user_items, show_progress)
        finally:
            self._callback = None

    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        with one_blas_thread(), solver_progress("SpectralMF", show_progress, self._callback) as report:
            gram = self._gram(user_items)
            solution, spent = self.solve(gram, user_items, report)
            self._settle_at(gram, user_items, solution, spent)

    def solve(
        self, gram: ItemGram, user_items: Interactions | None, report: Report | None = None
    ) -> tuple[Solution, int]:
        """Solve from scratch, choosing lambda if it is not given; the solution and the passes before it.

        ``user_items`` is read only to hold interactions out, where lambda is "auto".
        """
        given = self.regularization if isinstance(self.regularization, float) else None
        if not gram.longest:
            return nothing(gram, given or 1.0), 0
        rank, guess, before = self._chosen_rank(user_items)
        pairs, spent = self._start(gram, guess)
        spent += before
        chosen = given or _chosen_threshold(pairs, rank)
        while not self._wide_enough(gram, pairs, chosen):
            pairs = widened(gram, pairs, min(2 * pairs.values.size, gram.shape[1]))
            pairs, more = settle(gram, pairs, pairs.values.size // 2)
            spent += more + 2
        return converge(gram, pairs, chosen, self._tolerated, report, spent), spent

    @property
    def _threshold(self) -> float:
        """Return lambda as a number: given, or chosen by the first fit."""
        if self.regularization is None or isinstance(self.regularization, str):
            raise ValueError("lambda is not chosen yet; call fit(user_items) first")
        return self.regularization

    def _chosen_rank(self, user_items: Interactions | None) -> tuple[int, NDArray[np.float64] | None, int]:
        """Return the rank that lambda is chosen for, a first guess of the subspace, and the passes spent."""
        if self.regularization != "auto":
            return self.factors, None, 0
        if user_items is None:
            raise ValueError("lambda by hold-out ('auto') needs interactions, not their sums; give lambda")
        split = hold_out(user_items)
        gram = self._gram(split.training)
        pairs, spent = self._start(gram)
        return best_rank(gram, pairs, split, self.factors), pairs.vectors, spent

    def _start(self, gram: ItemGram, guess: NDArray[np.float64] | None = None) -> tuple[RitzPairs, int]:
        """Find the leading subspace well enough to choose lambda: the pairs and the passes spent."""
        width = self.factors + max(32, int(OVERSAMPLING * self.factors))
        if gram.shape[1] <= 2 * width:
            return whole_space(gram), 1
        start = random_start(gram, width) if guess is None else rayleigh_ritz(guess, gram.apply(guess))
        pairs, spent = settle(gram, start, self.factors)
        return pairs, spent + 2

    @staticmethod
    def _wide_enough(gram: ItemGram, pairs: RitzPairs, threshold: float) -> bool:
        """Tell whether a quarter of the work subspace or sixteen directions lie below lambda."""
        width = pairs.values.size
        below = int((pairs.values <= threshold**2).sum())
        return width >= gram.shape[1] or below >= min(16, width // 4)

    def _tolerated(self, pairs: RitzPairs, threshold: float) -> float:
        return 0.9 * self.tolerance * norm_of(pairs, threshold)

    def _gram(self, user_items: Interactions) -> GramOperator:
        return GramOperator(self._weights(user_items), self.user_power, self.item_power)

    def _weights(self, interactions: Interactions) -> Interactions:
        """Turn kept values into weights, in the same pattern."""
        if self.values == "counts":
            return interactions
        data = np.ones_like(interactions.data) if self.values == "binary" else np.log1p(interactions.data)
        return sp.csr_matrix((data, interactions.indices, interactions.indptr), shape=interactions.shape)

    def _forget(self, change: Change) -> None:
        with one_blas_thread():
            self._refine(change)

    def _refine(self, change: Change) -> None:
        """Subtract the rows, update in closed form, refine until the certificate holds."""
        gram = self._gram(change.user_items)
        update = self._warm_start(gram, change)
        if update is None or not self._wide_enough(gram, update.pairs, self._threshold):
            self._settle_at(gram, change.user_items, *self.solve(gram, change.user_items), change)
            return
        attempt = self._attempt(gram, change, update.pairs, 0.8 * update.influence)
        for _ in range(2):
            if attempt.certificate.certified or not attempt.reached:
                break
            attempt = self._attempt(gram, change, attempt.solution.pairs, 0.8 * attempt.moved)
        self._take(gram, attempt.solution, attempt.factors, attempt.certificate)

    def _attempt(self, gram: GramOperator, change: Change, pairs: RitzPairs, influence: float) -> "_Attempt":
        """Refine until the erasure asked for is shown, if the influence to erase was ``influence``."""
        goal = self._erased_target(influence)
        solution = converge(gram, pairs, self._threshold, goal)
        factors = self._factors_of(gram, change.user_items, solution)
        moved = self._moved(gram, change, *factors)
        certificate = self._certify(gram, solution, factors, solution.applications, moved)
        reached = solution.distance <= goal(solution.pairs, solution.threshold)
        return _Attempt(solution, factors, certificate, moved, reached)

    def _warm_start(self, gram: GramOperator, change: Change) -> Update | None:
        """Update the work subspace in closed form; None where starting afresh is as cheap."""
        width = self._pairs.values.size
        if gram.shape[1] <= 2 * width or not change.user_items.nnz:
            return None
        before, after = self._weights(change.before), self._weights(change.after)
        return closed_form_start(
            gram, self._known_pairs(), self._item_scale, before, after, self.user_power, self._threshold
        )

    def _known_pairs(self) -> RitzPairs:
        """Return the work subspace with its images; after a restore they take one application."""
        if not self._pairs.residuals.size:
            vectors = np.array(self._pairs.vectors, order="C")
            self._pairs = rayleigh_ritz(vectors, self._gram(self.user_items).apply(vectors))
        return self._pairs

    def _erased_target(self, influence: float) -> Target:
        """Ask for what both the tolerance and the erasure need, if the influence was ``influence``."""
        share = (1 - self.erasure) / (2 - self.erasure)

        def target(pairs: RitzPairs, threshold: float) -> float:
            return min(self._tolerated(pairs, threshold), 0.9 * share * influence)

        return target

    def _moved(self, gram: GramOperator, change: Change, users: FloatArray, items: FloatArray) -> float:
        """Measure how far the published scores moved on the rows that stay, in ``S~``: strictly."""
        stay = np.ones(gram.shape[0], np.bool_)
        stay[change.users] = False
        if not stay.any():
            stay = ~change.forgotten
        return score_distance(
            self.user_factors, self.item_factors, users, items, stay.astype(np.float64), gram.item_scale
        )

    def _settle_at(
        self,
        gram: GramOperator,
        user_items: Interactions,
        solution: Solution,
        spent: int,
        change: Change | None = None,
    ) -> None:
        """Publish a solution from scratch."""
        factors = self._factors_of(gram, user_items, solution)
        moved = None if change is None else self._moved(gram, change, *factors)
        certificate = self._certify(gram, solution, factors, spent + solution.applications, moved)
        self._take(gram, solution, factors, certificate)

    def _factors_of(
        self, gram: GramOperator, user_items: Interactions, solution: Solution
    ) -> tuple[FloatArray, FloatArray]:
        """Form ``P = X~ V f^1/2`` and ``Q = D_i^b V f^1/2`` in the published dtype; empty rows are zero."""
        directions = solution.directions()
        rank = directions.shape[1]
        users = np.empty((gram.shape[0], rank), self.dtype)
        for at in range(0, rank, COLUMNS_AT_ONCE):
            strip = slice(at, at + COLUMNS_AT_ONCE)
            users[:, strip] = gram.rows_times(directions[:, strip])
        return users, self.item_factors_of(gram, item_counts(user_items), directions)

    def item_factors_of(self, gram: ItemGram, counts: IntVector, directions: FloatArray) -> FloatArray:
        """Form ``Q = D_i^b V f^1/2`` in the published dtype; zero for an item that nobody has."""
        items = np.empty(directions.shape, self.dtype)
        np.divide(directions, gram.item_scale[:, None], out=items, casting="same_kind")
        items[counts == 0] = 0.0
        return items

    def _certify(
        self,
        gram: GramOperator,
        solution: Solution,
        factors: tuple[FloatArray, FloatArray],
        spent: int,
        moved: float | None,
    ) -> Certificate:
        """State what is proven about the factors as they are published."""
        distance = solution.distance + self._rounding(gram, solution, factors)
        norm = norm_of(solution.pairs, solution.threshold)
        bound = 0.0 if distance == 0 else distance / (norm - distance) if norm > distance else float("inf")
        erased = None if moved is None else _erased_at_least(moved, distance)
        rank = int((solution.pairs.values > solution.threshold**2).sum())
        reasons = []
        if bound > self.tolerance:
            reasons.append(f"the bound {bound:.2g} is above the tolerance {self.tolerance:g}")
        if erased is not None and erased < self.erasure:
            rounded = f", most of it rounding to {self.dtype}" if distance > 2 * solution.distance else ""
            reasons.append(
                f"of an influence of about {moved:.2g} (|S| is {norm:.3g}) all but {distance:.2g} is shown "
                f"to be gone{rounded}"
            )
        return Certificate(not reasons, bound, erased, rank, spent, "; ".join(reasons))

    def _rounding(
        self, gram: GramOperator, solution: Solution, factors: tuple[FloatArray, FloatArray]
    ) -> float:
        """Bound what rounding to the published dtype adds to the distance, from the rounded entries.

        ``|P Q' - P^ Q^'| <= |dP|_F |Q~|_2 + |P dQ~'|_F + |dP|_F |dQ~|_F``; P has orthogonal columns of length
        ``sigma f^1/2``, Q~ = V f^1/2 has norm at most 1. Half a unit in the last place for every entry.
        """
        unit = float(np.finfo(self.dtype).eps) / 2
        users, items = factors
        rank = users.shape[1]
        lengths_of_users = np.einsum("ij,ij->j", users, users, dtype=np.float64)
        lengths_of_items = np.einsum("ij,ij,i->j", items, items, gram.item_scale**2, dtype=np.float64)
        users_rounding = unit * float(np.sqrt(lengths_of_users.sum()))
        lengths = np.sqrt(
            np.maximum(solution.pairs.values[:rank], 0.0)
            * shrinkage(solution.pairs.values[:rank], solution.threshold)
        )
        items_rounding = unit * float(np.linalg.norm(np.sqrt(lengths_of_items) * lengths))
        norm_of_items = float(np.sqrt(lengths_of_items.sum()))
        return users_rounding + items_rounding + users_rounding * unit * norm_of_items

    def _take(
        self,
        gram: GramOperator,
        solution: Solution,
        factors: tuple[FloatArray, FloatArray],
        certificate: Certificate,
    ) -> None:
        """Replace the model's state at once."""
        pairs = solution.pairs.compact()
        self._publish(*factors, gram.item_scale)
        self._pairs = pairs
        self.regularization, self.certificate = solution.threshold, certificate

    @property
    def _item_scale(self) -> NDArray[np.float64]:
        """``d_i^-b`` of what the factors were fitted to: float64 [n_items]."""
        return np.asarray(self._factors[2])

    def _fold_in(self, rows: Interactions) -> FloatArray:
        weights = self._weights(rows)
        sums = np.asarray(weights.sum(axis=1, dtype=np.float64)).ravel()
        sums[sums == 0] = 1.0
        _, items, scale = self._factors
        projected = weights @ (items * scale[:, None] ** 2)
        return np.asarray(projected * (sums**-self.user_power)[:, None], dtype=self.dtype)

    def proof(self) -> Proof:
        """Return the certificate, in the terms that every model shares."""
        return self.certificate.proof()

    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments; lambda as it was chosen, so that a refit keeps it."""
        return {
            "factors": self.factors,
            "regularization": self.regularization,
            "user_power": self.user_power,
            "item_power": self.item_power,
            "tolerance": self.tolerance,
            "erasure": self.erasure,
            "values": self.values,
            "dtype": self.dtype,
            "num_threads": self.num_threads,
        }

    def published(self) -> Arrays:
        """Return the factors, the work subspace [n_items, k] and ``d_i^-b`` [n_items]."""
        return {
            "user_factors": self.user_factors,
            "item_factors": self.item_factors,
            "subspace": self._pairs.vectors,
            "item_scale": self._item_scale,
        }

    def proof_record(self) -> Mapping[str, Scalar]:
        """Return the certificate as a mapping."""
        return self.certificate.record()

    @classmethod
    def restore(
        cls,
        settings: Mapping[str, Any],
        arrays: Arrays,
        record: Mapping[str, Any],
        user_items: Interactions,
    ) -> Self:
        """Rebuild the model on what it published, without copying; images are derived when first needed."""
        model = cls(**settings)
        names = ("user_factors", "item_factors", "item_scale")
        model._publish(*(np.asarray(arrays[name]) for name in names))
        vectors = np.asarray(arrays["subspace"])
        width = vectors.shape[1]
        model._pairs = RitzPairs(np.zeros(width), vectors, np.zeros((0, 0)), np.eye(width))
        model.certificate = Certificate.of_record(record)
        model._user_items = user_items
        model._forgotten = np.zeros(user_items.shape[0], np.bool_)
        return model

    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the model without empty rows and columns: their factors and their part of V are zero."""
        kept = restricted(self.user_items, users, items)
        model = type(self)(**self.settings())  # type: ignore[arg-type]
        model._publish(self.user_factors[users], self.item_factors[items], self._item_scale[items])
        residuals = self._pairs.residuals[items] if self._pairs.residuals.size else self._pairs.residuals
        model._pairs = replace(self._pairs, vectors=self._pairs.vectors[items], residuals=residuals)
        model.certificate = self.certificate
        model._user_items, model._forgotten = kept, self._forgotten[users]
        return model


def _chosen_threshold(pairs: RitzPairs, factors: int) -> float:
    """Choose lambda: the ``(factors + 1)``-th singular value, but not next to nothing."""
    roots = np.sqrt(np.maximum(pairs.values, 0.0))
    wanted = roots[factors] if roots.size > factors else 0.0
    return round_regularization(max(float(wanted), SMALLEST_THRESHOLD * float(roots[0])))


def _erased_at_least(moved: float, distance: float) -> float:
    """``1 - b / (moved - b)``: what was to be moved is at least what was, less the distance that remains."""
    if distance == 0.0:
        return 1.0  # the optimum itself: nobody is left, or lambda is above everything
    if moved <= distance:
        return 0.0
    return max(0.0, 1.0 - distance / (moved - distance))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
