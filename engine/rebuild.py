"""``recunlearn verify --deep``: every model built from scratch from what is kept, beside what is published.

A certificate says how far a published model can be from a fresh fit; this measures how far it is.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import scipy.sparse as sp

from ..models.base import Arrays, ForgettableModel
from ..models.score_distance import score_distance
from .interactions import read_store, to_user_items
from .state import StatePaths
from .version import Manifest, Store, read_models

_ROUNDING = 1e-6
"""What float32 factors lose when they are published, on top of both bounds."""


class Rebuilt(msgspec.Struct, frozen=True):
    """How a published model compares with one that was fitted from scratch to what is kept.

    Attributes
    ----------
    distance : relative Frobenius distance, in what the model's bound speaks of; 0.0 means equal to the bit.
    allowed : the published bound and that of the fresh fit together; None where nothing is proven.
    """

    distance: float
    allowed: float | None

    @property
    def ok(self) -> bool:
        """Tell whether the model is where it may be; one without a proof has no such place."""
        return self.allowed is None or self.distance <= self.allowed


def rebuild_models(
    paths: StatePaths, manifest: Manifest, on_model: Callable[[str], None] = lambda name: None
) -> dict[str, Rebuilt]:
    """Fit every model of a version again, from the interaction store alone, and compare.

    Parameters
    ----------
    on_model : called with the name of each model before it is fitted.

    Returns
    -------
    registry name -> comparison. The time is that of a fit of each model; a version of nobody is empty.
    """
    frame = read_store(paths, Store(manifest.interactions, manifest.partitions))
    published = read_models(paths.version(manifest.version), manifest, mapped=True)
    if frame is None:
        return {}
    user_items, _, _ = to_user_items(frame)
    compared = {}
    for name, model in published.items():
        on_model(name)
        compared[name] = compare(model, _fresh(model, user_items))
    return compared


def _fresh(model: ForgettableModel, user_items: Any) -> ForgettableModel:
    """Fit a model of the same settings; where it draws lots for users, they keep theirs."""
    fresh: Any = type(model)(**model.settings())
    shards = model.published().get("shard_of")
    fitted: ForgettableModel = (
        fresh.fit(user_items) if shards is None else fresh.fit(user_items, shard_of=shards)
    )
    return fitted


def compare(published: ForgettableModel, fresh: ForgettableModel) -> Rebuilt:
    """Measure how far ``published`` is from ``fresh``, and how far it may be.

    Examples
    --------
    >>> from recunlearn.models import EASE
    >>> x = sp.csr_matrix([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    >>> found = compare(EASE(regularization=1.0).fit(x), EASE(regularization=1.0).fit(x))
    >>> found.distance, found.ok
    (0.0, True)
    """
    ours, theirs = published.published(), fresh.published()
    ours_bound, theirs_bound = published.proof().bound, fresh.proof().bound
    if _equal(ours, theirs):
        return Rebuilt(0.0, _sum(ours_bound, theirs_bound))
    if not published.proof().exact and "user_factors" in ours:
        return _compare_scores(ours, theirs, ours_bound, theirs_bound)
    return Rebuilt(max(_distance(ours[name], theirs[name]) for name in ours), _sum(ours_bound, theirs_bound))


def _compare_scores(ours: Arrays, theirs: Arrays, ours_bound: Any, theirs_bound: Any) -> Rebuilt:
    """Compare two factorisations by their scores: factors may be rotated, or of another rank."""
    a, b = _scores(ours), _scores(theirs)
    size, other = (score_distance(u, i, u[:, :0], i[:, :0]) for u, i in (a, b))
    if size == 0.0:
        return Rebuilt(0.0 if other == 0.0 else math.inf, _sum(ours_bound, theirs_bound))
    weighted = None if theirs_bound is None else theirs_bound * other / size
    allowed = _sum(ours_bound, weighted)
    return Rebuilt(score_distance(*a, *b) / size, None if allowed is None else allowed + _ROUNDING)


def _scores(arrays: Arrays) -> tuple[Any, Any]:
    """Return the two factors whose product the bound is about: items scaled as the certificate has them."""
    users, items, scale = arrays["user_factors"], arrays["item_factors"], arrays.get("item_scale")
    return users, items if scale is None else np.asarray(items) * np.asarray(scale)[:, None]


def _equal(ours: Arrays, theirs: Arrays) -> bool:
    return ours.keys() == theirs.keys() and all(_same(ours[name], theirs[name]) for name in ours)


def _same(a: Any, b: Any) -> bool:
    if a.shape != b.shape:
        return False
    if sp.issparse(a):
        return all(
            np.array_equal(getattr(a, part), getattr(b, part)) for part in ("indptr", "indices", "data")
        )
    return bool(np.array_equal(a, b))


def _distance(a: Any, b: Any) -> float:
    """Return ``|a - b|_F / |b|_F``; infinite for arrays of another shape."""
    if a.shape != b.shape:
        return math.inf
    if sp.issparse(a):
        difference, size = float(sp.linalg.norm(a - b)), float(sp.linalg.norm(b))
    else:
        difference, size = float(np.linalg.norm(np.asarray(a, np.float64) - b)), float(np.linalg.norm(b))
    if size == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / size


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None or not math.isfinite(one + other):
        return None
    return one + other
