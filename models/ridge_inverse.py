"""The inverse of a ridge Gram: computed, downdated in place, and checked on random probes."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from . import inverse_kernels, kernels
from .base import Change, Interactions, IntVector
from .statistics import csr_arrays, gram_is_exact
from .threads import one_blas_thread

FloatArray: TypeAlias = NDArray[np.float64]

_LEAST_PIVOT = 1e-6
"""A smaller pivot 1 - leverage loses more than six digits: start again from the Gram."""

_FEW_ROWS = 4
"""Up to this rank a row at a time beats tiles of BLAS."""

_STRIPES = 8

_PROBES = 6
_PROBE_UNITS = 2.0**10
_PROBE_FACTOR = 10.0 * float(np.sqrt(2.0 / np.pi))
"""``10 sqrt(2/pi)``: a bound by probes fails for a share ``10^-probes`` of all draws."""


class SingularDowndateError(ArithmeticError):
    """The rows to forget carry all of some direction of the Gram: Woodbury would lose the digits."""


def ridge_inverse(gram: NDArray[Any], regularization: float) -> FloatArray:
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
    inverse: FloatArray = gram.astype(np.float64, order="C", copy=True)
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
    with kernels.threads_for(n * n):
        inverse_kernels.mirror_lower(inverse)
    return inverse


def downdate_inverse(
    inverse: FloatArray,
    before: Interactions,
    after: Interactions | None = None,
    probe: FloatArray | None = None,
) -> FloatArray:
    """Replace rows of X in the inverse of its ridge Gram, in place.

    With ``P = (X'X + lambda I)^-1``, R the rows to forget and Y what replaces them (Woodbury; Hager 1989,
    eq. 2), in two halves, each with a positive definite system of its own:
    ``P+ = P - P Y' (I + Y P Y')^-1 Y P`` and ``P <- P+ + P+ R' (I - R P+ R')^-1 R P+``.

    Parameters
    ----------
    inverse : float64 [n_items, n_items], C-contiguous, symmetric; overwritten.
    before : CSR [k, n_items], rows of X, with k << n_items.
    after : CSR [l, n_items], what stands in their place; None: nothing.
    probe : float64 [n_items]; None: zeros.

    Returns
    -------
    float64 [n_items], the new inverse times ``probe``: it costs little while the rows are in the cache.

    Raises
    ------
    SingularDowndateError
        I - R P+ R' is not safely positive definite: these rows were not in X, or they carry nearly all of
        some direction. ``inverse`` is unchanged.

    Notes
    -----
    Time O((k + l) n^2), one pass over ``inverse``: row by row if k + l is small, else by BLAS on tiles of the
    triangle; extra memory O((k + l) n).

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [1.0, 1.0]])
    >>> p = np.linalg.inv(x.T @ x + np.eye(2))
    >>> _ = downdate_inverse(p, sp.csr_matrix(x[:1]))
    >>> np.allclose(p, np.linalg.inv(x[1:].T @ x[1:] + np.eye(2)))
    True
    """
    if after is None:
        after = sp.csr_matrix((0, inverse.shape[0]))
    with one_blas_thread():
        added, removed = _downdate_terms(inverse, before, after)
        return _apply_terms(inverse, added, removed, np.zeros(inverse.shape[0]) if probe is None else probe)


def _downdate_terms(
    inverse: FloatArray, before: Interactions, after: Interactions
) -> tuple[FloatArray, FloatArray]:
    """Return Z_a [n, l], Z_r [n, k] such that the new inverse is ``P - Z_a Z_a' + Z_r Z_r'``."""
    a = after.shape[0]
    rows: Interactions = sp.vstack([after, before], format="csr") if a else before
    products = np.empty((rows.shape[0], inverse.shape[0]))
    with kernels.threads_for(rows.nnz * inverse.shape[0]):
        inverse_kernels.sparse_times_dense(*csr_arrays(rows), inverse, products)
    turned = np.ascontiguousarray(products.T)
    small = np.asarray(rows @ turned)
    try:
        factor = np.linalg.cholesky(np.eye(a) + small[:a, :a])
        across = _solve_right(factor, small[:a, a:].T)
        added = _solve_right(factor, turned[:, :a])
        factor = np.linalg.cholesky(np.eye(before.shape[0]) - small[a:, a:] + across @ across.T)
    except np.linalg.LinAlgError as error:
        raise SingularDowndateError("the rows to forget were not in the Gram") from error
    if factor.diagonal().min(initial=1.0) ** 2 < _LEAST_PIVOT:
        raise SingularDowndateError("the rows to forget carry nearly all of some direction of the Gram")
    return added, _solve_right(factor, turned[:, a:] - added @ across.T if a else turned)


def _solve_right(factor: NDArray[Any], left: FloatArray) -> FloatArray:
    """Solve ``Y L' = B``, which may overwrite B; few columns in turn: BLAS would wake threads."""
    if factor.shape[0] > _FEW_ROWS:
        solved: FloatArray = scipy.linalg.blas.dtrsm(1.0, factor, left.T, side=0, lower=1, overwrite_b=1).T
        return np.ascontiguousarray(solved)
    out = np.empty_like(left)
    for r in range(factor.shape[0]):
        out[:, r] = (left[:, r] - out[:, :r] @ factor[r, :r]) / factor[r, r]
    return out


def _apply_terms(
    inverse: FloatArray, added: FloatArray, removed: FloatArray, probe: FloatArray
) -> FloatArray:
    n, a, rank = inverse.shape[0], added.shape[1], added.shape[1] + removed.shape[1]
    terms, signs = np.hstack([added, removed]) if a else removed, np.repeat([-1.0, 1.0], [a, rank - a])
    products = np.empty((_STRIPES, n))
    with kernels.threads_for(rank * n * n):
        if rank > _FEW_ROWS:
            inverse_kernels.add_symmetric_product(
                inverse, terms * signs if a else terms, terms, probe, products
            )
        else:
            rows = np.ascontiguousarray(terms.T)
            inverse_kernels.add_symmetric_low_rank(inverse, rows, signs, probe, products)
    total: FloatArray = products.sum(axis=0)
    return total


def isolate_items(inverse: FloatArray, items: IntVector, regularization: float) -> None:
    """Set the rows and columns of items that nobody has to what they are exactly: 1/lambda and zeros."""
    inverse[items, :] = 0.0
    inverse[:, items] = 0.0
    inverse[items, items] = 1.0 / regularization


@dataclass(frozen=True)
class Probes:
    """Random directions on which an inverse is checked against the Gram it should invert.

    Attributes
    ----------
    directions : float64 [6, n], Gaussian with standard deviation 2^10, rounded to whole numbers.
    products : float64 [6, n]: the directions times ``X'X``.
    exact : the products are whole numbers below 2^53: they are kept up to date by subtraction, exactly.
    """

    directions: FloatArray
    products: FloatArray
    exact: bool

    @classmethod
    def of(cls, user_items: Interactions) -> "Probes":
        """Draw directions (a fixed seed) and multiply them by the Gram; O(nnz).

        Examples
        --------
        >>> Probes.of(sp.csr_matrix([[1.0, 2.0]])).exact
        True
        """
        n_items = user_items.shape[1]
        directions = _directions(n_items)
        largest = np.abs(directions).max(initial=0.0)
        row_sums = _gram_times(user_items, np.ones((1, n_items)))
        exact = gram_is_exact(user_items) and largest * row_sums.max(initial=0.0) < 2.0**53
        return cls(directions, _gram_times(user_items, directions), bool(exact))

    @classmethod
    def of_gram(cls, gram: NDArray[np.int64]) -> "Probes":
        """Multiply the same directions by a Gram of whole numbers: the same bits where that is exact.

        Examples
        --------
        >>> Probes.of_gram(np.array([[1, 2], [2, 4]])).exact
        True
        """
        directions = _directions(gram.shape[0])
        largest = np.abs(directions).max(initial=0.0)
        exact = largest * float(gram.sum(axis=1, dtype=np.float64).max(initial=0.0)) < 2.0**53
        return cls(directions, directions @ gram.astype(np.float64), bool(exact))

    def without(self, change: Change) -> "Probes":
        """Return the probes of what is kept after ``change``."""
        if not self.exact:
            return Probes.of(change.user_items)
        lost = _gram_times(change.before, self.directions)
        if change.after.nnz:
            lost -= _gram_times(change.after, self.directions)
        return Probes(self.directions, self.products - lost, True)

    def restrict(self, items: IntVector) -> "Probes":
        """Return the probes of the same Gram without rows and columns that are zero."""
        return Probes(self.directions[:, items], self.products[:, items], self.exact)

    def probe(self, k: int, regularization: float) -> FloatArray:
        """Return ``(G + lambda I) w`` of direction ``k mod 6``: what the inverse should send back to w."""
        k %= _PROBES
        out: FloatArray = self.products[k] + regularization * self.directions[k]
        return out

    def spot_bound(self, k: int, product: FloatArray) -> float:
        """Bound the error by ``product``, the inverse times :meth:`probe`; fails with probability .1."""
        error = product - self.directions[k % _PROBES]
        return _PROBE_FACTOR * float(np.linalg.norm(error)) / _PROBE_UNITS

    def bound(self, inverse: FloatArray, regularization: float) -> float:
        """Bound ``|P (G + lambda I) - I|_2``, hence ``|P - P*|_F / |P*|_F``; fails with probability 1e-6.

        ``10 sqrt(2/pi) max_k |E w_k|`` over Gaussian w_k (Halko, Martinsson & Tropp 2011, lemma 4.1). A
        reading of the inverse for each direction.
        """
        if not inverse.size:
            return 0.0
        return max(self.spot_bound(k, inverse @ self.probe(k, regularization)) for k in range(_PROBES))


def _directions(n_items: int) -> FloatArray:
    draws = np.random.default_rng(2019).standard_normal((_PROBES, n_items))
    return np.asarray(np.rint(_PROBE_UNITS * draws))


def _gram_times(rows: Interactions, directions: FloatArray) -> FloatArray:
    """Return ``directions X'X``; float64 [d, n]."""
    x: Interactions = rows.astype(np.float64, copy=False)
    return np.ascontiguousarray((x.T @ (x @ directions.T)).T)
