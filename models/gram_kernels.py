"""Kernels of the Gram operator: sums of dense rows picked by sparse rows.

One pass over a CSR matrix times a narrow dense block is bound by how fast rows of the block are fetched,
not by arithmetic; four rows are added at a time so that the running sum is read and written a quarter as
often. Where the users are so many that the block between two passes falls out of the caches, both passes are
one (:func:`binary_products`): a user's sum is spread over the items again while it is at hand.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .kernels import parallel_kernel


def row_blocks(indptr: NDArray[Any], blocks: int) -> NDArray[np.int64]:
    """Split rows into runs of about equal entries: int64 [blocks + 1], ascending, first 0, last n_rows.

    Examples
    --------
    >>> row_blocks(np.array([0, 4, 5, 6, 8]), 2)
    array([0, 1, 4])
    """
    targets = np.linspace(0, indptr[-1], blocks + 1)
    edges = np.searchsorted(indptr, targets, side="left").astype(np.int64)
    edges[0], edges[-1] = 0, indptr.size - 1
    return np.asarray(np.maximum.accumulate(edges), dtype=np.int64)


@parallel_kernel
def binary_row_sums(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    dense: NDArray[Any],
    row_scale: NDArray[Any],
    blocks: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """``out[r] = row_scale[r] * sum of dense[j] over the entries j of row r``: all values are one.

    Parameters
    ----------
    indptr, indices : CSR pattern [n_rows, n_columns].
    dense : float [n_columns, k], C-contiguous.
    row_scale : float [n_rows].
    blocks : int64, from :func:`row_blocks`; a block is one thread's work.
    out : float [n_rows, k], overwritten.

    Notes
    -----
    Time O(nnz k); no memory of its own. The order of additions within a row is fixed: the same bits
    whatever the number of threads.
    """
    width = dense.shape[1]
    for block in numba.prange(blocks.size - 1):
        for row in range(blocks[block], blocks[block + 1]):
            total = out[row]
            for k in range(width):
                total[k] = 0
            at, stop = indptr[row], indptr[row + 1]
            while at + 4 <= stop:
                a = dense[indices[at]]
                b = dense[indices[at + 1]]
                c = dense[indices[at + 2]]
                d = dense[indices[at + 3]]
                for k in range(width):
                    total[k] += (a[k] + b[k]) + (c[k] + d[k])
                at += 4
            while at < stop:
                a = dense[indices[at]]
                for k in range(width):
                    total[k] += a[k]
                at += 1
            scale = row_scale[row]
            for k in range(width):
                total[k] *= scale


@parallel_kernel
def weighted_row_sums(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    dense: NDArray[Any],
    row_scale: NDArray[Any],
    blocks: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """``out[r] = row_scale[r] * sum of data[j] * dense[j]`` over the entries j of row r.

    As :func:`binary_row_sums`, with ``data``: float [nnz], of the same dtype as ``dense``.
    """
    width = dense.shape[1]
    for block in numba.prange(blocks.size - 1):
        for row in range(blocks[block], blocks[block + 1]):
            total = out[row]
            for k in range(width):
                total[k] = 0
            at, stop = indptr[row], indptr[row + 1]
            while at + 4 <= stop:
                a = dense[indices[at]]
                b = dense[indices[at + 1]]
                c = dense[indices[at + 2]]
                d = dense[indices[at + 3]]
                p, q, r, s = data[at], data[at + 1], data[at + 2], data[at + 3]
                for k in range(width):
                    total[k] += (p * a[k] + q * b[k]) + (r * c[k] + s * d[k])
                at += 4
            while at < stop:
                a = dense[indices[at]]
                p = data[at]
                for k in range(width):
                    total[k] += p * a[k]
                at += 1
            scale = row_scale[row]
            for k in range(width):
                total[k] *= scale


@parallel_kernel
def binary_products(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    dense: NDArray[Any],
    row_scale: NDArray[Any],
    blocks: NDArray[np.int64],
    parts: NDArray[Any],
) -> None:
    """Add ``X' diag(row_scale) X dense`` up in ``parts``, one for each block of rows; all values are one.

    Parameters
    ----------
    indptr, indices : CSR pattern X, [n_rows, n_columns].
    dense : float [n_columns, k], C-contiguous; narrow enough to stay in the caches.
    row_scale : float [n_rows].
    blocks : int64 [p + 1], from :func:`row_blocks`; a block is one thread's work.
    parts : float [p, n_columns, k], overwritten; the product is their sum.

    Notes
    -----
    Time O(nnz k); one row of k values for each thread beside ``parts``.
    """
    width = dense.shape[1]
    for block in numba.prange(blocks.size - 1):
        part = parts[block]
        part[:] = 0
        total = np.empty(width, dense.dtype)
        for row in range(blocks[block], blocks[block + 1]):
            for k in range(width):
                total[k] = 0
            start, stop = indptr[row], indptr[row + 1]
            at = start
            while at + 4 <= stop:
                a = dense[indices[at]]
                b = dense[indices[at + 1]]
                c = dense[indices[at + 2]]
                d = dense[indices[at + 3]]
                for k in range(width):
                    total[k] += (a[k] + b[k]) + (c[k] + d[k])
                at += 4
            while at < stop:
                a = dense[indices[at]]
                for k in range(width):
                    total[k] += a[k]
                at += 1
            scale = row_scale[row]
            for k in range(width):
                total[k] *= scale
            for at in range(start, stop):
                target = part[indices[at]]
                for k in range(width):
                    target[k] += total[k]


@parallel_kernel
def weighted_products(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    dense: NDArray[Any],
    row_scale: NDArray[Any],
    blocks: NDArray[np.int64],
    parts: NDArray[Any],
) -> None:
    """Add ``X' diag(row_scale) X dense`` up in ``parts``, as :func:`binary_products`, with ``data`` [nnz]."""
    width = dense.shape[1]
    for block in numba.prange(blocks.size - 1):
        part = parts[block]
        part[:] = 0
        total = np.empty(width, dense.dtype)
        for row in range(blocks[block], blocks[block + 1]):
            for k in range(width):
                total[k] = 0
            for at in range(indptr[row], indptr[row + 1]):
                a = dense[indices[at]]
                p = data[at]
                for k in range(width):
                    total[k] += p * a[k]
            scale = row_scale[row]
            for k in range(width):
                total[k] *= scale
            for at in range(indptr[row], indptr[row + 1]):
                target = part[indices[at]]
                p = data[at]
                for k in range(width):
                    target[k] += p * total[k]
