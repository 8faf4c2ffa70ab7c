"""Differencing: what the change between two consecutive versions says about who left between them.

Exactness has a price (Chen et al. 2021, "When machine unlearning jeopardizes privacy"; Bertran et al. 2024,
"Reconstruction attacks on machine unlearning: simple models are vulnerable"): a model that no longer holds a
person, beside one that does, holds that person in the difference. Who keeps both versions reads it there. The
mitigation that is measured is the batch: the more people leave between two versions, the less of the
difference is any one's.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from scipy.stats import rankdata

from ...models.base import IntVector
from .evidence import Evidence, gather
from .outcome import AttackResult, auc_of_rows, mean_interval
from .scene import Scene, SceneError
from .served import FloatMatrix, FloatVector

Victim: TypeAlias = tuple[IntVector, IntVector]
"""Items that the attacker knows, and those looked for."""

KNOWN_ITEMS: Final = 3
"""Items of a victim that the attacker knows beforehand: to tell one of a batch from the others."""


def differencing(scene: Scene) -> AttackResult:
    """Reconstruct the profiles of those who left from two versions, one victim at a time.

    The attacker has both versions and knows ``KNOWN_ITEMS`` items of each victim; of whole sums, as inverses
    of EASE give them, whole profiles are read first (:mod:`~recunlearn.eval.attacks.peeling`). Chance is
    popularity: the same question answered by how many of those who stay have an item.

    Parameters
    ----------
    scene : ``users`` left between ``before`` and ``after``; needs neither an oracle nor shadows. Victims with
        no more than ``KNOWN_ITEMS`` items are left out.

    Returns
    -------
    ``auc``: mean area, over the victims, of their other items above items they never had; ``chance``: by
    popularity. ``details``: ``precision``, the share of a victim's other items among as many guesses (so that
    precision and recall are one figure); ``precision_low``, ``precision_high``, its interval;
    ``precision_popular``, by popularity; ``precision_unlinked``, without the known items; ``peeled``, the
    share of the victims whose profile was peeled whole, before anything was known of them; ``batch``, how
    many left; ``left_out``.

    Raises
    ------
    SceneError
        Nobody to attack, or nothing published that could be compared.

    Notes
    -----
    As :func:`~recunlearn.eval.attacks.evidence.gather`, and O(n_items log n_items) a victim.
    """
    popularity = popularity_of(scene)
    if scene.before.kind == "answers":
        raise SceneError("the method publishes no arrays to compare; attack its differencing_answers")
    return measured("differencing", scene, gather(scene.before, scene.after, popularity), popularity)


def popularity_of(scene: Scene) -> FloatVector:
    """Return how many of those who stay have each item: float64 [n_items], the attacker's blind guess."""
    return np.bincount(scene.kept.indices, minlength=scene.before.n_items).astype(np.float64)


def measured(name: str, scene: Scene, evidence: Evidence, popularity: FloatVector) -> AttackResult:
    """Score what two versions say of each victim; see :func:`differencing`.

    Raises
    ------
    SceneError
        Nobody to attack.
    """
    victims = _victims(scene)
    if not victims:
        raise SceneError(
            f"none of those who left has more than {KNOWN_ITEMS} items; there is nobody to attack"
        )
    found = _successes([_linked(evidence, known) for known, _ in victims], victims)
    unlinked, guessed = (
        _successes([ranking] * len(victims), victims) for ranking in (evidence.items, popularity)
    )
    low, high = mean_interval(found[:, 0], scene.seed)
    excess_low, excess_high = mean_interval(found[:, 0] - guessed[:, 0], scene.seed, lowest=-1.0)
    precision_low, precision_high = mean_interval(found[:, 1], scene.seed)
    return AttackResult(
        name, len(victims), float(found[:, 0].mean()), low, high, float(guessed[:, 0].mean()),
        float((found - guessed)[:, 0].mean()), excess_low, excess_high,
        details={
            "precision": float(found[:, 1].mean()),
            "precision_low": precision_low,
            "precision_high": precision_high,
            "precision_popular": float(guessed[:, 1].mean()),
            "precision_unlinked": float(unlinked[:, 1].mean()),
            "peeled": _share_peeled(evidence, victims),
            "batch": float(scene.users.size),
            "left_out": float(scene.users.size - len(victims)),
        },
    )  # fmt: skip


def _victims(scene: Scene) -> list[Victim]:
    """Known and other items of everybody who can be attacked."""
    victims = []
    for user in scene.users:
        items = scene.user_items.indices[scene.user_items.indptr[user] : scene.user_items.indptr[user + 1]]
        if items.size > KNOWN_ITEMS:
            order = np.random.default_rng([scene.seed, int(user)]).permutation(items).astype(np.int64)
            victims.append((order[:KNOWN_ITEMS], order[KNOWN_ITEMS:]))
    return victims


def _share_peeled(evidence: Evidence, victims: Sequence[Victim]) -> float:
    """Share of the victims whose items are one of the profiles that were read."""
    read = {profile.tobytes() for profile in evidence.profiles}
    return float(np.mean([np.sort(np.concatenate(victim)).tobytes() in read for victim in victims]))


def _linked(evidence: Evidence, known: IntVector) -> FloatVector:
    """Weigh each item by how strongly it goes with the known ones, those that few lost before the others.

    Items that nobody lost come last where that is known; the evidence of the item itself decides ties. Whole
    profiles that hold all the known items come before everything.
    """
    if evidence.rows is None:
        return evidence.items
    rows = evidence.rows(known)
    own = np.maximum(rows[np.arange(known.size), known], 1e-3 * np.abs(rows).max(axis=1, initial=0.0))
    linked = (rows / np.where(own > 0, own, 1.0)[:, None]).sum(axis=0)
    linked = np.round(linked + np.clip(evidence.items, 0.0, 1.0), 6)
    ties = (rankdata(evidence.items) - 1) / max(1, evidence.items.size)
    ranking: FloatVector = rankdata(linked, method="dense") + ties
    for profile in evidence.profiles:
        if np.all(np.isin(known, profile)):
            ranking[profile] += ranking.size + 1.0
    return np.where(evidence.items < 0.5, 0.0, ranking) if evidence.is_count else ranking


def _successes(rankings: Sequence[FloatVector], victims: Sequence[Victim]) -> FloatMatrix:
    """Area and precision of a ranking for each victim: float64 [victims, 2]."""
    return np.array([_success(ranking, victim) for ranking, victim in zip(rankings, victims, strict=True)])


def _success(ranking: FloatVector, victim: Victim) -> tuple[float, float]:
    """Area, and precision among as many guesses as there are other items; of ties, the mean."""
    known, others = victim
    candidates = np.ones(ranking.size, dtype=np.bool_)
    candidates[known] = False
    is_other = np.zeros(ranking.size, dtype=np.bool_)
    is_other[others] = True
    area = auc_of_rows(ranking, is_other, candidates)
    at = np.flatnonzero(candidates)
    cut = np.sort(ranking[at])[-others.size]
    above, tied = at[ranking[at] > cut], at[ranking[at] == cut]
    expected = is_other[above].sum() + is_other[tied].mean() * (others.size - above.size)
    return area, float(expected) / others.size
