"""The registry: a new model is one file beside this, one row here, and its name in ``__init__.py``."""

from .base import ForgettableModel
from .canonical_mf import CanonicalMF
from .ease import EASE
from .item_knn import ItemKNN
from .sharded import ShardedMF
from .spectral_mf import SpectralMF

_REGISTERED: tuple[type[ForgettableModel], ...] = (SpectralMF, EASE, ItemKNN, CanonicalMF, ShardedMF)

# ForgettableALS is not in it: nothing is proven of it, and the erasure cycle promises a proof.

MODELS: dict[str, type[ForgettableModel]] = {model.name: model for model in _REGISTERED}
"""Registry name -> class."""
