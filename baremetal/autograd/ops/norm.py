"""LayerNorm and RMSNorm over the last axis. Formulas: `kernels/norm.py`.

Forward keeps one or two numbers per row besides the input. The gradient of the input and that of
the weights are separate rules, so that the second can be deferred.
"""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.layout import added, as_rows, overwritable
from baremetal.errors import BaremetalError
from baremetal.kernels import norm as kernels


@op(promotes="quotient")
def layer_norm(
    ctx: Context,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    eps: float = 1e-5,
) -> np.ndarray:
    """weight * (x - mean) / sqrt(variance + eps) + bias; x (..., width), weight, bias (width,)."""
    _check("layer_norm", x, weight, bias)
    rows = as_rows(ctx, x)
    mean = ctx.empty(rows.shape[:1], x.dtype)
    rstd = ctx.empty(rows.shape[:1], x.dtype)
    out = ctx.empty(x.shape, x.dtype)
    ctx.launch(kernels.layer_norm, rows, weight, bias, as_rows(ctx, out), mean, rstd, eps=eps)
    ctx.save(rows, weight, mean, rstd)
    return out


@layer_norm.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    rows, weight, mean, rstd = ctx.saved
    out = ctx.empty(ctx.shapes[0], grad.dtype)
    ctx.launch(
        kernels.layer_norm_backward_input,
        rows, weight, as_rows(ctx, grad), mean, rstd, as_rows(ctx, out),
    )  # fmt: skip
    return out


@layer_norm.vjp("weight", "bias", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: list, beta: list) -> tuple:
    rows, weight, mean, rstd = ctx.saved
    grad_weight = overwritable(ctx, weight.shape, weight.dtype, into[0], beta[0])
    grad_bias = None
    if ctx.needs[2]:
        grad_bias = overwritable(ctx, weight.shape, weight.dtype, into[1], beta[1])
    ctx.launch(
        kernels.layer_norm_backward_weight,
        rows, as_rows(ctx, grad), mean, rstd, grad_weight, grad_bias,
    )  # fmt: skip
    grad_weight = added(ctx, grad_weight, into[0], beta[0])
    return grad_weight, None if grad_bias is None else added(ctx, grad_bias, into[1], beta[1])


@op(promotes="quotient")
def rms_norm(ctx: Context, x: np.ndarray, weight: np.ndarray, *, eps: float = 1e-5) -> np.ndarray:
    """weight * x / sqrt(mean(x²) + eps); x (..., width), weight (width,)."""
    _check("rms_norm", x, weight, None)
    rows = as_rows(ctx, x)
    rstd = ctx.empty(rows.shape[:1], x.dtype)
    out = ctx.empty(x.shape, x.dtype)
    ctx.launch(kernels.rms_norm, rows, weight, as_rows(ctx, out), rstd, eps=eps)
    ctx.save(rows, weight, rstd)
    return out


@rms_norm.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    rows, weight, rstd = ctx.saved
    out = ctx.empty(ctx.shapes[0], grad.dtype)
    ctx.launch(
        kernels.rms_norm_backward_input, rows, weight, as_rows(ctx, grad), rstd, as_rows(ctx, out)
    )
    return out


@rms_norm.vjp("weight", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    rows, weight, rstd = ctx.saved
    out = overwritable(ctx, weight.shape, weight.dtype, into, beta)
    ctx.launch(kernels.rms_norm_backward_weight, rows, as_rows(ctx, grad), rstd, out)
    return added(ctx, out, into, beta)


def _check(name: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> None:
    width = x.shape[-1:]
    if not width or weight.shape != width or (bias is not None and bias.shape != width):
        shapes = f"x {x.shape}, weight {weight.shape}"
        shapes += "" if bias is None else f", bias {bias.shape}"
        raise BaremetalError(
            f"{name}: {shapes}: weight and bias must have the size of x's last axis, {width}"
        )
