"""Dropout whose mask is computed, not stored: backward is the same kernel on the gradient."""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.errors import BaremetalError
from baremetal.kernels import dropout as kernels


@op(promotes="floating", constants=("state",))
def dropout(ctx: Context, x: np.ndarray, state: np.ndarray, *, p: float, layer: int) -> np.ndarray:
    """0 with probability p, else x / (1 - p); x's first axis counts the samples.

    `state` (3,) int64 on the device holds [seed, step, first sample]; `layer` tells the dropouts
    of one model apart. Which elements fall depends on these and on nothing else.
    """
    if not 0.0 <= p < 1.0:
        raise BaremetalError(f"dropout: p = {p}, expected 0 <= p < 1")
    if x.ndim == 0 or state.shape != (3,) or state.dtype != np.int64:
        raise BaremetalError(
            f"dropout: x {x.shape}, state {state.shape} {state.dtype}: expected x (samples, ...) "
            "and a state of 3 int64 numbers: seed, step, first sample"
        )
    # The next microbatch writes its own sample number into `state` before our backward runs.
    own_state = ctx.snapshot(state)
    ctx.save(own_state)
    return _masked(ctx, x, own_state, p, layer)


@dropout.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return _masked(ctx, grad, ctx.saved[0], ctx.attributes["p"], ctx.attributes["layer"])


def _masked(ctx: Context, x: np.ndarray, state: np.ndarray, p: float, layer: int) -> np.ndarray:
    out = ctx.empty(x.shape, x.dtype)
    ctx.launch(kernels.dropout, x, state, out, p=p, layer=layer)
    return out
