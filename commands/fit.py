"""`recunlearn fit`: models fitted and published."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import AsJson, State, not_so, print_json, wrong_use
from .options import flattened
from .partition_options import PartitionOptions

if TYPE_CHECKING:
    import polars as pl

    from ..engine.cluster.rows import ParquetRows
    from ..engine.tables import InteractionTable, Rejections

_DEFAULT_MODELS = ("spectral_mf", "ease", "item_knn")


@flattened
def fit(
    state: State,
    data: Annotated[
        str | None,
        typer.Option(
            help="Interactions: CSV, TSV, NDJSON or Parquet, or a data set by name (recunlearn datasets). "
            "With --run: Parquet; a file, a folder, a pattern. Without: refit what is kept."
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
    *,
    by_partition: PartitionOptions,
) -> None:
    """Fit models to interactions and publish them; a state that exists gets a new version."""
    from ..engine import fitting

    models = models_to_fit(model or [], setting or [], is_refit=(state / "config.toml").exists())
    try:
        with by_partition.over() as over:
            columns = (user_col, item_col, value_col, time_col)
            rows, rejected = (None, None) if data is None else _read(data, columns, over is not None)
            report = fitting.fit(
                state,
                rows,
                models,
                over=over,
                show_progress=not as_json and sys.stderr.isatty(),
                on_model=lambda name: typer.echo(f"fitting {name}", err=True),
            )
    except ValueError as error:
        not_so(str(error))
    if report.rejected is not None:
        rejected = report.rejected
        _show(rejected)
    if as_json:
        print_json({**vars(report), "rejected": _as_document(rejected)})
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


def _read(
    data: str, columns: tuple[str, str, str | None, str | None], by_partition: bool
) -> "tuple[pl.DataFrame | ParquetRows, Rejections | None]":
    """Read the data, and say which rows are of no use; over partitions, only look at it."""
    if by_partition:
        return _rows_of(data, *columns), None
    table = _read_table(Path(data), *columns)
    _show(table.rejected)
    return table.frame, table.rejected


def _rows_of(
    data: str, user_col: str, item_col: str, value_col: str | None, time_col: str | None
) -> "ParquetRows":
    """Look at a Parquet path; a column called value is used if it is there."""
    from ..engine.cluster.rows import ParquetRows
    from ..engine.formats import Columns, InteractionFileError

    try:
        return ParquetRows.of(data, Columns(user_col, item_col, value_col or "value", time_col))
    except InteractionFileError:
        if value_col is not None:
            raise
        return ParquetRows.of(data, Columns(user_col, item_col, None, time_col))


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


def _show(rejected: "Rejections") -> None:
    """Say which rows were not used, if any."""
    if rejected.total:
        typer.secho(rejected.summary(), err=True, fg="yellow")


def _as_document(rejected: "Rejections | None") -> dict[str, Any]:
    """Report the rows that were not used, JSON-ready."""
    if rejected is None:
        return {"total": 0, "counts": {}, "lines": []}
    return {
        "total": rejected.total,
        "counts": dict(rejected.counts),
        "lines": [{"line": row.line, "reason": row.reason} for row in rejected.sample],
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
