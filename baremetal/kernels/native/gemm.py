"""A matrix product of our own, for processors whose vectors hold sixteen float32.

    C = alpha op(A) op(B) + beta C              op(A) (m, k), op(B) (k, n), C (m, n), all row-major

A processor core does two multiply-adds of whole vectors in a cycle, if both find their operands in
registers. So the innermost loop holds a tile of C in registers, 8 rows of 32 columns, and adds the
outer product of a column of A and a row of B to it: 2 vectors of B are loaded, 8 numbers of A are
broadcast, and 16 multiply-adds follow.

                    b0 b1         32 columns, 2 vectors
                a0  .  .
                a1  .  .          for p in 0..k:
                ..                    tile += a[:, p] b[p, :]
                a7  .  .

Everything else serves to have a and b where that loop finds them fastest (K. Goto, R. van de Geijn,
"Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008; the shape of the loops is
that of F. Van Zee, R. van de Geijn, "BLIS", ACM TOMS 41(3), 2015):

    B       is packed first, once for all threads: panels of 32 columns, each contiguous in the
            order of the loop. 256 rows of a panel have 32 KiB: the first-level cache
    A       is packed by whoever needs it, 64 rows by 256 columns at a time, on the stack: 64 KiB,
            the second-level cache
    C       is read and written once for every 256 terms of the sums; its lines are asked for
            before the loop and are there after it

Packing also ends all differences between matrices that lie as they are and transposed ones, which
is where libraries lose: of the products of a training step two of three have a transposed operand.

Why not leave it to BLAS, as everywhere else? A library that is called for one thread's part of a
product packs all of the other operand for each part. In a training step, where operands come from
memory, that is slower than any benchmark of single products shows: `baremetal bench step --model
medium`, once more with `BAREMETAL_PRODUCT=blas` set, compares the two. Where vectors are shorter
the tile does not fit the registers, and BLAS it is (`matmul.py` decides).

Sums run over p in its order, in pieces of 256, whatever the tile, so that the bits depend neither
on the number of threads nor on the sizes m and n.
"""

import os
from collections.abc import Sequence

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from baremetal.kernels.native.abi import (
    Launch,
    body,
    integer,
    offset,
    pointer,
    scalar,
    scratch,
    stack,
)
from baremetal.kernels.native.compiler import inlined
from baremetal.kernels.native.transpose import LANES, transpose_tile
from baremetal.kernels.native.vmath import like

ROWS, COLUMNS = 8, 32  # of the tile in registers
VECTOR = 16  # float32 in a vector
DEPTH = 256  # terms of the sums that are done at a time
BLOCK_ROWS = 64  # rows of A that are packed at a time
PACKED_A = BLOCK_ROWS * DEPTH
AHEAD = 16  # rows of memory that are asked for before they are needed
TILE = ROWS * COLUMNS
MACS_PER_ELEMENT = 16  # multiply-adds in the time of one copied element
F32 = np.dtype(np.float32)


def own_product_pays() -> bool:
    """Whether this processor has thirty-two registers of sixteen float32 (AVX-512).

    ``BAREMETAL_PRODUCT=blas`` in the environment says no, to compare.
    """
    if os.environ.get("BAREMETAL_PRODUCT") == "blas" or numba.config.CPU_NAME is not None:
        return False
    return bool(llvm.get_host_cpu_features().get("avx512f"))


# ---------------------------------------------------------------- the tile in registers


@intrinsic
def add_outer_products(typing_context, a, b, depth, alpha, beta, c, row_distance):
    """c (8 rows, 32 columns) = alpha Σ a[p] b[p] + beta c, where a[p] has 8 and b[p] 32 numbers.

    `a` and `b` are packed. With beta = 0, c is not read.
    """
    element, size = c.dtype, types.int64
    if element is not types.float32:
        return None
    signature = types.void(a, b, size, element, element, c, size)
    vector = ir.VectorType(ir.FloatType(), VECTOR)

    def generate(context, builder, signature, values):
        a, b, depth, alpha, beta, c, row_distance = values
        places = _vectors_of(builder, vector, c, row_distance)
        for place in places:
            _prefetch(builder, place, to_write=1)
        sums = _loop(builder, vector, a, b, depth)
        alpha = _broadcast(builder, vector, alpha)
        sums = [builder.fmul(alpha, one) for one in sums]
        reads_c = builder.fcmp_unordered("!=", beta, beta.type(0.0))
        with builder.if_else(reads_c) as (adding, overwriting):
            with adding:
                beta = _broadcast(builder, vector, beta)
                for one, place in zip(sums, places, strict=True):
                    old = builder.fmul(beta, builder.load(place, align=4))
                    builder.store(builder.fadd(one, old), place, align=4)
            with overwriting:
                for one, place in zip(sums, places, strict=True):
                    builder.store(one, place, align=4)
        return context.get_dummy_value()

    return signature, generate


def _loop(builder, vector, a, b, depth):
    """The loop over p; returns the tile's vectors, row by row."""
    word, count = ir.IntType(64), TILE // VECTOR
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{VECTOR}f32"
    )
    before = builder.block
    loop, done = builder.append_basic_block("outer_product"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    p = builder.phi(word)
    p.add_incoming(word(0), before)
    sums = [builder.phi(vector) for _ in range(count)]
    for one in sums:
        one.add_incoming(ir.Constant(vector, [0.0] * VECTOR), before)
    a, b = (
        builder.gep(packed, [builder.mul(p, word(n))]) for packed, n in ((a, ROWS), (b, COLUMNS))
    )
    row = [
        builder.load(_as_vector(builder, vector, builder.gep(b, [word(j)])), align=4)
        for j in range(0, COLUMNS, VECTOR)
    ]
    grown: list = []
    for i in range(ROWS):
        number = _broadcast(builder, vector, builder.load(builder.gep(a, [word(i)])))
        for part in row:
            grown.append(builder.call(fma, [number, part, sums[len(grown)]]))
    following = builder.add(p, word(1))
    p.add_incoming(following, loop)
    for one, more in zip(sums, grown, strict=True):
        one.add_incoming(more, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    return grown


def _prefetch(builder, address, to_write):
    """Ask for a cache line: it arrives while something else is done."""
    char, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [char, flag, flag, flag])
    prefetch = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    keep, data = flag(3), flag(1)
    builder.call(prefetch, [builder.bitcast(address, char), flag(to_write), keep, data])


def _as_vector(builder, vector, address):
    return builder.bitcast(address, vector.as_pointer())


def _broadcast(builder, vector, number):
    """The same number in all places of a vector."""
    lane = ir.IntType(32)
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, number, lane(0))
    zeros = ir.Constant(ir.VectorType(lane, VECTOR), [0] * VECTOR)
    return builder.shuffle_vector(first, nothing, zeros)


def _vectors_of(builder, vector, c, row_distance):
    """Where the tile's vectors lie in C, row by row."""
    word = ir.IntType(64)
    places = []
    for i in range(ROWS):
        row = builder.gep(c, [builder.mul(row_distance, word(i))])
        for j in range(0, COLUMNS, VECTOR):
            places.append(_as_vector(builder, vector, builder.gep(row, [word(j)])))
    return places


# ---------------------------------------------------------------- packing


@intrinsic
def fetch_ahead(typing_context, x):
    """Ask for the cache line of x[0]."""

    def generate(context, builder, signature, values):
        _prefetch(builder, values[0], to_write=0)
        return context.get_dummy_value()

    return types.void(x), generate


@intrinsic
def copy_lanes(typing_context, x, out):
    """out[0..8) = x[0..8)."""

    def generate(context, builder, signature, values):
        vector = ir.VectorType(values[0].type.pointee, LANES)
        source, target = (_as_vector(builder, vector, value) for value in values)
        builder.store(builder.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return types.void(x, out), generate


@inlined
def _panel(depth):
    """Elements from one panel of B to the next: an odd number of cache lines, lest all panels'
    lines of one row fall into the same set of the cache."""
    return depth * COLUMNS + VECTOR


@inlined
def _clear(out, count):
    """Zeros where a panel is not filled: what is computed from there is thrown away, but leftovers
    in memory could be denormal numbers, and those take a processor a hundred times as long."""
    for i in range(count):
        out[i] = like(out[0], 0)


@inlined
def _pack_rows(x, step, count, depth, out, width):
    """out (depth, width) = x (count, depth), its rows `step` apart, transposed; zeros behind."""
    groups, whole = count // LANES * LANES, depth // LANES * LANES
    if count < width:
        _clear(out, depth * width)
    for p in range(0, whole, LANES):
        for i in range(0, groups, LANES):
            transpose_tile(offset(x, i * step + p), step, offset(out, p * width + i), width)
    for i in range(count):
        for p in range(whole if i < groups else 0, depth):
            out[p * width + i] = x[i * step + p]


@inlined
def _pack_vector(x, count, out, width, apart):
    """Cut x[0..count) into pieces of `width`, each into a panel of its own, `apart` further on."""
    for start in range(0, count, width):
        piece = offset(out, start // width * apart)
        here = min(count - start, width)
        groups = here // LANES * LANES
        for i in range(0, groups, LANES):
            copy_lanes(offset(x, start + i), offset(piece, i))
        for i in range(groups, width):
            piece[i] = x[start + i] if i < here else like(x[0], 0)


@body
def pack_columns_body(lo, hi, args):
    """Panels lo..hi of 32 columns of a B that lies transposed, (n, k), packed.

    Words: 0-1 B packed, 2-3 k n, 4 row distance of B.
    """
    depth, n, step = integer(args, 2), integer(args, 3), integer(args, 4)
    for panel in range(lo, hi):
        first = panel * COLUMNS
        packed = offset(pointer(args, 1), panel * _panel(depth))
        b = offset(pointer(args, 0), first * step)
        _pack_rows(b, step, min(n - first, COLUMNS), depth, packed, COLUMNS)


@body
def pack_rows_body(lo, hi, args):
    """Rows lo..hi of a B that lies as it is, (k, n), each cut up and packed. Words as in
    `pack_columns_body`."""
    depth, n, step = integer(args, 2), integer(args, 3), integer(args, 4)
    for p in range(lo, hi):
        packed = offset(pointer(args, 1), p * COLUMNS)
        _pack_vector(offset(pointer(args, 0), p * step), n, packed, COLUMNS, _panel(depth))


# ---------------------------------------------------------------- the product


@inlined
def _into_c(a, b, depth, alpha, beta, c, row_distance, rows, columns, tile):
    """One tile of C; at the matrix's edge, where it is cut off, by way of a whole one."""
    if rows == ROWS and columns == COLUMNS:
        add_outer_products(a, b, depth, alpha, beta, c, row_distance)
    else:
        add_outer_products(a, b, depth, alpha, like(alpha, 0), tile, COLUMNS)
        for i in range(rows):
            for j in range(columns):
                at = i * row_distance + j
                old = like(alpha, 0) if beta == like(beta, 0) else beta * c[at]
                c[at] = tile[i * COLUMNS + j] + old


@inlined
def _pack_a(args, first, rows, begin, depth, out):
    """Panels of 8 rows of op(A), from row `first` and term `begin` on."""
    a, step = pointer(args, 0), integer(args, 6)
    if integer(args, 8) != 0:  # A lies transposed, (k, m)
        # Each row lies on another page, where the processor foresees nothing.
        for p in range(depth):
            x = offset(a, (begin + p) * step + first)
            ahead = offset(x, AHEAD * step)
            for i in range(0, rows, VECTOR):
                fetch_ahead(offset(ahead, i))
            _pack_vector(x, rows, offset(out, p * ROWS), ROWS, depth * ROWS)
    else:
        for row in range(0, rows, ROWS):
            x = offset(a, (first + row) * step + begin)
            _pack_rows(x, step, min(rows - row, ROWS), depth, offset(out, row * depth), ROWS)


@inlined
def _begin_with_bias(args, first, end):
    """Rows first..end of C = bias, to which the product is then added."""
    c, bias, n, step = pointer(args, 2), pointer(args, 11), integer(args, 4), integer(args, 7)
    for i in range(first, end):
        for j in range(n):
            c[i * step + j] = bias[j]


@body
def packed_matmul_body(lo, hi, args):
    """Blocks lo..hi of 64 rows of C = alpha op(A) B + beta C, B packed.

    Words: 0-2 A B C, 3-5 m n k, 6-7 row distances of A C, 8 A transposed?, 9 alpha, 10 beta,
    11 bias to begin with, or 0.
    """
    m, n, k = integer(args, 3), integer(args, 4), integer(args, 5)
    c_step = integer(args, 7)
    alpha, packed, tile = scalar(args, 9), stack(args, PACKED_A), stack(args, TILE)
    # Terms outermost: 256 rows of packed B (a kilobyte for each column) stay in the second-level
    # cache for all blocks of rows.
    for begin in range(0, k, DEPTH):
        depth = min(k - begin, DEPTH)
        beta = scalar(args, 10) if begin == 0 else like(alpha, 1)
        for block in range(lo, hi):
            first, end = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, m)
            if begin == 0 and integer(args, 11) != 0:
                _begin_with_bias(args, first, end)
            _pack_a(args, first, end - first, begin, depth, packed)
            for column in range(0, n, COLUMNS):
                b = offset(pointer(args, 1), column // COLUMNS * _panel(k) + begin * COLUMNS)
                for row in range(first, end, ROWS):
                    _into_c(
                        offset(packed, (row - first) * depth), b, depth, alpha, beta,
                        offset(pointer(args, 2), row * c_step + column), c_step,
                        min(end - row, ROWS), min(n - column, COLUMNS), tile,
                    )  # fmt: skip


def packed_matmul(a, b, out, bias, scales, distances, transposed) -> Sequence[Launch]:
    """Pack ``out = alpha op(a) op(b) + beta out`` for float32 matrices.

    Args:
        a, b, out: op(a) (m, k), op(b) (k, n), (m, n).
        bias: (n,) to begin with, or None.
        scales: alpha and beta.
        distances: between rows of a, b, out as they lie in memory, in elements.
        transposed: whether a and b lie transposed.
    """
    (m, n), k = out.shape, a.shape[1]
    panels, blocks = -(-n // COLUMNS), -(-m // BLOCK_ROWS)
    packed = scratch((panels * (COLUMNS * k + VECTOR),), F32)
    words = [
        a, packed, out, m, n, k, distances[0], distances[2], int(transposed[0]),
        float(scales[0]), float(scales[1]), 0 if bias is None else bias,
    ]  # fmt: skip
    work = m * n * k // MACS_PER_ELEMENT
    into = (b, packed, k, n, distances[1])
    if transposed[1]:
        packing = Launch(pack_columns_body, F32, into, panels, COLUMNS * k)
    else:
        packing = Launch(pack_rows_body, F32, into, k, n)
    return [packing, Launch(packed_matmul_body, F32, words, blocks, work // blocks)]
