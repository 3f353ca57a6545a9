"""Matrix products through BLAS, divided over the threads by rows or by columns of the result.

Each thread computes its own part of `out` with one BLAS call per matrix of the batch; no two
threads write the same element and no sums cross threads. Parts are whole blocks of 16 rows (or
columns), because BLAS micro-kernels work on tiles of about that size and a ragged edge is slow.
"""

from collections.abc import Sequence

import numpy as np

from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    integer,
    offset,
    pointer,
    scalar,
)
from baremetal.kernels.native.blas import gemm

BLOCK = 16  # rows or columns that are never split between threads
BATCH_AXES = 4  # leading dimensions after merging; more than four are left to NumPy
MACS_PER_ELEMENT = 16  # BLAS does about this many multiply-adds in the time of one copied element


@body
def matmul_body(lo, hi, args):
    """Blocks lo..hi of  C = alpha op(A) op(B) + beta C,  counted through all matrices.

    Words: 0-2 A B C, 3-5 m n k, 6-7 transposed? of A B, 8-10 row distances of A B C,
    11 alpha, 12 beta, 13 split columns?, 14 blocks per matrix, 15 bias (or 0),
    16-19 batch shape, 20-23 24-27 28-31 batch strides of A B C in elements.
    """
    m, n, k = integer(args, 3), integer(args, 4), integer(args, 5)
    ta, tb = integer(args, 6) != 0, integer(args, 7) != 0
    lda, ldb, ldc = integer(args, 8), integer(args, 9), integer(args, 10)
    alpha, beta = scalar(args, 11), scalar(args, 12)
    by_columns, blocks = integer(args, 13) != 0, integer(args, 14)
    has_bias, bias = integer(args, 15) != 0, pointer(args, 15)
    item = lo
    while item < hi:
        # One BLAS call takes all blocks of this matrix that are ours: first..last.
        matrix = item // blocks
        first = (item - matrix * blocks) * 16
        last = min((hi - matrix * blocks) * 16, n if by_columns else m)
        item = (matrix + 1) * blocks
        # Where this matrix of the batch starts in A, B and C.
        a_at, b_at, c_at, rest = 0, 0, 0, matrix
        for axis in range(3, -1, -1):
            index = rest % integer(args, 16 + axis)
            rest = rest // integer(args, 16 + axis)
            a_at += index * integer(args, 20 + axis)
            b_at += index * integer(args, 24 + axis)
            c_at += index * integer(args, 28 + axis)
        row, column, rows, columns = first, 0, last - first, n
        if by_columns:
            row, column, rows, columns = 0, first, m, last - first
        a = offset(pointer(args, 0), a_at + (row if ta else row * lda))
        b = offset(pointer(args, 1), b_at + (column * ldb if tb else column))
        c = offset(pointer(args, 2), c_at + row * ldc + column)
        if has_bias:
            for i in range(rows):
                for j in range(columns):
                    c[i * ldc + j] = bias[column + j]
        gemm(ta, tb, rows, columns, k, alpha, a, lda, b, ldb, beta, c, ldc)


def matmul(a, b, out, *, alpha=1.0, beta=0.0):
    """Pack ``out = alpha a @ b + beta out``; None where a layout would need copies."""
    return _product(a, b, out, None, alpha, beta)


def linear(x, weight, bias, out):
    """Pack ``out = x @ weight.T + bias``."""
    return _product(x, weight.T, out, bias, 1.0, 1.0)


def _product(a, b, out, bias, alpha, beta) -> Sequence[Launch] | None:
    layouts = [_layout(matrix) for matrix in (a, b, out)]
    batch = _batch(a, b, out)
    same_dtype = a.dtype == b.dtype == out.dtype and out.dtype in FLOATING
    if not same_dtype or None in layouts or layouts[2][0] or batch is None:
        return None
    if bias is not None and not (bias.flags.c_contiguous and bias.dtype == out.dtype):
        return None
    (ta, lda), (tb, ldb), (_, ldc) = layouts
    m, k = a.shape[-2:]
    n = b.shape[-1]
    if k == 0:
        return None  # an empty sum: BLAS refuses a row distance of 0, NumPy knows the answer
    by_columns = n > m
    blocks = -(-(n if by_columns else m) // BLOCK)
    shape, strides = batch
    matrices = int(np.prod(shape))
    words = [
        a, b, out, m, n, k, ta, tb, lda, ldb, ldc, float(alpha), float(beta), by_columns, blocks,
        0 if bias is None else bias, *shape, *strides,
    ]  # fmt: skip
    items = matrices * blocks if out.size else 0
    work = out.size * k // MACS_PER_ELEMENT // max(items, 1)
    return [Launch(matmul_body, out.dtype, words, items, work)]


def _layout(matrix: np.ndarray) -> tuple[bool, int] | None:
    """(transposed?, distance between rows in elements) as BLAS wants it, or None if neither."""
    rows, columns = matrix.shape[-2:]
    step = matrix.itemsize
    row, column = matrix.strides[-2:]
    if (column == step or columns == 1) and (row >= columns * step or rows == 1):
        return (False, max(row // step, columns, 1)) if rows > 1 else (False, max(columns, 1))
    if (row == step or rows == 1) and (column >= rows * step or columns == 1):
        return (True, max(column // step, rows, 1)) if columns > 1 else (True, max(rows, 1))
    return None


def _batch(a, b, out) -> tuple[list[int], list[int]] | None:
    """Shape of the batch padded to four axes, and the strides of a, b, out in it (elements)."""
    shape = out.shape[:-2]
    if len(shape) > BATCH_AXES:
        return None
    padding = BATCH_AXES - len(shape)
    strides: list[int] = []
    for array in (a, b, out):
        full = [0] * (len(shape) - (array.ndim - 2)) + list(array.strides[:-2])
        sizes = [1] * (len(shape) - (array.ndim - 2)) + list(array.shape[:-2])
        # A dimension of size 1 is broadcast: its index may grow, its address may not.
        steps = [
            0 if size == 1 else s // array.itemsize for s, size in zip(full, sizes, strict=True)
        ]
        strides += [0] * padding + steps
    return [1] * padding + list(shape), strides
