"""Gathering, scattering and moving blocks, compiled.

Gathering divides the indices among the threads. Scattering divides the *columns*: every thread
goes through all indices in order and adds its own columns of each row, so that no two threads
touch the same element, every element receives its terms in the order of the indices, and a token
that is half of the text (a blank) burdens all threads alike. Neither looks at rows of the table
that no index names.
"""

import math
from collections.abc import Sequence

import numpy as np

from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    cast,
    integer,
    offset,
    pointer,
    pointer_i64,
)
from baremetal.kernels.native.broadcast import load, store
from baremetal.kernels.native.elementwise import copy, fill

LINE = 16  # columns in one item of a scatter: a cache line of float32


@body
def gather_rows_body(lo, hi, args):
    """out[i] = table[indices[i]]. Words: 0-2 table indices out, 3 rows, 4 width, 5 row distance."""
    table, indices, out = pointer(args, 0), pointer_i64(args, 1), pointer(args, 2)
    rows, width, distance = integer(args, 3), integer(args, 4), integer(args, 5)
    for i in range(lo, hi):
        index, to = indices[i], offset(out, i * width)
        if 0 <= index < rows:
            row = offset(table, index * distance)
            for j in range(width):
                store(to, j, load(row, j))
        else:
            for j in range(width):
                to[j] = cast(args, math.nan)


def gather_rows(table, indices, out) -> Sequence[Launch] | None:
    """Pack out = table[indices]."""
    distance = _row_distance(table)
    if distance is None or not _is_plain(indices, out) or table.dtype != out.dtype:
        return None
    width = math.prod(table.shape[1:])
    words = (table, indices, out, table.shape[0], width, distance)
    return (Launch(gather_rows_body, out.dtype, words, indices.size, width),)


@body
def scatter_add_rows_body(lo, hi, args):
    """Columns 16 lo .. 16 hi of out[indices[i]] += grad[i], i rising.

    Words: 0-2 grad indices out, 3 rows, 4 width, 5 number of indices, 6 row distance of out.
    """
    grad, indices, out = pointer(args, 0), pointer_i64(args, 1), pointer(args, 2)
    rows, width, distance = integer(args, 3), integer(args, 4), integer(args, 6)
    first = lo * 16
    columns = min(hi * 16, width) - first
    for i in range(integer(args, 5)):
        index = indices[i]
        if 0 <= index < rows:
            row, terms = offset(out, index * distance + first), offset(grad, i * width + first)
            for j in range(columns):
                store(row, j, row[j] + load(terms, j))


def scatter_add_rows(grad, indices, out) -> Sequence[Launch] | None:
    """Pack out[indices] += grad."""
    distance = _row_distance(out)
    if distance is None or not _is_plain(indices, grad) or grad.dtype != out.dtype:
        return None
    width = math.prod(out.shape[1:])
    words = (grad, indices, out, out.shape[0], width, indices.size, distance)
    items = -(-width // LINE) if indices.size else 0
    return (Launch(scatter_add_rows_body, out.dtype, words, items, indices.size * LINE),)


def _row_distance(table: np.ndarray) -> int | None:
    """Elements from one row to the next, if rows are contiguous and the dtype has a kernel."""
    if table.dtype not in FLOATING or table.ndim == 0:
        return None
    if table.flags.c_contiguous:
        return math.prod(table.shape[1:])
    distance = table.strides[0]
    if not table[:1].flags.c_contiguous or distance % table.itemsize:
        return None
    return distance // table.itemsize


def _is_plain(indices, array) -> bool:
    return (
        isinstance(indices, np.ndarray)  # not a scalar, which has no address
        and indices.dtype == np.int64
        and indices.flags.c_contiguous
        and array.flags.c_contiguous
    )


# ---------------------------------------------------------------- moving blocks: copies into views


def concatenate(*parts_and_out, axis) -> Sequence[Launch] | None:
    """Pack the parts one after the other along axis: one copy each."""
    *parts, out = parts_and_out
    start = 0
    launches: list[Launch] = []
    for part in parts:
        stop = start + part.shape[axis]
        where = (slice(None),) * (axis % out.ndim) + (slice(start, stop),)
        copied = copy(part, out[where])
        if copied is None:
            return None
        launches += copied
        start = stop
    return launches


def pad(x, out, *, widths, value) -> Sequence[Launch] | None:
    """Pack x surrounded by `value`: fill everything, then copy the inside."""
    inside = tuple(
        slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True)
    )
    copied = copy(x, out[(*inside, ...)])
    filled = None if copied is None else fill(out, value=value)
    return None if filled is None else [*filled, *copied]


def transpose(x, out, *, axes) -> Sequence[Launch] | None:
    """Pack x with its axes reordered."""
    return copy(x.transpose(axes), out)
