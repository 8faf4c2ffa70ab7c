"""Running the benchmarks that lie beside the package in a source checkout."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SCRIPTS = ("bench_spectral", "bench_canonical", "bench_item_models")
FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


class NoBenchmarksError(RuntimeError):
    """The benchmarks are not here: they are part of a checkout, not of the wheel."""


def benchmark_commands(source: Sequence[str], output: Path) -> Iterator[list[str]]:
    """Yield the command of each benchmark: it prints a table and writes ``output/NAME.json``.

    Parameters
    ----------
    source : what to measure on, as the scripts take it: ``["--data", FILE]`` or ``["--generate", U, I, N]``.

    Raises
    ------
    NoBenchmarksError
        This is an installed package without its checkout.

    Examples
    --------
    >>> [command[-1] for command in benchmark_commands(["--data", "x.txt"], Path("out"))][0]
    'out/bench_spectral.json'
    """
    if not FOLDER.is_dir():
        raise NoBenchmarksError(
            f"there is no folder {FOLDER}: the benchmarks are in the source checkout, not in the wheel; "
            "clone the repository and run `make bench` in it"
        )
    for name in SCRIPTS:
        yield [sys.executable, str(FOLDER / f"{name}.py"), *source, "--json", str(output / f"{name}.json")]


def run_benchmarks(source: Sequence[str], output: Path) -> list[str]:
    """Run every benchmark in turn, in processes of their own; the names of those that failed."""
    return [
        Path(command[1]).stem
        for command in benchmark_commands(source, output)
        if subprocess.run(command, check=False).returncode  # noqa: S603 - our own scripts
    ]
