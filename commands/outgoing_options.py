"""The options that say where announcements of versions and receipts go."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..engine.state import StatePaths
    from ..streaming.announcer import Announcer

_PANEL = "What goes out"


@dataclass(frozen=True)
class OutgoingOptions:
    """Where announcements and receipts go."""

    announce_file: Annotated[
        Path | None,
        typer.Option(
            help="File to which new versions and receipts are appended, a JSON object a line.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    location: Annotated[
        str | None,
        typer.Option(help="URL from which others can pull a version; announced.", rich_help_panel=_PANEL),
    ] = None

    @contextmanager
    def announcer(self, paths: "StatePaths") -> "Iterator[Announcer | None]":
        """Send what is new while the block lasts; None if nothing is to go out."""
        from ..streaming.announcer import Announcer
        from ..streaming.outbox import FileSink

        file = self.announce_file
        if file is None:
            yield None
            return
        announcer = Announcer(paths, lambda: FileSink(file), self.location)
        try:
            yield announcer
        finally:
            announcer.close()
