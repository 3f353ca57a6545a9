"""Reductions, compiled: 64 running results side by side.

Adding the numbers of a row to one running sum is slow twice over: each addition waits for the one
before, and the compiler may not reorder it into vectors. So there are 64 running results, the
lanes, and a whole slab of 64 neighbours is added to them at a time:

    along the contiguous axis       lane j holds the sum of x[j], x[64 + j], x[128 + j], ...;
                                    at the end the lanes are added, halves to halves
    across it (a bias gradient)     lane j is column j: rows are added one below the other

Either way the order of the additions is written down here and owed neither to the compiler nor to
the number of threads. Each result belongs to one item, hence to one thread. Only a sum over
everything is cut into pieces of fixed size, whose sums are added in a second launch (and one over
many whole rows into bands: `row_sum.py`).

Sums are kept in float64, those of the pieces too, so a float32 sum of n numbers is as exact as
float32 can say it unless it cancels: its error is at most about (n / 64 + 6) 2^-53 times the sum of
the magnitudes (n instead of n / 64 across), plus one rounding to float32. For float64 the same
bound holds.

The axes of x are ordered by stride and merged as in `broadcast.py`. The innermost one decides: if
it is reduced (and long enough), we go along it, else across. The words:

    0-1  x, out             2    a number: what to divide by
    3-4  size and stride of the innermost reduced axis
    5-7  size of the innermost kept axis, its strides in x and in out (1, 0, 0 when going along)
    8    columns per item, at most 64; 0 says: along
    9-   the other kept axes, then the number of reduced rows, then the other reduced axes
"""

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

from baremetal.kernels.native import vmath
from baremetal.kernels.native.abi import (
    FLOATING,
    Body,
    Launch,
    body,
    cast,
    integer,
    offset,
    pointer,
    pointer_f64,
    pointer_i64,
    scratch,
)
from baremetal.kernels.native.broadcast import buffer, gather, row_starts
from baremetal.kernels.native.row_sum import row_sum
from baremetal.kernels.native.vmath import PRECISE, select

LANES = 64
PIECE = 16_384  # elements in one piece of a sum over everything
WORK_OF_EXP = 4  # an exponential takes as long as so many additions
DOUBLE = np.dtype(np.float64)


# ---------------------------------------------------------------- lanes


@njit(**PRECISE)
def item_start(args, item):
    """(start in x, start in out, columns) of an item: a block of columns, or one row."""
    columns, width = integer(args, 5), integer(args, 8)
    blocks = 1 if width == 0 else (columns + width - 1) // width
    row = item // blocks
    first = (item - row * blocks) * width
    x_start, out_start, _, _ = row_starts(args, row)
    x_start += first * integer(args, 6)
    out_start += first * integer(args, 7)
    return x_start, out_start, min(width, columns - first) if width > 0 else 1


@njit(**PRECISE)
def is_along(args):
    """Whether the lanes lie along the reduced axis, and so hold parts of one result."""
    return integer(args, 8) == 0


@njit(**PRECISE)
def set_lanes(lanes, value):
    for j in range(LANES):
        lanes[j] = value


def _fold_pattern(args, x, columns, lanes, shift, block):
    """lanes[j] = STEP(lanes[j], v, shift[j]) for every number v of this item, lane by lane."""
    size, step, apart = integer(args, 3), integer(args, 4), integer(args, 6)
    slabs, width, last = size, columns, columns
    if is_along(args):
        slabs, apart = (size + LANES - 1) // LANES, step
        step, width, last = LANES * step, LANES, size - (slabs - 1) * LANES
    reduced = 10 + 5 * integer(args, 9)  # where the reduced rows are described
    for row in range(integer(args, reduced)):
        start, _, _, _ = row_starts(args, row, reduced + 1)
        for slab in range(slabs):
            count = width if slab < slabs - 1 else last
            values = gather(offset(x, start + slab * step), apart, count, block)
            if count == LANES:  # a constant count makes the faster loop
                for j in range(LANES):
                    lanes[j] = STEP(lanes[j], values[j], shift[j])
            else:
                for j in range(count):
                    lanes[j] = STEP(lanes[j], values[j], shift[j])


STEP: Any = None  # bound by `fold_with`, as in `broadcast.make_body`


def fold_with(step: Callable) -> Callable:
    """Decorator: the fold whose step is this function of (lane so far, number, shift)."""
    scope = _fold_pattern.__globals__ | {"STEP": njit(**PRECISE)(step)}
    return njit(**PRECISE)(FunctionType(_fold_pattern.__code__, scope, step.__name__))


@njit(**PRECISE)
def larger(top, x):
    return select((x > top) | (x != x), x, top)  # NaN enters, and nothing is larger than it


@fold_with
def add_all(total, x, shift):
    return total + x  # float64 + float32 is float64


@fold_with
def add_exponentials(total, x, shift):
    return total + vmath.exp(x - shift)


@fold_with
def add_squares(total, x, shift):
    distance = x - shift
    return total + distance * distance


@fold_with
def take_larger(top, x, shift):
    return larger(top, x)


@njit(**PRECISE)
def join_sums(args, lanes):
    """Along the reduced axis, all lanes become their sum, added halves to halves."""
    if is_along(args):
        for j in range(32):
            lanes[j] += lanes[j + 32]
        for j in range(16):
            lanes[j] += lanes[j + 16]
        for j in range(8):
            lanes[j] += lanes[j + 8]
        for j in range(4):
            lanes[j] += lanes[j + 4]
        set_lanes(lanes, (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]))


@njit(**PRECISE)
def join_largest(args, lanes):
    """Along the reduced axis, all lanes become their largest."""
    if is_along(args):
        for j in range(32):
            lanes[j] = larger(lanes[j], lanes[j + 32])
        for j in range(16):
            lanes[j] = larger(lanes[j], lanes[j + 16])
        for j in range(8):
            lanes[j] = larger(lanes[j], lanes[j + 8])
        for j in range(4):
            lanes[j] = larger(lanes[j], lanes[j + 4])
        set_lanes(lanes, larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3])))


# ---------------------------------------------------------------- sum, mean, max


@body
def sum_body(lo, hi, args):
    """Items lo..hi of out = sum / divisor. Words: 0-1 x out, 2 divisor, 3- axes (reduction.py)."""
    total, block = buffer(pointer_f64(args, 0)), buffer(pointer(args, 0))
    divisor, so = float(integer(args, 2)), integer(args, 7)
    for item in range(lo, hi):
        x_at, out_at, columns = item_start(args, item)
        set_lanes(total, 0.0)
        add_all(args, offset(pointer(args, 0), x_at), columns, total, total, block)
        join_sums(args, total)
        out = offset(pointer(args, 1), out_at)
        for j in range(columns):
            out[j * so] = cast(args, total[j] / divisor)


@body
def piece_body(lo, hi, args):
    """Items lo..hi of out (float64) = sum, a contiguous row each.

    Words: 0-1 x out, 2 divisor, 3- axes (reduction.py).
    """
    total, block = buffer(pointer_f64(args, 0)), buffer(pointer(args, 0))
    for item in range(lo, hi):
        x_at, out_at, columns = item_start(args, item)
        set_lanes(total, 0.0)
        add_all(args, offset(pointer(args, 0), x_at), columns, total, total, block)
        join_sums(args, total)
        offset(pointer_f64(args, 1), out_at)[0] = total[0]


@body
def total_body(lo, hi, args):
    """out = sum of the pieces / word 2. Words: 0 pieces (float64), 1 out, 3 how many."""
    pieces, out = pointer_f64(args, 0), pointer(args, 1)
    total = 0.0
    for i in range(integer(args, 3)):
        total += pieces[i]
    out[0] = cast(args, total / float(integer(args, 2)))


def sum(x, out, *, axis):
    """Pack out = sum of x over these axes."""
    return _pack_sum(x, out, axis, 1)


def mean(x, out, *, axis):
    """Pack out = mean of x over these axes."""
    return _pack_sum(x, out, axis, x.size // out.size if out.size else 1)


def _pack_sum(x, out, axis, divisor: int) -> Sequence[Launch] | None:
    if x.size < 2 * PIECE or len(axis) < x.ndim or not x.flags.c_contiguous:
        by_rows = row_sum(x, out, axis, divisor)
        return by_rows if by_rows is not None else pack_reduction(sum_body, x, out, axis, divisor)
    if x.dtype not in FLOATING or out.dtype != x.dtype:
        return None
    # A sum over everything is one item, for one thread: cut it into pieces, then add their sums.
    flat = x.reshape(-1)
    pieces = x.size // PIECE
    sums = scratch((pieces + 1,), np.float64)  # only the end result is rounded
    whole = flat[: pieces * PIECE].reshape(pieces, PIECE)
    rest = flat[pieces * PIECE :].reshape(1, -1)
    sums[pieces] = 0
    return [
        *(pack_reduction(piece_body, whole, sums[:pieces], (1,), 1, DOUBLE) or ()),
        *(pack_reduction(piece_body, rest, sums[pieces:], (1,), 1, DOUBLE) or ()),  # may be empty
        Launch(total_body, x.dtype, (sums, out, divisor, sums.size), 1, sums.size),
    ]


@body
def max_body(lo, hi, args):
    """Items lo..hi of out = largest. Words: 0-1 x out, 2 divisor, 3- axes (reduction.py)."""
    top, block = buffer(pointer(args, 0)), buffer(pointer(args, 0))
    so = integer(args, 7)
    for item in range(lo, hi):
        x_at, out_at, columns = item_start(args, item)
        set_lanes(top, cast(args, -math.inf))
        take_larger(args, offset(pointer(args, 0), x_at), columns, top, top, block)
        join_largest(args, top)
        out = offset(pointer(args, 1), out_at)
        for j in range(columns):
            out[j * so] = top[j]


def max(x, out, *, axis):
    """Pack out = largest of x over these axes."""
    return pack_reduction(max_body, x, out, axis, 1)


# ---------------------------------------------------------------- logsumexp, variance


@body
def logsumexp_body(lo, hi, args):
    """Items lo..hi of out = m + log(sum(exp(x - m))), m the largest.

    Words: 0-1 x out, 2 divisor, 3- axes (reduction.py).
    """
    top, block = buffer(pointer(args, 0)), buffer(pointer(args, 0))
    total = buffer(pointer_f64(args, 0))
    so = integer(args, 7)
    for item in range(lo, hi):
        x_at, out_at, columns = item_start(args, item)
        x = offset(pointer(args, 0), x_at)
        set_lanes(top, cast(args, -math.inf))
        take_larger(args, x, columns, top, top, block)
        join_largest(args, top)
        for j in range(LANES):  # inf - inf would be NaN
            top[j] = select(abs(top[j]) == cast(args, math.inf), cast(args, 0.0), top[j])
        set_lanes(total, 0.0)
        add_exponentials(args, x, columns, total, top, block)
        join_sums(args, total)
        out = offset(pointer(args, 1), out_at)
        for j in range(columns):
            out[j * so] = cast(args, math.log(total[j]) + top[j])


def logsumexp(x, out, *, axis):
    """Pack out = log of the sum of exponentials over these axes."""
    return pack_reduction(logsumexp_body, x, out, axis, 1, work=WORK_OF_EXP)


@body
def variance_body(lo, hi, args):
    """Items lo..hi of out = sum((x - mean)^2) / divisor: the mean first, then the distances.

    Words: 0-1 x out, 2 divisor, 3- axes (reduction.py).
    """
    mean, block = buffer(pointer_f64(args, 0)), buffer(pointer(args, 0))
    total = buffer(pointer_f64(args, 0))
    divisor, so = float(integer(args, 2)), integer(args, 7)
    size = float(integer(args, 3) * integer(args, 10 + 5 * integer(args, 9)))
    for item in range(lo, hi):
        x_at, out_at, columns = item_start(args, item)
        x = offset(pointer(args, 0), x_at)
        set_lanes(mean, 0.0)
        add_all(args, x, columns, mean, mean, block)
        join_sums(args, mean)
        for j in range(LANES):
            mean[j] = mean[j] / size
        set_lanes(total, 0.0)
        add_squares(args, x, columns, total, mean, block)
        join_sums(args, total)
        out = offset(pointer(args, 1), out_at)
        for j in range(columns):
            out[j * so] = cast(args, total[j] / divisor)


def variance(x, out, *, axis, ddof=0):
    """Pack out = variance of x over these axes."""
    size = x.size // out.size if out.size else 1
    return pack_reduction(variance_body, x, out, axis, size - ddof if size > ddof else 0, work=2)


# ---------------------------------------------------------------- argmax


@njit(**PRECISE)
def join_argmax(best, where):
    """The index of the largest of all lanes; of equals, and of NaNs, the first."""
    top, index = best[0], where[0]
    for j in range(1, LANES):
        x, i = best[j], where[j]
        same = x == top or (x != x and top != top)
        if x > top or (x != x and top == top) or (same and i < index):
            top, index = x, i
    return index


@body
def argmax_body(lo, hi, args):
    """Items lo..hi of out (int64) = index of the first largest.

    Words: 0-1 x out, 2 divisor, 3- axes (reduction.py).
    """
    best, block = buffer(pointer(args, 0)), buffer(pointer(args, 0))
    where = buffer(pointer_i64(args, 1))
    size, step, apart, so = (
        integer(args, 3), integer(args, 4), integer(args, 6), integer(args, 7)
    )  # fmt: skip
    along = is_along(args)
    for item in range(lo, hi):
        x_at, out_at, columns = item_start(args, item)
        x = offset(pointer(args, 0), x_at)
        for j in range(LANES):
            best[j], where[j] = cast(args, -math.inf), j if along else 0
        for first in range(0, size, LANES if along else 1):
            count = min(LANES, size - first) if along else columns
            values = gather(offset(x, first * step), step if along else apart, count, block)
            for j in range(count):
                v, top = values[j], best[j]
                better = (v > top) | ((v != v) & (top == top))
                best[j] = select(better, v, top)
                where[j] = select(better, first + j if along else first, where[j])
        out = offset(pointer_i64(args, 1), out_at)
        if along:
            out[0] = join_argmax(best, where)
        else:
            for j in range(columns):
                out[j * so] = where[j]


def argmax(x, out, *, axis):
    """Pack out = index of the largest of x along one axis."""
    if out.dtype != np.int64:
        return None
    return pack_reduction(argmax_body, x, out, axis, 1, result=out.dtype, work=2)


# ---------------------------------------------------------------- packing


def pack_reduction(
    body: Body,
    x: np.ndarray,
    out: np.ndarray,
    axis: tuple[int, ...],
    divisor: int,
    result: np.dtype | None = None,
    work: int = 1,
) -> Sequence[Launch] | None:
    """One launch of a reduction over any axes of any layout; None if NumPy must do it.

    Args:
        divisor: word 2.
        result: the dtype of `out`, x's if not given.
        work: the price of one element, in additions.
    """
    dtype = x.dtype
    if dtype not in FLOATING or out.dtype != (dtype if result is None else result) or x.size == 0:
        return None
    if not (x.flags.aligned and out.flags.aligned):
        return None
    kept, reduced, along = _axes(x, out, axis)
    size, step, *_ = reduced.pop() if reduced else (1, 0)
    columns, apart, so = (1, 0, 0) if along else kept.pop()[:3]
    width = 0 if along else _columns_per_item(columns)
    items = 1 if along else -(-columns // width)
    rows = 1
    for axis_words in reduced:
        rows *= axis_words[0]
    words = [x, out, divisor, size, step, columns, apart, so, width, len(kept)]
    for axis_words in kept:
        items *= axis_words[0]
        words += axis_words
    words += (rows, len(reduced))
    for axis_words in reduced:
        words += axis_words
    return (Launch(body, dtype, words, items, x.size // items * work),)


def _columns_per_item(columns: int) -> int:
    """A multiple of 16, at most 64, so that there is work for two threads at least."""
    return min(LANES, -(-columns // 32) * 16)


def _axes(x, out, axis) -> tuple[list[tuple], list[tuple], bool]:
    """The kept and the reduced axes, merged, and whether to go along the innermost reduced one.

    An axis is (size, stride in x, stride in out, 0, 0), in elements; the innermost come last.
    """
    item, out_item = x.itemsize, out.itemsize
    out_strides = iter(out.strides)
    axes = []
    for i, (size, stride) in enumerate(zip(x.shape, x.strides, strict=True)):
        so = 0 if i in axis else next(out_strides) // out_item
        if size != 1:
            axes.append((stride // item, size, so, i not in axis))
    axes.sort(key=itemgetter(0), reverse=True)
    kept: list[tuple] = []
    reduced: list[tuple] = []
    before = None
    for sx, size, so, is_kept in axes:
        same_kind = kept if is_kept else reduced
        if is_kept is before and same_kind[-1][1:3] == (size * sx, size * so):
            size *= same_kind.pop()[0]
        same_kind.append((size, sx, so, 0, 0))
        before = is_kept
    along = not before
    if along and kept and reduced and reduced[-1][0] < LANES <= kept[-1][0]:
        along = False  # many short rows: rather 64 of them at once, a row to a lane
    return kept, reduced, along
