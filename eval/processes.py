"""Child processes that never outlive their parent's story, and one command of ours run to its end."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

import msgspec
from threadpoolctl import threadpool_limits

_COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()"]
_PATIENCE_SECONDS = 5.0
_ONE_BLAS_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class CommandError(RuntimeError):
    """A command of ours failed; the message has what it said."""


class Child:
    """A long-running command of ours in a session of its own: a Ctrl-C is ours to handle, not its.

    Several processes share the machine, so BLAS gets one thread in each (unless the environment says
    otherwise): threads that outnumber the cores wait for each other, at many times the cost.

    Parameters
    ----------
    arguments : of ``recunlearn``.
    log, log_path : where its standard error goes.
    """

    def __init__(self, arguments: Sequence[str], log: IO[bytes], log_path: Path) -> None:
        self.name, self._log_path = f"recunlearn {arguments[0]}", log_path
        self.process = subprocess.Popen(  # noqa: S603  our own interpreter, our own command
            [*_COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict.fromkeys(_ONE_BLAS_THREAD, "1") | os.environ,
            start_new_session=True,
        )

    def first_line(self) -> str:
        """Wait for its first line of output.

        Raises
        ------
        CommandError
            It ended without one.
        """
        assert self.process.stdout is not None  # noqa: S101  asked for above
        line = self.process.stdout.readline().decode(errors="replace").strip()
        if not line:
            raise CommandError(f"{self.name} ended before it was ready: {self.said()}")
        return line

    def check(self) -> None:
        """Raise :class:`CommandError` if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise CommandError(f"{self.name} ended with exit code {code}: {self.said()}")

    def said(self) -> str:
        """Return the end of what it wrote to standard error."""
        return self._log_path.read_text(errors="replace")[-2000:].strip()

    def stop(self) -> None:
        """End it: politely, then for good."""
        with uninterrupted():
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(_PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[Child]:
    """Run ``recunlearn`` with ``arguments`` beside us; it is stopped on leaving, however we leave."""
    with (
        tempfile.NamedTemporaryFile(prefix="recunlearn-", suffix=".log") as log,
        contextlib.ExitStack() as stack,
    ):
        with uninterrupted():
            started = Child(arguments, log.file, Path(log.name))
            stack.callback(started.stop)
        yield started


def run_command(*arguments: str) -> Any:
    """Run ``recunlearn`` with ``arguments`` to its end and return the JSON that it printed.

    Raises
    ------
    CommandError
        It did not print JSON: it failed.
    """
    with child(*arguments) as started:
        output, _ = started.process.communicate()
        try:
            return msgspec.json.decode(output)
        except msgspec.DecodeError:
            code = started.process.returncode
            raise CommandError(f"{started.name} ended with exit code {code}: {started.said()}") from None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give BLAS one thread in this process, as in the children."""
    with threadpool_limits(1, user_api="blas"):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM back until the block is done; then they interrupt. For the main thread."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that whatever was started is stopped. For the main thread."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
