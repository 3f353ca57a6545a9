"""Matrix products through BLAS, divided over the threads by rows or by columns of the result.

Three kinds go elsewhere: tiny ones, for which the call would be the cost, are done here; single
rows are another routine of BLAS (below); and on processors with long vectors, large float32
products are our own (`gemm.py`).

Each thread computes its own part of `out` with one BLAS call per matrix of the batch; no two
threads write the same element. Sums do not cross threads, but for the long ones of a weight
gradient: these are cut into two halves of their own, which are added at the end. Parts are whole
blocks of 16 rows (or columns), because BLAS micro-kernels work on tiles of about that size and a
ragged edge is slow. BLAS chooses among kernels, which sum in different orders, by the size of its
part: the same number of threads gives the same bits, another number the same result up to rounding.

A single row (one token of sampling) goes to `gemv`: `gemm` would first rearrange the whole
matrix, to use it once. With k = 768 and n = 3072 that is 0.12 ms instead of 0.83.

What BLAS can read in place: matrices with one axis contiguous and the other at a regular positive
distance that does not make rows overlap. Everything else (a negative or zero stride, an empty
sum, sizes beyond 32 bits) is left to NumPy.
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
    scratch,
)
from baremetal.kernels.native.blas import gemm, gemv
from baremetal.kernels.native.compiler import inlined
from baremetal.kernels.native.elementwise import add
from baremetal.kernels.native.gemm import (
    F32,
    MACS_PER_ELEMENT,
    own_product_pays,
    packed_matmul,
)
from baremetal.kernels.native.vmath import like

BLOCK = 16  # rows or columns that are never split between threads
BATCH_AXES = 4  # leading dimensions; more than four are left to NumPy
LONG = 1024  # terms in a sum that is worth halving
BATCH = 15  # the word where the batch begins
READY_MADE = {0.0: 0, 1.0: 0x3FF0_0000_0000_0000}  # bit patterns that need no conversion
LARGEST = 2**31 - 1  # BLAS takes 32-bit sizes
OWN_PRODUCT = own_product_pays()  # instead of BLAS's, for large float32 matrices
WORTH_PACKING = 1 << 15  # multiply-adds from which our own product is taken, where there is one
SMALL = 1024  # multiply-adds: below, calling BLAS takes longer than doing it here


@inlined(reassociate=True)
def _dot(a, a_step, b, b_step, count):
    """The sum of a[0] b[0], a[a_step] b[b_step], ..."""
    total = like(a[0], 0)
    if a_step == 1 and b_step == 1:
        for p in range(count):
            total += a[p] * b[p]
    else:
        for p in range(count):
            total += a[p * a_step] * b[p * b_step]
    return total


@inlined
def _product_of_few(ta, tb, rows, columns, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """What `gemm` computes, for matrices so small that the call would be the cost."""
    a_row, a_step = (1, lda) if ta else (lda, 1)
    b_column, b_step = (ldb, 1) if tb else (1, ldb)
    for i in range(rows):
        for j in range(columns):
            total = alpha * _dot(offset(a, i * a_row), a_step, offset(b, j * b_column), b_step, k)
            at = i * ldc + j
            c[at] = total if beta == like(beta, 0) else total + beta * c[at]


@inlined
def _blocks_of_one(args, a, b, c, lo, hi):
    """Blocks lo..hi of C = alpha op(A) op(B) + beta C for matrices that start at a, b, c."""
    m, n, k = integer(args, 3), integer(args, 4), integer(args, 5)
    ta, tb = integer(args, 6) != 0, integer(args, 7) != 0
    lda, ldb, ldc = integer(args, 8), integer(args, 9), integer(args, 10)
    row, column, rows, columns = 0, 0, m, n
    if integer(args, 13) != 0:
        column = lo * BLOCK
        columns = min(hi * BLOCK, n) - column
    else:
        row = lo * BLOCK
        rows = min(hi * BLOCK, m) - row
    a = offset(a, row if ta else row * lda)
    b = offset(b, column * ldb if tb else column)
    c = offset(c, row * ldc + column)
    if integer(args, 14) != 0:
        bias = offset(pointer(args, 14), column)
        for i in range(rows):
            for j in range(columns):
                c[i * ldc + j] = bias[j]
    alpha, beta = scalar(args, 11), scalar(args, 12)
    if rows * columns * k <= SMALL:
        _product_of_few(ta, tb, rows, columns, k, alpha, a, lda, b, ldb, beta, c, ldc)
    elif m == 1:
        gemv(not tb, columns, k, alpha, b, ldb, a, lda if ta else 1, beta, c)
    else:
        gemm(ta, tb, rows, columns, k, alpha, a, lda, b, ldb, beta, c, ldc)


@body
def matmul_body(lo, hi, args):
    """Blocks lo..hi of C = alpha op(A) op(B) + beta C, 16 rows or columns each.

    Words: 0-2 A B C, 3-5 m n k, 6-7 transposed? of A B, 8-10 row distances of A B C, 11 alpha,
    12 beta, 13 split columns?, 14 bias to begin with, or 0.
    """
    _blocks_of_one(args, pointer(args, 0), pointer(args, 1), pointer(args, 2), lo, hi)


@body
def batched_matmul_body(lo, hi, args):
    """Blocks lo..hi, counted through all matrices of a batch.

    Words: 0-14 as in `matmul_body`, 15 blocks per matrix, 16-19 batch shape,
    20-23 24-27 28-31 batch strides of A B C.
    """
    blocks = integer(args, BATCH)
    item = lo
    while item < hi:
        # One BLAS call takes all blocks of this matrix that are ours.
        matrix = item // blocks
        end = min(hi, (matrix + 1) * blocks)
        a, b, c, rest = 0, 0, 0, matrix
        for axis in range(BATCH + BATCH_AXES, BATCH, -1):
            index = rest % integer(args, axis)
            rest = rest // integer(args, axis)
            a += index * integer(args, axis + BATCH_AXES)
            b += index * integer(args, axis + 2 * BATCH_AXES)
            c += index * integer(args, axis + 3 * BATCH_AXES)
        _blocks_of_one(
            args, offset(pointer(args, 0), a), offset(pointer(args, 1), b),
            offset(pointer(args, 2), c), item - matrix * blocks, end - matrix * blocks,
        )  # fmt: skip
        item = end


@body
def halved_matmul_body(lo, hi, args):
    """Blocks lo..hi, counted through both halves of a sum, each with a result of its own.

    Words: 0-14 as in `matmul_body`, 15 blocks per half, 16 C of the second,
    17-18 where its part of A and of B begins.
    """
    blocks = integer(args, 15)
    a, b = pointer(args, 0), pointer(args, 1)
    if lo < blocks:
        _blocks_of_one(args, a, b, pointer(args, 2), lo, min(hi, blocks))
    if hi > blocks:
        a, b = offset(a, integer(args, 17)), offset(b, integer(args, 18))
        _blocks_of_one(args, a, b, pointer(args, 16), max(lo, blocks) - blocks, hi - blocks)


def matmul(a, b, out, *, alpha=1.0, beta=0.0):
    """Pack ``out = alpha a @ b + beta out``; None where a layout would need copies."""
    return _product(a, b, out, None, alpha, beta)


def linear(x, weight, bias, out):
    """Pack ``out = x @ weight.T + bias``."""
    if bias.shape != out.shape[1:] or bias.dtype != out.dtype or not bias.flags.c_contiguous:
        return None
    return _product(x, weight.T, out, bias, 1.0, 1.0)


def _product(a, b, out, bias, alpha, beta) -> Sequence[Launch] | None:
    dtype = out.dtype
    if a.dtype != dtype or b.dtype != dtype or dtype not in FLOATING:
        return None
    m, n = out.shape[-2:]
    k = a.shape[-1]
    if a.shape[-2] != m or b.shape[-2] != k or b.shape[-1] != n or k == 0:
        return None  # NumPy says what does not fit, and what an empty sum is
    if m > LARGEST or n > LARGEST or k > LARGEST:
        return None
    in_a, in_b, in_out = _layout(a, m, k), _layout(b, k, n), _layout(out, m, n)
    if in_a is None or in_b is None or in_out is None or in_out[0]:
        return None
    (ta, lda), (tb, ldb), ldc = in_a, in_b, in_out[1]
    single = out.ndim == a.ndim == b.ndim == 2
    large = m >= BLOCK and m * n * k >= WORTH_PACKING
    if OWN_PRODUCT and single and large and dtype == F32:
        return packed_matmul(a, b, out, bias, (alpha, beta), (lda, ldb, ldc), (ta, tb))
    is_gradient = ta and not tb and beta == 0.0 and single
    if is_gradient and out.flags.aligned and _is_long(m, n, k):
        return _in_halves(a, b, out, alpha, (lda, ldb, ldc))
    # Each BLAS call copies its rows of A and columns of B into an order of its own, and where A
    # lies transposed (a weight gradient) the copy of B is the slow one: a tie is split by columns.
    by_columns = n >= m if ta else n > m
    blocks = ((n if by_columns else m) + BLOCK - 1) // BLOCK
    words = [
        a, b, out, m, n, k, ta, tb, lda, ldb, ldc,
        READY_MADE.get(alpha, float(alpha)), READY_MADE.get(beta, float(beta)),
        1 if by_columns else 0,
        0 if bias is None else bias,
    ]  # fmt: skip
    work = out.size * k // MACS_PER_ELEMENT  # of the whole launch
    if out.ndim == a.ndim == b.ndim == 2:
        return (Launch(matmul_body, dtype, words, blocks if n else 0, work // (blocks or 1)),)
    batch = _batch(a, b, out)
    if batch is None:
        return None
    items = blocks * (out.size // (m * n)) if out.size else 0
    words += (blocks, *batch)
    return (Launch(batched_matmul_body, dtype, words, items, work // (items or 1)),)


def _is_long(m: int, n: int, k: int) -> bool:
    """Whether a weight gradient sums over so many tokens that halving the sum pays.

    Joining the halves moves 3 m n numbers; the operands that BLAS copies have k (m + n).
    """
    return k >= LONG and k % 2 == 0 and 4 * m * n <= k * (m + n)


def _in_halves(a, b, out, alpha, distances) -> Sequence[Launch] | None:
    """out = a[:, :k/2] @ b[:k/2] + a[:, k/2:] @ b[k/2:], the two products side by side.

    A thread that computes some rows or columns of a product has to copy all of the other operand
    into BLAS's order first. One that computes half of the *sum* copies half of both.
    """
    (m, k), n = a.shape, b.shape[1]
    lda, ldb, ldc = distances
    other = scratch((m, ldc), out.dtype)[:, :n]  # the second half, laid out as `out` is
    joined = add(out, other, out)
    if joined is None:
        return None
    blocks = -(-m // BLOCK)
    words = [
        a, b, out, m, n, k // 2, 1, 0, lda, ldb, ldc,
        READY_MADE.get(alpha, float(alpha)), READY_MADE[0.0], 0, 0,
        blocks, other, k // 2 * lda, k // 2 * ldb,
    ]  # fmt: skip
    work = m * n * k // MACS_PER_ELEMENT // (2 * blocks)
    return [Launch(halved_matmul_body, out.dtype, words, 2 * blocks, work), *joined]


def _layout(matrix: np.ndarray, rows: int, columns: int) -> tuple[int, int] | None:
    """(transposed?, distance between rows in elements) as BLAS wants it, or None if neither."""
    if matrix.flags.c_contiguous:
        return 0, columns
    step = matrix.itemsize
    row, column = matrix.strides[-2:]
    if column == step or columns == 1:
        if rows == 1:
            return 0, columns  # nothing follows the only row: any distance will do
        if columns * step <= row <= LARGEST * step and row % step == 0:
            return 0, row // step
    if row == step or rows == 1:
        if columns == 1:
            return 1, rows
        if rows * step <= column <= LARGEST * step and column % step == 0:
            return 1, column // step
    return None


def _batch(a, b, out) -> list[int] | None:
    """Shape of the batch padded to four axes, then the strides of a, b, out in it (elements)."""
    shape = out.shape[:-2]
    if len(shape) > BATCH_AXES:
        return None
    words = [1] * (BATCH_AXES - len(shape)) + list(shape)
    for array in (a, b, out):
        steps = [0] * BATCH_AXES
        for axis in range(-array.ndim, -2):
            size, stride = array.shape[axis], array.strides[axis]
            if size != 1:  # a size of 1 is broadcast: its index grows, its address does not
                if -axis > out.ndim or size != out.shape[axis] or stride % array.itemsize:
                    return None
                steps[axis + 2] = stride // array.itemsize
        words += steps
    return words
