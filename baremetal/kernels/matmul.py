"""Matrix products: where almost all the arithmetic of training is.

    out = alpha * A B + beta * out            (..., m, k) x (..., k, n) -> (..., m, n)

Both operands may be views: a transposed matrix, or a slice of the last dimension (the q, k, v
parts of a packed projection). Nothing is copied for that; BLAS takes a distance between rows and
a flag for "transposed" instead. `beta=1` adds to what is in `out`, which makes residual additions
and gradient accumulation free.

A product of (m, k) and (k, n) costs 2mnk FLOP (one multiply, one add) and moves at least
mk + kn + mn elements: its intensity grows with its size, and that is why training is possible at
all on machines that compute a hundred times faster than they can read memory.
"""

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel


@kernel
def matmul(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, *, alpha: float = 1.0, beta: float = 0.0
) -> None:
    """out (..., m, n) = alpha * a (..., m, k) @ b (..., k, n) + beta * out; batches broadcast.

    `out` must not overlap `a` or `b`: it is written while they are still being read. The same
    thread count gives the same bits; another one may not, because BLAS chooses the order of its
    sums by the size of the part that a thread computes.
    """
    product = np.matmul(a, b)
    if alpha != 1.0:
        product = product * np.asarray(alpha, product.dtype)
    # With beta = 0 the old content must not be read: it may be uninitialised (NaN * 0 is NaN).
    out[...] = product if beta == 0.0 else product + np.asarray(beta, out.dtype) * out


@matmul.costs
def _matmul_cost(a, b, out, *, alpha=1.0, beta=0.0) -> Cost:
    reread = out.nbytes if beta != 0.0 else 0
    return Cost(flops=2 * out.size * a.shape[-1], size_bytes=moved(a, b, out) + reread)


@kernel
def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out (rows, n) = x (rows, k) @ weight (n, k).T + bias (n,): a layer with its bias.

    The bias costs no pass of its own: each thread writes it into its rows of `out` and lets BLAS
    add the product on top (beta = 1) while they are still in cache.
    """
    out[...] = x @ weight.T + bias


@linear.costs
def _linear_cost(x, weight, bias, out) -> Cost:
    return Cost(2 * out.size * x.shape[-1] + out.size, moved(x, weight, bias, out))
