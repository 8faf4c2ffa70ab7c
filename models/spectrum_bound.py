"""A proven upper bound on the spectrum of an operator outside a known subspace, by block Lanczos.

A Ritz value is always a *lower* bound. From a random start it cannot be far below the top, though: it would
take a start nearly orthogonal to the leading eigenvector, and how improbable that is, is known exactly.

With q products the Krylov space holds ``p(M) w`` for every polynomial p of degree q - 1, w any
combination of the b Gaussian start vectors. Let x be the leading eigenvector, ``lambda_1`` its value,
``theta`` the largest Ritz value, ``tau = (1 - eps) lambda_1``. If ``theta < tau`` then
``sum_j w_j^2 p(lambda_j)^2 (lambda_j - tau) < 0``; with ``p(t) = T_{2q-1}(y) / y, y^2 = 1 - t / tau`` (as
in Kuczynski & Wozniakowski 1992) and w the combination along x, this reads
``chi2_b sinh^2((2q - 1) a) < chi2_{N-1}``, ``tanh^2 a = eps``, N = n - k, independent chi-squares.
So ``P(theta < (1 - eps) lambda_1) <= I_x(b / 2, (N - 1) / 2)`` at ``x = sech^2((2q - 1) a)``, I the
regularised incomplete beta function, and with x so that this is ``failure / max_steps``,
``lambda_1 <= theta cosh^2(arcosh(x^-1/2) / (2q - 1))``.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

Block: TypeAlias = NDArray[np.floating[Any]]
SEED = 20161030
EXACT_UP_TO = 512
ENOUGH_STEPS = 8


def top_outside(
    apply: Callable[[Block], Block],
    known: Block,
    target: float,
    ceiling: float,
    failure: float = 1e-9,
    block: int = 16,
    max_steps: int = 24,
) -> float:
    """Bound the largest eigenvalue of ``(I - V V') M (I - V V')`` from above.

    Parameters
    ----------
    apply : M on a block, float64 [n, b] -> [n, b]; symmetric and positive semidefinite.
    known : V, float64 [n, k], orthonormal columns: what is taken out.
    target : stop as soon as the bound is at most this. ceiling : after :data:`ENOUGH_STEPS` products this is
        good enough; above it one goes on to ``max_steps``.
    failure : probability, over the random start, that what is returned is no bound. The start is drawn
        with a fixed seed, so that results repeat: the data must not have been made with it in mind.
    block : b, random vectors at once. max_steps : block products at the most.

    Returns
    -------
    float
        The bound; 0 where nothing is outside. Up to :data:`EXACT_UP_TO` dimensions it is the eigenvalue
        itself, without chance.

    Notes
    -----
    With q products, ``lambda_1 <= theta cosh^2(arcosh(x^-1/2) / (2q - 1))`` (proof: the module's
    docstring). Time: 2q products, O(n b^2 q^2).

    Examples
    --------
    >>> m = np.diag(np.r_[3.0, 2.0, np.linspace(0.0, 1.0, 998)])
    >>> bound = top_outside(lambda v: m @ v, np.eye(1000)[:, :1], 2.05, 2.1)
    >>> bool(2.0 <= bound <= 2.1)
    True
    """
    n, k = known.shape
    outside = n - k
    if outside <= EXACT_UP_TO:
        return _top_exactly(apply, known)
    quantile = float(special.betaincinv(block / 2, (outside - 1) / 2, failure / max_steps))
    angle = float(np.arccosh(1.0 / np.sqrt(quantile)))
    start = _project(np.random.default_rng(SEED).standard_normal((n, block)), known)
    basis = np.zeros((n, 0))
    ritz = np.zeros((0, 0))
    fresh = _orthonormal(start, known)
    bound = float("inf")
    for q in range(1, max_steps + 1):
        image = _project(apply(fresh), known)
        basis = np.concatenate([basis, fresh], axis=1)
        column = basis.T @ image
        ritz = _bordered(ritz, column)
        theta = max(float(np.linalg.eigvalsh(ritz)[-1]), 0.0)
        image -= basis @ column
        bound = min(bound, theta * float(np.cosh(angle / (2 * q - 1))) ** 2)
        if np.linalg.norm(image) <= 1e-12 * max(theta, np.finfo(float).tiny):
            return theta * (1 + 1e-9)  # the Krylov space is invariant: nothing is hidden
        if bound <= (target if q < ENOUGH_STEPS else ceiling):
            break
        fresh = _orthonormal(image, np.concatenate([known, basis], axis=1))
    return bound


def _top_exactly(apply: Callable[[Block], Block], known: Block) -> float:
    """Evaluate the operator on a basis of everything outside; for small dimensions."""
    n, k = known.shape
    if n <= k:
        return 0.0
    complement = np.linalg.qr(known, mode="complete")[0][:, k:] if k else np.eye(n)
    matrix = complement.T @ apply(np.ascontiguousarray(complement))
    return max(float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]), 0.0)


def _project(block: Block, known: Block) -> Block:
    return np.ascontiguousarray(block - known @ (known.T @ block))


def _orthonormal(block: Block, against: Block) -> Block:
    """Make the columns orthonormal and orthogonal to ``against``; twice is enough (Kahan)."""
    result: NDArray[Any] = block
    for _ in range(2):
        result = np.linalg.qr(_project(result, against))[0]
    return np.ascontiguousarray(result)


def _bordered(ritz: NDArray[np.float64], column: Block) -> NDArray[np.float64]:
    """Border the projected operator with its newest block column."""
    old, width = ritz.shape[0], column.shape[1]
    grown = np.empty((old + width, old + width))
    grown[:old, :old] = ritz
    grown[:, old:] = column
    grown[old:, :old] = column[:old].T
    corner = column[old:]
    grown[old:, old:] = (corner + corner.T) / 2
    return grown
