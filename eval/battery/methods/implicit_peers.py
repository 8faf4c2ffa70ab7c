"""implicit's own models: fitted from scratch each time, and with what is called deleting there."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking

from ....models.base import Interactions
from ....models.threads import one_blas_thread
from ..protocol import Removal, kept_after
from .factors import FactorMethod


@dataclass
class RetrainedALS(FactorMethod):
    """implicit's ALS, from scratch at every request: the definition of forgetting, at its full price."""

    seed: int = 0

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit, and remember the seed for the next time."""
        super().fit(user_items, seed)
        self.seed = seed

    def forget(self, removal: Removal) -> None:
        """Fit to what is kept."""
        self.fit(kept_after(self.kept, removal), self.seed)


@dataclass
class RowALS(FactorMethod):
    """implicit's ALS and its ``partial_fit_users`` with an empty row: the item factors stay as they are."""

    def forget(self, removal: Removal) -> None:
        """Call ``partial_fit_users`` for the rows touched."""
        self.kept = kept_after(self.kept, removal)
        model = AlternatingLeastSquares(
            self.factors, regularization=self.regularization, alpha=self.alpha, use_cg=False
        )
        model.user_factors, model.item_factors = self.users, self.items
        with one_blas_thread():
            model.partial_fit_users(
                removal.touched, sp.csr_matrix(self.kept[removal.touched], dtype=np.float32)
            )
        self.users = model.user_factors


@dataclass
class RowBPR(FactorMethod):
    """implicit's BPR (Rendle et al. 2009), one thread so that it repeats; forgetting drops the user's row.

    Parameters
    ----------
    learning_rate : of its gradient steps.
    """

    learning_rate: float = 0.01

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit by stochastic gradient steps."""
        model = BayesianPersonalizedRanking(
            self.factors,
            learning_rate=self.learning_rate,
            regularization=self.regularization,
            iterations=self.iterations,
            num_threads=1,
            random_state=seed,
        )
        with one_blas_thread():
            model.fit(sp.csr_matrix(user_items, dtype=np.float32), show_progress=False)
        self.users, self.items = np.array(model.user_factors), np.array(model.item_factors)
        self.kept = user_items

    def forget(self, removal: Removal) -> None:
        """Drop the rows of the accounts."""
        self.kept = kept_after(self.kept, removal)
        self.users[removal.users] = 0.0
