"""A network between a client and brokers that can fail: connections cut, refused, or silent."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Mapping
from typing import Any

_CHUNK = 1 << 16


class Network:
    """Forwards TCP connections, each port to one behind it, on a thread of its own.

    Parameters
    ----------
    routes : port of 127.0.0.1 to listen on -> port of 127.0.0.1 to forward to.
    """

    def __init__(self, routes: Mapping[int, int]) -> None:
        self._routes = routes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._flows = asyncio.Event()

    def cut(self) -> None:
        """Reset every connection, and each new one, until :meth:`heal`."""
        self._run(self._cut())

    def silence(self) -> None:
        """Take and give nothing, without closing anything, until :meth:`heal`."""
        self._run(self._silence())

    def heal(self, *, keep: bool = True) -> None:
        """Let everything through again.

        Parameters
        ----------
        keep : False: connections that were silent stay so for ever, as where a firewall forgot them; only
            new ones work.
        """
        self._run(self._heal(keep))

    def __enter__(self) -> "Network":
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._flows.set()
        for port, behind in self._routes.items():
            self._servers.append(await asyncio.start_server(self._forward_to(behind), "127.0.0.1", port))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        self._is_cut = True
        self._reset_all()

    async def _silence(self) -> None:
        self._flows.clear()

    async def _heal(self, keep: bool) -> None:
        self._is_cut = False
        if not keep:
            self._flows = asyncio.Event()
        self._flows.set()

    def _reset_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _forward_to(self, port: int) -> Any:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._join(reader, writer, port)
            finally:
                self._tasks.discard(task)

        return forward

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """Pump both ways until one side ends; a broker that is down resets the connection."""
        flows = self._flows
        writers = {writer}
        pumps: list[asyncio.Future[None]] = []
        self._writers.add(writer)
        try:
            await flows.wait()
            if self._is_cut:
                return
            behind, to_behind = await asyncio.open_connection("127.0.0.1", port)
            writers.add(to_behind)
            self._writers.add(to_behind)
            pumps += [
                asyncio.ensure_future(_pump(*way, flows)) for way in ((reader, to_behind), (behind, writer))
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):  # the second: it is closed
            return
        finally:
            for pump in pumps:
                pump.cancel()
            self._writers -= writers
            for one in writers:
                one.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await flows.wait()
            writer.write(data)
            await writer.drain()
