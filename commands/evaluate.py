"""`recunlearn evaluate`: how well methods forget, beside their controls."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import AsJson, not_so, print_json, wrong_use

if TYPE_CHECKING:
    from ..eval.battery.study import Study


def evaluate(
    config: Annotated[Path | None, typer.Option(help="A study, as TOML.")] = None,
    output: Annotated[Path, typer.Option(help="Where cells, results and report go.")] = Path("evaluation"),
    data: Annotated[
        list[str] | None, typer.Option(help="A data set's name or a file; with --config: only these entries.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A method's name or file.py:Class; with --config: only these.")
    ] = None,
    regime: Annotated[
        list[str] | None,
        typer.Option(help="random:1%, core:50, edge:5% or random:200:stream; with --config: only these."),
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Repetitions of each cell.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything drawn.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what is left after forgetting, at what cost, beside controls; resume after an interruption."""
    from ..eval.battery.regimes import StudyError

    try:
        study = _study(config, data or [], method or [], regime or [], draws, seed)
    except (StudyError, ValueError) as error:
        wrong_use(str(error))
    try:
        results, written = _carried_out(study, output, quiet=as_json)
    except StudyError as error:
        not_so(str(error))
    except KeyboardInterrupt:
        typer.secho("interrupted; run the same command again to go on", err=True, fg="yellow")
        raise typer.Exit(130) from None
    failed = [cell for cell in results["cells"] if "error" in cell]
    for cell in failed:
        where = f"{cell['data']}, {cell['method']}, {cell['regime']['name']}, draw {cell['draw'] + 1}"
        typer.secho(f"failed: {where}: {cell['error']}", err=True, fg="red")
    if as_json:
        print_json(
            {"cells": len(results["cells"]), "failed": len(failed), "files": [str(p) for p in written]}
        )
    else:
        _tell(results, written)
    if failed:
        raise typer.Exit(1)


def _study(
    config: Path | None, data: list[str], method: list[str], regime: list[str], draws: int | None,
    seed: int | None,
) -> "Study":  # fmt: skip
    """Read the study, or make one of the options."""
    import msgspec

    from ..eval.battery import study as studies

    if config is not None:
        study = studies.only(studies.read_study(config), data, method, regime)
    else:
        study = studies.only(
            studies.Study(
                data=[studies.entry_from_option(value) for value in data],
                method=[
                    studies.MethodEntry(name=Path(value).name.replace(":", " "), method=value)
                    for value in method
                ],
                regime=[studies.regime_from_option(value) for value in regime],
            ),
            (), (), (),
        )  # fmt: skip
    given = {name: value for name, value in (("draws", draws), ("seed", seed)) if value is not None}
    return msgspec.structs.replace(study, **given)


def _carried_out(study: "Study", output: Path, *, quiet: bool) -> tuple[dict[str, Any], list[Path]]:
    """Run the study with a progress bar, and write its files."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..engine import durable
    from ..eval.battery.markdown import study_tables
    from ..eval.battery.page import render_study
    from ..eval.battery.run import cells_of, run_study
    from ..eval.battery.summary import write_results

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("data", total=len(list(cells_of(study))))

        def watch(title: str, done: bool) -> None:
            progress.update(task, description=title, advance=1 if done else 0)

        results = run_study(study, output, watch)
    written = write_results(results, output)
    for name, text in (("report.html", render_study(results)), ("tables.md", study_tables(results))):
        durable.replace(output / name, text.encode())
        written.append(output / name)
    return results, written


def _tell(results: dict[str, Any], written: list[Path]) -> None:
    """Print the main figures."""
    from rich.console import Console
    from rich.table import Table

    from ..eval.battery.page import with_interval
    from ..eval.battery.summary import figures_by_place

    figures = figures_by_place(results)
    table = Table(
        "data", "method", "regime", "influence left", "residue", "NDCG@10", "batch ÷ retrain", "faults"
    )
    seen: dict[tuple[str, str, str], list[str]] = {}
    for cell in results["cells"]:
        key = (cell["data"], cell["method"], cell["regime"]["name"])
        faults = seen.setdefault(key, [])
        faults += [f for f in cell.get("measured", {}).get("faults", []) if f not in faults]
    for key, faults in seen.items():
        names = (
            "completeness.method.influence_left", "completeness.method.residue", "utility.method.ndcg@10",
            "efficiency.time_to_retrain",
        )  # fmt: skip
        cells = [with_interval(figures.get((*key, name))) for name in names]
        table.add_row(*key, *cells, ", ".join(faults) or "none")
    Console().print(table)
    typer.echo("\n".join(str(path) for path in written))
