"""The command line: the one place that wires source, engine and server together.

Each command is a thin function in a file of its own and one row in :data:`COMMANDS`; everything heavy is
imported when a command runs, so that ``recunlearn --help`` answers at once. Exit codes: 0 done, 1 not so,
2 wrong use, 3 requests failed.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands import coordinator, dead_letters, receipts, silo
from .commands.bench import bench
from .commands.cancel import cancel
from .commands.datasets import datasets
from .commands.demo import demo
from .commands.evaluate import evaluate
from .commands.fit import fit
from .commands.forget import forget
from .commands.options import PREFIX, take_config
from .commands.pull import pull
from .commands.readmit import readmit
from .commands.run import run
from .commands.serve import serve
from .commands.status import status
from .commands.verify import verify

COMMANDS: tuple[Callable[..., Any], ...] = (
    fit,
    forget,
    cancel,
    readmit,
    run,
    status,
    serve,
    pull,
    demo,
    evaluate,
    bench,
    verify,
    datasets,
)
"""The commands, in the order in which ``--help`` lists them."""

GROUPS: dict[str, typer.Typer] = {
    "receipts": receipts.app,
    "dead-letters": dead_letters.app,
    "silo": silo.app,
    "coordinator": coordinator.app,
}
"""Name -> commands with commands of their own."""

app = typer.Typer(
    name="recunlearn",
    help="A recommender that can forget: deletion events in, influence out, proof shown, serving swapped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"auto_envvar_prefix": PREFIX},
)

for _command in COMMANDS:
    app.command()(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line; an error that is foreseen is one line on stderr, and exit code 1."""
    from .engine.durable import SyncFailedError

    foreseen: tuple[type[BaseException], ...] = (*_foreseen(), SyncFailedError)
    try:
        app()
    except foreseen as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(1)


def _foreseen() -> tuple[type[Exception], ...]:
    import apsw

    from .engine.state import StateError
    from .streaming.source import SourceError

    return StateError, SourceError, OSError, apsw.Error


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with options, [run] and so on; before the state's.", callback=take_config
        ),
    ] = None,
) -> None:
    if version:
        from . import __version__

        typer.echo(__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
