"""Models that forget. Each public name is loaded when it is first used: what a model needs takes a second."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .als import ForgettableALS
    from .base import Change, ForgettableModel, Proof
    from .canonical_mf import CanonicalMF
    from .ease import EASE
    from .item_knn import ItemKNN
    from .registry import MODELS
    from .sharded import ShardedMF
    from .spectral_mf import SpectralMF

_FILES = {
    "EASE": "ease",
    "MODELS": "registry",
    "CanonicalMF": "canonical_mf",
    "Change": "base",
    "ForgettableALS": "als",
    "ForgettableModel": "base",
    "ItemKNN": "item_knn",
    "Proof": "base",
    "ShardedMF": "sharded",
    "SpectralMF": "spectral_mf",
}

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


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FILES[name]}", __name__), name)
