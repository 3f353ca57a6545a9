"""Undoing broadcasting: the gradient of "repeat along an axis" is "sum along it"."""

import numpy as np

from baremetal.autograd.op import Context
from baremetal.kernels.reduction import sum as sum_kernel


def sum_to_shape(ctx: Context, grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `grad` over the axes along which a value of this shape was repeated to make it."""
    if grad.shape == shape:
        return grad
    leading = grad.ndim - len(shape)
    repeated = [leading + i for i, n in enumerate(shape) if n == 1 and grad.shape[leading + i] != 1]
    out = ctx.empty(shape, grad.dtype)
    axes = (*range(leading), *repeated)
    # The kernel writes the kept axes in order; axes of size 1 do not change the memory.
    kept = [n for i, n in enumerate(grad.shape) if i not in axes]
    ctx.launch(sum_kernel, grad, out.reshape(kept), axis=axes)
    return out
