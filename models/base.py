"""What a forgettable model is, and the change that every model forgets by.

One idea ties the models together: a model is additive statistics plus a closed-form solve. A user's
contribution is a term of a sum; to forget is to subtract it and to solve again from where we stand.
:class:`Change` is that difference, the same for every model: the rows touched, as they were and as they
are. A statistic subtracts the contribution of ``before`` and adds the contribution of ``after``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from .kept import Interactions as Interactions
from .kept import IntVector as IntVector
from .kept import KeptInteractions

Arrays: TypeAlias = dict[str, NDArray[Any] | sp.csr_matrix[Any]]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Change:
    """The rows that a removal touches, before and after it.

    Attributes
    ----------
    users : int64 [k], ascending, unique: the dense row numbers touched.
    before : CSR [k, n_items]: their rows as they were.
    after : CSR [k, n_items]: their rows as they are now; empty for a forgotten user.
    kept : everything that is kept; :attr:`user_items` puts it together.
    forgotten : bool [n_users]: rows whose account is forgotten, now or earlier.
    """

    users: IntVector
    before: Interactions
    after: Interactions
    kept: KeptInteractions
    forgotten: NDArray[np.bool_]

    @property
    def user_items(self) -> Interactions:
        """Everything that is kept: CSR [n_users, n_items]. O(nnz) when first asked for."""
        return self.kept.matrix()


@dataclass(frozen=True)
class Proof:
    """What a model can show about itself as it stands, without a retrain.

    Attributes
    ----------
    exact : the model equals a fresh fit on what is kept, up to ``bound`` (rounding only).
    bound : proven upper bound on the relative distance to a fresh fit; None where none can be shown.
    erased_at_least : share of the influence on the rows that stay that is shown to be gone; None before
        any forgetting, 1.0 for an exact model after it.
    certified : the model's own target was met and shown.
    reason : why not certified; empty when it is.
    """

    exact: bool
    bound: float | None
    erased_at_least: float | None
    certified: bool
    reason: str = ""


def row_of(user_items: Interactions, row: int) -> Interactions:
    """Return the interactions of one row, CSR [1, n_items], over the same memory. O(1).

    Examples
    --------
    >>> row_of(sp.csr_matrix([[1, 0], [0, 2]]), 1).toarray()
    array([[0, 2]])
    """
    start, stop = user_items.indptr[row], user_items.indptr[row + 1]
    indptr = np.array([0, stop - start], user_items.indptr.dtype)
    one: Interactions = sp.csr_matrix(
        (user_items.data[start:stop], user_items.indices[start:stop], indptr),
        shape=(1, user_items.shape[1]),
    )
    return one


def canonical_interactions(user_items: Any) -> Interactions:
    """Copy interactions into canonical CSR: sorted, duplicates summed, explicit zeros dropped.

    Parameters
    ----------
    user_items : scipy sparse matrix or array [n_users, n_items]; rows = users; values >= 0 (an explicit
        zero is no interaction), finite. Integers and booleans become float64; float32 and float64 stay.

    Returns
    -------
    CSR matrix that shares no memory with the argument. O(nnz log nnz) at worst.

    Raises
    ------
    TypeError
        Not a scipy sparse matrix.
    ValueError
        A value is negative, NaN or infinite; the message names the first such pair.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> canonical_interactions(sp.coo_matrix(([1, 2], ([0, 0], [1, 1])), shape=(1, 2))).toarray()
    array([[0., 3.]])
    """
    if not sp.issparse(user_items):
        raise TypeError(
            f"user_items is a {type(user_items).__name__}; pass a scipy.sparse CSR matrix, rows = users"
        )
    coo: sp.coo_matrix[Any] = cast(Any, user_items).tocoo()
    dtype = np.float32 if coo.dtype == np.float32 else np.float64
    bad = ~np.isfinite(coo.data) | (coo.data < 0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"user {coo.row[first]}, item {coo.col[first]} has the value {coo.data[first]}; values must be "
            "finite and positive: drop the pair or map it to a positive weight"
        )
    kept: Interactions = sp.csr_matrix(
        (coo.data.astype(dtype), (coo.row, coo.col)), shape=coo.shape, dtype=dtype
    )
    kept.sum_duplicates()
    kept.eliminate_zeros()
    kept.sort_indices()
    return kept


def plan_change(
    kept: KeptInteractions | Interactions,
    forgotten: NDArray[np.bool_],
    users: ArrayLike,
    pair_users: ArrayLike,
    pair_items: ArrayLike,
) -> Change:
    """Work out which rows a removal touches, and refuse it whole if any part of it is wrong.

    Parameters
    ----------
    kept : what is kept, or a canonical CSR matrix [n_users, n_items] of it; not modified.
    forgotten : bool [n_users], rows already forgotten.
    users : int [a], accounts to forget.
    pair_users, pair_items : int [b], parallel: single interactions to forget. A pair of a user who is
        forgotten in the same call is covered by that.

    Raises
    ------
    ValueError
        A user is unknown, repeated or already forgotten; an item is unknown; a pair is repeated or is not
        among the interactions kept. The message names the first such id. Nothing is changed.

    Notes
    -----
    O(removed log removed), plus O(n_users) for the flags; nothing of what stays is copied.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> x = canonical_interactions(sp.csr_matrix([[1, 1], [0, 1]]))
    >>> change = plan_change(x, np.zeros(2, bool), [1], [0], [0])
    >>> change.users, change.user_items.toarray()
    (array([0, 1]), array([[0., 1.],
           [0., 0.]]))
    """
    kept = kept.own() if isinstance(kept, KeptInteractions) else KeptInteractions(kept)
    n_users, n_items = kept.shape
    accounts = _ids(users, n_users, "user")
    if (repeat := _first_repeat(accounts)) is not None:
        raise ValueError(f"user {repeat} is named twice in one removal; name each user once")
    gone = accounts[forgotten[accounts]]
    if gone.size:
        raise ValueError(f"user {gone[0]} is already forgotten; leave it out of the removal")
    rows, columns = _ids(pair_users, n_users, "user"), _ids(pair_items, n_items, "item")
    if rows.size != columns.size:
        raise ValueError(
            f"{rows.size} user ids and {columns.size} item ids; interactions are parallel arrays of pairs"
        )
    removed = _positions(kept, rows, columns)

    now_forgotten = forgotten.copy()
    now_forgotten[accounts] = True
    touched = np.union1d(accounts, rows)
    removed |= {int(user): kept.positions(int(user)) for user in accounts}
    after = kept.without(removed)
    return Change(touched, kept.rows(touched), after.rows(touched), after, now_forgotten)


def _ids(ids: ArrayLike, size: int, what: str) -> IntVector:
    """Validate dense ids against their range; a copy, int64 [k]."""
    array = np.array(ids).reshape(-1)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what} ids have dtype {array.dtype}; pass dense row numbers as integers")
    bad = (array < 0) | (array >= size)
    if bad.any():
        known = f"it has rows 0..{size - 1}" if size else "it has none"
        raise ValueError(f"{what} {array[bad][0]} is not in the model ({known})")
    return array.astype(np.int64)


def _first_repeat(ids: IntVector) -> int | None:
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if repeated.size else None


def _positions(kept: KeptInteractions, rows: IntVector, columns: IntVector) -> dict[int, IntVector]:
    """Find where each pair is stored: user -> positions, ascending."""
    n_items = kept.shape[1]
    if (repeat := _first_repeat(rows * n_items + columns)) is not None:
        user, item = divmod(repeat, n_items)
        raise ValueError(f"user {user}, item {item} is named twice in one removal; name each pair once")
    found: dict[int, IntVector] = {}
    order = np.lexsort((columns, rows))
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    for group in np.split(order, starts[1:]) if rows.size else []:
        user, wanted = int(rows[group[0]]), columns[group]
        stored = kept.positions(user)
        items = kept.items(stored)
        at = np.searchsorted(items, wanted)
        missing = (at == items.size) | (
            items[np.minimum(at, items.size - 1)] != wanted if items.size else True
        )
        if np.any(missing):
            item = wanted[np.broadcast_to(missing, wanted.shape)][0]
            raise ValueError(f"user {user} has no interaction with item {item}; was it already forgotten?")
        found[user] = stored[at]
    return found


class ForgettableModel(ABC):
    """A recommender from which users and interactions can be removed after the fit.

    Subclasses implement the abstract methods; validation, atomicity and bookkeeping are here. A failed
    call raises and leaves the model as it was.
    """

    name: ClassVar[str]
    """The registry name: snake case, also the folder of its files in a published version."""

    exact: ClassVar[bool]
    """Forgetting ends at the very model that a fresh fit gives, up to rounding."""

    _kept: KeptInteractions | None = None
    _forgotten: NDArray[np.bool_]

    @property
    def user_items(self) -> Interactions:
        """What is kept now: CSR [n_users, n_items]. Treat as read-only."""
        return self._fitted().matrix()

    @property
    def _user_items(self) -> Interactions:
        return self.user_items

    @_user_items.setter
    def _user_items(self, matrix: Interactions) -> None:
        self._kept = KeptInteractions(matrix)

    def _fitted(self) -> KeptInteractions:
        if self._kept is None:
            raise ValueError(f"{type(self).__name__} is not fitted; call fit(user_items) first")
        return self._kept

    def fit(self, user_items: Any, show_progress: bool = False) -> Self:
        """Fit from scratch.

        Parameters
        ----------
        user_items : scipy sparse [n_users, n_items], rows = users, values > 0; duplicates are summed.
            Not kept and not modified.
        show_progress : draw a progress bar.

        Raises
        ------
        ValueError
            A value is negative, NaN or infinite.
        """
        kept = canonical_interactions(user_items)
        self._fit(kept, show_progress)
        self._user_items = kept
        self._forgotten = np.zeros(kept.shape[0], dtype=np.bool_)
        return self

    def forget_users(self, user_ids: ArrayLike) -> None:
        """Remove accounts: their rows and their influence. ``user_ids``: int [k], dense row numbers.

        Raises
        ------
        ValueError
            An id is unknown, repeated or already forgotten; nothing is changed.
        """
        self.forget(users=user_ids)

    def forget_interactions(self, user_ids: ArrayLike, item_ids: ArrayLike) -> None:
        """Remove single interactions and their influence; parallel int [k] arrays of pairs.

        Raises
        ------
        ValueError
            A pair is unknown or repeated; nothing is changed.
        """
        self.forget(pair_users=user_ids, pair_items=item_ids)

    def forget(
        self, *, users: ArrayLike = (), pair_users: ArrayLike = (), pair_items: ArrayLike = ()
    ) -> None:
        """Remove accounts and single interactions in one batch, at the price of one.

        Raises
        ------
        ValueError
            As :meth:`forget_users` and :meth:`forget_interactions`; nothing is changed.
        """
        change = plan_change(self._fitted(), self._forgotten, users, pair_users, pair_items)
        if change.before.nnz != change.after.nnz:
            self._forget(change)
        self._kept, self._forgotten = change.kept, change.forgotten

    @abstractmethod
    def _fit(self, user_items: Interactions, show_progress: bool) -> None:
        """Fit to canonical interactions; ``self`` is changed only if it succeeds."""

    @abstractmethod
    def _forget(self, change: Change) -> None:
        """Take ``change`` out of the model; ``self`` is changed only if it succeeds.

        ``self.user_items`` still is what was kept before.
        """

    @abstractmethod
    def proof(self) -> Proof:
        """Show what can be shown about the model as it stands."""

    @abstractmethod
    def recommend(
        self,
        userid: Any,
        user_items: Interactions | None,
        N: int = 10,
        filter_already_liked_items: bool = True,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank items for users, as implicit's models do.

        Parameters
        ----------
        userid : int, or int [b].
        user_items : CSR [1 or b, n_items]: the rows of those users; None: the rows that the model keeps.
        N : how many items at the most.

        Returns
        -------
        ids, scores : [n <= N] for one user, only items that can be recommended; [b, N] for several,
            padded with id -1 and score -inf where a user has fewer than N.
        """

    @abstractmethod
    def similar_items(self, itemid: Any, N: int = 10) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank the items most alike, the item itself first where the model's similarity has one; as above."""

    @abstractmethod
    def settings(self) -> Mapping[str, Scalar]:
        """Return the constructor's arguments (JSON-ready): with them the class makes this model, unfitted."""

    @abstractmethod
    def published(self) -> Arrays:
        """Return the arrays that serving needs, by name; also all that is not derived from ``user_items``.

        Dense arrays [n_users | n_items | anything, ...] or CSR. ``restore`` takes the same back. They are
        the model's own memory: treat as read-only.
        """

    @abstractmethod
    def proof_record(self) -> Mapping[str, Scalar]:
        """Return what :meth:`restore` needs to give the same :meth:`proof` again, JSON-ready."""

    @classmethod
    @abstractmethod
    def restore(
        cls,
        settings: Mapping[str, Any],
        arrays: Arrays,
        record: Mapping[str, Any],
        user_items: Interactions,
    ) -> Self:
        """Rebuild the model from what it published, without copying: arrays may be read-only memory maps.

        What only forgetting needs is derived when it is first needed, so that serving does not pay for it.
        """

    @abstractmethod
    def restrict(self, users: IntVector, items: IntVector) -> Self:
        """Return the same model without its empty rows and columns.

        Parameters
        ----------
        users, items : int64, unique: rows in the order that they are to have, and columns, ascending. All
            others must be empty in ``user_items``; a row or column without interactions has no influence,
            and the order of rows has none, so nothing else changes.

        Raises
        ------
        ValueError
            A row or column that is not kept has interactions.
        """
