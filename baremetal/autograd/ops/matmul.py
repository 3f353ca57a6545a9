"""Matrix products and the linear layer.

For C = A B with cotangent G:   dA = G Bᵀ,   dB = Aᵀ G   (two products of the same size, which is
why a backward pass costs twice its forward).
"""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.broadcasting import sum_to_shape
from baremetal.errors import BaremetalError
from baremetal.kernels import matmul as kernels
from baremetal.kernels.reduction import sum as sum_kernel


@op
def matmul(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (..., m, k) @ b (..., k, n) -> (..., m, n); batch dimensions broadcast."""
    _check(a, b)
    ctx.save(a, b)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = ctx.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    ctx.launch(kernels.matmul, a, b, out)
    return out


@matmul.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return _product_to_shape(ctx, grad, np.swapaxes(b, -1, -2), a.shape)


@matmul.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return _product_to_shape(ctx, np.swapaxes(a, -1, -2), grad, b.shape)


def _product_to_shape(ctx: Context, left, right, shape) -> np.ndarray:
    """left @ right, summed over the batch dimensions that the forward broadcast."""
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    out = ctx.empty((*batch, left.shape[-2], right.shape[-1]), left.dtype)
    ctx.launch(kernels.matmul, left, right, out)
    return sum_to_shape(ctx, out, shape)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim < 2 or b.ndim < 2:
        raise BaremetalError(
            f"matmul takes matrices, got shapes {a.shape} and {b.shape}: reshape a vector to "
            "(n, 1) or (1, n)"
        )
    if a.shape[-1] != b.shape[-2]:
        raise BaremetalError(
            f"matmul of {a.shape} and {b.shape}: the last dimension of the first "
            f"({a.shape[-1]}) must equal the last but one of the second ({b.shape[-2]})"
        )


@op
def linear(ctx: Context, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x (..., k) @ weight (n, k).T + bias (n,) -> (..., n); the weight's layout is PyTorch's."""
    if x.shape[-1] != weight.shape[-1]:
        raise BaremetalError(
            f"linear: x has shape {x.shape}, weight {weight.shape}: the last dimensions "
            f"({x.shape[-1]} and {weight.shape[-1]}) must be equal"
        )
    ctx.save(x, weight)
    out = ctx.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    rows, out_rows = _as_rows(x), _as_rows(out)
    if bias is None:
        ctx.launch(kernels.matmul, rows, weight.T, out_rows)
    else:
        ctx.launch(kernels.linear, rows, weight, bias, out_rows)
    return out


@linear.vjp("x", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    x, weight = ctx.saved
    into = ctx.empty_like(x) if into is None else into
    ctx.launch(kernels.matmul, _as_rows(grad), weight, _as_rows(into), beta=beta)
    return into


@linear.vjp("weight", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    x, weight = ctx.saved
    into = ctx.empty_like(weight) if into is None else into
    ctx.launch(kernels.matmul, _as_rows(grad).T, _as_rows(x), into, beta=beta)
    return into


@linear.vjp("bias")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    out = ctx.empty(grad.shape[-1:], grad.dtype)
    ctx.launch(sum_kernel, _as_rows(grad), out, axis=(0,))
    return out


def _as_rows(array: np.ndarray) -> np.ndarray:
    """(..., k) -> (rows, k): a view wherever NumPy can make one."""
    return array if array.ndim == 2 else array.reshape(-1, array.shape[-1])
