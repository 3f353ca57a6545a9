"""Softmax and its logarithm over the last axis. Both gradients need only the result."""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.broadcasting import broadcast_shapes
from baremetal.errors import BaremetalError
from baremetal.kernels import softmax as kernels


@op(promotes="quotient", constants=("mask",))
def softmax(ctx: Context, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """exp(x) / Σ exp(x) over the last axis; where the mask is False, 0 (True = keep).

    The mask (booleans, a constant) broadcasts to x. A row of which nothing is kept gives zeros.

    Raises:
        BaremetalError: x has no axis, the mask is not boolean or larger than x.
    """
    _check_last_axis("softmax", x)
    out = ctx.empty(x.shape, x.dtype)
    if mask is None:
        ctx.launch(kernels.softmax, x, out)
    else:
        _check_mask("softmax", x, mask)
        ctx.launch(kernels.masked_softmax, x, mask, out)
    ctx.save(out)
    return out


@softmax.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    # What the mask left out has y = 0, hence gradient 0: the same formula serves both.
    (y,) = ctx.saved
    out = ctx.empty(y.shape, y.dtype)
    ctx.launch(kernels.softmax_backward, y, grad, out)
    return out


@op(promotes="quotient", constants=("mask",))
def log_softmax(ctx: Context, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """x - log Σ exp(x) over the last axis; where the mask is False, -inf (True = keep).

    The mask (booleans, a constant) broadcasts to x. A row of which nothing is kept gives -inf, so
    that exp(log_softmax(x, mask)) is softmax(x, mask) everywhere.

    Raises:
        BaremetalError: x has no axis, the mask is not boolean or larger than x.
    """
    _check_last_axis("log_softmax", x)
    out = ctx.empty(x.shape, x.dtype)
    if mask is None:
        ctx.launch(kernels.log_softmax, x, out)
    else:
        _check_mask("log_softmax", x, mask)
        ctx.launch(kernels.masked_log_softmax, x, mask, out)
    ctx.save(out, mask)
    return out


@log_softmax.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    y, mask = ctx.saved
    out = ctx.empty(y.shape, y.dtype)
    if mask is None:
        ctx.launch(kernels.log_softmax_backward, y, grad, out)
    else:
        ctx.launch(kernels.masked_log_softmax_backward, y, mask, grad, out)
    return out


def _check_last_axis(name: str, x: np.ndarray) -> None:
    if x.ndim == 0:
        raise BaremetalError(f"{name} of a tensor of shape (): it works along the last axis")


def _check_mask(name: str, x: np.ndarray, mask: np.ndarray) -> None:
    if mask.dtype != np.bool_:
        raise BaremetalError(
            f"{name}: the mask has dtype {mask.dtype}, expected booleans, True = keep"
        )
    if broadcast_shapes(name, x.shape, mask.shape) != x.shape:
        raise BaremetalError(
            f"{name}: the mask {mask.shape} is larger than the scores {x.shape}: it must "
            "broadcast to their shape"
        )
