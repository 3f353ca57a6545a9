"""Nonlinearities of networks. Their gradients come out of one kernel each: grad * f'(saved).

What is saved is whatever gives the derivative at least cost: the result y for tanh (1 - y²) and
sigmoid (y (1 - y)), the input for the others.
"""

from typing import Literal

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.elementwise import unary
from baremetal.autograd.ops.layout import as_rows
from baremetal.errors import BaremetalError
from baremetal.kernels import activation as gated
from baremetal.kernels import elementwise as kernels


def _backward_from(ctx: Context, kernel, grad: np.ndarray) -> np.ndarray:
    """Kernels that compute grad * f'(saved) in one pass."""
    (saved,) = ctx.saved
    out = ctx.empty(saved.shape, saved.dtype)
    ctx.launch(kernel, saved, grad, out)
    return out


@op(promotes="floating")
def tanh(ctx: Context, x: np.ndarray) -> np.ndarray:
    """The hyperbolic tangent; its derivative is 1 - y²."""
    out = unary(ctx, kernels.tanh, x)
    ctx.save(out)
    return out


@tanh.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return _backward_from(ctx, kernels.tanh_backward, grad)


@op(promotes="floating")
def sigmoid(ctx: Context, x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)); its derivative is y (1 - y)."""
    out = unary(ctx, kernels.sigmoid, x)
    ctx.save(out)
    return out


@sigmoid.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return _backward_from(ctx, kernels.sigmoid_backward, grad)


@op(promotes="numeric")
def relu(ctx: Context, x: np.ndarray) -> np.ndarray:
    """max(x, 0); the derivative at 0 is 0."""
    ctx.save(x)
    return unary(ctx, kernels.relu, x)


@relu.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return _backward_from(ctx, kernels.relu_backward, grad)


@op(promotes="floating")
def gelu(
    ctx: Context, x: np.ndarray, *, approximate: Literal["none", "tanh"] = "none"
) -> np.ndarray:
    """x Φ(x) with the normal distribution's Φ, or its approximation by a tanh (GPT-2's)."""
    if approximate not in ("none", "tanh"):
        raise BaremetalError(f"gelu: approximate={approximate!r}, expected 'none' or 'tanh'")
    ctx.save(x)
    return unary(ctx, kernels.gelu_tanh if approximate == "tanh" else kernels.gelu, x)


@gelu.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    by_tanh = ctx.attributes.get("approximate") == "tanh"
    kernel = kernels.gelu_tanh_backward if by_tanh else kernels.gelu_backward
    return _backward_from(ctx, kernel, grad)


@op(promotes="floating")
def silu(ctx: Context, x: np.ndarray) -> np.ndarray:
    """x sigmoid(x), also called swish."""
    ctx.save(x)
    return unary(ctx, kernels.silu, x)


@silu.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return _backward_from(ctx, kernels.silu_backward, grad)


@op(promotes="floating")
def swiglu(ctx: Context, gate_up: np.ndarray) -> np.ndarray:
    """silu(gate) * up, where gate_up (..., 2H) holds both side by side; gives (..., H)."""
    if gate_up.ndim == 0 or gate_up.shape[-1] % 2:
        raise BaremetalError(
            f"swiglu: gate_up has shape {gate_up.shape}: its last dimension holds gate and up "
            "side by side and must be even"
        )
    rows = as_rows(ctx, gate_up)
    ctx.save(rows)
    out = ctx.empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2), gate_up.dtype)
    ctx.launch(gated.swiglu, rows, as_rows(ctx, out))
    return out


@swiglu.vjp("gate_up")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    (rows,) = ctx.saved
    out = ctx.empty(ctx.shapes[0], grad.dtype)
    ctx.launch(gated.swiglu_backward, rows, as_rows(ctx, grad), as_rows(ctx, out))
    return out
