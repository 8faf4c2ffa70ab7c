"""The kernels of a dense item-by-item matrix: products, downdates, blocks of it."""

from typing import Any

import numba
import numpy as np

from .kernels import STRIPES, kernel, parallel_kernel

_LINE = 8  # float64 in a line of the cache
_TILE = 192  # rows and columns: a tile and its factors stay in a core's own cache


@kernel
def sum_rows_of(row_items: Any, row_values: Any, matrix: Any, out: Any) -> None:
    """Write ``sum_e row_values[e] * matrix[row_items[e], :]`` to ``out``; float64 [n]."""
    out[:] = 0.0
    for e in range(row_items.size):
        value = row_values[e]
        row = matrix[row_items[e]]
        for j in range(out.size):
            out[j] += value * row[j]


@parallel_kernel
def sparse_times_dense(indptr: Any, indices: Any, data: Any, matrix: Any, out: Any) -> None:
    """Write ``R M`` to ``out`` [k, n]; R in CSR [k, m], M [m, n], both float64.

    In blocks of columns, so that a block of M is read from memory once and then from the cache; four terms at
    a time, a quarter of the stores.
    """
    width = 928
    n = matrix.shape[1]
    for block in numba.prange((n + width - 1) // width):
        low, high = block * width, min(n, (block + 1) * width)
        for r in range(out.shape[0]):
            target = out[r, low:high]
            target[:] = 0.0
            last = indptr[r + 1]
            whole = last - (last - indptr[r]) % 4
            for e in range(indptr[r], whole, 4):
                first, second = matrix[indices[e], low:high], matrix[indices[e + 1], low:high]
                third, fourth = matrix[indices[e + 2], low:high], matrix[indices[e + 3], low:high]
                for_first, for_second, for_third, for_fourth = data[e], data[e + 1], data[e + 2], data[e + 3]
                for j in range(target.size):
                    target[j] += (for_first * first[j] + for_second * second[j]) + (
                        for_third * third[j] + for_fourth * fourth[j]
                    )
            for e in range(whole, last):
                _add_multiple(target, matrix[indices[e], low:high], data[e])


@parallel_kernel
def add_symmetric_low_rank(matrix: Any, rows: Any, signs: Any, probe: Any, products: Any) -> None:
    """Add ``rows' diag(signs) rows`` to ``matrix`` [n, n] in place and multiply the result by ``probe``.

    rows float64 [k, n], signs float64 [k], probe float64 [n]. ``M_ij`` and ``M_ji`` get the same bits.
    ``products`` float64 [stripes, n] is written: its rows sum to the probe's product with the symmetric
    result. One pass over the matrix: eight rows at a time, measured while they are in the cache.
    """
    n, stripes, rank = matrix.shape[0], products.shape[0], rows.shape[0]
    for stripe in numba.prange(stripes):
        product = products[stripe]
        product[:] = 0.0
        first, last = stripe * n // stripes, (stripe + 1) * n // stripes
        for start in range(first, last, 8):
            stop = min(start + 8, last)
            is_fused = rank > 0 and stop == start + 8
            for i in range(start, stop):
                for r in range(rank - 1 if is_fused else rank):
                    _add_multiple(matrix[i], rows[r], signs[r] * rows[r, i])
            if is_fused:
                factors = signs[-1] * rows[-1, start:stop]
                _add_to_eight(product, matrix[start:stop], factors, rows[-1], probe[start:stop])
            else:
                for i in range(start, stop):
                    _add_multiple(product, matrix[i], probe[i])


@parallel_kernel
def add_symmetric_product(matrix: Any, left: Any, right: Any, probe: Any, products: Any) -> None:
    """Add ``left right'`` to ``matrix`` [n, n] in place and multiply the result by ``probe``; all symmetric.

    left and right float64 [n, k], C-contiguous; probe float64 [n]; ``products`` float64 [stripes, n] is
    written as by :func:`add_symmetric_low_rank`. Only tiles of the lower triangle are multiplied (BLAS, one
    thread each: the caller sets that), added, measured, and copied across the diagonal while they are in the
    cache: ``M_ij`` and ``M_ji`` get the same bits.
    """
    n, stripes = matrix.shape[0], products.shape[0]
    tiles = (n + _TILE - 1) // _TILE
    for stripe in numba.prange(stripes):
        room, measured = np.empty(_TILE * _TILE), products[stripe]
        measured[:] = 0.0
        for task in range(stripe, tiles * tiles, stripes):
            first, second = _TILE * (task // tiles), _TILE * (task % tiles)
            if second > first:
                continue
            last, end = min(n, first + _TILE), min(n, second + _TILE)
            product = room[: (last - first) * (end - second)].reshape(last - first, end - second)
            np.dot(left[first:last], right[second:end].T, product)
            for i in range(first, last):
                row = matrix[i, second:end]
                _add_multiple(row, product[i - first], 1.0)
                if second < first:
                    _add_multiple(measured[second:end], row, probe[i])
            for j in range(second, end):
                _mirror_column(matrix, j, max(j + 1, first), last)
                _add_multiple(measured[first:last], matrix[j, first:last], probe[j])


@kernel
def _mirror_column(matrix: Any, j: int, first: int, last: int) -> None:
    """Copy ``matrix[first:last, j]`` across the diagonal; the lines it reads stay cached for the next j."""
    row = matrix[j]
    for i in range(first, last):
        row[i] = matrix[i, j]


@kernel
def _add_multiple(target: Any, row: Any, factor: float) -> None:
    for j in range(target.size):
        target[j] += factor * row[j]


@kernel
def _add_to_eight(product: Any, rows: Any, factors: Any, row: Any, probe: Any) -> None:
    """Add multiples of ``row`` to eight rows, and multiples of the result to ``product``, in one pass."""
    a, b, c, d, e, f, g, h = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for_a, for_b, for_c, for_d = factors[0], factors[1], factors[2], factors[3]
    for_e, for_f, for_g, for_h = factors[4], factors[5], factors[6], factors[7]
    of_a, of_b, of_c, of_d = probe[0], probe[1], probe[2], probe[3]
    of_e, of_f, of_g, of_h = probe[4], probe[5], probe[6], probe[7]
    for j in range(product.size):
        x = row[j]
        new_a, new_b, new_c, new_d = a[j] + for_a * x, b[j] + for_b * x, c[j] + for_c * x, d[j] + for_d * x
        new_e, new_f, new_g, new_h = e[j] + for_e * x, f[j] + for_f * x, g[j] + for_g * x, h[j] + for_h * x
        a[j], b[j], c[j], d[j] = new_a, new_b, new_c, new_d
        e[j], f[j], g[j], h[j] = new_e, new_f, new_g, new_h
        product[j] += (
            ((of_a * new_a + of_b * new_b) + (of_c * new_c + of_d * new_d))
            + ((of_e * new_e + of_f * new_f) + (of_g * new_g + of_h * new_h))
        )  # fmt: skip


@parallel_kernel
def mirror_lower(matrix: Any) -> None:
    """Copy the lower triangle of ``matrix`` [n, n] to the upper, in place, tile by tile."""
    n = matrix.shape[0]
    for stripe in numba.prange(STRIPES):
        for first in range(stripe * _LINE, n, STRIPES * _LINE):
            last = min(n, first + _LINE)
            for j in range(last):
                _mirror_column(matrix, j, max(j + 1, first), last)


@parallel_kernel
def select_block(matrix: Any, items: Any, out: Any) -> None:
    """Copy the rows and columns ``items`` int64 [k] of ``matrix`` [n, n] to ``out`` [k, k]."""
    for stripe in numba.prange(STRIPES):
        for r in range(stripe, items.size, STRIPES):
            row, target = matrix[items[r]], out[r]
            for c in range(items.size):
                target[c] = row[items[c]]
