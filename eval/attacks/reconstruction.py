"""Reconstruction: how much of a deleted profile can be read from one published version alone.

The attacker knows half of the items of somebody who left and asks for the rest: folded in, or by the person's
own vector where one is still published. Taste alone answers a part of that: whoever is like them stays. So
chance is not 0.5 but what the same attacker reaches on the oracle, which never saw them (cf. Fredrikson et
al. 2015, model inversion, and the objection that inversion of a population is no leak of a person).
"""

import numpy as np
from numpy.typing import NDArray

from ...models.base import IntVector
from .outcome import AttackResult, auc_of_rows, mean_interval
from .scene import Scene, SceneError, rows_of, split_profiles
from .served import Served

_BLOCK = 256


def reconstruction(scene: Scene) -> AttackResult:
    """Rank the hidden half of each deleted profile among all items.

    Parameters
    ----------
    scene : with an oracle. Forgotten users with fewer than two items are left out.

    Returns
    -------
    ``auc``: mean area, over the people, of the hidden items above items they never had; ``chance``: the same
    on the oracle; ``power``: the same on the model before. ``details``: ``rows_left``, how many still have a
    vector of their own; ``left_out``.

    Raises
    ------
    SceneError
        No oracle, or nobody to attack.
    """
    oracle = scene.require_oracle()
    users, asked, hidden = split_profiles(scene.user_items, scene.users, scene.seed)
    if not users.size:
        raise SceneError("none of the forgotten users has two items; there is nobody to attack")
    found, control, without = (
        _areas(model, users, asked, hidden) for model in (scene.after, scene.before, oracle)
    )
    low, high = mean_interval(found, scene.seed)
    excess_low, excess_high = mean_interval(found - without, scene.seed, lowest=-1.0)
    return AttackResult(
        "reconstruction", users.size, float(found.mean()), low, high, float(without.mean()),
        float((found - without).mean()), excess_low, excess_high,
        power=float(control.mean()),
        details={
            "rows_left": float(_has_row(scene.after, users).sum()),
            "left_out": float(scene.users.size - users.size),
        },
    )  # fmt: skip


def _has_row(served: Served, users: IntVector) -> NDArray[np.bool_]:
    """Tell who still has a vector of their own."""
    if served.users is None:
        return np.zeros(users.size, dtype=np.bool_)
    return np.asarray(served.users[users].any(axis=1))


def _areas(
    served: Served, users: IntVector, asked: list[IntVector], hidden: list[IntVector]
) -> NDArray[np.float64]:
    """Area for each person."""
    areas = np.zeros(users.size)
    own = _has_row(served, users)
    for start in range(0, users.size, _BLOCK):
        scores = served.score(rows_of(asked[start : start + _BLOCK], served.n_items))
        for k in range(scores.shape[0]):
            person = start + k
            if own[person] and served.users is not None:
                scores[k] = served.items @ served.users[users[person]]
            is_hidden = np.zeros(served.n_items, dtype=np.bool_)
            is_hidden[hidden[person]] = True
            candidates = np.ones(served.n_items, dtype=np.bool_)
            candidates[asked[person]] = False
            areas[person] = auc_of_rows(scores[k], is_hidden, candidates)
    return areas
