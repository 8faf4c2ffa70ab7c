"""`recunlearn fit`: models fitted and published."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import AsJson, State, not_so, print_json, wrong_use

if TYPE_CHECKING:
    from ..engine.tables import InteractionTable

_DEFAULT_MODELS = ("spectral_mf", "ease", "item_knn")


def fit(
    state: State,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Interactions: CSV, TSV, NDJSON or Parquet, or a data set by name (recunlearn datasets). "
            "Without: refit what is kept."
        ),
    ] = None,
    user_col: Annotated[str, typer.Option(help="Column of user ids.")] = "user_id",
    item_col: Annotated[str, typer.Option(help="Column of item ids.")] = "item_id",
    value_col: Annotated[
        str | None, typer.Option(help="Column of values; default: value, if there is one, else 1 each.")
    ] = None,
    time_col: Annotated[str | None, typer.Option(help="Column of times, kept beside the values.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to fit; repeat it. The first serves.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A model's setting: ease.regularization=300; repeat it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit models to interactions and publish them; a state that exists gets a new version."""
    from ..engine import fitting

    models = models_to_fit(model or [], setting or [], is_refit=(state / "config.toml").exists())
    table = None if data is None else _read_table(data, user_col, item_col, value_col, time_col)
    if table is not None and table.rejected.total:
        typer.secho(table.rejected.summary(), err=True, fg="yellow")
    quiet = as_json or not sys.stderr.isatty()
    try:
        report = fitting.fit(
            state,
            None if table is None else table.frame,
            models,
            show_progress=not quiet,
            on_model=lambda name: typer.echo(f"fitting {name}", err=True),
        )
    except ValueError as error:
        not_so(str(error))
    if as_json:
        print_json({**vars(report), "rejected": _rejected_rows(table)})
        return
    typer.echo(
        f"version {report.version}: {report.users:,} users, {report.items:,} items, "
        f"{report.interactions:,} interactions"
    )
    if report.refused_interactions:
        typer.echo(
            f"kept out: {report.refused_interactions:,} interactions that were erased, "
            f"{report.refused_users:,} users among them"
        )


def _read_table(
    data: Path, user_col: str, item_col: str, value_col: str | None, time_col: str | None
) -> "InteractionTable":
    """Read a file of interactions, or a data set by its name where there is no such file."""
    from ..engine.formats import InteractionFileError
    from ..engine.tables import read_interactions
    from ..eval.datasets import DATASETS, DatasetError, load_dataset

    try:
        if str(data) in DATASETS and not data.exists():
            return load_dataset(str(data), show_notice=lambda notice: typer.echo(notice, err=True)).table
        return read_interactions(
            data,
            user_col=user_col,
            item_col=item_col,
            value_col=value_col or ("value" if _has_column(data, "value") else None),
            time_col=time_col,
        )
    except (InteractionFileError, DatasetError) as error:
        not_so(str(error))


def _rejected_rows(table: "InteractionTable | None") -> dict[str, Any]:
    """Report the rows that were not used, JSON-ready."""
    if table is None:
        return {"total": 0, "counts": {}, "lines": []}
    return {
        "total": table.rejected.total,
        "counts": dict(table.rejected.counts),
        "lines": [{"line": row.line, "reason": row.reason} for row in table.rejected.sample],
    }


def models_to_fit(
    names: Sequence[str], settings: Sequence[str], *, is_refit: bool
) -> dict[str, dict[str, Any]] | None:
    """Resolve --model and --set; None: the models that the state has."""
    from ..models import MODELS

    if not names and is_refit and not settings:
        return None
    chosen: dict[str, dict[str, Any]] = {
        name: {} for name in (names or [name for name in _DEFAULT_MODELS if name in MODELS])
    }
    for name in chosen:
        if name not in MODELS:
            wrong_use(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    for text in settings:
        target, _, value = text.partition("=")
        name, _, key = target.partition(".")
        if not (name in chosen and key and value):
            wrong_use(f"--set {text!r} is not MODEL.KEY=VALUE of a model to fit: {', '.join(chosen)}")
        chosen[name][key] = _setting_value(value)
    return chosen


def _setting_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _has_column(path: Path, name: str) -> bool:
    """Look whether a file of interactions names a column; False if that cannot be seen."""
    import polars as pl

    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return name in pl.read_parquet_schema(path)
            file.seek(0)
            header = file.readline(1 << 16).decode("utf-8-sig", "replace").strip()
    except (OSError, pl.exceptions.PolarsError):
        return False
    if header.startswith("{"):
        return f'"{name}"' in header
    return name in {field.strip().strip('"') for field in header.replace("\t", ",").split(",")}
