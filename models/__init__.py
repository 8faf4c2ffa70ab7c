"""Models that forget. The tuple below is the registry: a new model is one file and one row here."""

from .als import ForgettableALS
from .base import Change, ForgettableModel, Proof
from .canonical_mf import CanonicalMF
from .ease import EASE
from .item_knn import ItemKNN
from .sharded import ShardedMF
from .spectral_mf import SpectralMF

_REGISTERED: tuple[type[ForgettableModel], ...] = (SpectralMF, EASE, ItemKNN, CanonicalMF, ShardedMF)

# ForgettableALS is not in it: nothing is proven of it, and the erasure cycle promises a proof.

MODELS: dict[str, type[ForgettableModel]] = {model.name: model for model in _REGISTERED}
"""Registry name -> class."""

__all__ = [
    "EASE",
    "MODELS",
    "CanonicalMF",
    "Change",
    "ForgettableALS",
    "ForgettableModel",
    "ItemKNN",
    "Proof",
    "ShardedMF",
    "SpectralMF",
]
