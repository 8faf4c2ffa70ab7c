"""The options of a fit over partitions: how they are run, how many there are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import wrong_use

if TYPE_CHECKING:
    from ..engine.cluster.fitting import OverPartitions
    from ..engine.cluster.map_reduce import Run

_PANEL = "Over partitions"


@dataclass(frozen=True)
class PartitionOptions:
    """Whether the rows are summed up by partition, and by whom."""

    run: Annotated[
        Literal["serial", "pool", "spark"] | None,
        typer.Option(
            help="Sum up over partitions of Parquet rows, never all in memory: one after the other, in "
            "processes, or on Spark.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    partitions: Annotated[
        int | None,
        typer.Option(
            help="How many; default: one for each 250,000 rows or so.", min=1, rich_help_panel=_PANEL
        ),
    ] = None
    processes: Annotated[
        int | None,
        typer.Option(help="Of the pool; default: one a core.", min=1, rich_help_panel=_PANEL),
    ] = None
    master: Annotated[
        str | None,
        typer.Option(
            help="Of Spark: local[4], spark://HOST:PORT; default: local[*].", rich_help_panel=_PANEL
        ),
    ] = None
    spark_conf: Annotated[
        list[str] | None,
        typer.Option(help="A property of Spark: spark.driver.memory=4g; repeat it.", rich_help_panel=_PANEL),
    ] = None
    rounds: Annotated[
        bool,
        typer.Option(
            "--rounds",
            help="spectral_mf by rounds of products, where items times items do not fit.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    @contextmanager
    def over(self) -> "Iterator[OverPartitions | None]":
        """Start what runs the partitions, and end it with the block; None: a fit in one piece."""
        self._check()
        if self.run is None:
            yield None
            return
        from ..engine.cluster.fitting import OverPartitions

        with self._started() as run:
            yield OverPartitions(run, self.partitions, self.rounds)

    def _check(self) -> None:
        """Refuse an option that would silently do nothing."""
        needs = {
            "--partitions": (self.partitions, self.run is not None, "--run"),
            "--rounds": (self.rounds or None, self.run is not None, "--run"),
            "--processes": (self.processes, self.run == "pool", "--run pool"),
            "--master": (self.master, self.run == "spark", "--run spark"),
            "--spark-conf": (self.spark_conf or None, self.run == "spark", "--run spark"),
        }
        for name, (value, is_of_use, other) in needs.items():
            if value is not None and not is_of_use:
                wrong_use(f"{name} is for a fit with {other}")
        for text in self.spark_conf or []:
            if not all(text.partition("=")):
                wrong_use(f"--spark-conf {text!r} is not KEY=VALUE")

    @contextmanager
    def _started(self) -> "Iterator[Run]":
        from ..engine.cluster.map_reduce import Pool, serial

        if self.run == "pool":
            with Pool(self.processes or len(os.sched_getaffinity(0))) as pool:
                yield pool
        elif self.run == "spark":
            from ..engine.cluster.spark import spark_on

            properties = dict(text.split("=", 1) for text in self.spark_conf or [])
            with spark_on(self.master or "local[*]", properties) as spark:
                yield spark
        else:
            yield serial
