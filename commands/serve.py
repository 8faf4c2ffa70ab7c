"""`recunlearn serve`: recommendations over HTTP."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from .console import State, not_so, wrong_use
from .status import status_of

Index: TypeAlias = Literal["exact", "pq"]


def serve(
    state: State,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="Processes that share the port.", min=1, max=64)] = 1,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token that clients must send.")
    ] = None,
    index: Annotated[
        Index,
        typer.Option(help="Score every item, or those a product quantiser names: for large catalogues."),
    ] = "exact",
    offer_versions: Annotated[
        bool, typer.Option("--offer-versions", help="Let whoever has the token pull versions, for replicas.")
    ] = False,
) -> None:
    """Serve recommendations over HTTP from the published version, and follow it."""
    from ..engine import server
    from ..engine.item_index import require_index
    from ..engine.snapshot import load_snapshot
    from ..engine.state import StatePaths, read_config

    if offer_versions and token_file is None:
        wrong_use("a version holds every kept interaction: --offer-versions needs --token-file")
    paths = StatePaths(state)
    read_config(paths)
    require_index(index)
    token = None if token_file is None else server.read_token(token_file)
    version = load_snapshot(state).version  # what cannot be served is said here, by one process and at once
    try:
        listener = server.listen(host, port)
    except OSError as error:
        not_so(f"{error.strerror}; choose another --host or --port")
    typer.echo(f"serving version {version} on {server.url_of(listener)}")
    sys.stdout.flush()
    service = server.Service(
        state, partial(status_of, paths), server.hosts_of(listener), token, offer_versions, index
    )
    server.serve(service, listener, workers)
