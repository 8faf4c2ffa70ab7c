"""What a batch of requests takes out of the current version: rows, pairs, and an answer for each request."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..models.base import Interactions, IntVector
from .id_index import IdIndex
from .ledger import Pending
from .requests import Anonymisation, InteractionRemoval, canonical_id


@dataclass(frozen=True)
class Removal:
    """The batch in dense row numbers, and what becomes of each request.

    Attributes
    ----------
    users : int64, ascending: rows of accounts to forget.
    pair_users, pair_items : int64, parallel: single interactions to forget, none of a user in ``users``.
    anonymous : int64, ascending: rows that stay under another id, none of them in ``users``.
    outcomes : number of the request -> ``"removed"``, ``"anonymised"``, or ``"nothing"`` where nothing of it
        was kept: an unknown user, one already erased, an interaction that is not there. That is an answer,
        no error.
    user_ids, pair_ids : the same as canonical ids, of all requests: what the store must not hold.
    """

    users: IntVector
    pair_users: IntVector
    pair_items: IntVector
    anonymous: IntVector
    outcomes: dict[int, str] = field(default_factory=dict)
    user_ids: list[str] = field(default_factory=list)
    pair_ids: list[tuple[str, str]] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Tell whether nothing that is kept is asked to change."""
        return not (self.users.size or self.pair_users.size or self.anonymous.size)


def plan_removal(
    batch: Sequence[Pending], users: IdIndex, items: IdIndex, user_items: Interactions
) -> Removal:
    """Resolve a batch against what is kept; a request named twice over is carried out once.

    A user who is to be deleted and to be anonymised is deleted: nothing is left to anonymise.

    Parameters
    ----------
    users, items : external ids of the rows and columns of ``user_items``.
    """
    rows = {pending.seq: users.row(pending.request.user_id) for pending in batch}
    accounts: set[int] = set()
    anonymous: set[int] = set()
    pairs: dict[int, tuple[int, int]] = {}
    user_ids: list[str] = []
    pair_ids: list[tuple[str, str]] = []
    for pending in batch:
        request, row = pending.request, rows[pending.seq]
        if isinstance(request, InteractionRemoval):
            pair_ids.append((canonical_id(request.user_id), canonical_id(request.item_id)))
            column = items.row(request.item_id)
            if row is not None and column is not None and _has(user_items, row, column):
                pairs[pending.seq] = (row, column)
        elif isinstance(request, Anonymisation):
            anonymous |= set() if row is None else {row}
        else:
            user_ids.append(canonical_id(request.user_id))
            accounts |= set() if row is None else {row}
    anonymous -= accounts
    outcomes = {
        pending.seq: _outcome(pending, rows[pending.seq], pending.seq in pairs, anonymous)
        for pending in batch
    }
    single = sorted({(row, column) for row, column in pairs.values() if row not in accounts})
    columns = np.array(single, dtype=np.int64).reshape(-1, 2)
    return Removal(
        np.array(sorted(accounts), dtype=np.int64),
        columns[:, 0].copy(),
        columns[:, 1].copy(),
        np.array(sorted(anonymous), dtype=np.int64),
        outcomes,
        user_ids,
        pair_ids,
    )


def _outcome(pending: Pending, row: int | None, has_pair: bool, anonymous: set[int]) -> str:
    if isinstance(pending.request, InteractionRemoval):
        return "removed" if has_pair else "nothing"
    if isinstance(pending.request, Anonymisation):
        return "anonymised" if row in anonymous else "nothing"
    return "nothing" if row is None else "removed"


def _has(user_items: Interactions, row: int, column: int) -> bool:
    start, stop = user_items.indptr[row], user_items.indptr[row + 1]
    at = start + np.searchsorted(user_items.indices[start:stop], column)
    return bool(at < stop and user_items.indices[at] == column)
