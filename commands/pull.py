"""`recunlearn pull`: a version from another host, checked, for serving here."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .console import AsJson, print_json, wrong_use


def pull(
    source: Annotated[
        str, typer.Option("--from", help="URL of a server that offers versions, or a state directory.")
    ],
    destination: Annotated[
        Path, typer.Option("--to", help="The state directory to serve from, made if need be.")
    ],
    version: Annotated[int | None, typer.Option(help="Its number, as announced.", min=1)] = None,
    digest: Annotated[str | None, typer.Option(help="SHA-256 of its manifest, as announced.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the server's token; or RECUNLEARN_TOKEN in the environment."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a version, check every byte against its announced digest, and publish it to readers here."""
    from ..engine.state import StatePaths
    from ..engine.version import read_current
    from ..engine.version_transfer import pull as fetch

    if (version is None) != (digest is None):
        wrong_use("an announcement has both: --version N and --digest SHA256")
    if version is None or digest is None:
        if "://" in source:
            wrong_use("a server is not believed: say what was announced, --version N --digest SHA256")
        version, digest = read_current(StatePaths(Path(source)))
    token = token_file.read_text().strip() if token_file else os.environ.get("RECUNLEARN_TOKEN")
    done = fetch(source, destination, version, digest, token)
    if as_json:
        print_json({"version": done.version, "files": done.files, "bytes": done.bytes})
    else:
        typer.echo(
            f"{destination} has version {done.version}: {done.files:,} files fetched, {done.bytes:,} bytes"
        )
