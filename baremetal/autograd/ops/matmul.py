"""Matrix products and the linear layer.

For C = A B with cotangent G:   dA = G Bᵀ,   dB = Aᵀ G   (two products of the same size, which is
why a backward pass costs twice its forward).

BLAS computes C = A B + beta C, so a gradient that joins others is added by the product itself:
these rules accumulate.
"""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.broadcasting import broadcast_shapes, sum_to_shape
from baremetal.autograd.ops.layout import added, as_rows, overwritable
from baremetal.errors import BaremetalError
from baremetal.kernels import matmul as kernels
from baremetal.kernels.reduction import sum as sum_kernel


@op(promotes="common")
def matmul(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (..., m, k) @ b (..., k, n) -> (..., m, n); batch dimensions broadcast.

    A vector on the left counts as one row, on the right as one column, as in NumPy.
    """
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    _check(a, b, left, right)
    ctx.save(left if ctx.needs[1] else None, right if ctx.needs[0] else None)
    ctx.remember(left.shape, right.shape)
    out = _product(ctx, left, right)
    if a.ndim > 1 and b.ndim > 1:
        return out
    rows = () if a.ndim == 1 else (out.shape[-2],)
    columns = () if b.ndim == 1 else (out.shape[-1],)
    return out.reshape((*out.shape[:-2], *rows, *columns))


def _product(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    batch = _batch(a.shape, b.shape)
    out = ctx.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous:
        # All rows of the batch meet the same matrix: one large product instead of many small.
        ctx.launch(kernels.matmul, as_rows(ctx, a), b, as_rows(ctx, out))
    else:
        ctx.launch(kernels.matmul, a, b, out)
    return out


@matmul.vjp("a", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    left_shape, right_shape = ctx.notes
    grad = _as_product(grad, left_shape, right_shape)
    right = ctx.saved[1].swapaxes(-1, -2)
    return _accumulated(ctx, grad, right, left_shape, ctx.shapes[0], into, beta)


@matmul.vjp("b", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    left_shape, right_shape = ctx.notes
    grad = _as_product(grad, left_shape, right_shape)
    left = ctx.saved[0]
    if len(right_shape) == 2 and left.ndim > 2 and left.flags.c_contiguous:
        # The sum over the batch is part of one large product.
        left, grad = as_rows(ctx, left), as_rows(ctx, grad)
    left = left.swapaxes(-1, -2)
    return _accumulated(ctx, left, grad, right_shape, ctx.shapes[1], into, beta)


def _as_product(grad: np.ndarray, left_shape: tuple, right_shape: tuple) -> np.ndarray:
    """The cotangent with the axes back that a vector operand had lost."""
    batch = _batch(left_shape, right_shape)
    return grad.reshape((*batch, left_shape[-2], right_shape[-1]))


def _accumulated(ctx: Context, left, right, matrix_shape, shape, into, beta) -> np.ndarray:
    """beta * into + left @ right, summed over the batch dimensions that the forward broadcast.

    `matrix_shape` is the operand's shape as a matrix, `shape` as it was given (perhaps a vector).
    """
    if (*_batch(left.shape, right.shape), left.shape[-2], right.shape[-1]) == matrix_shape:
        into = ctx.empty(shape, left.dtype) if into is None else into
        target = into if shape == matrix_shape else into.reshape(matrix_shape)
        ctx.launch(kernels.matmul, left, right, target, beta=beta)
        return into
    result = sum_to_shape(ctx, _product(ctx, left, right), matrix_shape).reshape(shape)
    return added(ctx, result, into, beta)


def _batch(a_shape: tuple, b_shape: tuple) -> tuple[int, ...]:
    if len(a_shape) == len(b_shape) == 2:
        return ()
    return broadcast_shapes("matmul", a_shape[:-2], b_shape[:-2])


def _check(a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    if a.ndim < 1 or b.ndim < 1:
        raise BaremetalError(
            f"matmul takes matrices or vectors, got shapes {a.shape} and {b.shape}: multiply by a "
            "number with *"
        )
    if left.shape[-1] != right.shape[-2]:
        raise BaremetalError(
            f"matmul of {a.shape} and {b.shape}: the last dimension of the first "
            f"({left.shape[-1]}) must equal the last but one of the second ({right.shape[-2]})"
        )


@op(promotes="common")
def linear(
    ctx: Context, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    """x (..., k) @ weight (n, k).T + bias (n,) -> (..., n); the weight's layout is PyTorch's."""
    check_linear(x, weight, bias)
    rows = as_rows(ctx, x)
    ctx.save(rows if ctx.needs[1] else None, weight if ctx.needs[0] else None)
    out = ctx.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    if bias is None:
        ctx.launch(kernels.matmul, rows, weight.T, as_rows(ctx, out))
    else:
        ctx.launch(kernels.linear, rows, weight, bias, as_rows(ctx, out))
    return out


@linear.vjp("x", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    weight = ctx.saved[1]
    if into is None or not into.flags.c_contiguous:
        fresh = ctx.empty(ctx.shapes[0], grad.dtype)
        ctx.launch(kernels.matmul, as_rows(ctx, grad), weight, as_rows(ctx, fresh))
        return added(ctx, fresh, into, beta)
    ctx.launch(kernels.matmul, as_rows(ctx, grad), weight, as_rows(ctx, into), beta=beta)
    return into


@linear.vjp("weight", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    into = ctx.empty(ctx.shapes[1], grad.dtype) if into is None else into
    ctx.launch(kernels.matmul, as_rows(ctx, grad).T, ctx.saved[0], into, beta=beta)
    return into


@linear.vjp("bias", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    out = overwritable(ctx, ctx.shapes[2], grad.dtype, into, beta)
    ctx.launch(sum_kernel, as_rows(ctx, grad), out, axis=(0,))
    return added(ctx, out, into, beta)


def check_linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> None:
    """Refuse shapes that do not go together.

    Raises:
        BaremetalError: naming them.
    """
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[-1]:
        raise BaremetalError(
            f"linear: x has shape {x.shape}, weight {weight.shape}: expected x (..., k) and "
            "weight (n, k) with equal k"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise BaremetalError(
            f"linear: bias has shape {bias.shape}, expected {weight.shape[:1]}, one number per row "
            f"of the weight {weight.shape}"
        )
