"""How well an attack does: areas under the curve, each with an interval over the people attacked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

FloatVector: TypeAlias = NDArray[np.float64]
BoolVector: TypeAlias = NDArray[np.bool_]

LEVEL: Final = 0.95
_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class AttackResult:
    """What an attack achieved.

    Attributes
    ----------
    attack : its name in the registry.
    subjects : how many people were attacked; the intervals are over them.
    auc, low, high : area under the ROC curve against the published model, and its interval.
    chance : the area that is reached without any leak: 0.5, or what the same attacker reaches on the oracle
        or by popularity; each attack says which.
    excess, excess_low, excess_high : ``auc - chance``, from the same resamples: the leak.
    power : the area against the model as it was before anything was forgotten: an attack that is not above
        chance there proves nothing. None where the attack has no such control.
    level : of the intervals.
    details : further figures by name; the attack's docstring lists them.

    Examples
    --------
    >>> result = AttackResult("a", 50, 0.7, 0.6, 0.8, 0.5, 0.2, 0.1, 0.3, power=0.9)
    >>> result.leaks
    True
    """

    attack: str
    subjects: int
    auc: float
    low: float
    high: float
    chance: float
    excess: float
    excess_low: float
    excess_high: float
    power: float | None = None
    level: float = LEVEL
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def leaks(self) -> bool:
        """Whether the interval of the excess lies above zero."""
        return self.excess_low > 0.0


def auc(positive: FloatVector, negative: FloatVector) -> float:
    """Area under the ROC curve: how often a positive outscores a negative, ties counted half.

    Parameters
    ----------
    positive, negative : float64 [p], [n], finite; neither empty.

    Notes
    -----
    Mann-Whitney U by ranks; O((p + n) log (p + n)).

    Examples
    --------
    >>> auc(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    0.75
    """
    ranks = rankdata(np.concatenate([positive, negative]))[: positive.size]
    wins = float(ranks.sum()) - positive.size * (positive.size + 1) / 2
    return wins / (positive.size * negative.size)


def auc_of_rows(scores: FloatVector, is_positive: BoolVector, candidates: BoolVector) -> float:
    """Area under the curve of one ranking of items, over ``candidates`` only; 0.5 if one side is empty."""
    positive, negative = scores[is_positive & candidates], scores[~is_positive & candidates]
    return auc(positive, negative) if positive.size and negative.size else 0.5


def game(with_them: FloatVector, without: FloatVector) -> float:
    """Area for telling two models apart, where entry i of both is what the attacker thinks of person i.

    People are compared with others only: what tells two answers about one and the same person apart is also
    the last bit of a rounding, and nobody has the second answer to compare with.

    Parameters
    ----------
    with_them, without : float64 [people], two or more.

    Examples
    --------
    >>> game(np.array([1.0, 2.0]), np.array([1.0, 2.0])), game(np.array([3.0, 4.0]), np.array([1.0, 2.0]))
    (0.5, 1.0)
    """
    people = with_them.size
    return float(_wins(with_them, without).sum()) / (people * (people - 1))


def game_interval(
    with_them: FloatVector, without: FloatVector, seed: int, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of :func:`game`: people are resampled, each with both of their entries.

    Notes
    -----
    Percentile bootstrap (Efron & Tibshirani 1993, chapter 13); O(people^2 resamples). Coarse below some
    twenty people.
    """
    weights = _resampled(with_them.size, seed)
    won = np.einsum("ru,ru->r", weights @ _wins(with_them, without), weights)
    pairs = with_them.size**2 - np.einsum("ru,ru->r", weights, weights)
    return _quantiles(np.divide(won, pairs, out=np.full(won.size, 0.5), where=pairs > 0), level)


def mean_interval(
    values: FloatVector, seed: int, level: float = LEVEL, lowest: float = 0.0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over people; (lowest, 1) for fewer than two."""
    if values.size < 2:
        return lowest, 1.0
    return _quantiles(_resampled(values.size, seed) @ values / values.size, level)


def _wins(with_them: FloatVector, without: FloatVector) -> NDArray[np.float64]:
    """1 where person u with outscores person v without, 1/2 for a tie, 0 on the diagonal."""
    wins = (with_them[:, None] > without) + 0.5 * (with_them[:, None] == without)
    np.fill_diagonal(wins, 0.0)
    return np.asarray(wins, dtype=np.float64)


def _resampled(people: int, seed: int) -> NDArray[np.float64]:
    """How often each person is drawn in each resample: float64 [resamples, people]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(people, np.full(people, 1.0 / people), size=_RESAMPLES).astype(np.float64)


def _quantiles(values: FloatVector, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
