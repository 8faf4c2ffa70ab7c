"""A real Redis server of one's own, on a free port of 127.0.0.1."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from ..brokers.apache import free_ports


def why_missing() -> str | None:
    """Say what a test with Redis lacks on this machine; None: nothing."""
    if shutil.which("redis-server") is None:
        return "no redis-server on this machine (apt-get install redis-server)"
    return None


class RedisServer:
    """One server; with ``persistent``, it keeps an append-only file and a dump in ``directory``.

    ``tls``: PEM files of the server's key with its chain, and of their authority; then it speaks TLS alone.
    ``users``: rows of its access control.
    """

    def __init__(
        self,
        directory: Path,
        *,
        persistent: bool = False,
        password: str | None = None,
        tls: tuple[Path, Path] | None = None,
        users: Sequence[str] = (),
    ) -> None:
        (self.port,) = free_ports(1)
        self.directory = directory
        self._options = ["--appendonly", "yes" if persistent else "no", "--appendfsync", "always"]
        self._options += ["--save", "3600 1" if persistent else "", "--aof-use-rdb-preamble", "no"]
        self._options += ["--rdbcompression", "no"]  # so that a search of the files for an id can find it
        self._options += ["--requirepass", password] if password else []
        for user in users:
            self._options += ["--user", *user.split()]
        self._password, self._tls = password, tls
        self._options += ["--tls-port" if tls else "--port", str(self.port)]
        if tls:
            keys = ["--tls-cert-file", tls[0], "--tls-key-file", tls[0], "--tls-ca-cert-file", tls[1]]
            self._options += ["--port", "0", *map(str, keys), "--tls-auth-clients", "no"]

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a client of its own."""
        tls = {"ssl": True, "ssl_ca_certs": str(self._tls[1])} if self._tls else {}
        return redis.Redis(host="127.0.0.1", port=self.port, password=self._password, **tls)

    def start(self) -> "RedisServer":
        """Start it, and wait until it answers."""
        with (self.directory / "redis.txt").open("ab") as output:
            self._process = subprocess.Popen(
                ["redis-server", "--bind", "127.0.0.1", "--dir", self.directory, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 20
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise AssertionError(self._said()) from None
                    time.sleep(0.02)
                else:
                    return self

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.wait()

    def _said(self) -> str:
        return (self.directory / "redis.txt").read_text()[-2000:]

    def __enter__(self) -> "RedisServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
