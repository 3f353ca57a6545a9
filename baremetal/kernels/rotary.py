"""Rotary position embedding: a position is an angle.

Each head's vector of D numbers is taken as D/2 points in the plane, and point i is turned by the
angle  t θ_i  at position t (J. Su et al., "RoFormer", 2021, arXiv:2104.09864):

    ( a' )   ( cos tθ_i   -sin tθ_i ) ( a )
    ( b' ) = ( sin tθ_i    cos tθ_i ) ( b )

The product of a turned query at position t with a turned key at position s then depends on t - s
alone. Which two numbers make a point is a convention: here a = x_i and b = x_{i + D/2} (the two
halves, "rotate_half"), as in the Llama checkpoints that Hugging Face distributes; the paper takes
neighbours (x_{2i}, x_{2i+1}).

A rotation is orthogonal: its gradient is the rotation by the opposite angle. So `inverse=True`
is both the inverse and the backward.
"""

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel


@kernel
def rotary(
    x: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    out: np.ndarray,
    *,
    rotated: int,
    inverse: bool,
) -> None:
    """Turn the first `rotated` of the N heads by their position's angles, copy the others.

    x and out (B, T, N, D), cos and sin (T, D/2). With queries, keys and values packed side by
    side, the queries and keys come first and are turned, the values are not. `out` may be `x`.
    """
    half = x.shape[-1] // 2
    c, s = cos[:, None, :], -sin[:, None, :] if inverse else sin[:, None, :]  # (T, 1, D/2)
    a = x[:, :, :rotated, :half]
    b = x[:, :, :rotated, half:]
    turned_a, turned_b = a * c - b * s, b * c + a * s
    out[:, :, rotated:] = x[:, :, rotated:]
    out[:, :, :rotated, :half] = turned_a
    out[:, :, :rotated, half:] = turned_b


@rotary.costs
def _(x, cos, sin, out, *, rotated, inverse) -> Cost:
    turned = x.size * rotated // max(x.shape[2], 1)
    return Cost(3 * turned, moved(x, cos, sin, out))  # a point: 4 products and 2 sums
