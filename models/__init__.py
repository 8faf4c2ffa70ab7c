"""Models that forget. The tuple below is the registry: a new model is one file and one row here."""

from .base import Change, ForgettableModel, Proof
from .ease import EASE
from .item_knn import ItemKNN
from .spectral_mf import SpectralMF

_REGISTERED: tuple[type[ForgettableModel], ...] = (SpectralMF, EASE, ItemKNN)

MODELS: dict[str, type[ForgettableModel]] = {model.name: model for model in _REGISTERED}
"""Registry name -> class."""

__all__ = ["EASE", "MODELS", "Change", "ForgettableModel", "ItemKNN", "Proof", "SpectralMF"]
