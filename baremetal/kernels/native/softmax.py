"""Softmax, compiled: one row at a time, three short loops that the compiler vectorises.

Largest element; exponentials and their sum; division. A row of 65 sits in registers and first-level
cache, one of 50,000 in second-level cache, so reading it three times is cheaper than the "online"
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
from baremetal.kernels.native.rows import largest, rows_of, sum_of_exp
from baremetal.kernels.native.vmath import exp

MASK_AXES = 4  # leading dimensions of a mask; more are left to NumPy


@body(reassociate=True)
def softmax_body(lo, hi, args):
    """Rows lo..hi of out = softmax(x). Words: 0-1 x out, 2-3 their row distances, 4 width."""
    x_step, out_step, width = integer(args, 2), integer(args, 3), integer(args, 4)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 1), row * out_step)
        peak = largest(x, width)
        total = cast(args, 0)
        for j in range(width):
            e = exp(x[j] - peak)
            out[j] = e
            total += e
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
    out = arrays[-1]
    dtype = out.dtype
    if dtype not in FLOATING:
        return None
    steps = []
    for array in arrays:
        layout = rows_of(array)
        if layout is None or array.dtype != dtype:
            return None
        steps.append(layout[1])
    width = out.shape[-1]
    rows = out.size // width if width else 0
    return [Launch(body_, dtype, (*arrays, *steps, width), rows, width)]


@body(reassociate=True)
def masked_softmax_body(lo, hi, args):
    """Rows of out = softmax(x where mask). The mask's rows repeat as its strides say.

    Words: 0-1 x out, 2 mask, 3-4 row distances of x out, 5 width, 6-9 leading shape,
    10-13 the mask's strides in it (bytes, 0 where it is broadcast).
    """
    x_step, out_step, width = integer(args, 3), integer(args, 4), integer(args, 5)
    nothing = cast(args, -np.inf)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 1), row * out_step)
        at, rest = 0, row
        for axis in range(3, -1, -1):
            at += rest % integer(args, 6 + axis) * integer(args, 10 + axis)
            rest = rest // integer(args, 6 + axis)
        mask = offset(pointer_u8(args, 2), at)
        for j in range(width):
            out[j] = x[j] if mask[j] != 0 else nothing
        peak = largest(out, width)
        total = cast(args, 0)
        for j in range(width):
            e = exp(out[j] - peak) if mask[j] != 0 else cast(args, 0)
            out[j] = e
            total += e
        # Of what is kept, the largest gives exp(0) = 1: only a row without any sums to 0.
        scale = cast(args, 1) / total if total != cast(args, 0) else cast(args, 0)
        for j in range(width):
            out[j] *= scale


def masked_softmax(x, mask, out):
    """Pack masked softmax; None for a mask whose last axis is broadcast or strided."""
    if out.size == 0:
        return []  # nothing to do, and NumPy gives empty arrays arbitrary strides
    width = out.shape[-1]
    x_rows, out_rows = rows_of(x), rows_of(out)
    if x_rows is None or out_rows is None or not (x.dtype == out.dtype and out.dtype in FLOATING):
        return None
    mask = np.broadcast_to(mask, x.shape)
    leading = x.shape[:-1]
    if (mask.strides[-1] != 1 and width > 1) or mask.dtype != np.bool_:
        return None
    if len(leading) > MASK_AXES:
        return None
    padding = (1,) * (MASK_AXES - len(leading))
    words = (
        x, out, mask, x_rows[1], out_rows[1], width, *padding, *leading, *padding,
        *mask.strides[:-1],
    )  # fmt: skip
    return [Launch(masked_softmax_body, out.dtype, words, out.size // width, width)]
