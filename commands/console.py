"""What the commands share: common options, and the ways a command ends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .options import PREFIX, take_state

State = Annotated[
    Path,
    typer.Option(
        "--state", help="The state directory.", envvar=f"{PREFIX}_STATE", is_eager=True, callback=take_state
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

REQUESTS_FAILED = 3
"""Exit code when a request could not be carried out, or a record could not be read as one."""


def wrong_use(message: str) -> NoReturn:
    """End with a message and exit code 2."""
    typer.secho(f"wrong use: {message}", err=True, fg="red")
    raise typer.Exit(2)


def not_so(message: str) -> NoReturn:
    """End with a message and exit code 1."""
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(1)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document for machines."""
    typer.echo(json.dumps(document))


def shown(value: Any) -> str:
    """Show a figure of a model in a line of text."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}"
