"""Models that forget. The tuple below is the registry: a new model is one file and one row here."""

from .base import Change, ForgettableModel, Proof

_REGISTERED: tuple[type[ForgettableModel], ...] = ()

MODELS: dict[str, type[ForgettableModel]] = {model.name: model for model in _REGISTERED}
"""Registry name -> class."""

__all__ = ["MODELS", "Change", "ForgettableModel", "Proof"]
