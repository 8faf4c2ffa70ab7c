"""Time and memory of one call."""

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Used(Generic[T]):
    """What a call gave, and what it took.

    Attributes
    ----------
    seconds : of wall time. peak_mib : how far resident memory rose during it; None where the system (not
        Linux) cannot say.
    """

    value: T
    seconds: float
    peak_mib: float | None


def used_by(call: Callable[[], T]) -> Used[T]:
    """Make a call and say what it took.

    Examples
    --------
    >>> used_by(lambda: 7).value
    7
    """
    gc.collect()
    _give_back()
    before = _resident("VmRSS") if _restarted() else None
    started = time.perf_counter()
    value = call()
    seconds = time.perf_counter() - started
    peak = None if before is None else max(0.0, _resident("VmHWM") - before)
    return Used(value, seconds, peak)


def _give_back() -> None:
    """Return freed memory to the system (glibc): what a call takes again from the heap would not be seen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _restarted() -> bool:
    """Let the kernel count the peak from here."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident(field: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0
