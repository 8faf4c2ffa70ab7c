"""`recunlearn bench`: forgetting timed beside retraining."""

from pathlib import Path
from typing import Annotated

import typer

from .console import not_so


def bench(
    data: Annotated[
        Path | None, typer.Option(help="Lines of: user item item ... Default: data generated at this scale.")
    ] = None,
    users: Annotated[int, typer.Option(help="Users to generate.", min=1)] = 6_000,
    items: Annotated[int, typer.Option(help="Items to generate.", min=1)] = 3_700,
    interactions: Annotated[int, typer.Option(help="Interactions to generate.", min=1)] = 700_000,
    output: Annotated[Path, typer.Option(help="Where the measured numbers go, as JSON.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Time every model's forgetting beside the fastest retrain, in turns on the same data."""
    from ..eval.bench import NoBenchmarksError, run_benchmarks

    generated = ["--generate", str(users), str(items), str(interactions)]
    try:
        failed = run_benchmarks(["--data", str(data)] if data else generated, output)
    except NoBenchmarksError as error:
        not_so(str(error))
    if failed:
        not_so(f"these benchmarks failed: {', '.join(failed)}; what they printed is above")
