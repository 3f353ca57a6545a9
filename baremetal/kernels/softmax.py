"""Softmax: scores become probabilities.

    softmax(x)_j = exp(x_j - m) / Σ_k exp(x_k - m)          m = max_k x_k

Subtracting m changes nothing in exact arithmetic (it cancels) and everything in floating point:
exp(89) overflows float32, while exp(x - m) is never above 1 and the sum never below 1. The
logarithm of the same thing,

    log_softmax(x)_j = (x_j - m) - log Σ_k exp(x_k - m),

is not computed as log(softmax(x)): probabilities below 1e-45 have no logarithm any more.

The gradients need only the *output* y, which is why an autograd tape keeps y and may forget x:

    y = softmax(x):        dx = y ∘ (g - Σ_k g_k y_k)
    y = log_softmax(x):    dx = g - exp(y) Σ_k g_k

Masked, both look at the kept elements of a row only. What is dropped has probability 0, hence the
logarithm -inf, also in a row of which nothing is kept: exp(log_softmax) is softmax everywhere.

All kernels here work on the last axis. Shapes are written (..., width).
"""

import numpy as np

from baremetal.kernels.cost import TRANSCENDENTAL, Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.precision import row_sum


@kernel
def softmax(x: np.ndarray, out: np.ndarray) -> None:
    """out = exp(x - max(x)) / sum(exp(x - max(x))) over the last axis; (..., width) both.

    As in NumPy, a row that holds NaN or +inf, or nothing but -inf, gives NaN.
    """
    with np.errstate(invalid="ignore"):  # inf - inf: the NaN it gives is the answer
        e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    out[...] = e / row_sum(e)


@softmax.costs
def _(x, out) -> Cost:
    return Cost((TRANSCENDENTAL + 4) * x.size, moved(x, out))  # max, subtract, exp, sum, divide


@kernel
def softmax_backward(y: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = y * (grad - sum(grad * y)) over the last axis, with y = softmax(x)."""
    out[...] = y * (grad - row_sum(grad * y))


@softmax_backward.costs
def _(y, grad, out) -> Cost:
    return Cost(4 * y.size, moved(y, grad, out))


@kernel
def log_softmax(x: np.ndarray, out: np.ndarray) -> None:
    """out = (x - max(x)) - log(sum(exp(x - max(x)))) over the last axis; (..., width) both."""
    with np.errstate(invalid="ignore"):
        shifted = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # an empty row has nothing to write the log of 0 to
        out[...] = shifted - np.log(row_sum(np.exp(shifted)))


@log_softmax.costs
def _(x, out) -> Cost:
    return Cost((TRANSCENDENTAL + 4) * x.size, moved(x, out))


@kernel
def log_softmax_backward(y: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad - exp(y) * sum(grad) over the last axis, with y = log_softmax(x)."""
    out[...] = grad - np.exp(y) * row_sum(grad)


@log_softmax_backward.costs
def _(y, grad, out) -> Cost:
    return Cost((TRANSCENDENTAL + 3) * y.size, moved(y, grad, out))


@kernel
def masked_softmax(x: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
    """Softmax over the kept elements of each row; the others get probability 0.

    x and out (..., width); mask is boolean, broadcastable to x, True = keep. A row of which
    nothing is kept gives zeros (there is no distribution over nothing, and NaN would spread). The
    gradient is `softmax_backward` as it stands, for y is 0 where the mask is False.
    """
    kept = np.where(mask, x, np.asarray(-np.inf, x.dtype))
    peak = kept.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", over="ignore"):  # at what the mask drops, anything may be
        e = np.where(mask, np.exp(x - peak), np.asarray(0, x.dtype))
    nothing = ~np.any(np.broadcast_to(mask, x.shape), axis=-1, keepdims=True)
    out[...] = e / np.where(nothing, np.asarray(1, x.dtype), row_sum(e))


@masked_softmax.costs
def _(x, mask, out) -> Cost:
    return Cost((TRANSCENDENTAL + 4) * x.size, moved(x, mask, out))


@kernel
def masked_log_softmax(x: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
    """The logarithm of softmax over the kept elements of each row; the others get -inf.

    x and out (..., width); mask is boolean, broadcastable to x, True = keep. A row of which
    nothing is kept gives -inf, the logarithm of the zeros that `masked_softmax` gives there.
    """
    nothing = np.asarray(-np.inf, x.dtype)
    kept = np.where(mask, x, nothing)
    peak = kept.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # where nothing is kept: the mask decides
        shifted = kept - peak
        e = np.where(mask, np.exp(shifted), np.asarray(0, x.dtype))
        out[...] = np.where(mask, shifted - np.log(row_sum(e)), nothing)


@masked_log_softmax.costs
def _(x, mask, out) -> Cost:
    return Cost((TRANSCENDENTAL + 4) * x.size, moved(x, mask, out))


@kernel
def masked_log_softmax_backward(
    y: np.ndarray, mask: np.ndarray, grad: np.ndarray, out: np.ndarray
) -> None:
    """out = grad - exp(y) * sum(grad) over the kept elements, else 0; y = masked_log_softmax(x).

    Softmax needs no such kernel, for its formula multiplies by y = 0. Here the -inf are constants
    that no x moves, so the cotangents that arrive at them (NaN, perhaps) go nowhere.
    """
    kept = np.where(mask, grad, np.asarray(0, grad.dtype))
    through_sum = np.exp(y) * row_sum(kept)
    out[...] = np.where(mask, grad - through_sum, np.asarray(0, grad.dtype))


@masked_log_softmax_backward.costs
def _(y, mask, grad, out) -> Cost:
    return Cost((TRANSCENDENTAL + 3) * y.size, moved(y, mask, grad, out))
