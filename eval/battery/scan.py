"""What the arrays tell without any statistics: faults of an unlearner, by name."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from ...models.base import Arrays, IntVector
from .completeness import TIE, Left
from .protocol import FloatMatrix
from .questions import Answers

FAULTS: Final = {
    "nothing done": "the model, rows of the forgotten included, is as it was",
    "row only": "the forgotten rows are gone; what everybody else is served is as it was, to the bit",
    "keeps the item factors": "users were solved again, but what was learned of the items is as it was",
    "row left": "a forgotten account still has a row that is not zero",
    "zero in a pattern": "pairs of items that nobody has any more are still stored: they tell who was there",
    "influence left": "more than a hundredth of the influence on those who stay is left",
    "residue": "hidden items of the forgotten stand out more than under a retrain, beyond the interval",
}
"""Name of a fault -> what it means. In the order in which they are reported."""

_ITEM_SIDE: Final = ("item_factors", "item_weights", "similarity", "inverse")
_TOLERATED_SHARE: Final = 0.01


@dataclass(frozen=True)
class Arrayed:
    """A model's answers and the arrays it publishes."""

    answers: Answers
    arrays: Arrays


def faults(
    before: Arrayed, after: Arrayed, oracle: Arrayed, users: IntVector, left: Left, floor: Left
) -> list[str]:
    """Name the faults of a forgetting; none is the empty list.

    Parameters
    ----------
    before, after, oracle : the model before, after, and fitted from scratch.
    users : int64, the accounts that were forgotten. left : what is left; floor : by another seed's oracle.
    """
    found = [_untouched(before, after, oracle)]
    found.append("row left" if _rows_left(after, users) else None)
    found.append("zero in a pattern" if _extra_pairs(after.arrays, oracle.arrays) else None)
    found.append("influence left" if left.influence_left > _TOLERATED_SHARE else None)
    clear = left.residue_low > max(0.5, floor.residue) and abs(left.residue_size) > _TOLERATED_SHARE
    found.append("residue" if clear else None)
    return [fault for fault in found if fault]


def _untouched(before: Arrayed, after: Arrayed, oracle: Arrayed) -> str | None:
    """Tell apart what was left alone, where the retrain shows that it ought to have moved."""
    if np.array_equal(before.answers.others, oracle.answers.others):
        return None
    others = np.array_equal(before.answers.others, after.answers.others)
    if others and _same_rows(before.answers.rows, after.answers.rows):
        return "nothing done"
    if others:
        return "row only"
    sides = [name for name in _ITEM_SIDE if name in before.arrays and name in after.arrays]
    if sides and all(_equal(before.arrays[name], after.arrays[name]) for name in sides):
        return "keeps the item factors"
    return None


def _same_rows(before: FloatMatrix, after: FloatMatrix) -> bool:
    return before.size > 0 and bool(np.abs(before).max() > 0) and np.array_equal(before, after)


def _rows_left(after: Arrayed, users: IntVector) -> bool:
    rows = after.arrays.get("user_factors")
    if rows is not None and users.size:
        return bool(np.any(np.asarray(rows[users]) != 0))
    return bool(users.size and np.abs(after.answers.rows).max(initial=0.0) > TIE)


def _extra_pairs(after: Arrays, oracle: Arrays) -> bool:
    for name, array in after.items():
        if sp.issparse(array):
            ours: Any = sp.csr_matrix(array)
            if np.any(ours.data == 0):
                return True
            theirs: Any = oracle.get(name)
            if theirs is not None and _pattern(ours) - _pattern(theirs):
                return True
    return False


def _pattern(matrix: Any) -> set[int]:
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return set((rows * matrix.shape[1] + matrix.indices)[matrix.data != 0].tolist())


def _equal(a: Any, b: Any) -> bool:
    if sp.issparse(a):
        return int((a != b).nnz) == 0
    return np.array_equal(a, b)
