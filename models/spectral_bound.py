"""How far a soft-thresholded Ritz approximation can be from the true one: three proven bounds.

Setting: ``G = X'X`` (X stands for the normalised ``X~``), ``f(g) = (1 - lambda / sqrt(g))_+``, the optimum
``S* = X f(G)``, what is published ``S = X V1 f(Theta1) V1'``. V1 are the *active* Ritz vectors
(``theta > lambda^2``), V0 further deflated ones, W all the rest; ``E = G V - V Theta`` the residuals, which
lie in W; ``H = W'GW <= eta``. ``docs/explanation/certificate.md`` has the proofs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Residuals:
    """What the bounds need to know of the deflated Ritz pairs [V1, V0].

    Attributes
    ----------
    values : float64 [k], descending: Ritz values theta.
    gram : float64 [k, k]: ``E'E``.
    threshold : lambda, > 0.
    outside : eta, an upper bound on the spectrum of G outside the deflated vectors.
    """

    values: Vector
    gram: NDArray[np.float64]
    threshold: float
    outside: float

    @property
    def active(self) -> int:
        """How many Ritz values exceed ``lambda^2``."""
        return int((self.values > self.threshold**2).sum())


def distance_bound(residuals: Residuals) -> float:
    """Bound ``|S - S*|_F`` from above by the best of three bounds; inf if ``eta >= lambda^2``.

    Examples
    --------
    >>> distance_bound(Residuals(np.array([4.0, 0.5]), np.zeros((2, 2)), 1.0, 0.4))
    0.0
    >>> distance_bound(Residuals(np.array([4.0]), np.zeros((1, 1)), 1.0, 1.2))
    inf
    """
    if residuals.outside >= residuals.threshold**2:
        return float("inf")
    slack = gap(residuals)
    candidates = [strong_convexity_bound(residuals)]
    if slack >= 0:
        candidates.append(lipschitz_bound(residuals))
    if slack > 0:
        candidates.append(gap_bound(residuals, slack))
    return float(min(candidates))


def gap(residuals: Residuals) -> float:
    """``gamma = lambda^2 - eta - |E0 (lambda^2 - Theta0)^-1 E0'|``.

    If it is >= 0, all of G outside V1 is at most ``lambda^2``.
    -inf if a Ritz value that is not active is ``lambda^2`` itself and its residual is not zero.
    """
    r, square = residuals.active, residuals.threshold**2
    below = square - residuals.values[r:]
    inner = residuals.gram[r:, r:]
    if not below.size:
        return square - residuals.outside
    if below.min() <= 0:
        return -float("inf")
    weights = below**-0.5
    coupling = float(np.linalg.eigvalsh(inner * np.outer(weights, weights))[-1])
    return square - residuals.outside - max(coupling, 0.0)


def strong_convexity_bound(residuals: Residuals) -> float:
    """``|E1 Theta1^-1/2|_F + sqrt(n0) (sqrt(mu) - lambda)_+``, mu a bound on G outside V1.

    Strong convexity of the objective at S; the second term is what exceeds the subgradient's unit ball, in
    the at most ``n0 = |V0|`` directions that can.
    """
    r, lam = residuals.active, residuals.threshold
    norms = np.sqrt(np.diagonal(residuals.gram)[:r] / residuals.values[:r])
    excess = max(np.sqrt(_top_outside_active(residuals)) - lam, 0.0)
    return float(np.linalg.norm(norms) + np.sqrt(residuals.values.size - r) * excess)


def _top_outside_active(residuals: Residuals) -> float:
    """Bound G outside V1: the smallest mu tried with ``|Theta0 + E0'E0 / (mu - eta)| <= mu``."""
    r, eta = residuals.active, residuals.outside
    inner, values = residuals.gram[r:, r:], residuals.values[r:]
    if not values.size:
        return eta
    a, h = float(values[0]), eta
    e = float(np.sqrt(max(np.linalg.eigvalsh(inner)[-1], 0.0)))
    worst = 0.5 * (a + h + np.sqrt((a - h) ** 2 + 4 * e * e))
    for mu in np.linspace(max(a, h), worst, 12)[1:-1]:
        if mu > h and np.linalg.eigvalsh(np.diag(values) + inner / (mu - h))[-1] <= mu:
            return float(mu)
    return float(worst)


def lipschitz_bound(residuals: Residuals) -> float:
    """First order in E with weights from Lipschitz constants, second-order remainder; needs ``gap >= 0``.

    ``[sum c_k^2 |E_k|^2 + (sqrt(sum w_k^2 |E_k|^2) + |E1|_2 |E1|_F / (8 lambda^3))^2]^1/2``,
    ``c_k = lambda / (s_k (s_k + lambda))``, ``w_k = 1 / (s_k + lambda)``, ``s_k = sqrt(theta_k)``.
    """
    lam, roots, squared, spectral = _active_parts(residuals)
    columns = _cap(lam, roots) ** 2 @ squared
    rows = np.sqrt(np.sum(squared / (roots + lam) ** 2)) + spectral * np.sqrt(squared.sum()) / (8 * lam**3)
    return float(np.sqrt(columns + rows**2))


def gap_bound(residuals: Residuals, gamma: float) -> float:
    """First order in E, weighted by the gap to the rest of the spectrum; second-order remainder.

    ``gamma`` is :func:`gap`, > 0.

    Notes
    -----
    O(k^2) beside one eigenvalue problem of size k.
    """
    lam, roots, squared, spectral = _active_parts(residuals)
    r, square = roots.size, lam * lam
    if not r:
        return 0.0  # all of G is at most lambda^2: zero is the optimum
    stretch = _stretch(residuals)
    theta = roots**2
    leak = spectral * np.sqrt(squared.sum()) / gamma
    kappa = np.sqrt(1 + stretch)
    row_weights = kappa * (roots - lam) / (theta - square + gamma)
    rows = np.sqrt(np.sum(row_weights**2 * squared)) + kappa * leak / (2 * lam)
    cap = _cap(lam, roots)
    scaled = residuals.gram[:r, :r] * np.outer(cap, cap)
    crossing = np.sqrt(max(float(np.linalg.eigvalsh(scaled)[-1]), 0.0)) * np.sqrt(squared.sum()) / gamma
    columns = _column_weights(residuals, gamma, stretch) ** 2 @ squared + crossing**2
    return float(np.sqrt(min(columns, cap**2 @ squared) + rows**2))


def _active_parts(residuals: Residuals) -> tuple[float, Vector, Vector, float]:
    """Lambda, ``sqrt(theta)``, ``|E_k|^2`` and ``|E1|_2`` of the active pairs."""
    r = residuals.active
    squared = np.maximum(np.diagonal(residuals.gram)[:r], 0.0)
    top = float(np.linalg.eigvalsh(residuals.gram[:r, :r])[-1]) if r else 0.0
    return residuals.threshold, np.sqrt(residuals.values[:r]), squared, float(np.sqrt(max(top, 0.0)))


def _cap(lam: float, roots: Vector) -> Vector:
    """``c_k``: the largest ``sqrt(g) |f[g, theta_k]|`` over all g."""
    return np.asarray(lam / (roots * (roots + lam)))


def _stretch(residuals: Residuals) -> float:
    """``|E0 (lambda^2 - Theta0)^-2 E0'|``: how much V0 lengthens a vector of W it is coupled to."""
    r = residuals.active
    below = residuals.threshold**2 - residuals.values[r:]
    if not below.size:
        return 0.0
    return max(float(np.linalg.eigvalsh(residuals.gram[r:, r:] / np.outer(below, below))[-1]), 0.0)


def _column_weights(residuals: Residuals, gamma: float, stretch: float) -> Vector:
    """Weight of ``|E_k|`` in the column part over the inactive eigenvectors, at most ``c_k``; float64 [r].

    ``c_k |z - lambda^2| sqrt(1 + t0 + t1) / (theta_k - lambda^2 + gamma - s1)`` with the resolvent at
    ``z = theta_k + i delta``: ``s1 = sum_j |E_j|^2 / |z - theta_j|``, ``t1`` the same with squared
    denominators; the best of a few delta.
    """
    lam, roots, squared, _ = _active_parts(residuals)
    theta = roots**2
    above = theta - lam * lam
    cap = _cap(lam, roots)
    best = cap
    for share in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0):
        for delta in (share * above, np.full_like(above, share * np.sqrt(squared.max(initial=0.0)))):
            distance = np.hypot(theta[:, None] - theta[None, :], delta[:, None])
            usable = delta > 0
            s1 = np.where(usable, (squared / np.where(usable[:, None], distance, 1.0)).sum(axis=1), np.inf)
            t1 = np.where(
                usable, (squared / np.where(usable[:, None], distance, 1.0) ** 2).sum(axis=1), np.inf
            )
            room = above + gamma - s1
            fits = usable & (room > 0)
            stretched = np.sqrt(1 + stretch + np.where(fits, t1, 0.0))
            weight = cap * np.hypot(above, delta) * stretched / np.where(fits, room, 1.0)
            best = np.where(fits, np.minimum(best, weight), best)
    return best
