"""Threads for work that can wait: a solve makes way for whoever answers, and for the thread that fences.

It takes a lower place, and leaves one core alone: whoever answers finds its caches there as it left them.

Linux schedules threads, not processes, and no privilege is needed to take a lower place: only to give it up.
So it is a thread's for good, and the thread that takes it is one of its own.

Python's interpreter has one lock. A thread that is made to wait while it holds it keeps every thread of its
process waiting, also the one that fences. At nice 10 a thread has a tenth of a share at the least, so that is
over in milliseconds, even on a machine that others keep busy; under ``SCHED_IDLE`` it can take seconds there.
Where processor time is left over, an idle thread makes way at once, and a nice one at the next tick.

A thread that nobody may have to wait for, though it holds that lock now and then, makes way otherwise: it
works for less than a millisecond and rests for two. Whoever wakes up would wait until the next tick, 4 ms.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

Place: TypeAlias = Literal["low", "idle"]
"""``low``: nice 10, a tenth of a share; ``idle``: SCHED_IDLE, what nobody else wants."""

Rest: TypeAlias = Callable[[], None]
"""Called between short pieces of work: :func:`no_rest` or :func:`rest`."""

NICE = 10
REST_SECONDS = 0.002
_TASKS = Path("/proc/self/task")
_log = logging.getLogger(__name__)


def thread_that_makes_way(place: Place) -> ThreadPoolExecutor:
    """Make an executor of one thread that others go before, and that works on all cores but one.

    Whatever a library starts from this thread has its place, too. The threads that BLAS and Polars have
    started before work for it as well, and spin a while after it: at the first call they are moved there.
    No thread that Python has started is.

    Examples
    --------
    >>> with thread_that_makes_way("idle") as executor:
    ...     executor.submit(os.sched_getscheduler, 0).result() == os.SCHED_IDLE
    True
    >>> os.sched_getscheduler(0) == os.SCHED_IDLE
    False
    """
    return ThreadPoolExecutor(1, "makes-way", initializer=partial(_make_way, _PLACES[place]))


def no_rest() -> None:
    """Go on: somebody waits for the work."""


def rest() -> None:
    """Leave the processor to others for a moment."""
    time.sleep(REST_SECONDS)


def _make_way(take: Callable[[int], None]) -> None:
    """Give this thread, and those that Python did not start, their place; and a core fewer than there are."""
    _leave_a_core()
    try:
        take(0)
        for thread in _library_threads():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                take(thread)
    except OSError as error:
        _log.warning("solves take a whole share of the processor: the system says %s", error.strerror)


def _leave_a_core() -> None:
    """Have Numba work on all cores but one for this thread, and BLAS for this process; never on more."""
    import numba
    from threadpoolctl import ThreadpoolController

    most = max(1, len(os.sched_getaffinity(0)) - 1)
    numba.set_num_threads(min(most, numba.get_num_threads()))
    libraries = ThreadpoolController().select(user_api="blas")
    libraries.limit(limits={each["prefix"]: min(most, each["num_threads"]) for each in libraries.info()})


def _be_nice(thread: int) -> None:
    place = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, place))


def _be_idle(thread: int) -> None:
    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


_PLACES: Mapping[Place, Callable[[int], None]] = {"low": _be_nice, "idle": _be_idle}


def _library_threads() -> set[int]:
    pythons = {thread.native_id for thread in threading.enumerate()}
    return {int(task.name) for task in _TASKS.iterdir() if int(task.name) not in pythons}
