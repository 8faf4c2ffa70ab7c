"""What is left of the forgotten, measured against a retrain from scratch: the strict measure.

The oracle is the same model fitted from scratch on the data without what was removed. Influence is counted
*in everybody else*: over the rows of the users whom the removal did not touch. (Counting the removed rows
too flatters every method: emptying them and doing nothing else would score high.)

Scores are kept as products ``left @ right`` and never formed as a whole: factors for a factorisation,
``X B`` for an item-item model. A factorisation is compared in the norm that its own proof is stated in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from ..models.base import Change, ForgettableModel, Interactions, IntVector, plan_change
from ..models.sharded import ShardedMF

FloatMatrix: TypeAlias = NDArray[np.float64]
FloatVector: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = FloatMatrix | sp.csr_matrix[Any]

ORACLE_TIGHTER = 1e-3
"""The oracle of an iterative model is fitted to this share of the model's own tolerance."""

_BLOCK_ENTRIES = 4_000_000


@dataclass(frozen=True)
class Scores:
    """The scores of all users for all items, as a product that is not formed.

    Attributes
    ----------
    left : float64 [n_users, k], dense or CSR.
    right : float64 [k, n_items], dense or CSR.

    Examples
    --------
    >>> scores = Scores(np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]]))
    >>> scores.shape
    (2, 2)
    """

    left: Matrix
    right: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Users, items."""
        return int(self.left.shape[0]), int(self.right.shape[1])

    def placed(self, users: IntVector, items: IntVector, shape: tuple[int, int]) -> "Scores":
        """Put the scores at ``users`` x ``items`` of a larger matrix that is zero elsewhere.

        Parameters
        ----------
        users : int64 [n_users], where each row goes; items : int64 [n_items], where each column goes.
        shape : of the larger matrix.
        """
        return Scores(_placed_rows(self.left, users, shape[0]), _placed_columns(self.right, items, shape[1]))

    def emptied(self, users: IntVector) -> "Scores":
        """Return the same scores with the rows ``users`` set to zero."""
        keep = np.ones(self.shape[0])
        keep[users] = 0.0
        if isinstance(self.left, np.ndarray):
            return Scores(self.left * keep[:, None], self.right)
        emptied = sp.csr_matrix(sp.diags(keep) @ self.left)
        emptied.eliminate_zeros()
        return Scores(emptied, self.right)


@dataclass(frozen=True)
class Influence:
    """How much of a removal was in a set of rows, and how much of it is left there.

    Attributes
    ----------
    norm : ``|S_oracle|_F`` over the rows.
    removed : ``|S_before - S_oracle|_F``: all the influence there was to erase.
    left : ``|S_published - S_oracle|_F``: what is left of it.

    Examples
    --------
    >>> Influence(norm=10.0, removed=0.2, left=0.001).erased
    0.995
    """

    norm: float
    removed: float
    left: float

    @property
    def distance(self) -> float:
        """Relative distance to the retrain, ``left / norm``; 0 where both are 0."""
        return self.left / self.norm if self.norm else (0.0 if self.left == 0 else float("inf"))

    @property
    def remaining(self) -> float:
        """Share of the influence that is left; above 1 if the published model is further away than before."""
        if self.removed:
            return self.left / self.removed
        return 0.0 if self.left == 0 else float("inf")

    @property
    def erased(self) -> float:
        """Share of the influence that is gone, ``1 - left / removed``."""
        return 1.0 - self.remaining


@dataclass(frozen=True)
class Controls:
    """What a removal is compared with: three ways to treat it, and the rows it is measured on.

    Attributes
    ----------
    nothing : do nothing: the scores as they were.
    rows_only : the forgotten users' rows are emptied and the removed interactions deleted from the data;
        what was learned from them stays as it is.
    retrained : the oracle's scores.
    oracle : the model fitted from scratch on what is kept, without the rows and columns that are empty then.
    users, items : int64, which rows and columns those are that it has.
    others : int64, the rows of everybody else: users with kept interactions whom the removal did not touch.
    """

    nothing: Scores
    rows_only: Scores
    retrained: Scores
    oracle: ForgettableModel
    users: IntVector
    items: IntVector
    others: IntVector

    def place(self, published: Scores) -> Scores:
        """Put scores over the kept users and items where they were before."""
        return published.placed(self.users, self.items, self.nothing.shape)


def scores_of(model: ForgettableModel, item_scale: FloatVector | None = None) -> Scores:
    """Return a model's scores as a product, copied, in the norm that its proof is stated in.

    ``user_factors @ item_factors.T`` for a factorisation, ``user_items @ item_weights`` or
    ``user_items @ similarity`` for an item-item model. A factorisation that publishes an ``item_scale``
    (SpectralMF: ``d_i^-b``) has its proof in scores so scaled.

    Parameters
    ----------
    item_scale : float64 [n_items], another scale in place of its own: scores of models with other degrees
        can only be compared in one and the same.

    Raises
    ------
    TypeError
        The model has neither factors nor item weights.
    """
    if hasattr(model, "user_factors"):
        items = np.array(cast(Any, model).item_factors, dtype=np.float64)
        scale = item_scale if item_scale is not None else item_scale_of(model)
        right = items.T if scale is None else (items * scale[:, None]).T
        return Scores(np.array(cast(Any, model).user_factors, dtype=np.float64), right)
    return Scores(sp.csr_matrix(model.user_items, dtype=np.float64, copy=True), item_weights_of(model))


def item_scale_of(model: ForgettableModel) -> FloatVector | None:
    """Return the scale of items that a model's proof is stated in, float64 [n_items]; None without one."""
    scale = model.published().get("item_scale") if hasattr(model, "user_factors") else None
    return None if scale is None else np.array(scale, dtype=np.float64)


def item_weights_of(model: ForgettableModel) -> Matrix:
    """Return the item-item weights of a model, copied: float64 [n_items, n_items], dense or CSR.

    Raises
    ------
    TypeError
        The model has none.
    """
    if hasattr(model, "item_weights"):
        return np.array(cast(Any, model).item_weights, dtype=np.float64)
    if hasattr(model, "similarity"):
        return sp.csr_matrix(cast(Any, model).similarity, dtype=np.float64, copy=True)
    raise TypeError(
        f"{type(model).__name__} has no item_weights and no similarity; compare factorisations by scores_of"
    )


def retrain(
    model: ForgettableModel, user_items: Interactions, rows: IntVector | None = None
) -> ForgettableModel:
    """Fit the same model from scratch: the oracle.

    ``rows`` are the rows of ``model`` that ``user_items`` has, all by default: a sharded model is exact given
    who was in which shard, so its oracle deals them the same way.

    A regularization that the first fit chose is kept (it is part of the model), and an iterative model is
    fitted more tightly than published ones are and in float64, so that what is measured is *their* error.
    """
    settings = dict(model.settings())
    if settings.get("regularization", 0) is None:
        settings["regularization"] = cast(Any, model).regularization
    if isinstance(tolerance := settings.get("tolerance"), float):
        settings["tolerance"] = tolerance * ORACLE_TIGHTER
    if "dtype" in settings:
        settings["dtype"] = "float64"
    make = cast(Callable[..., ForgettableModel], type(model))
    if isinstance(model, ShardedMF):
        shards = model.shard_of if rows is None else model.shard_of[rows]
        return ShardedMF(**cast(Any, settings)).fit(user_items, shard_of=shards)
    return make(**settings).fit(user_items)


def controls(
    model: ForgettableModel,
    users: ArrayLike = (),
    pair_users: ArrayLike = (),
    pair_items: ArrayLike = (),
) -> Controls:
    """Work out the controls of one removal, which ``model`` has not done yet; it is not changed.

    Parameters
    ----------
    users : int, rows of the accounts to forget.
    pair_users, pair_items : int, parallel: single interactions to forget.

    Raises
    ------
    ValueError
        As :meth:`ForgettableModel.forget`.

    Notes
    -----
    One fit from scratch, and a copy of the model's published arrays.
    """
    nobody = np.zeros(model.user_items.shape[0], dtype=np.bool_)
    change = plan_change(model.user_items, nobody, users, pair_users, pair_items)
    kept = change.user_items
    rows, columns = np.flatnonzero(np.diff(kept.indptr) > 0), np.unique(kept.indices).astype(np.int64)
    oracle = retrain(model, kept[rows][:, columns], rows)
    before = scores_of(model, _placed_scale(item_scale_of(oracle), columns, kept.shape[1]))
    return Controls(
        nothing=before,
        rows_only=_rows_only(before, change),
        retrained=scores_of(oracle).placed(rows, columns, before.shape),
        oracle=oracle,
        users=rows,
        items=columns,
        others=np.setdiff1d(rows, change.users),
    )


def influence(before: Scores, published: Scores, oracle: Scores, rows: IntVector) -> Influence:
    """Measure how much influence there was in ``rows`` and how much of it is left.

    Parameters
    ----------
    before, published, oracle : scores over the same users and items (see :meth:`Scores.placed`).
    rows : int64, the rows to measure on; :attr:`Controls.others` is the strict choice.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> influence(Scores(3 * one, one), Scores(2.5 * one, one), Scores(2 * one, one), np.array([0])).erased
    0.5
    """
    return Influence(
        norm=_norm(row_norms(oracle), rows),
        removed=_norm(row_distances(before, oracle), rows),
        left=_norm(row_distances(published, oracle), rows),
    )


def distance(a: Scores, b: Scores, rows: IntVector) -> float:
    """Frobenius distance of two score matrices over ``rows``; see :func:`row_distances`."""
    return _norm(row_distances(a, b), rows)


def row_distances(a: Scores, b: Scores) -> FloatVector:
    """Euclidean distance of each user's scores: float64 [n_users].

    Factors: ``|p1 Q1' - p2 Q2'| = |[p1 p2] R'|`` with R from the QR factorisation of ``[Q1 -Q2]``, so that
    equal parts cancel before anything is squared: accurate to rounding of the scores, where a difference
    of Grams would lose half of the digits. Anything else block by block.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"scores of shape {a.shape} and {b.shape} cannot be compared; place one in the other"
        )
    if _is_thin(a) and _is_thin(b):
        left = np.hstack([cast(FloatMatrix, a.left), cast(FloatMatrix, b.left)])
        right = np.vstack([cast(FloatMatrix, a.right), -cast(FloatMatrix, b.right)]).T
        return _row_norms(left @ _triangle(right).T)
    block = max(1, _BLOCK_ENTRIES // max(1, a.shape[1]))
    parts = [slice(start, start + block) for start in range(0, a.shape[0], block)]
    return np.concatenate(
        [np.zeros(0)]
        + [_row_norms(_dense(a.left[part] @ a.right) - _dense(b.left[part] @ b.right)) for part in parts]
    )


def row_norms(scores: Scores) -> FloatVector:
    """Euclidean norm of each user's scores: float64 [n_users]."""
    users, items = scores.shape
    return row_distances(scores, Scores(np.zeros((users, 0)), np.zeros((0, items))))


def weight_distance(a: Matrix, b: Matrix) -> tuple[float, float]:
    """Compare item-item weights: relative Frobenius distance ``|A - B| / |B|``, and the largest difference.

    Examples
    --------
    >>> weight_distance(np.array([[0.0, 1.0]]), np.array([[0.0, 2.0]]))
    (0.5, 1.0)
    """
    difference, reference = _dense(a) - _dense(b), float(np.linalg.norm(_dense(b)))
    moved = float(np.linalg.norm(difference))
    largest = float(np.abs(difference).max(initial=0.0))
    return (moved / reference if reference else (0.0 if moved == 0 else float("inf"))), largest


def _placed_scale(scale: FloatVector | None, columns: IntVector, size: int) -> FloatVector | None:
    """Put the scale of some items among all; items without interactions have the scale 1."""
    if scale is None:
        return None
    placed = np.ones(size)
    placed[columns] = scale
    return placed


def _rows_only(before: Scores, change: Change) -> Scores:
    if isinstance(before.left, np.ndarray):
        return before.emptied(np.flatnonzero(change.forgotten))
    return Scores(sp.csr_matrix(change.user_items, dtype=np.float64), before.right)


def _is_thin(scores: Scores) -> bool:
    dense = isinstance(scores.left, np.ndarray) and isinstance(scores.right, np.ndarray)
    return dense and 2 * scores.left.shape[1] <= scores.shape[1]


def _row_norms(matrix: FloatMatrix) -> FloatVector:
    norms: FloatVector = np.linalg.norm(matrix, axis=1)
    return norms


def _norm(values: FloatVector, rows: IntVector) -> float:
    return float(np.linalg.norm(values[rows]))


def _triangle(matrix: FloatMatrix) -> FloatMatrix:
    """R of the thin QR factorisation."""
    return cast(FloatMatrix, np.linalg.qr(matrix, mode="r"))


def _placed_rows(matrix: Matrix, at: IntVector, size: int) -> Matrix:
    if isinstance(matrix, np.ndarray):
        placed = np.zeros((size, matrix.shape[1]))
        placed[at] = matrix
        return placed
    return sp.csr_matrix(_selector(at, size).T @ matrix)


def _placed_columns(matrix: Matrix, at: IntVector, size: int) -> Matrix:
    if isinstance(matrix, np.ndarray):
        placed = np.zeros((matrix.shape[0], size))
        placed[:, at] = matrix
        return placed
    return sp.csr_matrix(matrix @ _selector(at, size))


def _selector(at: IntVector, size: int) -> sp.csr_matrix[Any]:
    return sp.csr_matrix((np.ones(at.size), (np.arange(at.size), at)), shape=(at.size, size))


def _dense(matrix: Any) -> FloatMatrix:
    return cast(FloatMatrix, matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix))
