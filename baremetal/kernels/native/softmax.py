"""Softmax, compiled: one row at a time, short loops that the compiler vectorises.

Largest element; exponentials; their sum; division. A row of 65 sits in registers and first-level
cache, one of 50,000 in second-level cache, so reading it several times is cheaper than the "online"
form, whose running maximum makes every step wait for the one before.

A row belongs to one thread, so its bits do not depend on the number of threads.
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
    pointer_u8,
)
from baremetal.kernels.native.compiler import inlined
from baremetal.kernels.native.rows import largest, rows_of, sum_of_exp
from baremetal.kernels.native.vmath import exp, like

MASK_AXES = 4  # leading dimensions of a mask; more are left to NumPy


@body(reassociate=True)
def softmax_body(lo, hi, args):
    """Rows lo..hi of out = softmax(x). Words: 0-1 x out, 2-3 their row distances, 4 width."""
    x_step, out_step, width = integer(args, 2), integer(args, 3), integer(args, 4)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 1), row * out_step)
        peak = largest(x, width)
        for j in range(width):
            out[j] = exp(x[j] - peak)
        # A loop of its own. One that stores too is vectorised only if the compiler finds at run
        # time that x and out do not overlap, and unvectorised it would add in another order: the
        # bits would depend on where in memory the arrays lie.
        total = cast(args, 0)
        for j in range(width):
            total += out[j]
        scale = cast(args, 1) / total
        for j in range(width):
            out[j] *= scale


def softmax(x, out):
    """Pack softmax."""
    return _by_rows(softmax_body, x, out)


@body(reassociate=True)
def softmax_backward_body(lo, hi, args):
    """Rows of out = y (grad - sum(grad y)). Words: 0-2 y grad out, 3-5 row distances, 6 width."""
    y_step, grad_step, out_step = integer(args, 3), integer(args, 4), integer(args, 5)
    width = integer(args, 6)
    for row in range(lo, hi):
        y, grad = offset(pointer(args, 0), row * y_step), offset(pointer(args, 1), row * grad_step)
        out = offset(pointer(args, 2), row * out_step)
        total = cast(args, 0)
        for j in range(width):
            total += y[j] * grad[j]
        for j in range(width):
            out[j] = y[j] * (grad[j] - total)


def softmax_backward(y, grad, out):
    """Pack the gradient of softmax."""
    return _by_rows(softmax_backward_body, y, grad, out)


@body
def log_softmax_body(lo, hi, args):
    """Rows of out = log softmax(x). Words: 0-1 x out, 2-3 their row distances, 4 width."""
    x_step, out_step, width = integer(args, 2), integer(args, 3), integer(args, 4)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 1), row * out_step)
        peak = largest(x, width)
        log_total = math.log(sum_of_exp(x, peak, width))
        for j in range(width):
            out[j] = (x[j] - peak) - log_total


def log_softmax(x, out):
    """Pack log softmax."""
    return _by_rows(log_softmax_body, x, out)


@body(reassociate=True)
def log_softmax_backward_body(lo, hi, args):
    """Rows of out = grad - exp(y) sum(grad). Words: 0-2 y grad out, 3-5 row distances, 6 width."""
    y_step, grad_step, out_step = integer(args, 3), integer(args, 4), integer(args, 5)
    width = integer(args, 6)
    for row in range(lo, hi):
        y, grad = offset(pointer(args, 0), row * y_step), offset(pointer(args, 1), row * grad_step)
        out = offset(pointer(args, 2), row * out_step)
        total = cast(args, 0)
        for j in range(width):
            total += grad[j]
        for j in range(width):
            out[j] = grad[j] - exp(y[j]) * total


def log_softmax_backward(y, grad, out):
    """Pack the gradient of log softmax."""
    return _by_rows(log_softmax_backward_body, y, grad, out)


def _by_rows(body_, *arrays) -> Sequence[Launch] | None:
    """Words: the arrays, their row distances, the width. The last array is the output."""
    out, steps = arrays[-1], _row_distances(*arrays)
    if steps is None:
        return None
    width = out.shape[-1]
    rows = out.size // width if width else 0
    return [Launch(body_, out.dtype, (*arrays, *steps, width), rows, width)]


def _row_distances(*arrays) -> list[int] | None:
    """How far apart the rows of each array lie; None if NumPy must do it."""
    dtype = arrays[-1].dtype
    if dtype not in FLOATING:
        return None
    steps = []
    for array in arrays:
        layout = rows_of(array)
        if layout is None or array.dtype != dtype:
            return None
        steps.append(layout[1])
    return steps


# ---------------------------------------------------------------- masked


@inlined
def mask_row(args, row, mask_word, leading_word):
    """The mask's bytes for a row. Its rows repeat as its strides say.

    The words from `leading_word` on: 0-3 leading shape, 4-7 the mask's strides in it (bytes, 0
    where it is broadcast).
    """
    at, rest = 0, row
    for axis in range(MASK_AXES - 1, -1, -1):
        size = integer(args, leading_word + axis)
        at += rest % size * integer(args, leading_word + MASK_AXES + axis)
        rest = rest // size
    return offset(pointer_u8(args, mask_word), at)


@body(reassociate=True)
def masked_softmax_body(lo, hi, args):
    """Rows of out = softmax(x where mask).

    Words: 0-1 x out, 2 mask, 3-4 row distances of x out, 5 width, 6-13 see `mask_row`.
    """
    x_step, out_step, width = integer(args, 3), integer(args, 4), integer(args, 5)
    nothing = cast(args, -np.inf)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 1), row * out_step)
        mask = mask_row(args, row, 2, 6)
        for j in range(width):
            out[j] = x[j] if mask[j] != 0 else nothing
        peak = largest(out, width)
        for j in range(width):
            out[j] = exp(out[j] - peak) if mask[j] != 0 else cast(args, 0)
        total = cast(args, 0)
        for j in range(width):
            total += out[j]
        # Of what is kept, the largest gives exp(0) = 1: only a row without any sums to 0.
        scale = cast(args, 1) / total if total != cast(args, 0) else cast(args, 0)
        for j in range(width):
            out[j] *= scale


def masked_softmax(x, mask, out):
    """Pack masked softmax; None for a mask whose last axis is broadcast or strided."""
    return _masked_by_rows(masked_softmax_body, mask, x, out)


# Confined to a function, as `sum_of_exp` is and for the same reason.
@inlined(reassociate=True)
def sum_of_kept_exp(x, mask, shift, count):
    """The sum of exp(x[j] - shift) over the j whose mask[j] is set."""
    total = like(shift, 0)
    for j in range(count):
        total += exp(x[j] - shift) if mask[j] != 0 else like(shift, 0)
    return total


@body
def masked_log_softmax_body(lo, hi, args):
    """Rows of out = log softmax(x where mask), -inf elsewhere. Words as in `masked_softmax_body`.

    Where nothing is kept, peak is -inf and log_total too: the mask keeps their NaN from out.
    """
    x_step, out_step, width = integer(args, 3), integer(args, 4), integer(args, 5)
    nothing = cast(args, -np.inf)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 1), row * out_step)
        mask = mask_row(args, row, 2, 6)
        for j in range(width):
            out[j] = x[j] if mask[j] != 0 else nothing
        peak = largest(out, width)
        log_total = math.log(sum_of_kept_exp(out, mask, peak, width))
        for j in range(width):
            out[j] = (out[j] - peak) - log_total if mask[j] != 0 else nothing


def masked_log_softmax(x, mask, out):
    """Pack masked log softmax; None as for `masked_softmax`."""
    return _masked_by_rows(masked_log_softmax_body, mask, x, out)


@body(reassociate=True)
def masked_log_softmax_backward_body(lo, hi, args):
    """Rows of out = grad - exp(y) sum(grad) where mask, 0 elsewhere.

    Words: 0-2 y grad out, 3 mask, 4-6 row distances, 7 width, 8-15 see `mask_row`.
    """
    y_step, grad_step, out_step = integer(args, 4), integer(args, 5), integer(args, 6)
    width, zero = integer(args, 7), cast(args, 0)
    for row in range(lo, hi):
        y, grad = offset(pointer(args, 0), row * y_step), offset(pointer(args, 1), row * grad_step)
        out = offset(pointer(args, 2), row * out_step)
        mask = mask_row(args, row, 3, 8)
        total = zero
        for j in range(width):
            total += grad[j] if mask[j] != 0 else zero
        for j in range(width):
            out[j] = grad[j] - exp(y[j]) * total if mask[j] != 0 else zero


def masked_log_softmax_backward(y, mask, grad, out):
    """Pack the gradient of masked log softmax; None as for `masked_softmax`."""
    return _masked_by_rows(masked_log_softmax_backward_body, mask, y, grad, out)


def _masked_by_rows(body_, mask, *arrays) -> Sequence[Launch] | None:
    """Words: the arrays, the mask, their row distances, the width, and `mask_row`'s."""
    out = arrays[-1]
    if out.size == 0:
        return []  # nothing to do, and NumPy gives empty arrays arbitrary strides
    steps = _row_distances(*arrays)
    if steps is None:
        return None
    *leading, width = out.shape
    mask = np.broadcast_to(mask, out.shape)
    if (mask.strides[-1] != 1 and width > 1) or mask.dtype != np.bool_:
        return None
    if len(leading) > MASK_AXES:
        return None
    padding = (1,) * (MASK_AXES - len(leading))
    words = (
        *arrays, mask, *steps, width, *padding, *leading, *padding, *mask.strides[:-1],
    )  # fmt: skip
    return [Launch(body_, out.dtype, words, out.size // width, width)]
