"""A load generator: GET requests at a steady rate over a few connections that are kept, on raw sockets.

It sends when a request is due, whether the ones before were answered or not, so a server that stalls is
seen by all who would have asked meanwhile. A request costs this process some 60 microseconds.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

TICK = 0.001
"""Seconds between two looks at what is due."""

CONNECTIONS = 32


@dataclass(slots=True)
class Exchange:
    """One request and its answer; times are Unix seconds.

    Attributes
    ----------
    due : when it was handed to the sockets.
    sent : when a connection was free for it.
    received : when the whole answer was there.
    status : HTTP's; 0: the connection broke.
    """

    key: str
    due: float
    sent: float = 0.0
    received: float = 0.0
    status: int = 0
    body: bytes = b""


@dataclass
class Load:
    """What a run of the generator gave.

    Attributes
    ----------
    exchanges : all of them, as they were answered.
    late : by how many seconds the generator itself looked too late, at each look.
    cpu : seconds of processor time that it took.
    seconds : how long it ran.
    """

    exchanges: list[Exchange]
    late: list[float]
    cpu: float
    seconds: float


class _Connection(asyncio.Protocol):
    """A connection with one request under way at the most."""

    def __init__(self, pool: "_Pool") -> None:
        self._pool, self._buffer, self._missing = pool, bytearray(), 0
        self.exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, exchange: Exchange) -> None:
        """Send a request; ``key`` of the exchange is in its path."""
        self.exchange, exchange.sent = exchange, time.time()
        self._transport.write(self._pool.request(exchange.key))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = bytes(self._buffer).partition(b"\r\n\r\n")
        exchange = self.exchange
        if not found or exchange is None:
            return
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(body) < int(length[15:]):
            return
        exchange.received, exchange.status = time.time(), int(head[9:12])
        exchange.body = self._pool.bodies.setdefault(body, body)
        self._buffer.clear()
        self.exchange = None
        self._pool.answered(self, exchange)

    def connection_lost(self, _error: Exception | None) -> None:
        self._pool.lost(self)


class _Pool:
    """Connections that are free, requests that wait for one, exchanges that are done."""

    def __init__(self, path: str, host: str) -> None:
        self._head, self._tail = path.split("{}")
        self._host = host
        self.free: deque[_Connection] = deque()
        self.waiting: deque[Exchange] = deque()
        self.done: list[Exchange] = []
        self.bodies: dict[bytes, bytes] = {}  # many answers are the same bytes

    def request(self, key: str) -> bytes:
        """Write a request."""
        return f"GET {self._head}{key}{self._tail} HTTP/1.1\r\nhost: {self._host}\r\n\r\n".encode()

    def ask(self, key: str) -> None:
        """Send now if a connection is free, else as soon as one is."""
        exchange = Exchange(key, time.time())
        if self.free:
            self.free.popleft().send(exchange)
        else:
            self.waiting.append(exchange)

    def answered(self, connection: _Connection, exchange: Exchange) -> None:
        """Note an answer, and use the connection for whoever waits longest."""
        self.done.append(exchange)
        if self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.free.append(connection)

    def lost(self, connection: _Connection) -> None:
        """Do without a connection; a request that got no answer on it is noted."""
        if connection in self.free:
            self.free.remove(connection)
        if connection.exchange is not None:
            connection.exchange.received = time.time()
            self.done.append(connection.exchange)


def run(url: str, path: str, keys: Callable[[], str], rate: float, ended: Callable[[float], bool]) -> Load:
    """Ask until ``ended``, then wait for the answers under way.

    Parameters
    ----------
    url : ``http://host:port``.
    path : with ``{}`` where a key goes.
    keys : called for each request.
    rate : requests a second.
    ended : called at each look with the seconds since the start.
    """
    gc.disable()  # what is collected grows with every answer, and would make the generator late
    try:
        return uvloop.run(_run(url, path, keys, rate, ended))
    finally:
        gc.enable()


async def _run(
    url: str, path: str, keys: Callable[[], str], rate: float, ended: Callable[[float], bool]
) -> Load:
    host, _, port = url.removeprefix("http://").rpartition(":")
    loop, pool = asyncio.get_running_loop(), _Pool(path, f"{host}:{port}")
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: _Connection(pool), host, int(port))
        pool.free.append(connection)
    start, cpu, asked, late = time.perf_counter(), time.process_time(), 0, []
    while not ended(now := time.perf_counter() - start):
        while asked < now * rate:
            pool.ask(keys())
            asked += 1
        await asyncio.sleep(TICK)
        late.append(max(0.0, time.perf_counter() - start - now - TICK))
    seconds = time.perf_counter() - start
    used = time.process_time() - cpu
    while len(pool.done) < asked:
        await asyncio.sleep(TICK)
        if time.perf_counter() - start > seconds + 30:
            raise TimeoutError(f"{asked - len(pool.done)} of {asked} requests were not answered in 30 s")
    return Load(pool.done, late, used, seconds)
