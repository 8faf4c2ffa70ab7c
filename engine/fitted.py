"""Between what a fit lets in and what it publishes, whether in one piece or over partitions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from ..models.base import ForgettableModel
from .state import StatePaths
from .version import Store

if TYPE_CHECKING:
    from .tables import Rejections


@dataclass(frozen=True)
class LetIn:
    """What a fit let in.

    Attributes
    ----------
    given, kept : interactions before the fence, and behind it.
    refused_users : users whom it kept out.
    rejected : rows that could not be used, where they were read here.
    """

    given: int
    kept: int
    refused_users: int
    rejected: "Rejections | None" = None


class Taken(Protocol):
    """Rows that may be kept, ready to be fitted."""

    @property
    def let_in(self) -> LetIn:
        """How many they are, and what was kept out."""
        ...

    def fit(
        self, settings: Mapping[str, Mapping[str, Any]], show_progress: bool, on_model: Callable[[str], None]
    ) -> "Fitted":
        """Fit models to them: registry name -> settings."""
        ...


@dataclass(frozen=True)
class Fitted:
    """Models, and what they were fitted to.

    Attributes
    ----------
    models : registry name -> model, the default first; all over the same interactions.
    users, items : ids of the rows and columns, ascending.
    store : the interactions, written for the version to come.
    """

    models: Mapping[str, ForgettableModel]
    users: pl.Series
    items: pl.Series
    store: Store


def folder_of_dealt(paths: StatePaths, version: int) -> Path:
    """Say where rows are dealt out on their way to a version: in a place that every purge empties."""
    return paths.interactions / f"dealt-{version:06d}"
