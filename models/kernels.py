"""Every Numba kernel: arrays in, arrays out, no objects.

Each kernel is decorated with :func:`kernel` (serial) or :func:`parallel_kernel`; both release the GIL,
cache what they compile on disk, keep IEEE arithmetic (no fastmath) and compile at the first call, never
at import. Each has a slow twin in the tests, written from the definition.

Code that may run in several threads at once (serving) calls serial kernels only.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile ``function`` for one thread, without the GIL, with strict IEEE arithmetic."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False)(function))


def parallel_kernel(function: F) -> F:
    """Compile ``function`` with its ``numba.prange`` loops spread over the threads."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, parallel=True)(function))
