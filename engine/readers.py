"""Processes that still map a version that was purged: who they are, so that somebody can make them let go.

A version's files are mapped into memory. Purged, they have no name any more, but their bytes stay on disk
until the last process that maps them ends, or drops its snapshot. The kernel knows who that is
(``/proc/PID/maps``), whatever program it is, and needs nobody's cooperation. Seen are the processes that
this one may look at: those of the same user, or all of them if it is root's, on the same host and outside
containers of their own.
"""

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .state import StatePaths

_PROC = Path("/proc")
_GRACE_SECONDS = 2.0
_AGAIN_SECONDS = 60.0
_POLL_SECONDS = 0.05
_log = logging.getLogger(__name__)


class OldReader(msgspec.Struct, frozen=True, order=True):
    """A process that maps a version that is purged.

    Attributes
    ----------
    pid : of the process.
    command : what it runs, without options and their values, which may be secret.
    version : the newest purged version that it maps.
    """

    pid: int
    command: str
    version: int

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) still maps version {self.version}"


def old_readers(paths: StatePaths) -> list[OldReader]:
    """Return the processes that map a purged version of this state, by their ids; none where nobody can tell.

    O(processes and their mappings): some milliseconds.
    """
    mapped = _mapped_files(paths)
    found = ((pid, _purged_version(pid, mapped)) for pid in _processes())
    return [OldReader(pid, _command(pid), version) for pid, version in found if version is not None]


def _mapped_files(paths: StatePaths) -> re.Pattern[bytes]:
    folder = re.escape(os.fsencode(paths.versions.resolve()))
    return re.compile(rb" " + folder + rb"/(\d+)/[^\n]* \(deleted\)$", re.MULTILINE)


def _processes() -> Iterator[int]:
    if _PROC.is_dir():
        yield from sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _purged_version(pid: int, mapped: re.Pattern[bytes]) -> int | None:
    try:
        versions = [int(number) for number in mapped.findall((_PROC / str(pid) / "maps").read_bytes())]
    except OSError:  # it has ended, or is another user's
        return None
    return max(versions, default=None)


def _command(pid: int) -> str:
    """Name what a process runs: its words up to the first option, without their folders."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "?"
    named: list[str] = []
    for word in words[:3]:
        if not word or word.startswith("-"):
            break
        named.append(word.rpartition("/")[2])
    return " ".join(named) or "?"


class ReaderWatch:
    """Looks, some time after each purge, for readers that did not let go, and warns of each once.

    A reader that follows swaps within moments: it gets a grace of two seconds.
    """

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._due: float | None = None
        self._warned: set[OldReader] = set()

    def purged(self) -> None:
        """Note that a version was purged just now."""
        self._due = time.monotonic() + _GRACE_SECONDS

    def look(self) -> None:
        """Warn of who has not let go, if it is time to look; as long as somebody has not, every minute."""
        if self._due is None or time.monotonic() < self._due:
            return
        readers = old_readers(self._paths)
        self._due = time.monotonic() + _AGAIN_SECONDS if readers else None
        self._warn(readers)

    def close(self) -> None:
        """Look for the last time; other processes that still map something get the rest of their grace."""
        if self._due is None:
            return
        while (readers := self._others()) and time.monotonic() < self._due:
            time.sleep(_POLL_SECONDS)
        self._warn(readers)

    def _others(self) -> list[OldReader]:
        return [reader for reader in old_readers(self._paths) if reader.pid != os.getpid()]

    def _warn(self, readers: list[OldReader]) -> None:
        for reader in readers:
            if reader not in self._warned:
                _log.warning(
                    "%s, which is purged: its bytes stay on disk until the process drops it or ends", reader
                )
        self._warned = set(readers)
