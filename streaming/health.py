"""The worker's own server: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for supervisors."""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from ..engine.closable import Closable

Problems = Callable[[], Sequence[str]]
"""Returns why the worker is not ready, a line each; empty if it is."""


class HealthServer(Closable):
    """Serves until it is closed, on a thread of its own.

    Parameters
    ----------
    port : 0 for a free one; see :attr:`url`.

    Raises
    ------
    OSError
        The address is in use, or not this machine's.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, problems: Problems) -> None:
        application = _application(make_wsgi_app(registry), problems)
        self._server = make_server(host, port, application, ThreadingWSGIServer, _Silent)
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self._server.server_address[0]!s}:{self._server.server_port}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the library's
        """Say nothing of each scrape."""


def _application(metrics: Any, problems: Problems) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            scraped: Iterable[bytes] = metrics(environ, start_response)
            return scraped
        found = list(problems()) if path == "/readyz" else []
        known = path in {"/healthz", "/readyz"}
        status = "404 Not Found" if not known else "503 Service Unavailable" if found else "200 OK"
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps({"ok": known and not found, "problems": found}).encode()]

    return application
