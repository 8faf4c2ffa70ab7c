"""SpectralMF over partitions by rounds of products: V goes to every task, a block as large comes back.

For more items than a dense [n, n] matrix fits. Each round reads the partitions again: nothing is kept where
the tasks run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...models.base import Scalar
from ...models.gram_operator import FloatMatrix
from ...models.rounds import Margins, RowProducts, published_by_rounds
from ...models.summed import Published, statistic_of
from ...models.sums import Statistic
from .map_reduce import Run, map_reduce
from .partitions import Partitions, read_rows, rows_of


def solve_partitions(
    partitions: Partitions, items: pl.Series, settings: Mapping[str, Scalar], run: Run | None = None
) -> Published:
    """Make the SpectralMF of all rows; to forget, remove users from their partitions and call it again.

    Parameters
    ----------
    items : ids of the columns, as :func:`~.partitions.items_of` gives them.
    settings : of SpectralMF.

    Raises
    ------
    SumsError, ValueError
        As :func:`~recunlearn.models.rounds.published_by_rounds`.

    Notes
    -----
    Each round: the rows are read once, ``n_items k`` numbers go to each task and come back. The driver holds
    a few such blocks. The bits depend on partitions and run; the certificate holds for each.
    """
    statistic = statistic_of("spectral_mf", settings, len(items))
    margins = map_reduce(partitions.tasks, MarginsOf(items, statistic), Margins.add, run)

    def products(block: FloatMatrix) -> FloatMatrix:
        return map_reduce(partitions.tasks, ProductWith(items, statistic, block), add, run)

    return published_by_rounds(settings, margins, products)


def add(one: FloatMatrix, other: FloatMatrix) -> FloatMatrix:
    """Add two products."""
    return np.asarray(one + other)


@dataclass(frozen=True)
class MarginsOf:
    """Takes the margins of a task's partitions; can be sent to where their files are read."""

    items: pl.Series
    statistic: Statistic

    def __call__(self, paths: tuple[Path, ...]) -> Margins:
        """Read the files and their margins."""
        return RowProducts(rows_of(read_rows(paths), self.items), self.statistic).margins


@dataclass(frozen=True)
class ProductWith:
    """Multiplies a task's rows with a block, float [n_items, k]; can be sent to where they are."""

    items: pl.Series
    statistic: Statistic
    block: FloatMatrix

    def __call__(self, paths: tuple[Path, ...]) -> FloatMatrix:
        """Read the files and multiply."""
        return RowProducts(rows_of(read_rows(paths), self.items), self.statistic).times(self.block)
