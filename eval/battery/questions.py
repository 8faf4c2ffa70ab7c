"""The questions of a cell: drawn once, then put to every model in it in the same way."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...models.base import Interactions, IntVector
from ...models.statistics import select_entries
from ..attacks.scene import rows_of
from .protocol import FloatMatrix, Method, Removal

ASKED_PEOPLE: Final = 1000
"""Of those who stay, how many are asked about."""

FORGOTTEN_PEOPLE: Final = 300
HIDDEN: Final = 10
STRANGERS: Final = 50
GROUPS: Final = 4


@dataclass(frozen=True)
class Split:
    """Interactions split into what is fitted to and what is wanted afterwards.

    Attributes
    ----------
    train, wanted : CSR [n_users, n_items], disjoint.
    """

    train: Interactions
    wanted: Interactions


@dataclass(frozen=True)
class Questions:
    """What is asked of every model in a cell.

    Attributes
    ----------
    others : int64 [k], rows of people who stay and whom the removal did not touch.
    seen, wanted : CSR [k, n_items], their training and held-out interactions.
    groups : int64 [k], by activity: 0 the least active quarter.
    neighbours : bool [k], the tenth that is most like the forgotten.
    forgotten : int64 [f], rows of (some of) the forgotten, with two items or more.
    profiles : CSR [f, n_items], the part of their removed interactions that is asked with.
    hidden, strangers : for each of them, the items looked for and random items beside them.
    """

    others: IntVector
    seen: Interactions
    wanted: Interactions
    groups: IntVector
    neighbours: NDArray[np.bool_]
    forgotten: IntVector
    profiles: Interactions
    hidden: list[IntVector]
    strangers: list[IntVector]


@dataclass(frozen=True)
class Answers:
    """What a model says to them.

    Attributes
    ----------
    others : float64 [k, n_items], scores of those who stay.
    margins : float64 [f]: hidden items minus strangers, in standard deviations of the row's scores.
    rows : float64 [f, n_items], what the model scores for the forgotten rows themselves.
    """

    others: FloatMatrix
    margins: NDArray[np.float64]
    rows: FloatMatrix


def split_interactions(user_items: Interactions, share: float, seed: int) -> Split:
    """Hold a share of everybody's interactions out, at random; who has one keeps it.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> split = split_interactions(sp.csr_matrix(np.ones((50, 40))), 0.2, seed=0)
    >>> split.train.nnz + split.wanted.nnz, bool((np.diff(split.train.indptr) > 0).all())
    (2000, True)
    """
    held = np.random.default_rng([seed, 0]).random(user_items.nnz) < share
    sizes = np.diff(user_items.indptr)
    first = user_items.indptr[:-1][sizes > 0]
    held[first[np.add.reduceat(~held, first) == 0]] = False
    return Split(select_entries(user_items, ~held), select_entries(user_items, held))


def draw_questions(split: Split, removal: Removal, seed: int) -> Questions:
    """Draw the questions of a removal.

    Raises
    ------
    ValueError
        Nobody is left who could be asked.
    """
    rng = np.random.default_rng([seed, 3])
    can = (np.diff(split.train.indptr) > 0) & (np.diff(split.wanted.indptr) > 0)
    can[removal.touched] = False
    if not can.any():
        raise ValueError("nobody who stays has both training and held-out interactions; remove fewer people")
    stayers = np.flatnonzero(can)
    others = np.sort(rng.permutation(stayers)[:ASKED_PEOPLE]).astype(np.int64)
    seen = split.train[others]
    gone = _removed(split.train, removal)
    forgotten, profiles, hidden, strangers = _profiles(split.train, gone, rng)
    return Questions(
        others,
        seen,
        split.wanted[others],
        _quarters(np.diff(seen.indptr)),
        _nearest(seen, gone),
        forgotten,
        rows_of(profiles, split.train.shape[1]),
        hidden,
        strangers,
    )


def answers(method: Method, questions: Questions) -> Answers:
    """Ask a model."""
    folded = method.fold_in(questions.profiles) if questions.forgotten.size else np.zeros((0, 1))
    margins = [
        (row[hidden].mean() - row[strangers].mean()) / (row.std() or 1.0)
        for row, hidden, strangers in zip(folded, questions.hidden, questions.strangers, strict=True)
    ]
    rows = method.scores(questions.forgotten)
    return Answers(
        np.asarray(method.scores(questions.others), np.float64),
        np.array(margins, dtype=np.float64),
        np.asarray(rows, np.float64),
    )


def _removed(train: Interactions, removal: Removal) -> dict[int, IntVector]:
    """User -> items that are removed."""
    gone = {
        int(u): train.indices[train.indptr[u] : train.indptr[u + 1]].astype(np.int64) for u in removal.users
    }
    for user in np.unique(removal.pair_users):
        gone[int(user)] = removal.pair_items[removal.pair_users == user]
    return gone


def _profiles(
    train: Interactions, gone: dict[int, IntVector], rng: np.random.Generator
) -> tuple[IntVector, list[IntVector], list[IntVector], list[IntVector]]:
    can = [user for user, items in gone.items() if items.size >= 2]
    chosen = np.sort(rng.permutation(np.array(can, dtype=np.int64))[:FORGOTTEN_PEOPLE])
    asked, hidden, strangers = [], [], []
    for user in chosen:
        items = rng.permutation(gone[int(user)])
        cut = min(HIDDEN, items.size // 2)
        hidden.append(np.sort(items[:cut]))
        asked.append(np.sort(items[cut:]))
        rest = np.setdiff1d(np.arange(train.shape[1]), train[user].indices)
        strangers.append(np.sort(rng.permutation(rest if rest.size else items)[:STRANGERS]))
    return chosen, asked, hidden, strangers


def _quarters(sizes: NDArray[np.int64]) -> IntVector:
    order = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return (order * GROUPS // max(1, sizes.size)).astype(np.int64)


def _nearest(seen: Interactions, gone: dict[int, IntVector]) -> NDArray[np.bool_]:
    """Mark the tenth of people whose items are most like those that go: cosine with how often each goes."""
    weight = np.zeros(seen.shape[1])
    for items in gone.values():
        weight[items] += 1.0
    likeness = np.asarray(seen.astype(np.bool_).astype(np.float64) @ weight) / np.sqrt(
        np.maximum(np.diff(seen.indptr), 1)
    )
    nearest = np.zeros(seen.shape[0], np.bool_)
    nearest[np.argsort(-likeness, kind="stable")[: max(1, seen.shape[0] // 10)]] = True
    return nearest
