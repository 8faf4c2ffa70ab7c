"""The seam between what is computed on each partition and what runs it: one function, three ways to run.

A way to run takes partitions, a function of one partition and a merge of two results, and may group and order
them as it likes: sums give the same bits either way. Nothing here schedules: a pool is the standard
library's, a cluster is Spark's (``spark.py``).
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from typing import Protocol, Self, TypeVar

from ...models.merging import merged

Partition = TypeVar("Partition")
Result = TypeVar("Result")


class Run(Protocol):
    """A way to run: serial, :class:`Pool`, or ``spark.Spark``."""

    def __call__(
        self,
        partitions: Sequence[Partition],
        fn: Callable[[Partition], Result],
        merge: Callable[[Result, Result], Result],
    ) -> Result:
        """Return the merged results of all partitions, of which there is at least one."""
        ...


def map_reduce(
    partitions: Sequence[Partition],
    fn: Callable[[Partition], Result],
    merge: Callable[[Result, Result], Result],
    run: Run | None = None,
) -> Result:
    """Apply a function to each partition and merge the results.

    Parameters
    ----------
    partitions : one or more; each is sent to where it is computed, so let them be names of files, not rows.
    fn, merge : functions of a module or instances of its classes, so that they can be sent.
    run : how; None: one partition after the other, here.

    Raises
    ------
    ValueError
        There is no partition.

    Examples
    --------
    >>> map_reduce([1, 2, 3, 4], lambda n: n * n, int.__add__)
    30
    """
    if not partitions:
        raise ValueError("there is no partition; a result needs one or more")
    return (run or serial)(partitions, fn, merge)


def serial(
    partitions: Sequence[Partition],
    fn: Callable[[Partition], Result],
    merge: Callable[[Result, Result], Result],
) -> Result:
    """Run here, one after the other; O(log partitions) results are held."""
    return merged(map(fn, partitions), merge)


class Pool:
    """Run in processes of this machine: each takes a share of the partitions and merges it.

    The processes start with the first run and stay for the next ones, until :meth:`close`; a context manager.

    Parameters
    ----------
    processes : how many, 1 or more; each holds O(log partitions) results at a time.
    """

    def __init__(self, processes: int) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}; use one or more")
        self.processes = processes
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of BLAS and Polars
        self._pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)

    def __call__(
        self,
        partitions: Sequence[Partition],
        fn: Callable[[Partition], Result],
        merge: Callable[[Result, Result], Result],
    ) -> Result:
        """Run; what a process raises is raised here."""
        shares = [partitions[k :: self.processes] for k in range(self.processes)]
        task = partial(serial, fn=fn, merge=merge)
        return merged(self._pool.map(task, [share for share in shares if share]), merge)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()


def _end_with_parent() -> None:
    """End a process of the pool when the one that started it is gone: killed, it closes no pool."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
