"""EASE: a ridge regression of every item on all others, forgotten exactly by downdating its inverse.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019. With ``P = (X'X + lambda I)^-1`` the
weights are ``B_ij = -P_ij / P_jj``, 0 on the diagonal (eq. 8), and a user with row x is scored ``x B``. Users
enter through the sum ``X'X`` alone, so that to forget is to subtract: Woodbury's identity on P.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from . import kernels
from .base import Arrays, Change, Interactions, IntVector, Proof, Scalar
from .item_model import BoolArray, ItemModel, restricted
from .statistics import (
    IntArray,
    csr_arrays,
    gram,
    gram_is_exact,
    item_counts,
    subtract_gram,
)

FloatArray: TypeAlias = NDArray[np.float64]

_LEAST_PIVOT = 1e-6
"""A smaller pivot 1 - leverage loses more than six digits: start again from the Gram."""

_FEW_ROWS = 4
"""Up to this rank one pass of our own kernel beats BLAS and a mirrored triangle."""

_PROBES = 8
_PROBE_UNITS = 2.0**10
_PROBE_FACTOR = 10.0
"""A probe bound holds but for a share ``factor^-probes`` of all draws: 1e-8."""


class SingularDowndateError(ArithmeticError):
    """The rows to forget carry all of some direction of the Gram: Woodbury would lose the digits."""


class ConcurrentForgettingError(RuntimeError):
    """The model was read while another thread forgot in it; ask again, or serve a published snapshot."""


def ridge_inverse(gram: IntArray | FloatArray, regularization: float) -> FloatArray:
    """Compute ``(G + lambda I)^-1`` by Cholesky; float64 [n, n], symmetric to the bit.

    Raises
    ------
    ValueError
        G + lambda I is not positive definite in float64: the regularization is lost beside the counts.

    Notes
    -----
    n^3 flops (LAPACK potrf, potri), no memory but the result.

    Examples
    --------
    >>> ridge_inverse(np.array([[3, 2], [2, 3]]), 1.0).round(3)
    array([[ 0.333, -0.167],
           [-0.167,  0.333]])
    """
    inverse = gram.astype(np.float64, order="C", copy=True)
    n = inverse.shape[0]
    if not n:
        return inverse
    inverse[np.arange(n), np.arange(n)] += regularization
    _, failed = scipy.linalg.lapack.dpotrf(inverse.T, lower=0, clean=0, overwrite_a=1)
    if not failed:
        _, failed = scipy.linalg.lapack.dpotri(inverse.T, lower=0, overwrite_c=1)
    if failed:
        raise ValueError(
            f"regularization {regularization} vanishes beside counts of up to {gram.max()}: the Gram is not "
            "positive definite in float64; raise the regularization or scale the values down"
        )
    kernels.mirror_lower(inverse)
    return inverse


def downdate_inverse(inverse: FloatArray, before: Interactions, after: Interactions | None = None) -> None:
    """Replace rows of X in the inverse of its ridge Gram, in place.

    With ``P = (X'X + lambda I)^-1``, R the rows to forget and Y what replaces them (Woodbury; Hager 1989,
    eq. 2), in two halves, each with a positive definite system of its own:
    ``P+ = P - P Y' (I + Y P Y')^-1 Y P`` and ``P <- P+ + P+ R' (I - R P+ R')^-1 R P+``.

    Parameters
    ----------
    inverse : float64 [n_items, n_items], C-contiguous, symmetric; overwritten.
    before : CSR [k, n_items], rows of X, with k << n_items.
    after : CSR [l, n_items], what stands in their place; None: nothing.

    Raises
    ------
    SingularDowndateError
        I - R P+ R' is not safely positive definite: these rows were not in X, or they carry nearly all of
        some direction. ``inverse`` is unchanged.

    Notes
    -----
    Time O((k + l) n^2), one pass over ``inverse``; extra memory O((k + l) n).

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [1.0, 1.0]])
    >>> p = np.linalg.inv(x.T @ x + np.eye(2))
    >>> downdate_inverse(p, sp.csr_matrix(x[:1]))
    >>> np.allclose(p, np.linalg.inv(x[1:].T @ x[1:] + np.eye(2)))
    True
    """
    if after is None:
        after = sp.csr_matrix((0, inverse.shape[0]))
    added, removed = _downdate_terms(inverse, before, after)
    _apply_terms(inverse, added, removed)


def _downdate_terms(
    inverse: FloatArray, before: Interactions, after: Interactions
) -> tuple[FloatArray, FloatArray]:
    """Return Z_a [l, n], Z_r [k, n] such that the new inverse is ``P - Z_a' Z_a + Z_r' Z_r``."""
    added = after.shape[0]
    rows: Interactions = sp.vstack([after, before], format="csr")
    products = np.empty((rows.shape[0], inverse.shape[0]))
    kernels.sparse_times_dense(*csr_arrays(rows), inverse, products)
    small = np.asarray(rows @ products.T)
    try:
        factor = scipy.linalg.cholesky(np.eye(added) + small[:added, :added], lower=True)
        across = scipy.linalg.solve_triangular(factor, small[:added, added:], lower=True)
        z_added = scipy.linalg.solve_triangular(factor, products[:added], lower=True)
        rest = np.eye(before.shape[0]) - small[added:, added:] + across.T @ across
        factor = scipy.linalg.cholesky(rest, lower=True)
    except scipy.linalg.LinAlgError as error:
        raise SingularDowndateError("the rows to forget were not in the Gram") from error
    if factor.size and factor.diagonal().min() ** 2 < _LEAST_PIVOT:
        raise SingularDowndateError("the rows to forget carry nearly all of some direction of the Gram")
    z_removed = scipy.linalg.solve_triangular(factor, products[added:] - across.T @ z_added, lower=True)
    return z_added, z_removed


def _apply_terms(inverse: FloatArray, added: FloatArray, removed: FloatArray) -> None:
    if added.shape[0] + removed.shape[0] <= _FEW_ROWS:
        signs = np.repeat([-1.0, 1.0], [added.shape[0], removed.shape[0]])
        kernels.add_symmetric_low_rank(inverse, np.vstack([added, removed]), signs)
        return
    for sign, terms in ((-1.0, added), (1.0, removed)):
        if terms.shape[0]:
            scipy.linalg.blas.dsyrk(
                sign,
                np.ascontiguousarray(terms).T,
                beta=1.0,
                c=inverse.T,
                lower=0,
                overwrite_c=1,
            )
    kernels.mirror_lower(inverse)


@dataclass(frozen=True)
class Probes:
    """Random directions on which an inverse is checked against the Gram it should invert.

    Attributes
    ----------
    directions : float64 [n, 8], Gaussian, rounded to whole numbers.
    products : float64 [n, 8]: ``X'X`` times the directions.
    exact : the products are whole numbers below 2^53: they can be kept up to date by subtraction.
    """

    directions: FloatArray
    products: FloatArray
    exact: bool

    @classmethod
    def of(cls, user_items: Interactions) -> "Probes":
        """Draw directions (a fixed seed) and multiply them by the Gram; O(nnz)."""
        n_items = user_items.shape[1]
        draws = np.random.default_rng(2019).standard_normal((n_items, _PROBES))
        directions = np.rint(_PROBE_UNITS * draws)
        x: Interactions = user_items.astype(np.float64, copy=False)
        largest = np.abs(directions).max(initial=0.0)
        row_sums = x.T @ (x @ np.ones(n_items))
        exact = gram_is_exact(user_items) and largest * row_sums.max(initial=0.0) < 2.0**53
        return cls(directions, np.asarray(x.T @ (x @ directions)), bool(exact))

    def without(self, change: Change) -> "Probes":
        """Return the probes of what is kept after ``change``."""
        if not self.exact:
            return Probes.of(change.user_items)
        products = self.products.copy()
        for sign, rows in ((-1.0, change.before), (1.0, change.after)):
            x: Interactions = rows.astype(np.float64, copy=False)
            products += sign * (x.T @ (x @ self.directions))
        return Probes(self.directions, products, True)

    def bound(self, inverse: FloatArray, regularization: float) -> float:
        """Bound ``|P (G + lambda I) - I|_2``, hence ``|P - P*|_F / |P*|_F``; fails with probability 1e-8.

        ``10 sqrt(2/pi) max_i |E w_i|`` over Gaussian w_i (Halko, Martinsson & Tropp 2011, lemma 4.1).
        """
        if not inverse.size:
            return 0.0
        error = inverse @ (self.products + regularization * self.directions) - self.directions
        worst = float(np.sqrt((error**2).sum(axis=0).max())) / _PROBE_UNITS
        return _PROBE_FACTOR * float(np.sqrt(2.0 / np.pi)) * worst


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
    >>> x = sp.csr_matrix([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]])
    >>> model = EASE(regularization=1.0).fit(x)
    >>> model.forget_users([1])
    >>> fresh = EASE(regularization=1.0).fit(sp.csr_matrix([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]))
    >>> np.allclose(model.item_weights, fresh.item_weights, rtol=1e-12)
    True
    >>> ids, scores = model.recommend(3, x[3], N=1)
    >>> ids
    array([1])
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
        self._owns_inverse = True
        self._gram: IntArray | FloatArray | None = None
        self._counts: IntVector | None = None
        self._probes: Probes | None = None
        self._bound: float | None = None
        self._fresh_bound = 0.0
        self._has_forgotten = False
        self._version = 0

    @property
    def n_items(self) -> int:
        """How many items the model has, with or without interactions."""
        return int(self.user_items.shape[1])

    @property
    def inverse(self) -> FloatArray:
        """``P = (X'X + lambda I)^-1``, float64 [n_items, n_items]. The model's own memory: read-only."""
        if self._inverse is None:
            self._derive(self.user_items, gram(self.user_items))
        assert self._inverse is not None  # noqa: S101  for the type checkers
        return self._inverse

    @property
    def gram(self) -> IntArray | FloatArray:
        """``X'X`` of what is kept, [n_items, n_items]: int64, exact, where the values are whole numbers.

        Else float64, summed afresh from ``user_items`` after a change: never a difference of roundings.
        """
        if self._gram is None:
            self._gram = gram(self.user_items)
        return self._gram

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
            self._derive(user_items, gram(user_items))
        self._has_forgotten = False

    def _derive(self, user_items: Interactions, fresh_gram: IntArray | FloatArray) -> None:
        """Compute everything afresh from what is kept."""
        inverse = ridge_inverse(fresh_gram, self.regularization)
        counts = item_counts(user_items)
        isolate_items(inverse, np.flatnonzero(counts == 0), self.regularization)
        probes = Probes.of(user_items)
        bound = probes.bound(inverse, self.regularization)
        self._gram, self._inverse, self._owns_inverse = fresh_gram, inverse, True
        self._counts, self._probes = counts, probes
        self._bound = self._fresh_bound = bound

    def _forget(self, change: Change) -> None:
        with self._writing():
            inverse = self._writable_inverse()
            if self._gram is not None:
                self._gram = _gram_without(self._gram, change)
            if not self._downdate(inverse, change):
                kept = change.user_items
                self._derive(kept, gram(kept) if self._gram is None else self._gram)
        self._has_forgotten = True

    def _downdate(self, inverse: FloatArray, change: Change) -> bool:
        """Update the inverse in place and measure it; False: it has to be computed afresh."""
        before, after = _different_rows(change)
        if 2 * (before.shape[0] + after.shape[0]) > inverse.shape[0]:
            return False  # a new factorisation costs less
        try:
            downdate_inverse(inverse, before, after)
        except SingularDowndateError:
            return False
        if self._counts is None:
            self._counts = item_counts(change.user_items)
        else:
            self._counts = self._counts - item_counts(change.before) + item_counts(change.after)
        touched = np.unique(change.before.indices).astype(np.int64)
        isolate_items(inverse, touched[self._counts[touched] == 0], self.regularization)
        probes = Probes.of(change.user_items) if self._probes is None else self._probes.without(change)
        bound = probes.bound(inverse, self.regularization)
        self._probes, self._bound = probes, bound
        # Ill-conditioned data has a large bound even afresh: refactorising at every step would not help.
        return bound <= max(self.tolerance, 10.0 * self._fresh_bound)

    def _writable_inverse(self) -> FloatArray:
        inverse = self.inverse
        if not (self._owns_inverse and inverse.flags.writeable and inverse.flags.c_contiguous):
            inverse = np.array(inverse, dtype=np.float64, order="C")
            self._inverse, self._owns_inverse = inverse, True
        return inverse

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._version += 1
        try:
            yield
        except BaseException:
            # Whatever was half changed is derived again from what is kept, when it is next needed.
            self._inverse = self._gram = self._counts = self._probes = self._bound = None
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

    def _score_row(self, items: NDArray[np.int32], values: FloatArray) -> tuple[FloatArray, BoolArray]:
        scores = np.zeros(self.n_items)
        if not items.size:
            return scores, np.zeros(self.n_items, dtype=np.bool_)
        with self._reading() as inverse:
            kernels.sum_rows_of(items, values, inverse, scores)
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

        ``bound`` bounds ``|P - P*|_F / |P*|_F``; see :meth:`Probes.bound`.
        """
        if self._bound is None:
            self._probes = Probes.of(self.user_items)
            self._bound = self._probes.bound(self.inverse, self.regularization)
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
        model._owns_inverse = False
        model._bound = record["bound"]
        model._fresh_bound = float(record["bound"])
        model._has_forgotten = bool(record["has_forgotten"])
        return model

    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the same model without its empty rows and columns.

        An item without interactions is alone in P (1/lambda on the diagonal, exactly): the rest is a block.
        Shares memory if no item goes; whichever of the two models forgets next copies it.

        Raises
        ------
        ValueError
            A row or column that is not kept has interactions.
        """
        kept = restricted(self.user_items, users, items)
        model = type(self)(self.regularization, self.tolerance)
        model._user_items, model._forgotten = kept, self._forgotten[users]
        if items.size == self.n_items:
            model._inverse, model._owns_inverse, self._owns_inverse = self.inverse, False, False
        else:
            model._inverse = self.inverse[np.ix_(items, items)]
            model._owns_inverse = True
        model._bound, model._fresh_bound = self._bound, self._fresh_bound
        model._has_forgotten = self._has_forgotten
        return model


def isolate_items(inverse: FloatArray, items: IntVector, regularization: float) -> None:
    """Set the rows and columns of items that nobody has to what they are exactly: 1/lambda and zeros."""
    inverse[items, :] = 0.0
    inverse[:, items] = 0.0
    inverse[items, items] = 1.0 / regularization


def _gram_without(gram: IntArray | FloatArray, change: Change) -> IntArray | FloatArray | None:
    """Subtract in whole numbers, in place; None for a Gram of fractions, to be summed up afresh."""
    if gram.dtype != np.int64:
        return None
    subtract_gram(gram, change.before, change.after)
    return gram


def _different_rows(change: Change) -> tuple[Interactions, Interactions]:
    """Leave out rows that did not change and those that are empty now."""
    lost = np.diff(change.before.indptr) != np.diff(change.after.indptr)
    before, after = change.before[lost], change.after[lost]
    return before, after[np.diff(after.indptr) > 0]
