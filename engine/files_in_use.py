"""Files that are kept open for as long as an object maps them, and closed by whoever has time for it."""

import contextlib
import os
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue

from .closable import Closable


class FilesInUse(Closable):
    """Keeps the files of a version open, so that nobody who lets go of it waits for the disk.

    A file that was removed is given back when the last mapping and the last descriptor of it go. For the
    20 MB of a version that took 29 ms, and whoever drops the last array on a mapping holds the interpreter's
    lock meanwhile: no thread of the process answers. Closing a descriptor does not hold it.

    Notes
    -----
    One descriptor a file. Objects may be let go of in any thread; all else is for one thread at a time.
    """

    def __init__(self) -> None:
        self._unused: SimpleQueue[ExitStack] = SimpleQueue()
        self._users: list[weakref.finalize] = []  # type: ignore[type-arg]  # it is generic for checkers alone

    def keep(self, user: object, files: Iterable[Path]) -> None:
        """Open ``files`` until ``user``, which maps them, is let go of; those that cannot be are left out."""
        opened = ExitStack()
        for file in files:
            with contextlib.suppress(OSError):
                opened.callback(os.close, os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        let_go = weakref.finalize(user, self._unused.put, opened)
        let_go.atexit = False
        self._users.append(let_go)

    def close_unused(self) -> None:
        """Close the files that nobody maps any more."""
        with contextlib.suppress(Empty):
            while True:
                self._unused.get_nowait().close()
        self._users = [user for user in self._users if user.alive]

    def close(self) -> None:
        """Close all."""
        for user in self._users:
            user()  # as if it were let go of now
        self.close_unused()
