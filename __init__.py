"""recunlearn: a recommender that can forget.

Deletion events stream in; the engine removes the user's rows *and their influence* from
matrix-factorisation and item-similarity models, proves it without a retrain, and publishes a new
version that running services swap to.

Importing this package imports nothing heavy: the public names below are loaded when first used.

Examples
--------
>>> import recunlearn
>>> recunlearn.__version__.count(".")
2
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.snapshot import Snapshot, SnapshotReader

__version__ = "0.1.0"
__all__ = ["Snapshot", "SnapshotReader", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562): imports stay fast."""
    if name in {"Snapshot", "SnapshotReader"}:
        from .engine import snapshot

        return getattr(snapshot, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
