"""The options that say where announcements of versions and receipts go."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import wrong_use
from .kafka_options import KafkaOptions

if TYPE_CHECKING:
    from ..engine.state import StatePaths
    from ..streaming.announcer import Announcer
    from ..streaming.outbox import Sink

_PANEL = "What goes out"


@dataclass(frozen=True)
class OutgoingOptions:
    """Where announcements and receipts go: to topics, or to a file."""

    announce_topic: Annotated[
        str | None, typer.Option(help="Topic on which each new version is announced.", rich_help_panel=_PANEL)
    ] = None
    receipts_topic: Annotated[
        str | None, typer.Option(help="Topic on which each receipt is sent.", rich_help_panel=_PANEL)
    ] = None
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
    def announcer(self, paths: "StatePaths", kafka: KafkaOptions) -> "Iterator[Announcer | None]":
        """Send what is new while the block lasts; None if nothing is to go out."""
        from ..streaming.announcer import Announcer

        open_sink = self._sink(kafka)
        if open_sink is None:
            yield None
            return
        announcer = Announcer(paths, open_sink, self.location)
        try:
            yield announcer
        finally:
            announcer.close()

    def _sink(self, kafka: KafkaOptions) -> "Callable[[], Sink] | None":
        """Return what opens the sink, with settings that were looked at; None if there is to be none."""
        from ..streaming.outbox import RECEIPTS, VERSIONS, FileSink

        named = {VERSIONS: self.announce_topic, RECEIPTS: self.receipts_topic}
        topics = {stream: topic for stream, topic in named.items() if topic is not None}
        file = self.announce_file
        if topics and file is not None:
            wrong_use("announcements go to topics or to a file, not to both")
        if file is not None:
            return lambda: FileSink(file)
        if not topics:
            return None
        from ..streaming.kafka_sink import KafkaSink

        connection = kafka.connection()
        return lambda: KafkaSink(connection, topics)
