"""HTTP/1.1 connections that do not wait for ever: uvicorn's, with limits on headers and on slow readers."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 10.0
"""How long the request line and the headers may take."""

MOST_HEADER_BYTES = 64 * 1024
"""How large they may be."""

WRITE_SECONDS = 30.0
"""How long a client may leave an answer unread when the buffers are full."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """One connection. Its patience is bounded, so that idle clients do not use up file descriptors."""

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: Any) -> None:
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Count what comes before the headers are complete."""
        if self._in_headers:
            self._await_headers()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > MOST_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Stop the clock for headers."""
        self._in_headers, self._header_bytes = False, 0
        _cancel(self._deadline)
        self._deadline = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request's headers from here on."""
        super().on_message_complete()
        self._in_headers = True

    def pause_writing(self) -> None:
        """Give a client that does not read a while."""
        super().pause_writing()
        self._unread = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock: the client reads again."""
        super().resume_writing()
        _cancel(self._unread)
        self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        _cancel(self._deadline)
        _cancel(self._unread)
        self._deadline = self._unread = None
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
