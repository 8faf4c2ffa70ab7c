"""The options that say how a running worker is watched: its metrics and its log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import not_so
from .logs import LogFormat

if TYPE_CHECKING:
    from ..streaming.announcer import Announcer
    from ..streaming.watch import Watch

_PANEL = "Watching it"
_SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class WatchOptions:
    """Metrics, health and log of a worker."""

    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Port of /metrics, /healthz and /readyz; without it there are none. 0: a free one.",
            min=0,
            max=65535,
            rich_help_panel=_PANEL,
        ),
    ] = None
    metrics_host: Annotated[str, typer.Option(help="Address of the same.", rich_help_panel=_PANEL)] = (
        "127.0.0.1"
    )
    log_format: LogFormat = "text"

    @contextmanager
    def watch(
        self, status: Callable[[], Mapping[str, Any]], announcer: "Announcer | None"
    ) -> "Iterator[Watch]":
        """Serve metrics and health while the block lasts, if a port was given."""
        import time

        from ..streaming.health import HealthServer
        from ..streaming.metrics import WorkerMetrics
        from ..streaming.watch import Watch

        if self.metrics_port is None:
            yield Watch()
            return

        def announcements_wait() -> bool:
            return announcer is not None and announcer.error is not None

        metrics = WorkerMetrics(status, announcements_wait)

        def problems() -> Sequence[str]:
            silent = time.monotonic() - metrics.polled_at
            found = [f"the source has not been read for {silent:.0f} s"] if silent > _SILENT_SECONDS else []
            return found + (["announcements wait"] if announcements_wait() else [])

        try:
            server = HealthServer(self.metrics_host, self.metrics_port, metrics.registry, problems)
        except OSError as error:
            not_so(f"{error.strerror}; choose another --metrics-host or --metrics-port")
        with server:
            typer.echo(f"metrics at {server.url}/metrics", err=True)
            yield metrics
