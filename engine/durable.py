"""The few operations that carry all file writing under a state directory, each with its contract.

Each primitive either has its effect on disk when it returns, or raises. A failed fsync is not retried:
the kernel may have dropped the dirty pages, so the process must stop (:class:`SyncFailedError`).

Every step calls :func:`reached`, which tests use to kill the process there (``RECUNLEARN_KILL_AT=17``:
SIGKILL at the 17th step). Without that variable it costs an integer addition.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
"""Modes of whatever names a person: for the owner alone."""
SHARED, SHARED_FOLDER = 0o640, 0o750
"""Modes of what a serving process of the same group reads, once the state directory lets the group in."""

_KILL_AT = "RECUNLEARN_KILL_AT"
_TEMPORARY = ".partial"
_steps = 0


class SyncFailedError(BaseException):
    """A file could not be made durable; nothing may carry on after it, so it is not an Exception."""


def reached(step: str) -> None:
    """Mark a point where a crash is possible; kills the process there if a test asked for it.

    Parameters
    ----------
    step : what is about to be done or has just been done, for people who read the list of points.
    """
    global _steps
    _steps += 1
    wanted = os.environ.get(_KILL_AT)
    if wanted is not None and int(wanted) == _steps:
        os.write(2, f"killed at step {_steps}: {step}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def sync_file(file: BinaryIO) -> None:
    """Flush ``file`` and make its bytes durable.

    Raises
    ------
    SyncFailedError
        The operating system could not say that the bytes are on disk.
    """
    file.flush()
    _fsync(file.fileno(), str(file.name))


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable: what was created, renamed or removed in it.

    Raises
    ------
    SyncFailedError
        As :func:`sync_file`.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _fsync(descriptor, str(directory))
    finally:
        os.close(descriptor)


def _fsync(descriptor: int, name: str) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncFailedError(
            f"{name} could not be made durable ({error.strerror}); the process stops here: check the disk, "
            "then start again, and what was cut off is finished"
        ) from error


def make_directory(directory: Path, mode: int = PRIVATE_FOLDER) -> None:
    """Create ``directory`` and its missing parents durably; one that exists is left as it is."""
    if directory.is_dir():
        return
    make_directory(directory.parent, mode)
    reached(f"make {directory.name}/")
    directory.mkdir(mode=mode, exist_ok=True)
    sync_directory(directory.parent)


def create(path: Path, write: Callable[[BinaryIO], object], mode: int = PRIVATE) -> None:
    """Create ``path`` with the bytes that ``write`` writes, and make them durable.

    The name itself is durable after :func:`sync_directory` of its directory: a caller that creates many
    files pays for that once. A reader must not look before then.

    Raises
    ------
    FileExistsError
        ``path`` exists; it is left as it is.
    OSError
        The bytes could not be written (say, the disk is full); nothing is left of ``path``.
    """
    reached(f"create {path.name}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            sync_file(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    reached(f"created {path.name}")


def create_bytes(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Create ``path`` with ``content``, as :func:`create`, and make its name durable too."""
    create(path, lambda file: file.write(content), mode)
    sync_directory(path.parent)


def replace(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Put ``content`` at ``path`` in one step: any reader, and any crash, sees the old or the new whole.

    Raises
    ------
    OSError
        The bytes could not be written; ``path`` is as it was.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    temporary.unlink(missing_ok=True)
    create(temporary, lambda file: file.write(content), mode)
    reached(f"rename to {path.name}")
    temporary.rename(path)
    sync_directory(path.parent)
    reached(f"renamed to {path.name}")


def append(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Append ``content`` to ``path``, created if missing, and make it durable.

    A crash may leave a part of ``content`` at the end: whoever reads the file must be able to tell.
    """
    reached(f"append to {path.name}")
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(file.fileno(), remaining) :]
        _fsync(file.fileno(), str(path))
    if is_new:
        sync_directory(path.parent)
    reached(f"appended to {path.name}")


def overwrite(path: Path, content: bytes) -> None:
    """Write ``content`` over the first bytes of a file that exists, and do not wait for the disk.

    It outlives the process, but a power cut may undo it: for what may be older than the truth, never newer.
    Up to a sector (512 bytes) is written as a whole, or not at all.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


def truncate(path: Path, size: int) -> None:
    """Cut ``path`` down to its first ``size`` bytes, durably."""
    reached(f"truncate {path.name}")
    with path.open("r+b") as file:
        file.truncate(size)
        sync_file(file)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, durably; a missing one is no error."""
    reached(f"remove {path.name}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    sync_directory(path.parent)
    reached(f"removed {path.name}")


def is_temporary(path: Path) -> bool:
    """Tell whether ``path`` is what a cut-off :func:`replace` left.

    Examples
    --------
    >>> is_temporary(Path("CURRENT.partial")), is_temporary(Path("CURRENT"))
    (True, False)
    """
    return path.name.endswith(_TEMPORARY)
