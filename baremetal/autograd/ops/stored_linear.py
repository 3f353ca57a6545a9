"""A linear layer whose operands pass through narrow storage.

    y = x̂ Ŵᵀ + b           x̂ = load(store(x)),  Ŵ = load(store(W)),  ĝ = load(store(g))
    dx = ĝ Ŵ               dW = ĝᵀ x̂             db = Σ g

Each of the three products is between two narrow matrices and is added up in float32: what a tensor
core does. What is kept for the backward is the *stored* x, of a half to an eighth of the bytes; the
stored W is made again from W, which is kept anyway and has not changed.

The gradient. Rounding is a staircase: its derivative is 0 almost everywhere and infinite at the
steps, and neither teaches anything. So the rules take the rounding for the identity,
d x̂ / d x = 1 ("straight-through": Y. Bengio, N. Léonard, A. Courville, 2013, arXiv:1308.3432). They
are exactly the gradients of the product of the rounded matrices, with a rounded cotangent. Central
differences measure the staircase and cannot check them: the tests compute the three products in
float64 instead.

The cotangent is stored anew by each rule, because rules must not depend on one another; the same
numbers give the same codes. (Not as on the chip: there blocks run along the axis that a product
sums over, so for dW a second copy is made whose blocks run down the columns of g and x. Here both
products read the one whose blocks run along the rows.)
"""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.layout import added, as_rows, contiguous, overwritable
from baremetal.autograd.ops.matmul import check_linear
from baremetal.autograd.storage import SINGLE, LinearStorage, Storage, Stored, load, store
from baremetal.errors import BaremetalError
from baremetal.kernels import matmul as kernels
from baremetal.kernels.reduction import sum as sum_kernel


@op(promotes="common")
def stored_linear(
    ctx: Context,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    storage: LinearStorage,
) -> np.ndarray:
    """x (..., k) @ weight (n, k).T + bias (n,) -> (..., n), of x and weight as they are stored."""
    check_linear(x, weight, bias)
    if storage.is_narrow and x.dtype != SINGLE:
        raise BaremetalError(
            f"stored_linear of {x.dtype}: narrow storage is made from float32; use ops.linear"
        )
    rows = contiguous(ctx, as_rows(ctx, x))
    out = ctx.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    flat = as_rows(ctx, out)
    stored = store(ctx, rows, storage.inputs)
    rounded = load(ctx, stored, rows.shape, storage.inputs)
    rounded_weight = _rounded(ctx, weight, storage.weights)
    if bias is None:
        ctx.launch(kernels.matmul, rounded, rounded_weight.T, flat)
    else:
        ctx.launch(kernels.linear, rounded, rounded_weight, bias, flat)
    ctx.save(weight if ctx.needs[0] else None, *(stored if ctx.needs[1] else ()))
    ctx.remember(rows.shape)
    return out


@stored_linear.vjp("x", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    storage = ctx.attributes["storage"]
    weight = _rounded(ctx, ctx.saved[0], storage.weights)
    grad = _rounded(ctx, as_rows(ctx, grad), storage.gradients)
    if into is None or not into.flags.c_contiguous:
        fresh = ctx.empty(ctx.shapes[0], grad.dtype)
        ctx.launch(kernels.matmul, grad, weight, as_rows(ctx, fresh))
        return added(ctx, fresh, into, beta)
    ctx.launch(kernels.matmul, grad, weight, as_rows(ctx, into), beta=beta)
    return into


@stored_linear.vjp("weight", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    storage = ctx.attributes["storage"]
    x = load(ctx, Stored(*ctx.saved[1:]), ctx.notes[0], storage.inputs)
    grad = _rounded(ctx, as_rows(ctx, grad), storage.gradients)
    into = ctx.empty(ctx.shapes[1], grad.dtype) if into is None else into
    ctx.launch(kernels.matmul, grad.T, x, into, beta=beta)
    return into


@stored_linear.vjp("bias", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    out = overwritable(ctx, ctx.shapes[2], grad.dtype, into, beta)
    ctx.launch(sum_kernel, as_rows(ctx, grad), out, axis=(0,))
    return added(ctx, out, into, beta)


def _rounded(ctx: Context, matrix: np.ndarray, storage: Storage) -> np.ndarray:
    """The matrix through its storage and back."""
    return load(ctx, store(ctx, contiguous(ctx, matrix), storage), matrix.shape, storage)
