"""Steps until the certificate shows what was asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .score_distance import score_distance
from .weighted_certificate import Distance, distance_to_optimum
from .weighted_loss import Matrix, WeightedLoss
from .weighted_solver import LOWEST_CURVATURE, Point, chebyshev_cycle, starting_point, step, widened

POLISH = 3
"""Inner iterations of the step before a certificate: there the singular vectors matter most."""

AIM_AT = 3
"""Steps after which the distance moved is known well enough to say how close is close enough."""

CUT_OFF = 12
"""Steps in a row with a rank of ``max_factors`` and more beyond: it will not fall below any more."""

SINGLE_PRECISION_ENDS = 1e-5
"""A relative step below which float32 arithmetic adds nothing but its own rounding."""


MOVED_ACCURACY = 1e-4
"""More than the relative error of :func:`.score_distance.score_distance`."""


@dataclass(frozen=True)
class Goal:
    """When to stop.

    Attributes
    ----------
    tolerance : ``|S - S*|_F <= tolerance |S|_F``.
    erasure : share of the influence to be gone; None when nothing is being forgotten.
    before : the factors published before, the rows that stay only; None with ``erasure``.
    rows : int64, the rows that stay.
    """

    tolerance: float
    erasure: float | None = None
    before: tuple[Matrix, Matrix] | None = None
    rows: NDArray[np.int64] | None = None

    def moved(self, user_factors: Matrix, item_factors: Matrix) -> float | None:
        """Return a lower bound on ``|S_before - S|_F`` over the rows that stay; None without a before."""
        if self.before is None or self.rows is None:
            return None
        return (1.0 - MOVED_ACCURACY) * score_distance(*self.before, user_factors[self.rows], item_factors)

    def target(self, norm: float, moved: float | None) -> float:
        """Return the distance to the optimum that is good enough."""
        if moved is None or self.erasure is None:
            return self.tolerance * norm
        return min(self.tolerance * norm, (1.0 - self.erasure) * moved / (2.0 - self.erasure))


@dataclass(frozen=True)
class Settings:
    """How to get there; see :class:`.canonical_mf.CanonicalMF`."""

    regularization: float
    max_factors: int
    max_steps: int
    failure: float
    dtype: DTypeLike


@dataclass(frozen=True)
class Arrival:
    """Where the descent ended: factors as they are to be published, and what is shown about them."""

    user_factors: Matrix
    item_factors: Matrix
    subspace: Matrix
    distance: Distance
    erased: float | None
    steps: int
    highest: float
    reason: str


@dataclass
class _Pace:
    """Step sizes, and the guard that replaces them by the provable one if they do not shrink the steps."""

    highest: float
    most: float
    taken: int = 0
    recent: list[float] = field(default_factory=list)

    def lipschitz(self) -> float:
        if self.highest >= self.most and self.most / LOWEST_CURVATURE > 1e4:
            return self.most
        cycle = chebyshev_cycle(LOWEST_CURVATURE, max(self.highest, 1.5 * LOWEST_CURVATURE))
        return cycle[self.taken % len(cycle)]

    def learn(self, curvature: float, observed: float) -> None:
        """Raise the range when a change was steeper; start the cycle again then."""
        self.taken += 1
        self.recent.append(observed)
        if curvature > 0.97 * self.highest and self.highest < self.most:
            self.highest, self.taken = min(self.most, 1.1 * curvature), 0
            self.recent.clear()
        span = len(chebyshev_cycle(LOWEST_CURVATURE, max(self.highest, 1.5 * LOWEST_CURVATURE)))
        if len(self.recent) > 2 * span and self.recent[-1] > self.recent[-1 - span]:
            self.highest, self.taken = min(self.most, 1.5 * self.highest), 0
            self.recent.clear()

    def expected(self) -> float:
        """Return about what a polished step would be shown to be within: .7 of its change (as measured)."""
        return 0.7 * self.recent[-1] * self.rate() if len(self.recent) > 1 else float("inf")

    def rate(self) -> float:
        """Return by how much a step shrinks the change, between .3 and .9."""
        if len(self.recent) < 3:
            return 0.5
        back = min(3, len(self.recent) - 1)
        ratio = self.recent[-1] / max(self.recent[-1 - back], np.finfo(float).tiny)
        return float(np.clip(ratio ** (1.0 / back), 0.3, 0.9))


def descend(
    loss: WeightedLoss,
    point: Point,
    goal: Goal,
    settings: Settings,
    highest: float,
    report: Callable[[int, float], None],
) -> Arrival:
    """Step until the certificate shows the goal, or no more can be shown.

    Parameters
    ----------
    point : where to start. highest : curvature seen before, where the step sizes start.
    report : called with the steps taken and the best bound so far.

    Notes
    -----
    A certificate costs a few steps, so it is asked for only when the last changes suggest that it will do;
    when it does not, its own bound and the pace say how many steps to wait.
    """
    most = float(loss.confidence.max(initial=1.0))
    pace = _Pace(min(max(highest, 2.5), most), most)
    confidence = loss.confidence.astype(point.left.dtype)
    best: Arrival | None = None
    attempt_at, target, exhausted = settings.max_steps, 0.0, False
    taken = cut_off = 0
    while True:
        if taken == AIM_AT:
            target = goal.target(float(np.sqrt(point.square)), goal.moved(*_factors(point, settings.dtype)))
        if best is None and pace.expected() <= target:
            attempt_at = taken
        last = taken == settings.max_steps - 1
        attempt = taken >= attempt_at or last
        inner, ridge = POLISH * attempt, settings.regularization
        point, seen = step(loss, confidence, point, ridge, pace.lipschitz(), settings.max_factors, inner)
        norm = float(np.sqrt(point.square))
        if taken:
            pace.learn(seen.curvature, seen.observed)
        point = _fitting_width(loss, point, settings.max_factors, settled=0 < seen.observed < 0.02 * norm)
        # A rank that stays cut off at max_factors cannot be shown to be the optimum's: say so now.
        cut_off = cut_off + 1 if point.truncated and point.rank >= settings.max_factors else 0
        if attempt or cut_off == CUT_OFF:
            last = last or cut_off == CUT_OFF
            arrival = _arrive(loss, point, goal, settings, taken + 1, pace.highest)
            report(taken + 1, arrival.distance.bound)
            if not arrival.reason:
                return arrival
            bound = arrival.distance.bound
            stalled = best is not None and bound > 0.97 * best.distance.bound
            best = arrival if best is None or bound < best.distance.bound else best
            if last or (stalled and exhausted and not point.truncated):
                return best
            exhausted = stalled or exhausted
            target = goal.target(norm, goal.moved(arrival.user_factors, arrival.item_factors))
            attempt_at = taken + _wait(bound, target, pace.rate())
        fine = 0 < seen.observed < SINGLE_PRECISION_ENDS * norm
        if point.left.dtype == np.float32 and (exhausted or fine):
            point, confidence = _double(loss, point), loss.confidence
        taken += 1


def _wait(bound: float, target: float, rate: float) -> int:
    """Return how many steps to take before the bound can be the target, 1 to 12."""
    if not (0 < target < bound < np.inf):
        return 1 if bound <= target else 4
    return int(np.clip(np.ceil(np.log(target / bound) / np.log(rate)), 1, 12))


def _double(loss: WeightedLoss, point: Point) -> Point:
    fresh = starting_point(loss, point.left, point.right, np.float64)
    return replace(fresh, sketch=point.sketch.astype(np.float64), scores=point.scores.astype(np.float64))


def _fitting_width(loss: WeightedLoss, point: Point, max_factors: int, settled: bool) -> Point:
    """Keep the work subspace about 1.5 times as wide as the rank: narrower is slow, wider costs."""
    room = min(loss.shape)
    wanted = min(room, 32 * int(np.ceil((1.5 * min(point.rank, max_factors) + 16) / 32)))
    width = point.right.shape[1]
    if point.truncated and width < room:
        wanted = min(room, max(wanted, 32 * int(np.ceil(1.5 * width / 32))), max_factors + 64)
    if wanted > width or (settled and wanted < width):
        return widened(point, max(wanted, point.rank))
    return point


def _factors(point: Point, dtype: DTypeLike) -> tuple[Matrix, Matrix]:
    """Return balanced factors ``U s^1/2, V s^1/2``; in each column of the second the largest is positive."""
    rank = max(point.rank, 1)
    if point.rank == 0:
        return np.zeros((point.left.shape[0], 1), dtype), np.zeros((point.right.shape[0], 1), dtype)
    left, right = point.left.astype(np.float64), point.right[:, :rank].astype(np.float64)
    root = np.sqrt(np.linalg.norm(left, axis=0))
    signs = np.sign(right[np.abs(right).argmax(axis=0), np.arange(rank)])
    left *= signs / root
    right *= signs * root
    return np.ascontiguousarray(left, dtype), np.ascontiguousarray(right, dtype)


def _arrive(
    loss: WeightedLoss, point: Point, goal: Goal, settings: Settings, steps: int, highest: float
) -> Arrival:
    """Round the factors as they are to be published, and show what can be shown about them."""
    factors = _factors(point, settings.dtype)
    subspace = np.ascontiguousarray(point.right[:, point.rank :])
    distance = distance_to_optimum(loss, *factors, subspace, settings.regularization, settings.failure)
    moved = goal.moved(*factors)
    erased = None if moved is None else _erased(distance.bound, moved)
    reason = _reason(goal, settings, point, distance, erased)
    return Arrival(*factors, subspace, distance, erased, steps, highest, reason)


def _erased(bound: float, moved: float) -> float:
    """Return a lower bound on the share that is gone: ``1 - b / I``, influence ``I >= moved - b``."""
    if bound == 0.0:
        return 1.0
    return max(1.0 - bound / (moved - bound), 0.0) if moved > bound else 0.0


def _reason(goal: Goal, settings: Settings, point: Point, distance: Distance, erased: float | None) -> str:
    """Say why the goal is not shown; empty if it is."""
    if distance.bound == 0.0:
        return ""
    if point.truncated and point.rank >= settings.max_factors:
        return (
            f"the optimum has more than max_factors={settings.max_factors} singular values; raise "
            "max_factors or regularization"
        )
    if not distance.bound <= goal.tolerance * distance.norm:
        return f"the bound {distance.bound:.3g} is not below {goal.tolerance} of the norm {distance.norm:.3g}"
    if erased is not None and goal.erasure is not None and erased < goal.erasure:
        return (
            f"only {erased:.6f} of the influence is shown to be gone, {goal.erasure} was asked for; the "
            f"influence may be too small against the rounding of {np.dtype(settings.dtype)} factors"
        )
    return ""
