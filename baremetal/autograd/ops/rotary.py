"""Rotary positions: each head's vector is turned by an angle that grows with its position.

A rotation is orthogonal, so its gradient is the rotation back. Formula: `kernels/rotary.py`.
"""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.errors import BaremetalError
from baremetal.kernels import rotary as kernels


@op(promotes="floating", constants=("cos", "sin"))
def rotary(
    ctx: Context, x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, rotated: int
) -> np.ndarray:
    """Turn the first `rotated` of the N heads of x (B, T, N, D); the others are copied.

    cos and sin (T, D/2) are constants: the angle of position t and pair i.
    """
    wanted = (x.shape[1], x.shape[3] // 2) if x.ndim == 4 else None
    if wanted is None or x.shape[3] % 2 or cos.shape != wanted or sin.shape != wanted:
        raise BaremetalError(
            f"rotary: x {x.shape}, cos {cos.shape}, sin {sin.shape}: expected x (B, T, N, D) with "
            "D even and tables (T, D/2)"
        )
    if not (isinstance(rotated, (int, np.integer)) and 0 <= rotated <= x.shape[2]):
        raise BaremetalError(
            f"rotary: rotated={rotated!r} of the {x.shape[2]} heads of x {x.shape}: expected an "
            f"integer from 0 to {x.shape[2]}"
        )
    cos, sin = cos.astype(x.dtype, copy=False), sin.astype(x.dtype, copy=False)
    ctx.save(cos, sin)
    return _turn(ctx, x, cos, sin, rotated, inverse=False)


@rotary.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    cos, sin = ctx.saved
    return _turn(ctx, grad, cos, sin, ctx.attributes["rotated"], inverse=True)


def _turn(ctx: Context, x, cos, sin, rotated: int, inverse: bool) -> np.ndarray:
    out = ctx.empty(x.shape, x.dtype)
    ctx.launch(kernels.rotary, x, cos, sin, out, rotated=rotated, inverse=inverse)
    return out
