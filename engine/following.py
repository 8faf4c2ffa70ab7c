"""Noticing that a new version was published: by the kernel's word where it gives one, else by looking often.

The kernel's word is inotify, asked through ctypes: two calls, and no event is ever read closely, since any
means "look again". A package for it would be a dependency to save twenty lines.
"""

import contextlib
import ctypes
import os
import select
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from .closable import Closable

UNPROMPTED_SECONDS = 1.0
"""How often to look where inotify tells of changes: for file systems that change without a word to us."""

_MOVED_IN, _DELETED, _MOVED_AWAY = 0x80, 0x400, 0x800  # IN_MOVED_TO, IN_DELETE_SELF, IN_MOVE_SELF
_EVENTS_AT_ONCE = 1 << 16


class FolderWatch(Closable):
    """Waits until a file may have been renamed into a folder, or until it is woken.

    Attributes
    ----------
    told : the kernel says when something changes; else somebody has to look.

    Notes
    -----
    Three file descriptors, one less without inotify. A folder that another one of its name replaced is
    watched from the next wait on. Not for use across a fork: the descriptors are shared with the parent then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.fsencode(folder)
        # Reentrant: the collector may call wake in the middle of wake or close, on the same thread.
        self._lock = threading.RLock()
        self._bell: int | None
        self._rope: int | None
        self._bell, self._rope = os.pipe()  # an eventfd would be one descriptor, where there is one
        for descriptor in (self._bell, self._rope):
            os.set_blocking(descriptor, False)
        self._inotify = _open_inotify()
        self.told = self._watch_again()

    def wait(self, poll_seconds: float) -> None:
        """Return when the folder may have changed, or :meth:`wake` was called.

        Parameters
        ----------
        poll_seconds : when to return without either; where the kernel tells, :data:`UNPROMPTED_SECONDS` if
            that is longer.
        """
        self.told = self._watch_again()
        seconds = max(poll_seconds, UNPROMPTED_SECONDS) if self.told else poll_seconds
        poller = select.poll()
        for descriptor in (self._bell, self._inotify):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll(seconds * 1000):
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, _EVENTS_AT_ONCE)
        self._watch_again()  # what changes from here on is told, what changed before is looked at now

    def wake(self) -> None:
        """End the present wait, or the next one; from any thread, also after :meth:`close`."""
        with self._lock:
            if self._rope is not None:
                with contextlib.suppress(BlockingIOError):  # full: it rings already
                    os.write(self._rope, b".")

    def close(self) -> None:
        """Release the descriptors."""
        with self._lock:
            descriptors = (self._bell, self._rope, self._inotify)
            self._bell = self._rope = self._inotify = None
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)

    def _watch_again(self) -> bool:
        """Watch the folder that has the name now; without effect if it is watched. Tells whether it is."""
        if self._inotify is None:
            return False
        events = _MOVED_IN | _DELETED | _MOVED_AWAY
        return bool(ctypes.CDLL(None).inotify_add_watch(self._inotify, self._folder, events) >= 0)


class Follower(Closable):
    """Calls a method in the background whenever a folder may have changed, until its object is gone.

    Attributes
    ----------
    process : the one it runs in. A process that was forked off has no such thread: it needs its own.
    """

    def __init__(self, folder: Path, look: Callable[[], None], poll_seconds: float) -> None:
        """Watch from now on; what is read after this is either new already, or looked at later.

        Parameters
        ----------
        look : a bound method; its object is not kept alive. It must not raise.
        poll_seconds : how often to look where the kernel does not tell of changes.
        """
        self.process = os.getpid()
        watch = self._watch = FolderWatch(folder)
        self._ended = threading.Event()
        look_again = weakref.WeakMethod(look, lambda _: watch.wake())
        self._thread = threading.Thread(
            target=_follow, args=(watch, look_again, self._ended, poll_seconds), name="follower", daemon=True
        )

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def close(self) -> None:
        """End it, from any thread. In a process that was forked off: let go of what it shares."""
        if self.process != os.getpid():
            self._watch.close()
            return
        self._ended.set()
        self._watch.wake()
        if self._thread.ident is None:
            self._watch.close()
        elif self._thread is not threading.current_thread():
            self._thread.join()


def _follow(
    watch: FolderWatch, look: "weakref.WeakMethod[Callable[[], None]]", ended: threading.Event, seconds: float
) -> None:
    with watch:
        while True:
            watch.wait(seconds)
            call = look()
            if call is None or ended.is_set():
                return
            call()
            del call  # or the object would live until the next change


def _open_inotify() -> int | None:
    """Return a new inotify descriptor; None: no Linux, or fs.inotify.max_user_instances are in use."""
    try:
        descriptor: int = ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    except AttributeError:
        return None
    return descriptor if descriptor >= 0 else None
