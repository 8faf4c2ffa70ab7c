"""SpectralMF where its n x n sums are too much: solved by rounds of products with rows that are elsewhere.

In a round everybody who has rows gets a block V of some columns and answers ``X_s' D_u^-2a X_s V``; the
total drives the solver that one machine runs. Nobody holds a matrix of items over items. Floating sums:
another grouping of the rows gives other last bits, which the certificate allows for; the same grouping, added
in the same order, gives the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .base import Interactions, Scalar
from .gram_operator import DistantGram, FloatMatrix, GramOperator
from .spectral_mf import SpectralMF
from .statistics import IntArray, item_counts, select_rows
from .summed import Published, spectral_of, statistic_of
from .sums import Statistic, SumsError
from .threads import one_blas_thread

Products = Callable[[FloatMatrix], FloatMatrix]
_SLACK = {"float32": 1e-3, "float64": 1e-9}
"""Of the lengths of two columns: how far rounding can take a product from being symmetric."""


@dataclass(frozen=True, eq=False)
class Margins:
    """What has to be known of rows before the first product.

    Attributes
    ----------
    statistic : "normalised": the rows' weights.
    users : how many rows with interactions.
    counts : int64 [n_items], the users of each item.
    degrees : int64 [n_items], the sum of each item's values.
    longest : the longest chain of additions behind one entry of a product.
    """

    statistic: Statistic
    users: int
    counts: IntArray
    degrees: IntArray
    longest: int

    @classmethod
    def nothing(cls, statistic: Statistic) -> "Margins":
        """Return the margins of no rows."""
        none = np.zeros(statistic.n_items, np.int64)
        return cls(statistic, 0, none, none, 0)

    def add(self, other: "Margins") -> "Margins":
        """Return the margins of both sets of rows; products of both are added, hence one link more.

        Raises
        ------
        SumsError
            They are of different statistics.
        """
        if self.statistic != other.statistic:
            raise SumsError(f"these are margins of {other.statistic}, not of {self.statistic}")
        return Margins(
            self.statistic,
            self.users + other.users,
            self.counts + other.counts,
            self.degrees + other.degrees,
            max(self.longest, other.longest) + 1,
        )


class RowProducts:
    """The products with some rows, and their margins: one side of each round.

    Parameters
    ----------
    rows : canonical CSR [n, n_items], values whole numbers; not modified.
    statistic : of kind "normalised".

    Raises
    ------
    SumsError
        The rows have another number of items, or values that are not whole numbers below 2^26.

    Notes
    -----
    A product with k columns costs O(nnz k); memory as :class:`~.gram_operator.GramOperator`.

    Examples
    --------
    >>> rows = RowProducts(sp.csr_matrix([[1.0, 1.0], [0.0, 1.0]]), Statistic("normalised", 2))
    >>> rows.margins.users, rows.margins.degrees, rows.times(np.eye(2))
    (2, array([1, 2]), array([[1., 1.],
           [1., 2.]]))
    """

    def __init__(self, rows: Interactions, statistic: Statistic) -> None:
        _require(rows, statistic)
        rows = select_rows(rows, np.diff(rows.indptr) > 0)
        values = np.ones_like(rows.data) if statistic.binary else rows.data
        weights: Interactions = sp.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)
        self._gram = GramOperator(weights, statistic.user_power, 0.0)
        degrees = np.bincount(rows.indices, values, minlength=statistic.n_items).astype(np.int64)
        self.margins = Margins(statistic, rows.shape[0], item_counts(rows), degrees, self._gram.longest)

    def times(self, block: FloatMatrix) -> FloatMatrix:
        """Compute ``X' D_u^-2a X V``: [n_items, k] of the dtype of ``block``."""
        with one_blas_thread():
            return self._gram.apply(block)


def published_by_rounds(settings: Mapping[str, Scalar], margins: Margins, products: Products) -> Published:
    """Make the SpectralMF of all rows, from products with them.

    Forgetting is the same call once those who have the rows have taken out the ones to go: the start is a
    seeded one, no earlier model is read, so what is published is a function of the rows that are left.

    Parameters
    ----------
    settings : of SpectralMF.
    margins : of all rows.
    products : block -> the sum over all rows; called once a round, with float32 or float64 [n_items, k].

    Raises
    ------
    SumsError
        The margins are of another statistic than the settings ask for.
    ValueError
        The settings need rows: lambda "auto", values "log".

    Notes
    -----
    Rounds: 9 to 17 were measured with ``1.5 factors`` columns, most of them in float32, and 5 to 32 with 16.

    Examples
    --------
    >>> x = sp.csr_matrix((np.random.default_rng(0).random((90, 12)) < 0.3).astype(float))
    >>> rows = RowProducts(x, statistic_of("spectral_mf", {"factors": 3}, 12))
    >>> published_by_rounds({"factors": 3}, rows.margins, rows.times).record["certified"]
    True
    """
    arguments: dict[str, Any] = dict(settings)
    model = SpectralMF(**arguments)
    wanted = statistic_of(model.name, settings, margins.counts.size)
    if margins.statistic != wanted:
        raise SumsError(f"these settings ask for {wanted}; the margins are of {margins.statistic}")
    degrees = np.where(margins.degrees > 0, margins.degrees, 1).astype(np.float64)
    gram = DistantGram(products, degrees, model.item_power, users=margins.users, longest=margins.longest)
    with one_blas_thread():
        return spectral_of(model, gram, margins.counts)


def require_product(block: FloatMatrix, product: FloatMatrix) -> None:
    """Refuse what is no product of a symmetric, nowhere negative operator with ``block``.

    Whoever lies with another such operator is not found out.

    Parameters
    ----------
    block : V, float [n_items, k]. product : Y, the answer.

    Raises
    ------
    SumsError
        Y has another form, a number that is none or too large, or ``V'Y`` is not symmetric and positive
        semidefinite up to rounding.

    Notes
    -----
    O(n_items k^2).
    """
    if product.shape != block.shape or product.dtype != block.dtype:
        raise SumsError(f"{product.dtype} {product.shape} is no answer to {block.dtype} {block.shape}")
    if not np.isfinite(product).all():
        raise SumsError("the product has a number that is not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        inner = np.asarray(block.T @ product, dtype=np.float64)
        lengths = np.outer(*(np.linalg.norm(part.astype(np.float64), axis=0) for part in (block, product)))
    if not (np.isfinite(inner).all() and np.isfinite(lengths).all()):
        raise SumsError("the product is too large to be added up")
    slack = _SLACK[block.dtype.name] * (lengths + lengths.T)
    if np.any(np.abs(inner - inner.T) > slack):
        raise SumsError("the product is not that of a symmetric matrix: V'Y is not symmetric")
    if np.any(np.diagonal(inner) < -np.diagonal(slack)):
        raise SumsError("the product is not that of rows: V'Y has a negative diagonal")


def _require(rows: Interactions, statistic: Statistic) -> None:
    if statistic.kind != "normalised":
        raise SumsError(f"products are for SpectralMF's normalised rows, not for {statistic.kind}")
    if rows.shape[1] != statistic.n_items:
        raise SumsError(f"the rows have {rows.shape[1]} items, the statistic {statistic.n_items}")
    odd: NDArray[np.bool_] = (rows.data != np.rint(rows.data)) | (rows.data > 2.0**26)
    if not statistic.binary and odd.any():
        raise SumsError(
            f"a value is {rows.data[odd][0]}; degrees are sums of whole numbers up to 2^26: round or scale "
            "the values"
        )
