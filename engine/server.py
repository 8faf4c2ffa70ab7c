"""The serving process: a listening socket, uvicorn on it, one process or several that share it.

Nothing personal is logged: there is no access log, and metrics know routes, not paths.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from .item_index import Index
from .serving.app import Status, create_app
from .serving.protocol import PatientProtocol
from .serving.versions import offer_versions
from .snapshot import SnapshotReader
from .state import StateError

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Host headers that are answered when bound to the loopback interface: no web page can reach in by DNS."""

LEAST_TOKEN = 16
"""The shortest token that is taken, in characters."""

_SWITCH_SECONDS = 0.0005
"""For how long a thread that loads may keep the one that answers from the interpreter; else it is 5 ms."""

_SHUTDOWN_SECONDS = 10
_SILENT_SECONDS = 60  # of a worker that is then replaced; in uvicorn's 5 a busy machine starts none
_BACKLOG = 2048
_MOST_CONNECTIONS = 800  # of 1,024 descriptors, usually: two versions at a swap have two for each file


@dataclass(frozen=True)
class Service:
    """What is served, and to whom; every worker process builds its application from it.

    Attributes
    ----------
    state_dir : followed by a reader in each worker.
    status : picklable; called for ``/v1/status`` and at each scrape of ``/metrics``.
    allowed_hosts : Host headers that are answered.
    token : what clients must send as ``Authorization: Bearer``; None: nothing.
    offers_versions : give out the published version's files, for replicas.
    index : how factorisations find what they rank; see :class:`~.snapshot.SnapshotReader`.
    """

    state_dir: Path
    status: Status
    allowed_hosts: Sequence[str] = ("*",)
    token: str | None = None
    offers_versions: bool = False
    index: Index = "exact"

    def application(self) -> FastAPI:
        """Open a reader and make the application on it; it closes the reader when it ends."""
        reader = SnapshotReader(self.state_dir, index=self.index)
        app = create_app(reader, self.status, allowed_hosts=self.allowed_hosts, token=self.token)
        app.router.lifespan_context = partial(_serving, reader)
        if self.offers_versions:
            offer_versions(app, reader.paths)
        return app


@contextlib.asynccontextmanager
async def _serving(reader: SnapshotReader, _app: Any) -> AsyncIterator[None]:
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # what is loaded stays: to look through it took 25 ms, in which nobody was answered
    with reader:
        yield


def read_token(path: Path) -> str:
    """Read the bearer token: the file's content without white space around it.

    Raises
    ------
    StateError
        It cannot be read, is too short, or holds what cannot stand in a header.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"the token file {path} cannot be read: {type(error).__name__}") from None
    if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable() and " " not in token):
        raise StateError(
            f"the token in {path} must have {LEAST_TOKEN} or more printable ASCII characters and no space; "
            "make one with: openssl rand -hex 32"
        )
    return token


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
        # From now on nobody who connects is refused: they wait for the first accept.
        listener.listen(_BACKLOG)
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


def hosts_of(listener: socket.socket) -> Sequence[str]:
    """Return which Host headers are answered on a socket: on the loopback address only its own names."""
    address = str(listener.getsockname()[0])
    return LOOPBACK_HOSTS if address in ("127.0.0.1", "::1") else ("*",)


def serve(service: Service, listener: socket.socket, workers: int = 1) -> None:
    """Answer requests until SIGTERM or SIGINT; answers under way are finished first.

    Parameters
    ----------
    listener : as :func:`listen` makes it; closed at the end.
    workers : processes that share the socket. With more than one, this process only looks after them: one
        that dies or hangs is replaced.

    Raises
    ------
    StateError
        There is no state, or no version that can be served.
    """
    config = uvicorn.Config(
        service.application,
        factory=True,
        workers=workers,
        http=PatientProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # nothing asks who the client is, or what the proxy was called
        server_header=False,
        date_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        timeout_worker_healthcheck=_SILENT_SECONDS,
    )
    with listener:
        if workers == 1:
            with _handled(signal.SIGTERM, signal.SIGINT):
                uvicorn.Server(config).run(sockets=[listener])
        else:
            with _shared_metrics():
                Multiprocess(config, sockets=[listener]).run()


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Give the workers a folder to add up their metrics in: a scrape reaches any one of them."""
    with tempfile.TemporaryDirectory(prefix="recunlearn-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


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
