"""EASE: a ridge regression of every item on all others, forgotten exactly by downdating its inverse.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019. With ``P = (X'X + lambda I)^-1`` the
weights are ``B_ij = -P_ij / P_jj``, 0 on the diagonal (eq. 8), and a user with row x is scored ``x B``. Users
enter through the sum ``X'X`` alone, so that to forget is to subtract: Woodbury's identity on P.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeAlias
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from . import inverse_kernels, kernels
from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar
from .item_model import BoolArray, ItemModel, restricted
from .ridge_inverse import Probes, SingularDowndateError, downdate_inverse, isolate_items, ridge_inverse
from .statistics import IntArray, gram, item_counts, select_rows

FloatArray: TypeAlias = NDArray[np.float64]


class ConcurrentForgettingError(RuntimeError):
    """The model was read while another thread forgot in it; ask again, or serve a published snapshot."""


class EASE(ItemModel):
    """Linear autoencoder over items; forgetting is exact, by downdates of one inverse.

    Reading while another thread forgets raises :class:`ConcurrentForgettingError`: the inverse is updated
    in place. Servers read published snapshots, which never change.

    Parameters
    ----------
    regularization : lambda > 0, added to the diagonal of ``X'X``.
    tolerance : largest proven relative distance of the inverse to a fresh one; when a downdate passes it,
        the inverse is computed afresh from the exact Gram.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> x = sp.csr_matrix([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]])
    >>> model = EASE(regularization=1.0).fit(x)
    >>> model.forget_users([1])
    >>> fresh = EASE(regularization=1.0).fit(sp.csr_matrix([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]))
    >>> np.allclose(model.item_weights, fresh.item_weights, rtol=1e-12)
    True
    >>> ids, scores = model.recommend(3, x[3], N=1)
    >>> ids
    array([1], dtype=int32)
    """

    name: ClassVar[str] = "ease"
    exact: ClassVar[bool] = True

    def __init__(self, regularization: float = 500.0, tolerance: float = 1e-9) -> None:
        for what, value in (("regularization", regularization), ("tolerance", tolerance)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{what} is {value}; it must be positive and finite")
        self.regularization = float(regularization)
        self.tolerance = float(tolerance)
        self._inverse: FloatArray | None = None
        self._holders: WeakSet[EASE] = WeakSet()  # of the memory of the inverse; none: it is somebody else's
        self._counts: IntVector | None = None
        self._probes: Probes | None = None
        self._bound: float | None = None
        self._fresh_bound = 0.0
        self._has_forgotten = False
        self._downdates = 0
        self._version = 0

    @property
    def n_items(self) -> int:
        """How many items the model has, with or without interactions."""
        return int(self.user_items.shape[1])

    @property
    def inverse(self) -> FloatArray:
        """``P = (X'X + lambda I)^-1``, float64 [n_items, n_items]. The model's own memory: read-only."""
        if self._inverse is None:
            self._derive(self.user_items)
        assert self._inverse is not None  # noqa: S101  for the type checkers
        return self._inverse

    @property
    def gram(self) -> IntArray | FloatArray:
        """``X'X`` of what is kept, [n_items, n_items]: int64, exact, where the values are whole numbers.

        Else float64. A new array, summed up when asked for, O(sum_u |N(u)|^2): a removal subtracts in the
        inverse and in the probes' products, and needs the Gram only to compute the inverse afresh.
        """
        return gram(self.user_items)

    @property
    def item_weights(self) -> FloatArray:
        """B: float64 [n_items, n_items], ``B_ij = -P_ij / P_jj``, 0 on the diagonal; a new array. O(n^2)."""
        with self._reading() as inverse:
            weights = inverse / -inverse.diagonal()
        np.fill_diagonal(weights, 0.0)
        return weights

    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        del show_progress  # one call of LAPACK: there is nothing to report in between
        with self._writing():
            self._derive(user_items)
        self._has_forgotten = False

    def _derive(self, user_items: Interactions) -> None:
        """Compute everything afresh from what is kept."""
        counts = item_counts(user_items)
        inverse = fresh_inverse(gram(user_items), counts, self.regularization)
        probes = Probes.of(user_items)
        bound = probes.bound(inverse, self.regularization)
        self._own(inverse)
        self._counts, self._probes = counts, probes
        self._bound = self._fresh_bound = bound

    def _forget(self, change: Change) -> None:
        with self._writing():
            inverse = self._writable_inverse()
            if not self._downdate(inverse, change):
                self._derive(change.user_items)
        self._has_forgotten = True

    def _downdate(self, inverse: FloatArray, change: Change) -> bool:
        """Update the inverse in place and measure it; False: it has to be computed afresh."""
        before, after = _different_rows(change)
        if 2 * (before.shape[0] + after.shape[0]) > inverse.shape[0]:
            return False  # a new factorisation costs less
        probes = Probes.of(change.user_items) if self._probes is None else self._probes.without(change)
        turn = self._downdates = self._downdates + 1
        try:
            product = downdate_inverse(inverse, before, after, probes.probe(turn, self.regularization))
        except SingularDowndateError:
            return False
        counts = self._item_counts() - item_counts(change.before) + item_counts(change.after)
        touched = np.unique(change.before.indices).astype(np.int64)
        isolate_items(inverse, touched[counts[touched] == 0], self.regularization)
        self._counts, self._probes, self._bound = counts, probes, None
        # Ill-conditioned data is far off even afresh: refactorising at every step would not help.
        return probes.spot_bound(turn, product) <= max(self.tolerance, 10.0 * self._fresh_bound)

    def _writable_inverse(self) -> FloatArray:
        """Return the inverse, or a copy of it if anything else may hold its memory."""
        inverse = self.inverse
        is_alone = self in self._holders and len(self._holders) == 1
        if not (is_alone and inverse.flags.writeable and inverse.flags.c_contiguous):
            inverse = np.array(inverse, dtype=np.float64, order="C")
            self._own(inverse)
        return inverse

    def _own(self, inverse: FloatArray) -> None:
        self._holders.discard(self)
        self._inverse, self._holders = inverse, WeakSet([self])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._version += 1
        try:
            yield
        except BaseException:
            # Whatever was half changed is derived again from what is kept, when it is next needed.
            self._inverse = self._counts = self._probes = self._bound = None
            raise
        finally:
            self._version += 1

    @contextmanager
    def _reading(self) -> Iterator[FloatArray]:
        version = self._version
        if version % 2 == 0:
            yield self.inverse
        if version % 2 or self._version != version:
            raise ConcurrentForgettingError(
                "EASE was read while another thread forgot in it; ask again, or serve a published snapshot"
            )

    def _item_counts(self) -> IntVector:
        if self._counts is None:
            self._counts = item_counts(self.user_items)
        return self._counts

    def serve_items(self, counts: IntVector) -> None:
        """Recommend what anybody has, where the model's own rows are only a part: int64 [n_items], users."""
        self._counts = counts

    def _score_row(self, items: NDArray[np.int32], values: FloatArray) -> tuple[FloatArray, BoolArray]:
        scores = np.zeros(self.n_items)
        if not items.size:
            return scores, np.zeros(self.n_items, dtype=np.bool_)
        with self._reading() as inverse:
            inverse_kernels.sum_rows_of(items, values, inverse, scores)
            diagonal = inverse.diagonal()
            np.subtract.at(scores, items, values * diagonal[items])  # B has no diagonal
            scores /= -diagonal
        return scores, self._item_counts() > 0

    def _score_item(self, item: int) -> tuple[FloatArray, BoolArray]:
        with self._reading() as inverse:
            scores = inverse[item] / -inverse.diagonal()
        scores[item] = 0.0
        return scores, scores > 0.0

    def proof(self) -> Proof:
        """Show how far the inverse is from a fresh one, measured on random probes.

        ``bound`` bounds ``|P - P*|_F / |P*|_F``; see ``ridge_inverse.Probes.bound``. Measured when asked
        for, six readings of the inverse; each removal already measures itself on one of the probes.
        """
        if self._bound is None:
            with self._reading() as inverse:
                probes = Probes.of(self.user_items) if self._probes is None else self._probes
                self._probes, self._bound = probes, probes.bound(inverse, self.regularization)
        certified = self._bound <= self.tolerance
        reason = (
            "" if certified else f"the inverse is known to {self._bound:.1e} only: ill-conditioned counts"
        )
        return Proof(True, self._bound, 1.0 if self._has_forgotten else None, certified, reason)

    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments."""
        return {"regularization": self.regularization, "tolerance": self.tolerance}

    def published(self) -> Arrays:
        """Return ``inverse``: float64 [n_items, n_items]."""
        return {"inverse": self.inverse}

    def proof_record(self) -> Mapping[str, Scalar]:
        """Return the measured bound, and whether anything was forgotten."""
        return {"bound": self.proof().bound, "has_forgotten": self._has_forgotten}

    @classmethod
    def restore(
        cls,
        settings: Mapping[str, Any],
        arrays: Arrays,
        record: Mapping[str, Any],
        user_items: Interactions,
    ) -> Self:
        """Rebuild from :meth:`published`, without copying; the first removal copies a read-only inverse.

        Raises
        ------
        ValueError
            ``inverse`` does not fit ``user_items``.
        """
        inverse, n_items = arrays["inverse"], user_items.shape[1]
        if not isinstance(inverse, np.ndarray) or inverse.shape != (n_items, n_items):
            raise ValueError(
                f"inverse has the shape {inverse.shape}; user_items has {n_items} items: not of one version"
            )
        model = cls(**settings)
        model._user_items = user_items
        model._forgotten = np.zeros(user_items.shape[0], dtype=np.bool_)
        model._inverse = np.asarray(inverse, dtype=np.float64)
        model._bound = record["bound"]
        model._fresh_bound = float(record["bound"])
        model._has_forgotten = bool(record["has_forgotten"])
        return model

    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the same model without its empty rows and columns.

        An item without interactions is alone in P (1/lambda on the diagonal, exactly), and its row and column
        of the Gram are zeros: what stays is a block. If no item goes, the inverse is shared, and copied only
        if one of the two models forgets while the other still exists.

        Raises
        ------
        ValueError
            A row or column that is not kept has interactions.
        """
        kept = restricted(self.user_items, users, items)
        model = type(self)(self.regularization, self.tolerance)
        model._user_items, model._forgotten = kept, self._forgotten[users]
        inverse, probes = self.inverse, self._probes
        if items.size == self.n_items:
            model._inverse, model._holders = inverse, self._holders
            model._holders.add(model)
        else:
            model._own(_block(inverse, items))
            probes = None if probes is None else probes.restrict(items)
        model._probes = probes
        model._counts = None if self._counts is None else self._counts[items]
        model._bound, model._fresh_bound = self._bound, self._fresh_bound
        model._has_forgotten = self._has_forgotten
        return model


def fresh_inverse(gram: IntArray | FloatArray, counts: IntVector, regularization: float) -> FloatArray:
    """Compute P of a Gram; an item that nobody has (``counts`` 0) is alone in it, exactly.

    Raises
    ------
    ValueError
        As ``ridge_inverse.ridge_inverse``.
    """
    inverse = ridge_inverse(gram, regularization)
    isolate_items(inverse, np.flatnonzero(counts == 0), regularization)
    return inverse


def _block(matrix: NDArray[Any], items: IntVector) -> NDArray[Any]:
    """Copy the rows and columns ``items`` of a square matrix."""
    out = np.empty((items.size, items.size), dtype=matrix.dtype)
    with kernels.threads_for(out.size):
        inverse_kernels.select_block(matrix, items, out)
    return out


def _different_rows(change: Change) -> tuple[Interactions, Interactions]:
    """Leave out rows that did not change and those that are empty now."""
    sizes, left = np.diff(change.before.indptr), np.diff(change.after.indptr)
    return select_rows(change.before, sizes != left), select_rows(change.after, (sizes != left) & (left > 0))
