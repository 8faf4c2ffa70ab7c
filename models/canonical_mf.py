"""Matrix factorisation with implicit's own loss and one optimum: forgetting has something exact to reach."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self, cast

import numpy as np
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar
from .certificate import Certificate
from .factorization import Factorization, FloatArray
from .item_model import restricted
from .threads import one_blas_thread
from .weighted_descent import Arrival, Goal, Settings, descend
from .weighted_kernels import threads_for
from .weighted_loss import Matrix, WeightedLoss
from .weighted_solver import Point, padding, starting_point, widened

FIRST_WIDTH = 96


class CanonicalMF(Factorization):
    """Implicit-feedback matrix factorisation whose optimum is unique, and certified.

    The loss of Hu, Koren & Volinsky (2008), what ``implicit.als`` minimises in part, with the regularisation
    taken to its convex form (Srebro et al. 2004; Recht, Fazel & Parrilo 2010):

        min_S     1/2 sum_ui c_ui (y_ui - s_ui)^2 + lambda |S|_*
        = min_PQ  1/2 sum_ui c_ui (y_ui - p_u.q_i)^2 + lambda/2 (|P|^2 + |Q|^2)

    with c = 1 + alpha r (at most ``max_confidence``) and y = 1 where observed, c = 1 and y = 0 elsewhere.
    There is one minimiser S*, a function of the data alone: no seed, no order of events, no history. The
    published factors are its balanced singular factors. Fitting and forgetting end with a certificate: a
    proven bound on the distance to S*, for the factors as they are published
    (docs/explanation/certificate-canonical.md).

    Parameters
    ----------
    regularization : lambda, > 0; it decides the rank. Chosen on the data it is a statistic of everybody:
        choose it coarsely and keep it when users leave.
    alpha : > 0, confidence of an interaction of value 1.
    max_factors : factors kept at the most; an optimum of higher rank is not certified.
    tolerance : a fit ends when ``|S - S*|_F <= tolerance |S|_F`` is shown.
    erasure : a forgetting ends when this share of the influence on the rows that stay is shown gone too.
    max_confidence : c is capped here. The number of passes grows with the root of the largest confidence,
        and one user with a count of 10,000 would set it for everybody.
    max_steps : steps of a fit or a forgetting at the most.
    failure : probability, over the random start of a Lanczos bound, that a certificate is wrong.
    dtype : of the factors, "float32" or "float64". What is below 1e-6 of the norm cannot be shown of float32.
    num_threads : of implicit's top-k; 0: all cores.

    Attributes
    ----------
    user_factors : [n_users, rank]; item_factors : [n_items, rank].
    certificate : what is shown about them.

    Notes
    -----
    A step is two passes over the data with about 1.6 times the rank of columns. The work subspace beyond the
    rank stays in memory to warm the next forgetting; it is not published, since nothing is shown about it.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> x = sp.csr_matrix(np.kron(np.eye(2), np.ones((8, 5))))
    >>> model = CanonicalMF(regularization=2.0, alpha=1.0).fit(x)
    >>> model.certificate.certified, model.certificate.rank
    (True, 2)
    >>> model.forget_users([3])
    >>> model.certificate.erased_at_least >= 0.999
    True
    >>> sorted(model.recommend(0, None, filter_already_liked_items=False, N=5)[0].tolist())
    [0, 1, 2, 3, 4]
    """

    name: ClassVar[str] = "canonical_mf"
    exact: ClassVar[bool] = False

    def __init__(
        self,
        regularization: float,
        alpha: float,
        max_factors: int = 256,
        tolerance: float = 1e-4,
        erasure: float = 0.999,
        max_confidence: float = 50.0,
        max_steps: int = 300,
        failure: float = 1e-9,
        dtype: str = "float32",
        num_threads: int = 0,
    ) -> None:
        super().__init__(num_threads=num_threads)
        for name, value in (("regularization", regularization), ("alpha", alpha), ("tolerance", tolerance)):
            if not (value > 0 and np.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be positive and finite")
        if not max_confidence > 1:
            raise ValueError(
                f"max_confidence is {max_confidence}; it must be above 1, the weight of no interaction"
            )
        if not 0 <= erasure < 1:
            raise ValueError(f"erasure is {erasure}; it is a share, at least 0 and below 1")
        if not 0 < failure < 1:
            raise ValueError(f"failure is {failure}; it is a probability between 0 and 1")
        if max_factors < 1 or max_steps < 3:
            raise ValueError(f"max_factors is {max_factors} and max_steps {max_steps}; at least 1 and 3")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {dtype}; take float32 or float64")
        self.regularization, self.alpha = float(regularization), float(alpha)
        self.max_factors, self.max_steps = int(max_factors), int(max_steps)
        self.tolerance, self.erasure = float(tolerance), float(erasure)
        self.max_confidence, self.failure, self.dtype = float(max_confidence), float(failure), dtype
        self._subspace: Matrix | None = None
        self._highest = 0.0

    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        loss = self._loss(user_items)
        width = min(FIRST_WIDTH, *loss.shape)
        start = padding(np.zeros((loss.shape[1], 0)), width)
        point = starting_point(loss, np.zeros((loss.shape[0], 0)), start, np.float32)
        self._take(self._descend(loss, point, Goal(self.tolerance), 0.0, show_progress), user_items)

    def _forget(self, change: Change) -> None:
        loss = self._loss(change.user_items)
        rows = np.flatnonzero(np.diff(change.user_items.indptr)).astype(np.int64)
        goal = Goal(self.tolerance, self.erasure, (self.user_factors[rows], self.item_factors), rows)
        self._take(self._descend(loss, self._warm(loss, rows), goal, self._highest, False), change.user_items)

    def _loss(self, user_items: Interactions) -> WeightedLoss:
        return WeightedLoss.from_interactions(user_items, self.alpha, self.max_confidence)

    def _warm(self, loss: WeightedLoss, rows: IntVector) -> Point:
        """Stand at the published factors, the rows that are empty now left out."""
        lengths = np.linalg.norm(self.item_factors, axis=0).astype(np.float64)
        live = lengths > 0
        right = self.item_factors[:, live] / lengths[live]
        left = np.zeros((loss.shape[0], right.shape[1]))
        left[rows] = self.user_factors[rows][:, live] * lengths[live]
        rank = right.shape[1]
        if self._subspace is not None:
            right = np.concatenate([right, self._subspace], axis=1)
        point = starting_point(loss, left, right, np.float32)
        return widened(point, max(right.shape[1], min(rank + 32, *loss.shape)))

    def _descend(
        self, loss: WeightedLoss, point: Point, goal: Goal, highest: float, show_progress: bool
    ) -> Arrival:
        settings = Settings(self.regularization, self.max_factors, self.max_steps, self.failure, self.dtype)
        with (
            one_blas_thread(),
            threads_for(loss.nnz),
            _progress(show_progress) as report,
        ):
            return descend(loss, point, goal, settings, highest, report)

    def _take(self, arrival: Arrival, user_items: Interactions) -> None:
        """Publish where a descent ended."""
        distance = arrival.distance
        relative = (
            distance.bound / distance.norm if distance.norm > 0 else (0.0 if distance.bound == 0 else np.inf)
        )
        certificate = Certificate(
            certified=not arrival.reason,
            bound=float(relative),
            erased_at_least=arrival.erased,
            rank=distance.rank,
            iterations=arrival.steps,
            reason=arrival.reason,
        )
        self._publish(*_without_empty(arrival.user_factors, arrival.item_factors, user_items))
        self._subspace, self._highest = arrival.subspace, arrival.highest
        self.certificate = certificate

    def proof(self) -> Proof:
        """Say what the certificate shows."""
        return self.certificate.proof()

    def _fold_in(self, rows: Interactions) -> FloatArray:
        """Solve ``(Q' C_u Q + lambda I) p = Q' C_u y`` for each row: at the optimum, the user's own."""
        factors = self.item_factors.astype(np.float64)
        gram = factors.T @ factors + self.regularization * np.eye(factors.shape[1])
        folded = np.zeros((rows.shape[0], factors.shape[1]))
        for k in range(rows.shape[0]):
            entries = slice(rows.indptr[k], rows.indptr[k + 1])
            liked = factors[rows.indices[entries]]
            confidence = np.minimum(1.0 + self.alpha * rows.data[entries], self.max_confidence)
            system = gram + (liked.T * (confidence - 1.0)) @ liked
            folded[k] = np.linalg.solve(system, confidence @ liked)
        return folded.astype(self.item_factors.dtype)

    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments."""
        names = (
            "regularization", "alpha", "max_factors", "tolerance", "erasure", "max_confidence", "max_steps",
            "failure", "dtype", "num_threads",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def published(self) -> Arrays:
        """Return ``user_factors`` [n_users, rank] and ``item_factors`` [n_items, rank]."""
        return {"user_factors": self.user_factors, "item_factors": self.item_factors}

    def proof_record(self) -> Mapping[str, Scalar]:
        """Return the fields of the certificate."""
        return self.certificate.record()

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
        model.certificate = Certificate.of_record(record)
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
        model._highest = self._highest
        model._forgotten = self._forgotten[users].copy()
        return model


def _without_empty(
    user_factors: FloatArray, item_factors: FloatArray, user_items: Interactions
) -> tuple[FloatArray, FloatArray]:
    """Give users and items without interactions factors of zero.

    The optimum has no scores for them, so that this only brings the factors nearer to it.
    """
    counts = np.diff(user_items.indptr), np.bincount(user_items.indices, minlength=user_items.shape[1])
    users, items = (
        np.where(count[:, None] > 0, factors, np.zeros((), factors.dtype))
        for count, factors in zip(counts, (user_factors, item_factors), strict=True)
    )
    return users, items


@contextmanager
def _progress(show: bool) -> Iterator[Callable[[int, float], None]]:
    """Draw the steps taken and the bound shown so far."""
    if not show:
        yield lambda steps, bound: None
        return
    with Progress("{task.description}", BarColumn(pulse_style="cyan"), TimeElapsedColumn()) as bar:
        task = bar.add_task("CanonicalMF", total=None)
        yield lambda steps, bound: bar.update(
            task, description=f"CanonicalMF: {steps} steps, distance to the optimum at most {bound:.2e}"
        )
