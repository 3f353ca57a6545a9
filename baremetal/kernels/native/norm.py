"""LayerNorm and RMSNorm, compiled: per row a few short loops; for the weights, per column.

Rows are divided among the threads where the result is a row (out, dx). Where it is a sum over rows
(dw, db), they are summed in bands of 64, whole rows at a time (`row_sum.py` says why), and then the
bands' sums are added in their order: rounding errors grow with 64 + rows / 64 instead of with the
number of rows, and the bits do not depend on the number of threads.
"""

import math

from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    cast,
    integer,
    offset,
    pointer,
    scalar,
    scratch,
)
from baremetal.kernels.native.rows import rows_of
from baremetal.kernels.norm import BAND

PIECE = 16  # columns that are never split between threads: one cache line of float32


@body(reassociate=True)
def layer_norm_body(lo, hi, args):
    """Rows lo..hi of out = weight (x - mean) rstd + bias.

    Words: 0 x, 1 weight, 2 bias or 0, 3 out, 4 mean, 5 rstd, 6-7 row distances of x and out,
    8 width, 9 eps.
    """
    weight, bias, has_bias = pointer(args, 1), pointer(args, 2), integer(args, 2) != 0
    means, rstds = pointer(args, 4), pointer(args, 5)
    x_step, out_step, width = integer(args, 6), integer(args, 7), integer(args, 8)
    count, eps = cast(args, width), scalar(args, 9)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 3), row * out_step)
        total = cast(args, 0)
        for j in range(width):
            total += x[j]
        mean = total / count
        squares = cast(args, 0)
        for j in range(width):
            squares += (x[j] - mean) * (x[j] - mean)
        rstd = cast(args, 1) / math.sqrt(squares / count + eps)
        means[row], rstds[row] = mean, rstd
        if has_bias:
            for j in range(width):
                out[j] = weight[j] * ((x[j] - mean) * rstd) + bias[j]
        else:
            for j in range(width):
                out[j] = weight[j] * ((x[j] - mean) * rstd)


def layer_norm(x, weight, bias, out, mean, rstd, *, eps):
    """Pack LayerNorm."""
    vectors = (weight, mean, rstd) if bias is None else (weight, mean, rstd, bias)
    steps = _row_steps(x.dtype, (x, out), vectors)
    if steps is None:
        return None
    rows, width = x.shape
    words = (x, weight, 0 if bias is None else bias, out, mean, rstd, *steps, width, float(eps))
    return [Launch(layer_norm_body, x.dtype, words, rows, width)]


@body(reassociate=True)
def layer_norm_backward_input_body(lo, hi, args):
    """Rows lo..hi of out = rstd (G - mean(G) - x̂ mean(G x̂)), G = grad weight.

    Words: 0 x, 1 weight, 2 grad, 3 mean, 4 rstd, 5 out, 6-8 row distances of x grad out, 9 width.
    """
    weight, means, rstds = pointer(args, 1), pointer(args, 3), pointer(args, 4)
    x_step, grad_step, out_step = integer(args, 6), integer(args, 7), integer(args, 8)
    width = integer(args, 9)
    count = cast(args, width)
    for row in range(lo, hi):
        x, grad = offset(pointer(args, 0), row * x_step), offset(pointer(args, 2), row * grad_step)
        out = offset(pointer(args, 5), row * out_step)
        mean, rstd = means[row], rstds[row]
        along_ones, along_x = cast(args, 0), cast(args, 0)
        for j in range(width):
            g = grad[j] * weight[j]
            along_ones += g
            along_x += g * ((x[j] - mean) * rstd)
        along_ones /= count
        along_x /= count
        for j in range(width):
            x_hat = (x[j] - mean) * rstd
            out[j] = rstd * (grad[j] * weight[j] - along_ones - x_hat * along_x)


def layer_norm_backward_input(x, weight, grad, mean, rstd, out):
    """Pack LayerNorm's dx."""
    steps = _row_steps(x.dtype, (x, grad, out), (weight, mean, rstd))
    if steps is None:
        return None
    rows, width = x.shape
    words = (x, weight, grad, mean, rstd, out, *steps, width)
    return [Launch(layer_norm_backward_input_body, x.dtype, words, rows, width)]


@body(reassociate=True)
def norm_band_body(lo, hi, args):
    """Bands lo..hi (of 64 rows): sums (bands, 2, width) of grad x̂ and of grad.

    Words: 0 x, 1 grad, 2 mean or 0, 3 rstd, 4 sums, 5-6 row distances of x and grad, 7 rows,
    8 width. Without a mean (RMSNorm), x̂ = x rstd.
    """
    means, has_mean, rstds = pointer(args, 2), integer(args, 2) != 0, pointer(args, 3)
    x_step, grad_step, rows, width = (
        integer(args, 5), integer(args, 6), integer(args, 7), integer(args, 8)
    )  # fmt: skip
    for band in range(lo, hi):
        weight_sum = offset(pointer(args, 4), 2 * band * width)
        bias_sum = offset(weight_sum, width)
        for j in range(width):
            weight_sum[j], bias_sum[j] = cast(args, 0), cast(args, 0)
        for row in range(band * BAND, min((band + 1) * BAND, rows)):
            x = offset(pointer(args, 0), row * x_step)
            grad = offset(pointer(args, 1), row * grad_step)
            mean, rstd = means[row] if has_mean else cast(args, 0), rstds[row]
            for j in range(width):
                weight_sum[j] += grad[j] * ((x[j] - mean) * rstd)
                bias_sum[j] += grad[j]


@body
def norm_bands_body(lo, hi, args):
    """Pieces lo..hi (of 16 columns) of grad_weight and grad_bias: the bands' sums, added up.

    Words: 0 sums (bands, 2, width), 1 grad_weight, 2 grad_bias or 0, 3 bands, 4 width.
    """
    bands, width = integer(args, 3), integer(args, 4)
    for part in range(2 if integer(args, 2) != 0 else 1):
        out = pointer(args, 1 + part)
        first, end = lo * PIECE, min(hi * PIECE, width)
        for j in range(first, end):
            out[j] = cast(args, 0)
        for band in range(bands):
            sums = offset(pointer(args, 0), (2 * band + part) * width)
            for j in range(first, end):
                out[j] += sums[j]


def layer_norm_backward_weight(x, grad, mean, rstd, grad_weight, grad_bias):
    """Pack LayerNorm's dw and db."""
    return _weight_gradient(x, grad, mean, rstd, grad_weight, grad_bias)


def _weight_gradient(x, grad, mean, rstd, grad_weight, grad_bias):
    vectors = [v for v in (mean, rstd, grad_weight, grad_bias) if v is not None]
    steps = _row_steps(x.dtype, (x, grad), vectors)
    if steps is None:
        return None
    rows, width = x.shape
    bands = -(-rows // BAND)
    sums = scratch((bands, 2, width), x.dtype)
    by_band = (x, grad, 0 if mean is None else mean, rstd, sums, *steps, rows, width)
    joined = (sums, grad_weight, 0 if grad_bias is None else grad_bias, bands, width)
    return [
        Launch(norm_band_body, x.dtype, by_band, bands, BAND * width),
        Launch(norm_bands_body, x.dtype, joined, -(-width // PIECE), 2 * bands * PIECE),
    ]


@body(reassociate=True)
def rms_norm_body(lo, hi, args):
    """Rows lo..hi of out = weight x rstd.

    Words: 0 x, 1 weight, 2 out, 3 rstd, 4-5 row distances of x and out, 6 width, 7 eps.
    """
    weight, rstds = pointer(args, 1), pointer(args, 3)
    x_step, out_step, width = integer(args, 4), integer(args, 5), integer(args, 6)
    count, eps = cast(args, width), scalar(args, 7)
    for row in range(lo, hi):
        x, out = offset(pointer(args, 0), row * x_step), offset(pointer(args, 2), row * out_step)
        squares = cast(args, 0)
        for j in range(width):
            squares += x[j] * x[j]
        rstd = cast(args, 1) / math.sqrt(squares / count + eps)
        rstds[row] = rstd
        for j in range(width):
            out[j] = weight[j] * (x[j] * rstd)


def rms_norm(x, weight, out, rstd, *, eps):
    """Pack RMSNorm."""
    steps = _row_steps(x.dtype, (x, out), (weight, rstd))
    if steps is None:
        return None
    rows, width = x.shape
    words = (x, weight, out, rstd, *steps, width, float(eps))
    return [Launch(rms_norm_body, x.dtype, words, rows, width)]


@body(reassociate=True)
def rms_norm_backward_input_body(lo, hi, args):
    """Rows lo..hi of out = rstd (G - x̂ mean(G x̂)), G = grad weight, x̂ = x rstd.

    Words: 0 x, 1 weight, 2 grad, 3 rstd, 4 out, 5-7 row distances of x grad out, 8 width.
    """
    weight, rstds = pointer(args, 1), pointer(args, 3)
    x_step, grad_step, out_step = integer(args, 5), integer(args, 6), integer(args, 7)
    width = integer(args, 8)
    for row in range(lo, hi):
        x, grad = offset(pointer(args, 0), row * x_step), offset(pointer(args, 2), row * grad_step)
        out, rstd = offset(pointer(args, 4), row * out_step), rstds[row]
        along_x = cast(args, 0)
        for j in range(width):
            along_x += grad[j] * weight[j] * (x[j] * rstd)
        along_x /= cast(args, width)
        for j in range(width):
            out[j] = rstd * (grad[j] * weight[j] - x[j] * rstd * along_x)


def rms_norm_backward_input(x, weight, grad, rstd, out):
    """Pack RMSNorm's dx."""
    steps = _row_steps(x.dtype, (x, grad, out), (weight, rstd))
    if steps is None:
        return None
    rows, width = x.shape
    words = (x, weight, grad, rstd, out, *steps, width)
    return [Launch(rms_norm_backward_input_body, x.dtype, words, rows, width)]


def rms_norm_backward_weight(x, grad, rstd, grad_weight):
    """Pack RMSNorm's dw: LayerNorm's without a mean and without a bias."""
    return _weight_gradient(x, grad, None, rstd, grad_weight, None)


def _row_steps(dtype, matrices, vectors) -> list[int] | None:
    """Row distances of the matrices, or None if any array is not as the bodies expect."""
    if dtype not in FLOATING:
        return None
    for vector in vectors:
        if vector.dtype != dtype or not vector.flags.c_contiguous:
            return None
    steps = []
    for matrix in matrices:
        layout = rows_of(matrix)
        if layout is None or matrix.dtype != dtype:
            return None
        steps.append(layout[1])
    return steps
