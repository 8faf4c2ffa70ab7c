"""Progress of a run in stages: bars on a terminal, one line a stage anywhere else."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..engine.closable import Closable
from .format import seconds


class Stages(Closable):
    """Draws stages on a console.

    Examples
    --------
    >>> from rich.console import Console
    >>> with Stages(Console(quiet=True)) as stages, stages.stage("counting", 2) as advance:
    ...     advance(2)
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a stage while the block runs; gives a function that takes how much of ``total`` is done."""
        task = self._progress.add_task(name, total=total)
        started = time.perf_counter()

        def advance(done: int) -> None:
            self._progress.update(task, completed=done)

        yield advance
        self._progress.update(task, total=total or 1, completed=total or 1)
        if not self._console.is_terminal:
            self._console.print(f"{name}: {seconds(time.perf_counter() - started)}", highlight=False)

    def say(self, text: str) -> None:
        """Print a line of the story above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()
