"""`recunlearn serve`: recommendations over HTTP."""

import sys
from typing import Annotated

import typer

from .console import State, not_so
from .status import status_of


def serve(
    state: State,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = 8080,
) -> None:
    """Serve recommendations over HTTP from the published version, and follow it."""
    from ..engine import server
    from ..engine.snapshot import SnapshotReader
    from ..engine.state import StatePaths

    paths = StatePaths(state)
    with SnapshotReader(state) as reader:
        try:
            listener = server.listen(host, port)
        except OSError as error:
            not_so(f"{error.strerror}; choose another --host or --port")
        typer.echo(f"serving version {reader.current().version} on {server.url_of(listener)}")
        sys.stdout.flush()
        server.serve(reader, lambda: status_of(paths), listener)
