"""Element-wise operations, each with its derivative beneath; shapes broadcast by NumPy's rules."""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.broadcasting import sum_to_shape
from baremetal.kernels import elementwise as kernels


def _binary(ctx: Context, kernel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = ctx.empty(np.broadcast_shapes(a.shape, b.shape), a.dtype)
    ctx.launch(kernel, a, b, out)
    return out


@op
def add(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b."""
    return _binary(ctx, kernels.add, a, b)


@add.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, grad, ctx.shapes[0])


@add.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, grad, ctx.shapes[1])


@op
def multiply(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b."""
    ctx.save(a, b)
    return _binary(ctx, kernels.multiply, a, b)


@multiply.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return sum_to_shape(ctx, _binary(ctx, kernels.multiply, grad, b), a.shape)


@multiply.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return sum_to_shape(ctx, _binary(ctx, kernels.multiply, grad, a), b.shape)
