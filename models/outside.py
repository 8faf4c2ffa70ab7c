"""A proven upper bound on the spectrum of a positive operator outside a known subspace.

A Chebyshev polynomial that stays small on ``[0, level]`` and grows fast beyond is applied to a random block.
If something beyond ``level`` were left, the block would have grown; that a Gaussian block misses a direction
is improbable, and how improbable is known exactly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Block = NDArray[Any]
SEED = 20070611


def outside_bound(
    apply: Callable[[Block], Block],
    known: Block,
    level: float,
    target: float,
    failure: float = 1e-9,
    width: int = 16,
    most_steps: int = 40,
) -> float:
    """Bound the largest eigenvalue of ``H = (I - V V') G (I - V V')`` from above.

    Parameters
    ----------
    apply : G on a block, float64 [n, b] -> [n, b]; symmetric, positive semidefinite.
    known : V, float64 [n, k], orthonormal columns.
    level : where the spectrum outside V is expected to end, > 0; any guess gives a true bound.
    target : stop when the bound is at most this.
    failure : probability over the random block that what is returned is no bound. The block is drawn with
        a fixed seed so that results repeat: the data must not have been made with it in mind.
    width : b, random vectors at once. most_steps : applications at the most.

    Returns
    -------
    float >= level

    Notes
    -----
    With ``N = |T_d(2 H / level - 1) H W|_2``, W Gaussian [n, b], u the leading eigenvector and x its value:
    if ``x > level`` then ``N >= x T_d(2 x / level - 1) |u'W|``, and ``|u'W|^2`` is chi-square with b degrees
    of freedom. So with t^2 its ``failure / most_steps`` quantile (every step may stop: the union bound),
    ``x <= max(level, z)`` where ``z T_d(2 z / level - 1) = N / t``: a block form of the estimate of Kuczynski
    & Wozniakowski 1992, with an explicit polynomial. The leading factor H keeps the many directions with
    eigenvalues near zero out of N. O(n k b) and one application to b columns for each step.

    Examples
    --------
    >>> g = np.diag(np.r_[3.0, 2.0, np.linspace(0.0, 1.0, 998)])
    >>> bound = outside_bound(lambda v: g @ v, np.eye(1000)[:, :1], 2.0, 2.05)
    >>> bool(2.0 <= bound <= 2.05)
    True
    """
    missed = float(np.sqrt(special.chdtri(width, 1.0 - failure / most_steps)))

    def deflated(block: Block) -> Block:
        image = apply(block)
        return np.asarray(image - known @ (known.T @ image))

    start = np.random.default_rng(SEED).standard_normal((known.shape[0], width))
    before = deflated(start - known @ (known.T @ start))
    bound = _largest(before, level, 0, missed)
    if bound <= target:
        return bound
    now = deflated(before) * (2.0 / level) - before
    for degree in range(1, most_steps):
        bound = min(bound, _largest(now, level, degree, missed))
        if bound <= target or degree + 1 == most_steps:
            break
        now, before = deflated(now) * (4.0 / level) - 2.0 * now - before, now
    return bound


def _largest(block: Block, level: float, degree: int, missed: float) -> float:
    """Solve ``z T_d(2 z / level - 1) = |block|_2 / missed`` for ``z >= level``; level if there is none."""
    norm = float(np.sqrt(max(np.linalg.eigvalsh(block.T @ block)[-1], 0.0)))
    wanted = norm / (missed * level)
    if wanted <= 1.0:
        return level
    low, high = 1.0, wanted
    for _ in range(60):
        middle = 0.5 * (low + high)
        grown = np.log(middle) + _log_chebyshev(degree, 2.0 * middle - 1.0)
        low, high = (middle, high) if grown < np.log(wanted) else (low, middle)
    return high * level


def _log_chebyshev(degree: int, x: float) -> float:
    """``log T_d(x)`` for x >= 1."""
    angle = degree * float(np.arccosh(x))
    return angle + float(np.log1p(np.exp(-2.0 * angle))) - float(np.log(2.0))
