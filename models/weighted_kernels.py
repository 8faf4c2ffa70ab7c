"""Numba kernels of the weighted (implicit-feedback) factorisations: arrays in, arrays out.

They differ from :mod:`.kernels` in one thing: sums may be reassociated and fused (``reassoc``,
``contract``), because a dot product that must add strictly from left to right cannot use vector
registers. No other liberty is taken: NaN and infinity keep their meaning. What rounding can do is
part of the certificate, and the same machine gives the same bits every time.

The work is cut into blocks of rows with about the same number of entries (:func:`balanced_blocks`); a
block is written by one thread, so nothing depends on how the threads are scheduled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from .kernels import kernel

F = TypeVar("F", bound=Callable[..., Any])
Floats: TypeAlias = NDArray[np.floating[Any]]
Ints: TypeAlias = NDArray[np.integer[Any]]

BLOCKS = 32
LANES = 16
WORTH_THREADS = 20_000


def _vector_kernel(function: F) -> F:
    """Compile with parallel blocks and vectorised sums (see the module's docstring for why)."""
    jit = numba.njit(cache=True, nogil=True, parallel=True, fastmath={"reassoc", "contract"})
    return cast(F, jit(function))


@contextmanager
def threads_for(entries: int) -> Iterator[None]:
    """Run the kernels on one thread while there is little to do: waking the others would cost more.

    Holds for the calling thread only.
    """
    before = numba.get_num_threads()
    if entries < WORTH_THREADS:
        numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def balanced_blocks(indptr: Ints, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """Cut the rows of a CSR matrix into blocks of about equal work.

    Parameters
    ----------
    indptr : int [n + 1].
    blocks : how many.

    Returns
    -------
    int64 [blocks + 1], from 0 to n, ascending: block b is the rows ``[b, b + 1)`` of it. O(n).

    Examples
    --------
    >>> balanced_blocks(np.array([0, 9, 9, 9, 18]), 2)
    array([0, 2, 4])
    """
    work = indptr.astype(np.int64) + np.arange(indptr.size)
    cuts = np.searchsorted(work, np.linspace(0, work[-1], blocks + 1))
    cuts[-1] = indptr.size - 1
    return cuts.astype(np.int64)


@kernel
def transpose_pattern(indptr: Ints, indices: Ints, n_columns: int) -> tuple[Ints, Ints, Ints]:
    """Transpose a CSR pattern by counting.

    Parameters
    ----------
    indptr : int [m + 1]; indices : int32 [nnz] in ``[0, n_columns)``.

    Returns
    -------
    starts : int64 [n_columns + 1]; rows : int32 [nnz], ascending within a column; order : int64 [nnz],
    where each entry stands in the CSR arrays. O(m + n + nnz).
    """
    starts = np.zeros(n_columns + 1, np.int64)
    for t in range(indices.size):
        starts[indices[t] + 1] += 1
    for i in range(n_columns):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    rows = np.empty(indices.size, np.int32)
    order = np.empty(indices.size, np.int64)
    for u in range(indptr.size - 1):
        for t in range(indptr[u], indptr[u + 1]):
            place = at[indices[t]]
            at[indices[t]] = place + 1
            rows[place] = u
            order[place] = t
    return starts, rows, order


@_vector_kernel
def residual_row_pass(
    blocks: Ints,
    indptr: Ints,
    indices: Ints,
    confidence: Floats,
    left: Floats,
    right: Floats,
    basis: Floats,
    lipschitz: float,
    scores: Floats,
    values: Floats,
    product: Floats,
    sums: NDArray[np.float64],
) -> None:
    """Score the observed pairs, form the residual of the loss there and multiply it, in one pass.

    For each observed pair with confidence c: the score ``s = left_u . right_i``, the value
    ``e = c - (c - 1) s``, and ``product_u += e basis_i``. (The residual ``C o (Y - S)`` is ``E - S``: what is
    not in these values is -S, which has low rank and is added by the caller.)

    Parameters
    ----------
    blocks : int64 [blocks + 1]; indptr, indices, confidence : CSR, values [nnz] of the factors' dtype.
    left : [m, r]; right : [n, r]; basis : [n, d], C-contiguous, one dtype.
    scores : [nnz], in: of the point before; out: of this point.
    values : [nnz], out. product : [m, d], out.
    sums : float64 [blocks, 3], out, over the change h = s - s_before of each block's pairs:
        ``sum c h^2``, ``sum h^2``, ``sum (c - lipschitz)^2 / c h^2``.

    Notes
    -----
    O(nnz (r + d)), one gather of each row of ``right`` and ``basis`` a pair.
    """
    rank, width = left.shape[1], basis.shape[1]
    one = left.dtype.type(1)
    for b in numba.prange(blocks.size - 1):
        total = np.zeros(width, left.dtype)
        weighted, plain, steep = 0.0, 0.0, 0.0
        for u in range(blocks[b], blocks[b + 1]):
            for k in range(width):
                total[k] = 0
            for t in range(indptr[u], indptr[u + 1]):
                i = indices[t]
                score = left.dtype.type(0)
                for k in range(rank):
                    score += left[u, k] * right[i, k]
                c = confidence[t]
                h = score - scores[t]
                weighted += c * h * h
                plain += h * h
                steep += (c - lipschitz) * (c - lipschitz) / c * h * h
                scores[t] = score
                e = c - (c - one) * score
                values[t] = e
                for k in range(width):
                    total[k] += e * basis[i, k]
            for k in range(width):
                product[u, k] = total[k]
        sums[b, 0] = weighted
        sums[b, 1] = plain
        sums[b, 2] = steep


@_vector_kernel
def row_pass(
    blocks: Ints, indptr: Ints, indices: Ints, values: Floats, basis: Floats, product: Floats
) -> None:
    """Multiply a CSR matrix by a thin dense one: ``product = E basis``.

    ``blocks`` int64 [blocks + 1]; CSR [m, n] with values [nnz]; basis [n, d]; product [m, d], overwritten.
    O(nnz d).
    """
    width = basis.shape[1]
    for b in numba.prange(blocks.size - 1):
        total = np.zeros(width, basis.dtype)
        for u in range(blocks[b], blocks[b + 1]):
            for k in range(width):
                total[k] = 0
            for t in range(indptr[u], indptr[u + 1]):
                i = indices[t]
                e = values[t]
                for k in range(width):
                    total[k] += e * basis[i, k]
            for k in range(width):
                product[u, k] = total[k]


@_vector_kernel
def narrow_pass(
    blocks: Ints, indptr: Ints, indices: Ints, values: Floats, basis: Floats, product: Floats
) -> None:
    """Multiply a CSR matrix by a dense one of :data:`LANES` columns: ``product = E basis``.

    ``blocks`` int64 [blocks + 1]; CSR [m, n] with values [nnz]; basis [n, 16]; product [m, 16], overwritten.
    The width is known to the compiler, so that the sums stay in registers. O(nnz).
    """
    for b in numba.prange(blocks.size - 1):
        total = np.zeros(LANES, basis.dtype)
        for u in range(blocks[b], blocks[b + 1]):
            for k in range(LANES):
                total[k] = 0
            for t in range(indptr[u], indptr[u + 1]):
                i = indices[t]
                e = values[t]
                for k in range(LANES):
                    total[k] += e * basis[i, k]
            for k in range(LANES):
                product[u, k] = total[k]


@_vector_kernel
def column_pass(
    blocks: Ints, starts: Ints, rows: Ints, order: Ints, values: Floats, basis: Floats, product: Floats
) -> None:
    """Multiply the transpose of a CSR matrix by a thin dense one: ``product = E' basis``.

    ``blocks`` int64 [blocks + 1] over the columns; ``starts``, ``rows``, ``order`` as
    :func:`transpose_pattern` gives them; values [nnz] in CSR order; basis [m, d]; product [n, d],
    overwritten. O(nnz d).
    """
    width = basis.shape[1]
    for b in numba.prange(blocks.size - 1):
        total = np.zeros(width, basis.dtype)
        for i in range(blocks[b], blocks[b + 1]):
            for k in range(width):
                total[k] = 0
            for t in range(starts[i], starts[i + 1]):
                u = rows[t]
                e = values[order[t]]
                for k in range(width):
                    total[k] += e * basis[u, k]
            for k in range(width):
                product[i, k] = total[k]


@_vector_kernel
def discounted_square(
    blocks: Ints,
    indptr: Ints,
    indices: Ints,
    confidence: Floats,
    left: Floats,
    right: Floats,
    sums: NDArray[np.float64],
) -> None:
    """Sum ``(1 - 1/c) g^2`` over the observed pairs, ``g = left_u . right_i``.

    ``blocks`` int64 [blocks + 1]; CSR [m, n] with confidence [nnz]; left [m, r], right [n, r], one dtype;
    sums : float64 [blocks], out, one partial sum a block. O(nnz r).
    """
    rank = left.shape[1]
    for b in numba.prange(blocks.size - 1):
        total = 0.0
        for u in range(blocks[b], blocks[b + 1]):
            for t in range(indptr[u], indptr[u + 1]):
                i = indices[t]
                g = left.dtype.type(0)
                for k in range(rank):
                    g += left[u, k] * right[i, k]
                total += (1.0 - 1.0 / confidence[t]) * g * g
        sums[b] = total
