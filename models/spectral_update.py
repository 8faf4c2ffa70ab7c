"""The closed-form update of a spectral model: where it stands after rows are taken out, before any pass.

The old work subspace V and its images ``G~ V`` are known. Degrees change as well as rows, so the basis is
rescaled with them, and the images of the rescaled basis follow from the old ones and the removed rows alone
(Brand 2006, Fast low-rank modifications of the thin SVD, for the Gram of rescaled columns).
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .base import Interactions
from .gram_operator import GramOperator, degrees
from .subspace import (
    FloatMatrix,
    RitzPairs,
    inner_products,
    orthonormalise,
    ritz_rotation,
    rotated,
    shrinkage,
)

MOST_NEW_DIRECTIONS = 16
"""Of many rows a few directions are a small part, and cost more than they save the filter."""
COLUMNS_AT_ONCE = 32
PROBES = 32


@dataclass(frozen=True)
class Update:
    """A closed-form update.

    Attributes
    ----------
    pairs : Ritz pairs of the new operator, as many as there were; vectors and residuals in float32.
    influence : estimate of ``|S~_before - S~|_F``, before and after the update; not a bound.
    """

    pairs: RitzPairs
    influence: float


def closed_form_start(
    gram: GramOperator,
    known: RitzPairs,
    old_item_scale: NDArray[np.float64],
    before: Interactions,
    after: Interactions,
    user_power: float,
    threshold: float,
) -> Update | None:
    """Rayleigh-Ritz for the new Gram on the old subspace and the removed rows' part outside it.

    With ``s = D_new^b D_old^-b``: ``G~_new (s V) = D_new^-b (D_old^b G~_old V - R)``,
    ``R = (before' D_u^-2a before - after' D_u^-2a after) D_old^-b V``: no pass over the data.

    Parameters
    ----------
    gram : the operator on what is kept.
    known : the old Ritz pairs [n, k] with images under the old operator.
    old_item_scale : float64 [n], ``d_i^-b`` before.
    before, after : CSR [t, n], weights of the touched rows.
    user_power : a. threshold : lambda.

    Returns
    -------
    None if the basis has become dependent: start afresh.

    Notes
    -----
    O((removed entries) k + n k^2), and one application to at most 16 columns.
    """
    ratio = old_item_scale / gram.item_scale
    width, touched = known.values.size, before.shape[0]
    more = touched if touched <= MOST_NEW_DIRECTIONS else 0
    basis, images = (np.empty((ratio.size, width + more)) for _ in range(2))
    np.multiply(known.vectors, ratio[:, None], out=basis[:, :width])
    np.multiply(known.vectors, known.values, out=images[:, :width])
    images[:, :width] += known.residuals
    for at in range(0, width, COLUMNS_AT_ONCE):
        strip = slice(at, min(at + COLUMNS_AT_ONCE, width))
        spread = known.vectors[:, strip] * old_item_scale[:, None]
        images[:, strip] /= old_item_scale[:, None]
        images[:, strip] -= _gram_term(before, spread, user_power) - _gram_term(after, spread, user_power)
        images[:, strip] *= gram.item_scale[:, None]
    if more:
        fresh = _outside_directions(before, after, gram.item_scale, basis[:, :width], user_power)
        basis[:, width:], images[:, width:] = fresh, gram.apply(fresh)
    projected = inner_products(basis, images)
    try:
        values, rotation = ritz_rotation(projected, inner_products(basis, basis), width)
    except np.linalg.LinAlgError:  # too little is left for that many independent directions
        return None
    influence = _influence(basis, projected, known, values, rotation, ratio, threshold)
    return Update(rotated(basis, images, values, rotation).narrow(), influence)


def _influence(
    basis: FloatMatrix,
    projected: FloatMatrix,
    known: RitzPairs,
    values: NDArray[np.float64],
    rotation: FloatMatrix,
    ratio: NDArray[np.float64],
    threshold: float,
) -> float:
    """Estimate ``|X~ (V1 f1 V1' - s V0 f0 V0' s^-1)|_F``, how far scores moved, by a few random vectors."""
    probes = np.random.default_rng(PROBES).standard_normal((basis.shape[0], PROBES))
    moved = rotation @ (shrinkage(values, threshold)[:, None] * (rotation.T @ (basis.T @ probes)))
    before = shrinkage(known.values, threshold)[:, None] * (known.vectors.T @ (probes / ratio[:, None]))
    moved[: before.shape[0]] -= before
    squared = float(np.sum(moved * (projected @ moved)))
    return float(np.sqrt(max(squared, 0.0) / PROBES))


def _gram_term(rows: Interactions, block: FloatMatrix, user_power: float) -> FloatMatrix:
    """``rows' D_u^-2a rows block``: float64 [n, k]."""
    scale = degrees(rows, axis=1) ** (-2 * user_power)
    return np.asarray(rows.T @ ((rows @ block) * scale[:, None]))


def _outside_directions(
    before: Interactions,
    after: Interactions,
    item_scale: NDArray[np.float64],
    basis: FloatMatrix,
    user_power: float,
) -> FloatMatrix:
    """Return unit columns for the part of the removed rows outside ``basis``: float64 [n, t]."""
    lost: Interactions = (before - after).tocsr()
    scale = degrees(before, axis=1) ** -user_power
    columns: Interactions = (sp.diags(scale) @ lost @ sp.diags(item_scale)).T.tocsr()
    block = columns.toarray()
    for _ in range(2):  # the basis is nearly orthonormal: only what rescaling did to it is left after one
        block -= basis @ (basis.T @ block)
        (block,) = orthonormalise(block)
    return np.ascontiguousarray(block)
