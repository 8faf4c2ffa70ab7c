"""ALS models that people already have: forgetting as far as ALS allows, and a word on how far that is."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray

from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar, canonical_interactions
from .factorization import Factorization, FloatArray
from .item_model import restricted
from .threads import one_blas_thread
from .weighted_kernels import residual_row_pass, threads_for
from .weighted_loss import WeightedLoss


class ForgettableALS(Factorization):
    """An ``implicit.als`` model from which users can be taken out, approximately.

    ALS minimises ``sum c (y - p.q)^2 + lambda (|P|^2 + |Q|^2)``, c = alpha r where observed, 1 elsewhere. It
    is not convex in (P, Q) and its sweeps are stopped long before they stand still: two fits of the same
    data with different seeds are 13-27 % apart. So there is no model that forgetting ought to end at, and
    nothing here is certified. What is done is this: the removed rows leave every item's normal equations in
    closed form (leave-one-out, exact for that half-step with the other users' factors fixed), then exact
    warm sweeps go on until the gradient of the loss on what is kept is ``stationarity`` of its scale.

    What that does not guarantee: the point that is reached still depends on where the sweeps started, which
    the forgotten users helped to choose. :class:`.canonical_mf.CanonicalMF` has such a loss and one optimum.

    Parameters
    ----------
    factors, regularization, alpha, iterations, random_state : of the fit, as implicit's.
    stationarity : |gradient| over the |gradient| of a model that says nothing; forgetting ends below it.
    max_sweeps : sweeps of one forgetting at the most.
    num_threads : of implicit's solver and top-k; 0: all cores.

    Attributes
    ----------
    residual : stationarity of the model as it stands.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from implicit.als import AlternatingLeastSquares
    >>> x = sp.csr_matrix(np.kron(np.eye(2), np.ones((8, 5)))).astype(np.float32)
    >>> from threadpoolctl import threadpool_limits
    >>> with threadpool_limits(1, "blas"):  # as implicit asks for
    ...     trained = AlternatingLeastSquares(factors=2, regularization=0.1, random_state=1)
    ...     trained.fit(x, show_progress=False)
    >>> model = ForgettableALS.from_implicit(trained, x)
    >>> model.forget_users([3])
    >>> model.proof().certified, bool(model.residual <= model.stationarity)
    (False, True)
    """

    name: ClassVar[str] = "forgettable_als"
    exact: ClassVar[bool] = False

    def __init__(
        self,
        factors: int = 100,
        regularization: float = 0.01,
        alpha: float = 1.0,
        iterations: int = 15,
        random_state: int = 0,
        stationarity: float = 1e-3,
        max_sweeps: int = 50,
        num_threads: int = 0,
    ) -> None:
        super().__init__(num_threads=num_threads)
        if not (regularization > 0 and alpha > 0):
            raise ValueError(f"regularization is {regularization} and alpha {alpha}; both must be positive")
        if not stationarity > 0:
            raise ValueError(f"stationarity is {stationarity}; it must be positive")
        if factors < 1 or iterations < 1 or max_sweeps < 1:
            raise ValueError(
                f"factors {factors}, iterations {iterations}, max_sweeps {max_sweeps}: at least 1 each"
            )
        self.factors, self.regularization, self.alpha = int(factors), float(regularization), float(alpha)
        self.iterations, self.random_state = int(iterations), int(random_state)
        self.stationarity, self.max_sweeps = float(stationarity), int(max_sweeps)
        self.residual = float("nan")
        self._has_forgotten = False

    @classmethod
    def from_implicit(
        cls, fitted_model: Any, user_items: Any, stationarity: float = 1e-3, max_sweeps: int = 50
    ) -> Self:
        """Take over a fitted ``implicit.als.AlternatingLeastSquares`` and the interactions it was fitted on.

        Parameters
        ----------
        fitted_model : its factors are copied; it is not modified.
        user_items : scipy sparse [n_users, n_items], as it was passed to its fit.

        Raises
        ------
        ValueError
            The model is not fitted, or ``user_items`` has another shape.
        """
        if fitted_model.user_factors is None or fitted_model.item_factors is None:
            raise ValueError("the implicit model is not fitted; call its fit(user_items) first")
        kept = canonical_interactions(user_items)
        shape = (len(fitted_model.user_factors), len(fitted_model.item_factors))
        if kept.shape != shape:
            raise ValueError(
                f"user_items is {kept.shape}, the implicit model {shape}; pass what it was fitted on"
            )
        model = cls(
            factors=fitted_model.factors,
            regularization=fitted_model.regularization,
            alpha=fitted_model.alpha,
            iterations=fitted_model.iterations,
            stationarity=stationarity,
            max_sweeps=max_sweeps,
            num_threads=fitted_model.num_threads,
        )
        model._publish(
            np.array(fitted_model.user_factors, np.float32), np.array(fitted_model.item_factors, np.float32)
        )
        model._user_items, model._forgotten = kept, np.zeros(kept.shape[0], dtype=np.bool_)
        model.residual = model._stationarity(kept, model.user_factors, model.item_factors)
        return model

    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        with one_blas_thread():
            fitted = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                random_state=self.random_state,
                num_threads=self.num_threads,
            )
            fitted.fit(user_items.astype(np.float32), show_progress=show_progress)
        self.residual = self._stationarity(user_items, fitted.user_factors, fitted.item_factors)
        self._has_forgotten = False
        self._publish(fitted.user_factors, fitted.item_factors)

    def _forget(self, change: Change) -> None:
        kept = change.user_items
        with one_blas_thread():
            items = leave_out_rows(
                self.user_factors, self.item_factors, change, self.alpha, self.regularization
            ).astype(np.float32)
            users = self.user_factors.copy()
            weighted = (kept * self.alpha).astype(np.float32).tocsr()
            transposed = weighted.T.tocsr()
            residual, solve = float("inf"), exact_solver()
            for _ in range(self.max_sweeps):
                solve(weighted, users, items, self.regularization, num_threads=self.num_threads)
                solve(transposed, items, users, self.regularization, num_threads=self.num_threads)
                residual = self._stationarity(kept, users, items)
                if residual <= self.stationarity:
                    break
        self.residual, self._has_forgotten = residual, True
        self._publish(users, items)

    def _stationarity(self, user_items: Interactions, users: FloatArray, items: FloatArray) -> float:
        """Return ``|gradient(P, Q)| / |gradient at P or Q = 0|``; 0 where both vanish."""
        confidence = self.alpha * user_items.data.astype(np.float64)
        loss = WeightedLoss.from_confidence(user_items, confidence)
        left, right = users.astype(np.float64), items.astype(np.float64)
        with threads_for(loss.nnz):
            gradients, scale = loss_gradients(loss, left, right, self.regularization)
        return float(np.sqrt(sum(float(np.vdot(g, g)) for g in gradients)) / scale) if scale > 0 else 0.0

    def _fold_in(self, rows: Interactions) -> FloatArray:
        """Solve for the factors of rows with the item factors fixed, as implicit does."""
        weighted = (canonical_interactions(rows) * self.alpha).astype(np.float32).tocsr()
        folded = np.zeros((rows.shape[0], self.item_factors.shape[1]), np.float32)
        items = np.ascontiguousarray(self.item_factors, np.float32)
        with one_blas_thread():
            exact_solver()(weighted, folded, items, self.regularization, num_threads=self.num_threads)
        return folded

    def proof(self) -> Proof:
        """Say that nothing is proven, and how far from a standstill the model is."""
        reason = (
            f"ALS has no unique optimum to converge to: stationary to {self.residual:.2e} on what is "
            "kept, but where the sweeps started depends on what was removed; canonical_mf has a certificate"
        )
        return Proof(exact=False, bound=None, erased_at_least=None, certified=False, reason=reason)

    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments."""
        names = (
            "factors", "regularization", "alpha", "iterations", "random_state", "stationarity", "max_sweeps",
            "num_threads",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def published(self) -> Arrays:
        """Return ``user_factors`` [n_users, k] and ``item_factors`` [n_items, k]."""
        return {"user_factors": self.user_factors, "item_factors": self.item_factors}

    def proof_record(self) -> Mapping[str, Scalar]:
        """Return the stationarity."""
        return {"residual": self.residual}

    @classmethod
    def restore(
        cls,
        settings: Mapping[str, Any],
        arrays: Arrays,
        record: Mapping[str, Any],
        user_items: Interactions,
    ) -> Self:
        """Rebuild the model from what it published."""
        model = cls(**settings)
        model._publish(cast(FloatArray, arrays["user_factors"]), cast(FloatArray, arrays["item_factors"]))
        model.residual = float(record["residual"])
        model._user_items = user_items
        model._forgotten = np.zeros(user_items.shape[0], dtype=np.bool_)
        return model

    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the same model without its empty rows and columns."""
        kept = restricted(self.user_items, users, items)
        arrays: Arrays = {
            "user_factors": np.ascontiguousarray(self.user_factors[users]),
            "item_factors": np.ascontiguousarray(self.item_factors[items]),
        }
        model = type(self).restore(self.settings(), arrays, self.proof_record(), kept)
        model._forgotten = self._forgotten[users].copy()
        return model


def exact_solver() -> Callable[..., None]:
    """Return implicit's own half-step by Cholesky: ``solve(weights, out, fixed, lambda, num_threads=)``."""
    solver: Callable[..., None] = AlternatingLeastSquares(use_cg=False).solver
    return solver


def leave_out_rows(
    user_factors: FloatArray, item_factors: FloatArray, change: Change, alpha: float, regularization: float
) -> NDArray[np.float64]:
    """Take rows out of every item's normal equations, the other users' factors fixed.

    Item i solves ``A_i q_i = b_i`` with ``A_i = P'P + lambda I + sum_u (c_ui - 1) p_u p_u'`` and
    ``b_i = sum_u c_ui p_u``. For rows that change, with weights c and targets y before, c* and y* after
    (the weights of a removed row become 0):

        q_i' = q_i - A_i'^-1 sum_u [c_ui (y_ui - p_u.q_i) - c*_ui (y*_ui - p_u.q_i)] p_u

    For one removed user this is the leave-one-out form ``q - c (1 - p.q) / (1 - c p.z) z, z = A_i^-1 p``.

    Parameters
    ----------
    user_factors : P [n_users, k]; item_factors : Q [n_items, k], at a half-step's solution for the items.
    change : the rows before and after.
    alpha : c = alpha r. regularization : lambda.

    Returns
    -------
    float64 [n_items, k]. O(nnz k^2 + n_items k^3).
    """
    left, right = np.asarray(user_factors, np.float64), np.asarray(item_factors, np.float64)
    touched = left[change.users]
    gone = np.diff(change.after.indptr) == 0
    stay = left.copy()
    stay[change.users[gone]] = 0.0  # an empty row has zero factors in a fit on what is kept
    gram = stay.T @ stay + regularization * np.eye(left.shape[1])
    scores = touched @ right.T
    difference = _pull(scores, change.before, alpha) - _pull(scores, change.after, alpha, gone)
    by_item = change.user_items.tocsc()
    result = right.copy()
    for item in range(right.shape[0]):
        entries = slice(by_item.indptr[item], by_item.indptr[item + 1])
        liking = left[by_item.indices[entries]]
        system = gram + (liking.T * (alpha * by_item.data[entries] - 1.0)) @ liking
        result[item] -= np.linalg.solve(system, difference[:, item] @ touched)
    return result


def _pull(
    scores: NDArray[np.float64], rows: Interactions, alpha: float, gone: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return ``c (y - s)`` of rows, dense [k, n_items]; 0 for rows that are gone."""
    pull = -scores
    of = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    pull[of, rows.indices] = alpha * rows.data * (1.0 - scores[of, rows.indices])
    if gone is not None:
        pull[gone] = 0.0
    return pull


def loss_gradients(
    loss: WeightedLoss, left: NDArray[np.float64], right: NDArray[np.float64], regularization: float
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], float]:
    """Return half the gradients of ``sum c (y - pq)^2 + lambda (|P|^2 + |Q|^2)``, and their scale.

    With E = C o Y - (C - 1) o S on the observed pairs: ``P (Q'Q + lambda I) - E Q`` and its twin; the scale
    is ``|(C o Y Q, (C o Y)' P)|_F``, the pull of the data against nothing. O(nnz k + (m + n) k^2).
    """
    scores, values = np.zeros(loss.nnz), np.empty(loss.nnz)
    product = np.empty((loss.shape[0], right.shape[1]))
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    residual_row_pass(
        loss.row_blocks, loss.indptr, loss.indices, loss.confidence, left, right, right, 1.0,
        scores, values, product, np.empty((loss.row_blocks.size - 1, 3)),
    )  # fmt: skip
    ridge = regularization * np.eye(right.shape[1])
    in_users = left @ (right.T @ right + ridge) - product
    in_items = right @ (left.T @ left + ridge) - loss.transposed_times(values, left)
    pulls = loss.times(loss.confidence, right), loss.transposed_times(loss.confidence, left)
    return (in_users, in_items), float(np.sqrt(sum(float(np.vdot(p, p)) for p in pulls)))
