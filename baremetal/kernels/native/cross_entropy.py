"""Softmax and cross-entropy, compiled: two passes over a row forward, one backward."""

import math

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
from baremetal.kernels.native.rows import largest, rows_of, sum_of_exp
from baremetal.kernels.native.vmath import exp


@body
def cross_entropy_body(lo, hi, args):
    """Rows lo..hi of losses and lse.

    Words: 0 logits, 1 targets, 2 losses, 3 lse, 4 row distance of logits, 5 width V,
    6 ignore_index.
    """
    targets, losses, lse = pointer_i64(args, 1), pointer(args, 2), pointer(args, 3)
    step, width, ignore_index = integer(args, 4), integer(args, 5), integer(args, 6)
    for row in range(lo, hi):
        if targets[row] == ignore_index:
            losses[row], lse[row] = cast(args, 0), cast(args, 0)
            continue
        x = offset(pointer(args, 0), row * step)
        peak = largest(x, width)
        log_total = math.log(sum_of_exp(x, peak, width))
        losses[row] = log_total + (peak - x[targets[row]])
        lse[row] = peak + log_total


def cross_entropy(logits, targets, losses, lse, *, ignore_index):
    """Pack the loss; None unless targets, losses and lse are contiguous."""
    layout = _layout(logits, targets, losses, lse)
    if layout is None:
        return None
    rows, width = logits.shape
    words = (logits, targets, losses, lse, layout[1], width, ignore_index)
    return [Launch(cross_entropy_body, logits.dtype, words, rows, width)]


@body
def count_targets_body(lo, hi, args):
    """The only item: out = max(count, 1). Words: 0 targets, 1 out, 2 how many, 3 ignore_index."""
    targets, out, ignore_index = pointer_i64(args, 0), pointer(args, 1), integer(args, 3)
    count = 0
    for row in range(integer(args, 2)):
        count += 1 if targets[row] != ignore_index else 0
    out[0] = cast(args, max(count, 1))


def count_targets(targets, out, *, ignore_index):
    """Pack the count; None unless targets are contiguous int64."""
    if out.dtype not in FLOATING or targets.dtype != np.int64 or not targets.flags.c_contiguous:
        return None
    return [Launch(count_targets_body, out.dtype, (targets, out, targets.size, ignore_index), 1)]


@body
def cross_entropy_backward_body(lo, hi, args):
    """Rows lo..hi of out = grad (exp(logits - lse) - onehot(target)).

    Words: 0 logits, 1 targets, 2 lse, 3 grad, 4 out, 5-6 row distances of logits and out,
    7 width V, 8 ignore_index.
    """
    targets, lse, grads = pointer_i64(args, 1), pointer(args, 2), pointer(args, 3)
    step, out_step, width = integer(args, 5), integer(args, 6), integer(args, 7)
    ignore_index = integer(args, 8)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * step), offset(pointer(args, 4), row * out_step)
        target = targets[row]
        if target == ignore_index:
            for j in range(width):
                out[j] = cast(args, 0)
            continue
        shift, grad = lse[row], grads[row]
        # p - 1 first, then the factor, as the reference has it: grad p - grad would round twice.
        p_target = exp(x[target] - shift)
        for j in range(width):
            out[j] = grad * exp(x[j] - shift)
        out[target] = grad * (p_target - cast(args, 1))


def cross_entropy_backward(logits, targets, lse, grad, out, *, ignore_index):
    """Pack the gradient; None unless targets, lse and grad are contiguous."""
    layout, out_layout = _layout(logits, targets, lse, grad), rows_of(out)
    if layout is None or out_layout is None or out.dtype != logits.dtype:
        return None
    rows, width = logits.shape
    words = (logits, targets, lse, grad, out, layout[1], out_layout[1], width, ignore_index)
    return [Launch(cross_entropy_backward_body, logits.dtype, words, rows, width)]


def _layout(logits, targets, *per_row) -> tuple[int, int] | None:
    """Where the rows of logits are, if everything else is as the bodies expect."""
    if logits.dtype not in FLOATING or targets.dtype.char not in "lq" or targets.itemsize != 8:
        return None
    if not targets.flags.c_contiguous:
        return None
    for array in per_row:
        if array.dtype != logits.dtype or not array.flags.c_contiguous:
            return None
    return rows_of(logits)
