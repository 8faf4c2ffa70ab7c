"""Influence functions on a weighted factorisation: one Newton step away from the removed users' loss.

Koh & Liang 2017, "Understanding black-box predictions via influence functions", eq. 1, for the loss
``sum c (y - p.q)^2 + lambda (|P|^2 + |Q|^2)``: ``theta' = theta + H^-1 grad(removed loss)``, H the
Hessian of what is kept, solved by conjugate gradients. SCIF (Li et al. 2023, "Selective and
collaborative influence function for efficient recommendation unlearning") updates only the embeddings near
the removed data; here: the touched items and the users who share them. Written from the papers; not the
authors' code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from ....models.base import Interactions
from ..protocol import Removal, kept_after
from .factors import FactorMethod

Pair: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass
class InfluenceMF(FactorMethod):
    """One joint step for all users and items.

    Parameters
    ----------
    steps : of conjugate gradients at the most. settle : exact sweeps after the fit, for an influence function
        supposes a stationary point. damping : added to H's diagonal, which is singular along rotations of
        the factors.
    """

    steps: int = 20
    settle: int = 15
    damping: float = 0.1
    selective: ClassVar[bool] = False

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit implicit's ALS, then sweep on."""
        super().fit(user_items, seed)
        self.users, self.items = self.loss.swept(user_items, self.users, self.items, self.settle)

    def forget(self, removal: Removal) -> None:
        """Take one step; the rows of the accounts become zero."""
        before, self.kept = self.kept, kept_after(self.kept, removal)
        users, items = self.users.astype(np.float64), self.items.astype(np.float64)
        old = _pull(before, users, items, self.alpha, removal.touched)
        stay = users.copy()
        stay[removal.users] = 0.0
        new = _pull(self.kept, stay, items, self.alpha, removal.touched)
        active = self._active(before, removal)
        step = self._solved((new[0] - old[0], new[1] - old[1]), stay, items, active)
        self.users = (stay + step[0]).astype(np.float32)
        self.items = (items + step[1]).astype(np.float32)
        self.users[removal.users] = 0.0

    def _active(self, before: Interactions, removal: Removal) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which users and items move: all but the forgotten, or those near them."""
        users = np.ones(before.shape[0], np.bool_)
        items = np.ones(before.shape[1], np.bool_)
        if self.selective:
            items[:] = False
            items[before[removal.touched].indices] = True
            users = np.asarray(self.kept @ items.astype(np.float64)) > 0
        users[removal.users] = False
        return users, items

    def _solved(
        self, gradient: Pair, users: NDArray[np.float64], items: NDArray[np.float64],
        active: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    ) -> Pair:  # fmt: skip
        """Solve ``H step = gradient`` over the rows that move."""
        multiply = _hessian(self.kept, users, items, self.alpha, self.regularization + self.damping)
        mask = np.concatenate([np.repeat(rows, items.shape[1]) for rows in active])
        cut = users.size

        def matvec(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            masked = np.where(mask, vector, 0.0)
            product = multiply(masked[:cut].reshape(users.shape), masked[cut:].reshape(items.shape))
            return np.where(mask, np.concatenate([product[0].ravel(), product[1].ravel()]), vector)

        wanted = np.where(mask, np.concatenate([gradient[0].ravel(), gradient[1].ravel()]), 0.0)
        operator = LinearOperator((wanted.size, wanted.size), matvec=matvec, dtype=np.float64)
        step, _ = cg(operator, wanted, maxiter=self.steps, rtol=1e-6)
        return step[:cut].reshape(users.shape), step[cut:].reshape(items.shape)


@dataclass
class SelectiveInfluenceMF(InfluenceMF):
    """The same step over the touched items and the users who share them."""

    selective: ClassVar[bool] = True


def _pull(
    rows: Interactions, users: NDArray[np.float64], items: NDArray[np.float64], alpha: float,
    chosen: NDArray[np.int64],
) -> Pair:  # fmt: skip
    """Half the negative gradient of the loss of some users' rows: (in users, in items), zero elsewhere."""
    part, left = rows[chosen], users[chosen]
    residual = -(left @ items.T)
    of = np.repeat(np.arange(chosen.size), np.diff(part.indptr))
    residual[of, part.indices] = alpha * part.data * (1.0 + residual[of, part.indices])
    in_users = np.zeros_like(users)
    in_users[chosen] = residual @ items
    return in_users, residual.T @ left


def _hessian(
    kept: Interactions, users: NDArray[np.float64], items: NDArray[np.float64], alpha: float, ridge: float
) -> Callable[[NDArray[np.float64], NDArray[np.float64]], Pair]:
    """Product with half the Hessian of the loss, plus a ridge; O(nnz k + (m + n) k^2).

    With E = C o (Y - P Q'), a direction (A, B) goes to ``C o (A Q' + P B') Q - E B`` and its twin.
    """
    of = np.repeat(np.arange(kept.shape[0]), np.diff(kept.indptr))
    at, weight = kept.indices, alpha * kept.data
    scores = np.einsum("ek,ek->e", users[of], items[at])
    residual = sp.csr_matrix((weight * (1.0 - scores) + scores, at, kept.indptr), shape=kept.shape)
    gram_users, gram_items = users.T @ users, items.T @ items

    def multiply(in_users: NDArray[np.float64], in_items: NDArray[np.float64]) -> Pair:
        moved = np.einsum("ek,ek->e", in_users[of], items[at]) + np.einsum(
            "ek,ek->e", users[of], in_items[at]
        )
        weighted = sp.csr_matrix(((weight - 1.0) * moved, at, kept.indptr), shape=kept.shape)
        across, back = in_items.T @ items, in_users.T @ users
        return (
            in_users @ gram_items + users @ (across + across.T) + weighted @ items - residual @ in_items
            + ridge * in_users,
            in_items @ gram_users + items @ (back + back.T) + weighted.T @ users - residual.T @ in_users
            + ridge * in_items,
        )  # fmt: skip

    return multiply
