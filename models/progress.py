"""A progress bar for solvers that stop when something is shown, not after a number of steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TimeElapsedColumn

Report = Callable[[int, float], None]
"""Called with the steps taken so far and the relative distance to the optimum, shown or estimated."""


@contextmanager
def solver_progress(name: str, show: bool, callback: Report | None = None) -> Iterator[Report]:
    """Draw the steps taken and the distance left; also tell ``callback``.

    Examples
    --------
    >>> with solver_progress("SpectralMF", show=False, callback=print) as report:
    ...     report(3, 0.5)
    3 0.5
    """
    tell = callback or (lambda steps, distance: None)
    if not show:
        yield tell
        return
    with Progress("{task.description}", BarColumn(pulse_style="cyan"), TimeElapsedColumn()) as bar:
        task = bar.add_task(name, total=None)

        def report(steps: int, distance: float) -> None:
            bar.update(task, description=f"{name}: {steps} steps, relative distance {distance:.2e}")
            tell(steps, distance)

        yield report
