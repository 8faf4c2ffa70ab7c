"""What a published version gives to whoever reads it: arrays of items, and an answer to any row."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...models.base import Arrays, ForgettableModel, Interactions, IntVector

FloatMatrix: TypeAlias = NDArray[np.float64]
FloatVector: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = FloatMatrix | sp.csr_matrix[Any]
Kind: TypeAlias = Literal["vectors", "weights", "inverse", "answers"]


@dataclass(frozen=True)
class Served:
    """One version, as its readers have it; it does not change when the model goes on to forget.

    Attributes
    ----------
    items : what is published of items. "vectors": float64 [n_items, k]. "weights": item-item weights, dense
        or CSR [n_items, n_items], 0 where nothing is stored. "inverse": of a ridge Gram, [n_items, n_items].
        "answers": nothing, [n_items, 0]; whoever asks gets scores.
    kind : which of them.
    score : rows of interactions, CSR [b, n_items] -> scores float64 [b, n_items]; the rows are folded in.
    users : float64 [n_users, k] beside "vectors": the users' own; None where none are published.
    counts : gives, float64 [n_items], how often each item was taken, where the publication tells.
    sum_rows : items int64 [m] -> rows [m, n_items] of the sums over users that can be worked out from it.
    """

    items: Matrix
    kind: Kind
    score: Callable[[Interactions], FloatMatrix]
    users: FloatMatrix | None = None
    counts: Callable[[], FloatVector] | None = None
    sum_rows: Callable[[IntVector], FloatMatrix] | None = None

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return int(self.items.shape[0])

    def affinity(self, profile: IntVector) -> FloatMatrix:
        """How alike items are to each other: float64 [m, m]; cosines, partial correlations or weights."""
        if self.kind == "vectors":
            vectors = cast(FloatMatrix, self.items)[profile]
            norms = np.linalg.norm(vectors, axis=1)
            vectors = vectors / np.where(norms > 0, norms, 1.0)[:, None]
            return vectors @ vectors.T
        block = self.items[profile][:, profile]
        square = np.asarray(cast(Any, block).toarray() if sp.issparse(block) else block, dtype=np.float64)
        if self.kind == "inverse":
            spread = np.sqrt(square.diagonal())
            return cast(FloatMatrix, -square / np.outer(spread, spread))
        return square


def served(model: ForgettableModel) -> Served:
    """Return what a model of ours serves as it stands, copied: the model may go on.

    Raises
    ------
    TypeError
        The model publishes neither factors, nor an inverse, nor a similarity.

    Notes
    -----
    Copies the published arrays.

    Examples
    --------
    >>> from recunlearn.models import EASE
    >>> x = sp.csr_matrix([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    >>> version = served(EASE(regularization=1.0).fit(x))
    >>> version.kind, version.sum_rows(np.array([1])).round(6) + 0.0
    ('inverse', array([[2., 3., 2.]]))
    """
    arrays = {name: array.copy() for name, array in model.published().items()}
    if "item_factors" in arrays:
        twin = type(model).restore(model.settings(), arrays, model.proof_record(), model.user_items)
        return _of_factorization(model, cast(Any, twin), arrays)
    if "inverse" in arrays:
        return _of_inverse(np.asarray(arrays["inverse"]), cast(Any, model).regularization)
    if "similarity" in arrays:
        return served_weights(sp.csr_matrix(arrays["similarity"]))
    raise TypeError(f"{type(model).__name__} publishes {sorted(arrays)}; make a Served of it by hand")


def served_arrays(arrays: Arrays, score: Callable[[Interactions], FloatMatrix], n_items: int) -> Served:
    """Return what anybody's model serves, from the arrays that it publishes under the names that are known.

    Parameters
    ----------
    arrays : with ``item_factors`` and maybe ``user_factors``, or with ``similarity`` or ``item_weights``;
        else only answers are served. Copied.
    score : as :attr:`Served.score`; must go on answering as it does now.

    Examples
    --------
    >>> served_arrays({"item_factors": np.eye(3)}, lambda rows: rows.toarray(), 3).kind
    'vectors'
    >>> served_arrays({}, lambda rows: rows.toarray(), 3).kind
    'answers'
    """
    if "item_factors" in arrays:
        items = np.array(arrays["item_factors"], dtype=np.float64)
        users = np.array(arrays["user_factors"], dtype=np.float64) if "user_factors" in arrays else None
        return _of_vectors(items, users, score)
    for name in ("similarity", "item_weights"):
        if name in arrays:
            return Served(arrays[name].copy(), "weights", score)
    return Served(np.zeros((n_items, 0)), "answers", score)


def served_weights(weights: Matrix) -> Served:
    """Return what an item-item model serves: a row x is scored ``x @ weights``."""

    def score(rows: Interactions) -> FloatMatrix:
        product = sp.csr_matrix(rows) @ weights
        return np.asarray(cast(Any, product).toarray() if sp.issparse(product) else product, np.float64)

    return Served(weights, "weights", score)


def served_factors(
    item_factors: FloatMatrix, user_factors: FloatMatrix | None = None, ridge: float = 1.0
) -> Served:
    """Return what somebody's factorisation serves: a row is folded in by a ridge regression on its items.

    Parameters
    ----------
    item_factors : float64 [n_items, k]; user_factors : [n_users, k], if they are published.
    ridge : of the regression, > 0.
    """
    items = np.array(item_factors, dtype=np.float64)
    users = None if user_factors is None else np.array(user_factors, dtype=np.float64)
    solved = np.linalg.solve(items.T @ items + ridge * np.eye(items.shape[1]), items.T)

    def score(rows: Interactions) -> FloatMatrix:
        return np.asarray((sp.csr_matrix(rows) @ solved.T) @ items.T, dtype=np.float64)

    return _of_vectors(items, users, score)


def _of_vectors(
    items: FloatMatrix, users: FloatMatrix | None, score: Callable[[Interactions], FloatMatrix]
) -> Served:
    return Served(items, "vectors", score, users, sum_rows=lambda at: items[at] @ items.T)


def _of_inverse(inverse: FloatMatrix, regularization: float) -> Served:
    @cache
    def gram() -> FloatMatrix:
        return np.linalg.inv(inverse) - regularization * np.eye(inverse.shape[0])

    def score(rows: Interactions) -> FloatMatrix:
        plain = sp.csr_matrix(rows)
        scores = plain @ inverse / -inverse.diagonal()
        return np.asarray(scores + plain.toarray(), dtype=np.float64)

    return Served(
        inverse,
        "inverse",
        score,
        counts=lambda: gram().diagonal(),
        sum_rows=lambda at: gram()[at],
    )


def _of_factorization(model: ForgettableModel, twin: Any, arrays: dict[str, Any]) -> Served:
    items = np.asarray(arrays["item_factors"], dtype=np.float64)
    users = np.asarray(arrays["user_factors"], dtype=np.float64) if "user_factors" in arrays else None

    def score(rows: Interactions) -> FloatMatrix:
        folded = twin.recalculate_user(np.arange(rows.shape[0]), rows)
        return np.asarray(folded, dtype=np.float64) @ items.T

    if "item_scale" not in arrays:
        return _of_vectors(items, users, score)
    settings, scale = cast(Any, model), np.asarray(arrays["item_scale"], dtype=np.float64)
    half = spectral_sums(items, scale, settings.regularization)
    power = settings.item_power
    return Served(
        items,
        "vectors",
        score,
        users,
        counts=(lambda: scale ** (-1.0 / power)) if power else None,
        sum_rows=lambda at: half[at] @ half.T,
    )


def spectral_sums(item_factors: FloatMatrix, item_scale: FloatVector, regularization: float) -> FloatMatrix:
    """Work out, from what SpectralMF publishes, the sums over users that it rests on, to its rank.

    ``q_i = d_i^b V_i f^1/2`` with orthonormal V: the columns of ``d_i^-b q_i`` have the lengths ``f_k^1/2``,
    and ``sigma_k = lambda / (1 - f_k)``. Then ``X' D_u^-2a X`` is ``L L'`` with ``L = D_i^b V sigma``.

    Parameters
    ----------
    item_factors : float64 [n_items, k]. item_scale : float64 [n_items], ``d_i^-b``. regularization : lambda.

    Returns
    -------
    L : float64 [n_items, k].
    """
    scaled = item_factors * item_scale[:, None]
    shrunk = np.einsum("ik,ik->k", scaled, scaled)
    sigma = regularization / np.maximum(1.0 - shrunk, 1e-12)
    vectors = np.divide(item_factors, np.sqrt(shrunk), out=np.zeros_like(item_factors), where=shrunk > 0)
    return cast(FloatMatrix, vectors * sigma)
