"""Attacks on what is published after a removal, each measured against what anybody could say without it.

An attack is a pure function of a :class:`Scene` and a row of :data:`ATTACKS`; docs/explanation/attacks.md
says what each means and where we leak.
"""

from collections.abc import Callable, Mapping
from typing import Final

from .answers import differencing_answers
from .differencing import differencing
from .membership import membership_embeddings, membership_lists, membership_scores
from .outcome import AttackResult
from .reconstruction import reconstruction
from .scene import Scene, SceneError
from .served import Served, served, served_arrays, served_factors, served_weights

ATTACKS: Final[Mapping[str, Callable[[Scene], AttackResult]]] = {
    "membership_lists": membership_lists,
    "membership_scores": membership_scores,
    "membership_embeddings": membership_embeddings,
    "differencing": differencing,
    "differencing_answers": differencing_answers,
    "reconstruction": reconstruction,
}
"""Name -> attack. A new one is one file and one row here."""

__all__ = [
    "ATTACKS",
    "AttackResult",
    "Scene",
    "SceneError",
    "Served",
    "served",
    "served_arrays",
    "served_factors",
    "served_weights",
]
