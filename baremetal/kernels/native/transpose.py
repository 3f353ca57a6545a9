"""Copying a transposed matrix: contiguous on one side, strided on the other.

Element by element, either the reads or the writes jump a whole row each time and use 4 of the 64
bytes of every cache line they touch. So the matrix is moved in tiles of 8 x 8, which fit in the
registers: eight vectors are loaded along x's contiguous axis, transposed among themselves, and
stored along out's. Transposing n vectors of n elements takes log2(n) steps; step d exchanges bit
d of the row number with bit d of the column number, for all pairs of rows at once:

    a0 a1 | a2 a3        a0 b0 | a2 b2        a0 b0   c0 d0
    b0 b1 | b2 b3   ->   a1 b1 | a3 b3   ->   a1 b1   c1 d1
    ------+------        ------+------
    c0 c1 | c2 c3        c0 d0 | c2 d2        a2 b2   c2 d2
    d0 d1 | d2 d3        c1 d1 | c3 d3        a3 b3   c3 d3
"""

from collections.abc import Sequence

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from baremetal.kernels.native.abi import Launch, body, integer, offset, pointer
from baremetal.kernels.native.broadcast import row_starts

LANES = 8  # elements in a vector, and vectors in a tile
STRIP = 16  # rows of out done together: a cache line of float32 along x's contiguous axis


@intrinsic
def transpose_tile(typing_context, x, column_stride, out, row_stride):
    """out[i * row_stride + j] = x[j * column_stride + i] for i, j in 0..7."""

    def generate(context, builder, signature, values):
        x, column_stride, out, row_stride = values
        element = x.type.pointee
        vector = ir.VectorType(element, LANES)
        size_bytes = 4 if element == ir.FloatType() else 8

        def row_of(base, stride, index):
            at = builder.gep(base, [builder.mul(stride, ir.IntType(64)(index))])
            return builder.bitcast(at, vector.as_pointer())

        rows = [builder.load(row_of(x, column_stride, j), align=size_bytes) for j in range(LANES)]
        for bit in (1, 2, 4):
            rows = _exchange(builder, rows, bit)
        for i in range(LANES):
            builder.store(rows[i], row_of(out, row_stride, i), align=size_bytes)
        return context.get_dummy_value()

    return types.void(x, types.int64, out, types.int64), generate


def _exchange(builder, rows, bit):
    """One step: bit `bit` of the row number changes places with that bit of the column number."""
    # In a shuffle of a and b, k means a[k] and LANES + k means b[k].
    upper = [LANES + (k ^ bit) if k & bit else k for k in range(LANES)]
    lower = [LANES + k if k & bit else k | bit for k in range(LANES)]
    masks = [
        ir.Constant(ir.VectorType(ir.IntType(32), LANES), [ir.IntType(32)(k) for k in mask])
        for mask in (upper, lower)
    ]
    exchanged = list(rows)
    for i in range(LANES):
        if not i & bit:
            pair = rows[i], rows[i | bit]
            exchanged[i] = builder.shuffle_vector(*pair, masks[0])
            exchanged[i | bit] = builder.shuffle_vector(*pair, masks[1])
    return exchanged


@body
def transpose_body(lo, hi, args):
    """Strips lo..hi of out, 16 rows each, counted through all matrices.

    Words: 0-1 x out, 2 rows, 3 columns, 4 x's distance between columns, 5 out's distance between
    rows, 9- the outer axes as in `broadcast.py`.
    """
    rows, columns, sx, so = (
        integer(args, 2), integer(args, 3), integer(args, 4), integer(args, 5)
    )  # fmt: skip
    strips = (rows + 15) // 16
    for item in range(lo, hi):
        matrix, row = item // strips, item % strips * 16
        x_start, out_start, _, _ = row_starts(args, matrix)
        x = offset(pointer(args, 0), x_start + row)
        out = offset(pointer(args, 1), out_start + row * so)
        here = min(16, rows - row)
        whole_rows, whole_columns = here // 8 * 8, columns // 8 * 8
        for j in range(0, whole_columns, 8):
            for i in range(0, whole_rows, 8):
                transpose_tile(offset(x, j * sx + i), sx, offset(out, i * so + j), so)
        # What is left of the strip: a few rows at the bottom, a few columns at the right.
        for i in range(here):
            for j in range(0 if i >= whole_rows else whole_columns, columns):
                out[i * so + j] = x[j * sx + i]


def transposed_copy(x, out, dtype, axes: list[tuple[int, ...]]) -> Sequence[Launch] | None:
    """Pack out = x where their contiguous axes differ; None if that is not so.

    `axes` are those of `merged_axes((x, out))`: tuples (size, stride in x, stride in out).
    """
    *outer, (columns, sx, step) = axes
    contiguous_in_x = [axis for axis in outer if axis[1] == 1]
    if step != 1 or sx == 1 or len(contiguous_in_x) != 1:
        return None
    rows, _, so = contiguous_in_x[0]
    outer.remove(contiguous_in_x[0])
    strips = -(-rows // STRIP)
    words = [x, out, rows, columns, sx, so, 0, 0, 0, len(outer)]
    matrices = 1
    for axis in outer:
        matrices *= axis[0]
        words += (*axis, 0, 0)
    return (Launch(transpose_body, dtype, words, matrices * strips, STRIP * columns),)
