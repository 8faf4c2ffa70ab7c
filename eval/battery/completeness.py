"""How much of the forgotten is left: against the retrain, and always beside what the controls leave."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..attacks.outcome import game, game_interval, mean_interval
from ..oracle import Influence
from .questions import Answers, Questions
from .ranking import overlap, top_items

TIE: Final = 1e-5
"""Margins nearer than this, in standard deviations of a row's scores, are the same: rounding of float32."""


@dataclass(frozen=True)
class Left:
    """What one treatment of a removal leaves.

    Attributes
    ----------
    influence_left : share of the influence on those who stay, ``|S - S_oracle| / |S_before - S_oracle|``.
    distance : ``|S - S_oracle| / |S_oracle|`` over the same rows.
    residue, residue_low, residue_high : paired: how often a forgotten person's hidden items stand out more
        than under the oracle; 0.5 is clean. Interval: bootstrap over people.
    residue_size : mean paired difference over that of doing nothing: 0 is clean, 1 as if nothing was done.
    membership, membership_low, membership_high : area under the curve of telling the model from the oracle by
        the margins, people compared with others only.
    overlap : of the top-10 lists of those who stay with the oracle's.
    """

    influence_left: float
    distance: float
    residue: float
    residue_low: float
    residue_high: float
    residue_size: float
    membership: float
    membership_low: float
    membership_high: float
    overlap: float


def left_by(
    treated: Answers, before: Answers, oracle: Answers, questions: Questions, level: float, seed: int
) -> Left:
    """Measure what a treatment leaves, from its answers and those of the model before and of the oracle."""
    influence = Influence(
        norm=float(np.linalg.norm(oracle.others)),
        removed=float(np.linalg.norm(before.others - oracle.others)),
        left=float(np.linalg.norm(treated.others - oracle.others)),
    )
    signs = residue_signs(treated.margins - oracle.margins)
    low, high = mean_interval(signs, seed, level)
    area, area_low, area_high = _membership(treated.margins, oracle.margins, level, seed)
    return Left(
        influence.remaining,
        influence.distance,
        float(signs.mean()) if signs.size else 0.5,
        low,
        high,
        _ratio(treated.margins - oracle.margins, before.margins - oracle.margins),
        area,
        area_low,
        area_high,
        overlap(top_items(treated.others, questions.seen), top_items(oracle.others, questions.seen)),
    )


def residue_signs(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn paired differences of margins into 1 (stands out more), 0, or 1/2 for a tie within :data:`TIE`.

    Examples
    --------
    >>> residue_signs(np.array([0.2, -0.1, 1e-9]))
    array([1. , 0. , 0.5])
    """
    return np.where(np.abs(differences) <= TIE, 0.5, (differences > 0).astype(np.float64))


def _membership(
    treated: NDArray[np.float64], oracle: NDArray[np.float64], level: float, seed: int
) -> tuple[float, float, float]:
    if treated.size < 2:
        return 0.5, 0.0, 1.0
    same = np.abs(treated - oracle) <= TIE
    found = np.where(same, oracle, treated)
    return (game(found, oracle), *game_interval(found, oracle, seed, level))


def _ratio(differences: NDArray[np.float64], nothing: NDArray[np.float64]) -> float:
    removed = float(nothing.mean()) if nothing.size else 0.0
    if abs(removed) <= TIE:
        return 0.0 if abs(float(differences.mean()) if differences.size else 0.0) <= TIE else float("inf")
    return float(differences.mean()) / removed
