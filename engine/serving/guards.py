"""ASGI middleware around the routes: who may ask, how much and how slowly they may send, what is measured."""

import asyncio
import hmac
import logging
import time
import traceback

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..metrics import ServingMetrics
from .answers import json_answer

MOST_BODY_BYTES = 1 << 20
"""The largest body that is read; more is refused with 413."""

BODY_SECONDS = 10.0
"""How long a body may take to arrive; then 408."""

OPEN_PATHS = frozenset({"/", "/healthz"})
"""What is answered without a token: the page, which holds no data of its own, and the health check."""

_log = logging.getLogger(__name__)


class Measured:
    """Counts answers and their latency by route, and keeps what fails out of the logs.

    The pattern of the route is counted, never its path. An error that nobody foresaw becomes a 500; where it
    happened is logged, but not its message, which may quote an id.
    """

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
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
                await json_answer({"detail": "internal error"}, 500)(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.observe(route, status or 500, time.perf_counter() - started)


class Admitted:
    """Asks for a bearer token, compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_admitted(scope):
            await self._app(scope, receive, send)
            return
        refusal = json_answer({"detail": "a bearer token is needed"}, 401)
        refusal.headers["www-authenticate"] = "Bearer"
        await refusal(scope, receive, send)

    def _is_admitted(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)


class _TooLargeError(Exception):
    """More was sent than is read."""


class Bounded:
    """Refuses bodies that are too large or too slow; the connection is closed after it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._most_bytes, self._seconds = app, MOST_BODY_BYTES, BODY_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self._seconds)
        except _TooLargeError:
            await _closing(f"a body of more than {self._most_bytes} bytes is not read", 413)(
                scope, receive, send
            )
        except TimeoutError:
            await _closing("the body took too long", 408)(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the whole body; None if the client went away."""
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared[:20]) > self._most_bytes:
            raise _TooLargeError
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._most_bytes:
                raise _TooLargeError
            if not message.get("more_body", False):
                return bytes(body)


def _closing(detail: str, status: int) -> Response:
    answer = json_answer({"detail": detail}, status)
    answer.headers["connection"] = "close"
    return answer


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the application the body that was read, then whatever comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
