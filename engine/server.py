"""HTTP serving on a :class:`SnapshotReader`: every answer comes from one version, and says which.

Nothing personal is logged: there is no access log, and metrics know routes, not paths. An unknown user and a
forgotten one get the same answer, byte for byte.
"""

import contextlib
import logging
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Annotated, Any

import msgspec
import uvicorn
from fastapi import FastAPI, Query, Request, Response
from numpy.typing import NDArray
from starlette.convertors import Convertor, register_url_convertor
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import ServingMetrics
from .snapshot import Snapshot, SnapshotReader, UnknownItemError, UnknownModelError, UnknownUserError

Status = Callable[[], Mapping[str, Any]]
"""Returns the record that ``recunlearn status --json`` prints."""

MOST_ITEMS = 1000
"""The longest list that may be asked for."""

LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
"""Host headers that are answered when bound to the loopback interface: no web page can reach in by DNS."""

_log = logging.getLogger(__name__)
_HEADERS = {"cache-control": "no-store"}  # a cache must not go on serving somebody who is fenced
_SHUTDOWN_SECONDS = 10
_BACKLOG = 2048

Count = Annotated[int, Query(ge=1, le=MOST_ITEMS, description="How many items at the most.")]
ModelName = Annotated[str | None, Query(description="Which model; the default is the state's first.")]


class _IdConvertor(Convertor[str]):
    """A path parameter that may hold anything, slashes and line breaks too: ids are the platform's."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def create_app(reader: SnapshotReader, status: Status, *, allowed_hosts: Sequence[str] = ("*",)) -> FastAPI:
    """Make the ASGI application.

    Parameters
    ----------
    reader : follows the published version; the caller closes it after the application.
    status : called for ``/v1/status`` and at each scrape of ``/metrics``.
    allowed_hosts : Host headers that are answered; others get 400.
    """
    register_url_convertor("id", _IdConvertor())
    metrics = ServingMetrics(lambda: (reader.current().version, reader.swaps), status)
    app = FastAPI(title="recunlearn", docs_url=None, redoc_url=None)  # both pages load scripts from elsewhere
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    app.add_middleware(_Measured, metrics=metrics)
    for error, detail in ((UnknownUserError, "unknown user"), (UnknownItemError, "unknown item")):
        app.add_exception_handler(error, _refusal(404, detail))
    app.add_exception_handler(UnknownModelError, _unknown_model)
    _add_recommendations(app, reader)
    _add_operations(app, reader, status, metrics)
    return app


def _add_recommendations(app: FastAPI, reader: SnapshotReader) -> None:
    @app.get("/v1/users/{user_id:id}/recommendations")
    def recommendations(user_id: str, n: Count = 10, model: ModelName = None) -> Response:
        """Items for a user, best first, without those they have."""
        snapshot = reader.current()
        return _ranking(snapshot, model, *snapshot.recommend(user_id, n, model))

    @app.get("/v1/items/{item_id:id}/similar")
    def similar(item_id: str, n: Count = 10, model: ModelName = None) -> Response:
        """Items most alike, best first."""
        snapshot = reader.current()
        return _ranking(snapshot, model, *snapshot.similar_items(item_id, n, model))


def _add_operations(app: FastAPI, reader: SnapshotReader, status: Status, metrics: ServingMetrics) -> None:
    @app.get("/v1/status")
    def current_status() -> Response:
        """Say what ``recunlearn status --json`` says."""
        return _json(status())

    @app.get("/healthz")
    def healthz() -> Response:
        """Tell that the process answers."""
        return _json({"ok": True})

    @app.get("/readyz")
    def readyz() -> Response:
        """Tell which version is served, and why a newer one is not, if so."""
        error = reader.error
        return _json({"version": reader.current().version, "error": None if error is None else str(error)})

    @app.get("/metrics")
    def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _ranking(snapshot: Snapshot, model: str | None, ids: NDArray[Any], scores: NDArray[Any]) -> Response:
    items = [
        {"item_id": item, "score": score} for item, score in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
    return _json({"version": snapshot.version, "model": model or snapshot.models[0], "items": items})


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, _HEADERS, "application/json")


def _refusal(status: int, detail: str) -> Callable[[Request, Exception], Response]:
    """Make a handler whose answer depends on nothing that was asked."""

    def answer(_request: Request, _error: Exception) -> Response:
        return _json({"detail": detail}, status)

    return answer


def _unknown_model(_request: Request, error: Exception) -> Response:
    return _json({"detail": f"unknown model; this version has: {', '.join(error.args[1])}"}, 422)


class _Measured:
    """ASGI middleware: counts answers and their latency by route, and keeps what fails out of the logs.

    The pattern of the route is counted, never its path. An error that nobody foresaw becomes a 500; where it
    happened is logged, but not its message, which may quote an id.
    """

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001  whatever it is, the next request is answered
            _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if not status:
                await _json({"detail": "internal error"}, 500)(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.observe(route, status or 500, time.perf_counter() - started)


def listen(host: str, port: int) -> socket.socket:
    """Bind a listening socket; port 0 takes a free one.

    Raises
    ------
    OSError
        The address cannot be bound; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(
            _BACKLOG
        )  # from now on nobody who connects is refused: they wait for the first accept
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL that reaches a listening socket.

    Examples
    --------
    >>> with listen("127.0.0.1", 0) as listener:
    ...     url_of(listener).startswith("http://127.0.0.1:")
    True
    """
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(reader: SnapshotReader, status: Status, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT; answers under way are finished first.

    Parameters
    ----------
    listener : as :func:`listen` makes it; closed at the end. On a loopback address only its own names are
        answered as Host.
    """
    address = str(listener.getsockname()[0])
    hosts = LOOPBACK_HOSTS if address == "127.0.0.1" else ("*",)
    config = uvicorn.Config(
        create_app(reader, status, allowed_hosts=hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    with _handled(signal.SIGTERM, signal.SIGINT), listener:
        uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _handled(*signals: signal.Signals) -> Iterator[None]:
    """Take signals as handled: uvicorn raises them again after it shut down, and they would kill us then."""

    def done(_number: int, _frame: FrameType | None) -> None:
        return

    before = {number: signal.signal(number, done) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
