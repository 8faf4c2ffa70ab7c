"""The spectral optimum by brute force: dense, float64, one full singular value decomposition, no shared code.

Written from the definition: ``min_S 1/2 |X~ - S|_F^2 + lambda |S|_*`` with ``X~ = D_u^-a X D_i^-b`` has the
minimiser ``U (Sigma - lambda)_+ V'`` (Cai, Candes & Shen 2010, theorem 2.1).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Dense = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What the optimum depends on besides the data."""

    regularization: float
    user_power: float = 0.25
    item_power: float = 0.25
    values: str = "counts"


def weigh(x: Dense, values: str) -> Dense:
    """Weigh every interaction, one definition a branch."""
    if values == "binary":
        return (x > 0).astype(np.float64)
    return np.log1p(x) if values == "log" else x.astype(np.float64)


def item_degrees(x: Dense, values: str = "counts") -> Dense:
    """Sum the weights of every item; 1 where there are none."""
    sums = weigh(x, values).sum(axis=0)
    return np.where(sums == 0, 1.0, sums)


def normalised(x: Dense, setting: Setting) -> Dense:
    """Compute ``X~``, one division at a time."""
    weights = weigh(x, setting.values)
    rows = weights.sum(axis=1, keepdims=True)
    users = np.where(rows == 0, 1.0, rows) ** setting.user_power
    return weights / users / item_degrees(x, setting.values) ** setting.item_power


def singular_values(x: Dense, setting: Setting) -> Dense:
    """Singular values of ``X~``, descending."""
    return np.linalg.svd(normalised(x, setting), compute_uv=False)


def optimum(x: Dense, setting: Setting) -> Dense:
    """Compute ``S~*``: float64 [n_users, n_items]."""
    u, s, vt = np.linalg.svd(normalised(x, setting), full_matrices=False)
    return np.asarray((u * np.maximum(s - setting.regularization, 0.0)) @ vt)


def published(model: Any, x: Dense, values: str = "counts") -> Dense:
    """Read ``S~`` off published factors in the normalisation of ``x``: ``P Q' D_i^-b``."""
    scores = model.user_factors.astype(np.float64) @ model.item_factors.astype(np.float64).T
    return np.asarray(scores / item_degrees(x, values) ** model.item_power)


def setting_of(model: Any) -> Setting:
    """Read the setting off a fitted model's constructor arguments."""
    arguments = model.settings()
    return Setting(*(arguments[name] for name in ("regularization", "user_power", "item_power", "values")))


def thresholded(matrix: Dense, regularization: float) -> Dense:
    """Soft-threshold the singular values of any matrix."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray((u * np.maximum(s - regularization, 0.0)) @ vt)
