"""How a Numba kernel is made: arrays in, arrays out, no objects.

The kernels are in a file for each of what they work on (``*_kernels.py``). Each is decorated with
:func:`kernel` (serial) or :func:`parallel_kernel`; both release the GIL, cache what they compile on disk,
keep IEEE arithmetic (no fastmath) and compile at the first call, never at import. Each has a slow twin in
the tests, written from the definition.

Code that may run in several threads at once (serving) calls serial kernels only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile ``function`` for one thread, without the GIL, with strict IEEE arithmetic."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False)(function))


def parallel_kernel(function: F) -> F:
    """Compile ``function`` with its ``numba.prange`` loops spread over the threads."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, parallel=True)(function))


_OPERATIONS_PER_THREAD = 2**16


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Run parallel kernels on as many threads as the work pays for.

    Waking a thread costs microseconds on an idle machine and a scheduler's slice on a busy one: small work
    stays on the calling thread. The results of these kernels do not depend on the number of threads.

    Examples
    --------
    >>> with threads_for(10):
    ...     numba.get_num_threads()
    1
    """
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(before, int(operations) // _OPERATIONS_PER_THREAD)))
    try:
        yield
    finally:
        numba.set_num_threads(before)


STRIPES = 8
"""Parts of the work of a parallel kernel, whatever the number of threads: so sums have the same bits."""
