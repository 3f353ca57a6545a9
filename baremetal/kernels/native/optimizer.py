"""Optimisers, compiled: one pass over flat memory, threads by contiguous pieces.

An update reads and writes 28 bytes an element (AdamW, float32) and computes little: it runs at
the speed of memory once the model is larger than the caches.

Numbers that are the same for all elements are computed in float64, once per piece, and only then
rounded to the element type: 1 - 0.999 in float32 arithmetic would be wrong in the fifth digit.
"""

import math

import numpy as np

from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    cast,
    integer,
    pointer,
    pointer_f64,
    pointer_i64,
    scalar_f64,
)
from baremetal.kernels.optimizer import (
    CLIP_FACTOR,
    GATE,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS_SCALE,
    NONFINITE_COUNT,
    STEP,
)

DOUBLE = np.dtype(np.float64)


@body
def adamw_body(lo, hi, args):
    """Elements lo..hi. Words: 0 parameter, 1 grad, 2 m, 3 v, 4 scalars, 5 beta1, 6 beta2, 7 eps,
    8 weight decay."""
    p, grad, m, v = pointer(args, 0), pointer(args, 1), pointer(args, 2), pointer(args, 3)
    scalars = pointer_f64(args, 4)
    beta1, beta2 = scalar_f64(args, 5), scalar_f64(args, 6)
    rate, t = scalars[LEARNING_RATE], scalars[STEP]
    if not scalars[GATE] > 0:
        return
    scale = cast(args, scalars[CLIP_FACTOR] / scalars[LOSS_SCALE])
    keep_m, take_m = cast(args, beta1), cast(args, 1.0 - beta1)
    keep_v, take_v = cast(args, beta2), cast(args, 1.0 - beta2)
    correct_m, correct_v = cast(args, 1.0 / (1.0 - beta1**t)), cast(args, 1.0 / (1.0 - beta2**t))
    decay = cast(args, 1.0 - rate * scalar_f64(args, 8))
    eta, eps = cast(args, rate), cast(args, scalar_f64(args, 7))
    for i in range(lo, hi):
        g = grad[i] * scale
        m_new = keep_m * m[i] + take_m * g
        v_new = keep_v * v[i] + take_v * (g * g)
        m[i] = m_new
        v[i] = v_new
        update = m_new * correct_m / (math.sqrt(v_new * correct_v) + eps)
        p[i] = p[i] * decay - eta * update


def adamw(parameter, grad, m, v, scalars, *, beta1, beta2, eps, weight_decay):
    """Pack AdamW; None unless all four arrays are contiguous and of one dtype."""
    if not _flat(parameter, grad, m, v):
        return None
    words = (
        parameter, grad, m, v, scalars,
        float(beta1), float(beta2), float(eps), float(weight_decay),
    )  # fmt: skip
    return [Launch(adamw_body, parameter.dtype, words, parameter.size)]


@body
def sgd_momentum_body(lo, hi, args):
    """Elements lo..hi. Words: 0 parameter, 1 grad, 2 momentum, 3 scalars, 4 momentum factor,
    5 weight decay, 6 nesterov?"""
    p, grad, b, scalars = pointer(args, 0), pointer(args, 1), pointer(args, 2), pointer_f64(args, 3)
    if not scalars[GATE] > 0:
        return
    scale = cast(args, scalars[CLIP_FACTOR] / scalars[LOSS_SCALE])
    mu, decay = cast(args, scalar_f64(args, 4)), cast(args, scalar_f64(args, 5))
    eta, nesterov = cast(args, scalars[LEARNING_RATE]), integer(args, 6) != 0
    for i in range(lo, hi):
        g = grad[i] * scale + decay * p[i]
        b_new = mu * b[i] + g
        b[i] = b_new
        p[i] = p[i] - eta * (g + mu * b_new if nesterov else b_new)


def sgd_momentum(parameter, grad, momentum, scalars, *, momentum_factor, weight_decay, nesterov):
    """Pack SGD with momentum; None unless all three arrays are contiguous and of one dtype."""
    if not _flat(parameter, grad, momentum):
        return None
    words = (
        parameter, grad, momentum, scalars,
        float(momentum_factor), float(weight_decay), bool(nesterov),
    )  # fmt: skip
    return [Launch(sgd_momentum_body, parameter.dtype, words, parameter.size)]


@body(reassociate=True)
def square_sum_body(lo, hi, args):
    """Blocks lo..hi: partial[block] = Σ x² in float64. Words: 0 x, 1 blocks, 2 partial."""
    x, blocks, partial = pointer(args, 0), pointer_i64(args, 1), pointer_f64(args, 2)
    for block in range(lo, hi):
        total = 0.0
        for i in range(blocks[2 * block], blocks[2 * block + 1]):
            value = np.float64(x[i])
            total += value * value
        partial[block] = total


@body
def sum_partial_body(lo, hi, args):
    """All parts: out[part] = its partial sums, added in their order. Words: 0 partial, 1 ends,
    2 out, 3 count of parts."""
    partial, ends, out = pointer_f64(args, 0), pointer_i64(args, 1), pointer_f64(args, 2)
    block = 0
    for part in range(integer(args, 3)):
        total = 0.0
        while block < ends[part]:
            total += partial[block]
            block += 1
        out[part] = total


def square_sum(x, blocks, ends, partial, out):
    """Pack the sums of squares: two launches, since the second needs all of the first."""
    if x.dtype not in FLOATING or not x.flags.c_contiguous:
        return None
    each = x.size // max(len(blocks), 1)
    return [
        Launch(square_sum_body, x.dtype, (x, blocks, partial), len(blocks), each),
        Launch(sum_partial_body, DOUBLE, (partial, ends, out, ends.size), 1),
    ]


@body
def clip_factor_body(lo, hi, args):
    """Norm, clip factor and gate. Words: 0 square sums, 1 their count, 2 loss, 3 its size,
    4 scalars, 5 max_norm."""
    squares, losses, scalars = pointer_f64(args, 0), pointer(args, 2), pointer_f64(args, 4)
    max_norm = scalar_f64(args, 5)
    total = 0.0
    for i in range(integer(args, 1)):
        total += squares[i]
    norm = math.sqrt(total) / scalars[LOSS_SCALE]
    finite = math.isfinite(norm)
    for i in range(integer(args, 3)):
        finite = finite and math.isfinite(losses[i])
    scalars[GRADIENT_NORM] = norm
    scalars[CLIP_FACTOR] = 1.0
    if finite and max_norm > 0.0:
        scalars[CLIP_FACTOR] = min(1.0, max_norm / (norm + 1e-6))
    scalars[GATE] = 1.0 if finite else 0.0
    if not finite:
        scalars[NONFINITE_COUNT] += 1.0


def clip_factor(square_sum, loss, scalars, *, max_norm):
    """Pack the clip factor and the gate: a single item, hence a single thread."""
    if loss.dtype not in FLOATING or not loss.flags.c_contiguous:
        return None
    words = (square_sum, square_sum.size, loss, loss.size, scalars, float(max_norm))
    return [Launch(clip_factor_body, loss.dtype, words, 1)]


@body
def adjust_loss_scale_body(lo, hi, args):
    """The next step's loss scale. Words: 0 scalars, 1 clean steps, 2 growth interval, 3 largest."""
    scalars, clean_steps = pointer_f64(args, 0), pointer_f64(args, 1)
    if not scalars[GATE] > 0:
        clean_steps[0] = 0.0
        scalars[LOSS_SCALE] = max(scalars[LOSS_SCALE] / 2.0, 1.0)
        return
    clean_steps[0] += 1.0
    if clean_steps[0] >= integer(args, 2):
        scalars[LOSS_SCALE] = min(scalars[LOSS_SCALE] * 2.0, scalar_f64(args, 3))
        clean_steps[0] = 0.0


def adjust_loss_scale(scalars, clean_steps, *, growth_interval, largest):
    """Pack it: a single item, hence a single thread."""
    words = (scalars, clean_steps, int(growth_interval), float(largest))
    return [Launch(adjust_loss_scale_body, DOUBLE, words, 1)]


def _flat(*arrays) -> bool:
    dtype = arrays[0].dtype
    return dtype in FLOATING and all(a.flags.c_contiguous and a.dtype == dtype for a in arrays)
