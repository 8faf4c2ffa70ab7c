"""What methods with user and item factors share: their scores, and a fold-in by ridge regression."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray

from ....models.als import exact_solver
from ....models.base import Arrays, Interactions, IntVector
from ....models.threads import one_blas_thread
from ..protocol import FloatMatrix, Method

Factors: TypeAlias = NDArray[np.float32]


@dataclass
class Weights:
    """The weighted loss ``sum c (y - p.q)^2 + lambda (|P|^2 + |Q|^2)`` that factors belong to, as implicit's.

    Attributes
    ----------
    factors : of each user and item. regularization : lambda. alpha : ``c = alpha r`` where observed, else 1.
    iterations : of a fit.
    """

    factors: int = 64
    regularization: float = 0.1
    alpha: float = 1.0
    iterations: int = 15

    def weighted(self, user_items: Interactions) -> sp.csr_matrix[Any]:
        """Return the weights as implicit takes them."""
        return sp.csr_matrix(user_items * self.alpha, dtype=np.float32)

    def fitted(self, user_items: Interactions, seed: int) -> AlternatingLeastSquares:
        """Fit implicit's ALS."""
        model = AlternatingLeastSquares(
            self.factors,
            regularization=self.regularization,
            alpha=self.alpha,
            iterations=self.iterations,
            random_state=seed,
        )
        with one_blas_thread():
            model.fit(sp.csr_matrix(user_items, dtype=np.float32), show_progress=False)
        return model

    def swept(
        self, user_items: Interactions, users: Factors, items: Factors, sweeps: int
    ) -> tuple[Factors, Factors]:
        """Return the factors after ``sweeps`` exact alternating sweeps on ``user_items``."""
        users, items, solve = users.copy(), items.copy(), exact_solver()
        weighted = self.weighted(user_items)
        transposed = weighted.T.tocsr()
        with one_blas_thread():
            for _ in range(sweeps):
                solve(weighted, users, items, self.regularization, num_threads=0)
                solve(transposed, items, users, self.regularization, num_threads=0)
        return users, items


@dataclass
class FactorMethod(Method):
    """A method whose scores are ``users @ items.T``; subclasses say how it is fitted and how it forgets.

    Parameters
    ----------
    factors, regularization, alpha, iterations : of implicit's ALS; see :class:`Weights`.
    """

    factors: int = 64
    regularization: float = 0.1
    alpha: float = 1.0
    iterations: int = 15
    users: Factors = field(init=False, default_factory=lambda: np.zeros((0, 0), np.float32))
    items: Factors = field(init=False, default_factory=lambda: np.zeros((0, 0), np.float32))
    kept: Interactions = field(init=False, default_factory=lambda: sp.csr_matrix((0, 0)))

    @property
    def loss(self) -> Weights:
        """The loss that the factors are fitted to."""
        return Weights(self.factors, self.regularization, self.alpha, self.iterations)

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit implicit's ALS."""
        model = self.loss.fitted(user_items, seed)
        self.users, self.items = np.array(model.user_factors), np.array(model.item_factors)
        self.kept = user_items

    def scores(self, users: IntVector) -> FloatMatrix:
        """Score by the rows' own factors."""
        return self.users[users].astype(np.float64) @ self.items.T.astype(np.float64)

    def fold_in(self, rows: Interactions) -> FloatMatrix:
        """Solve for the factors of the rows, the item factors fixed."""
        folded = np.zeros((rows.shape[0], self.items.shape[1]), np.float32)
        with one_blas_thread():
            exact_solver()(self.loss.weighted(rows), folded, self.items, self.regularization, num_threads=0)
        return folded.astype(np.float64) @ self.items.T.astype(np.float64)

    def published(self) -> Arrays:
        """Return both sides."""
        return {"user_factors": self.users, "item_factors": self.items}
