"""A fit over partitions: the version that a fit in one piece publishes, made by who never holds all rows.

Rows are dealt out to the partitions of the interaction store, by user; sums are taken partition by partition
and merged; the driver solves from the total. EASE and ItemKNN come out with the bits of a fit in one piece,
SpectralMF within its certificate. What follows, `run` and `serve` and proofs, knows no difference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...models.base import ForgettableModel
from ...models.spectral_mf import SpectralMF
from ...models.summed import Published, model_at_home, published_from_sums, statistic_of
from ...models.sums import Statistic, Sums
from .. import durable
from ..fitted import Fitted, LetIn, folder_of_dealt
from ..refusal import Admit
from ..state import StatePaths
from ..version import Store
from .kept import Kept, keep, mapped_matrix
from .map_reduce import Run, serial
from .partitions import sum_partitions
from .rounds import solve_partitions
from .rows import Rows, StoreRows

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class OverPartitions:
    """How to fit over partitions.

    Attributes
    ----------
    run : how partitions are run. count : how many there are; None: as many as a fit in one piece writes.
    by_rounds : SpectralMF by rounds of products, where its sums, of items over items, are too much.

    Raises
    ------
    ValueError
        ``count`` is below 1.
    """

    run: Run = serial
    count: int | None = None
    by_rounds: bool = False

    def __post_init__(self) -> None:
        """Refuse no partitions."""
        if self.count is not None and self.count < 1:
            raise ValueError(f"partitions is {self.count}; use one or more")

    def require(self, settings: Settings) -> None:
        """Refuse models that are no function of sums, before anything is read.

        Raises
        ------
        ValueError
            The message names the model and those that are.
        """
        for name, own in settings.items():
            statistic_of(name, own, 1)
        if self.by_rounds and SpectralMF.name not in settings:
            raise ValueError(
                f"rounds are a way to fit {SpectralMF.name}, which is not among {list(settings)}"
            )

    def rows_of_store(self, paths: StatePaths, store: Store) -> Rows:
        """Name what a state keeps as rows."""
        return StoreRows(paths, store)

    def take(self, paths: StatePaths, version: int, rows: Rows, admit: Admit) -> "TakenByPartition":
        """Write the store of a version: what may be kept, by partition."""
        folder = folder_of_dealt(paths, version)
        try:
            return TakenByPartition(self, paths, keep(paths, version, rows.deal(self.count, folder), admit))
        finally:
            if folder.exists():
                durable.remove(folder)


@dataclass(frozen=True)
class TakenByPartition:
    """Rows in the store of a version, to be fitted over its partitions."""

    over: OverPartitions
    paths: StatePaths
    kept: Kept

    @property
    def let_in(self) -> LetIn:
        """How many interactions there were and are, and what was kept out."""
        return self.kept.let_in

    def fit(self, settings: Settings, show_progress: bool, on_model: Callable[[str], None]) -> Fitted:
        """Sum up once for each statistic, solve for each model, and fold everybody in.

        Raises
        ------
        ValueError
            The values do not suit a model's sums.
        """
        del show_progress  # what runs the partitions may be elsewhere
        rows, users = mapped_matrix(self.kept, self.paths.interactions)
        models: dict[str, ForgettableModel] = {}
        for statistic, names in self._by_statistic(settings).items():
            sums: Sums | None = None
            for name in names:
                on_model(name)
                if self.over.by_rounds and name == SpectralMF.name:
                    published = self._by_rounds(settings[name])
                else:
                    sums = sums or self._sums(statistic)
                    published = published_from_sums(name, settings[name], sums)
                models[name] = model_at_home(published, rows)
        return Fitted({name: models[name] for name in settings}, users, self.kept.items, self.kept.store)

    def _by_statistic(self, settings: Settings) -> dict[Statistic, list[str]]:
        names: dict[Statistic, list[str]] = {}
        for name, own in settings.items():
            fractions = not self.kept.are_whole
            statistic = statistic_of(name, own, len(self.kept.items), fractions=fractions)
            names.setdefault(statistic, []).append(name)
        return names

    def _sums(self, statistic: Statistic) -> Sums:
        return sum_partitions(self.kept.partitions, self.kept.items, statistic, self.over.run)

    def _by_rounds(self, settings: Mapping[str, Any]) -> Published:
        return solve_partitions(self.kept.partitions, self.kept.items, settings, self.over.run)
