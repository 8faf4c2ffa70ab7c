"""BLAS on one thread, at a price that a removal of a few milliseconds can pay."""

from contextlib import AbstractContextManager
from functools import cache
from typing import cast

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep BLAS on the calling thread: its idle threads spin and would fight Numba's for the cores.

    Examples
    --------
    >>> with one_blas_thread():
    ...     pass
    """
    return cast(AbstractContextManager[object], _libraries().limit(limits=1, user_api="blas"))


@cache
def _libraries() -> ThreadpoolController:
    """Look through what is loaded once: it takes milliseconds, and NumPy's and SciPy's BLAS are there."""
    import numpy.linalg  # noqa: F401  loads NumPy's BLAS
    import scipy.linalg.blas  # noqa: F401  loads SciPy's

    return ThreadpoolController()
