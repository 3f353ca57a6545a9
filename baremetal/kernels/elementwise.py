"""Element-wise kernels."""

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel


@kernel
def add(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a + b."""
    np.add(a, b, out=out)


@add.costs
def _(a, b, out) -> Cost:
    return Cost(out.size, moved(a, b, out))


@kernel
def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a * b."""
    np.multiply(a, b, out=out)


@multiply.costs
def _(a, b, out) -> Cost:
    return Cost(out.size, moved(a, b, out))


@kernel
def copy(x: np.ndarray, out: np.ndarray) -> None:
    """out = x, converted to out's dtype."""
    out[...] = x


@copy.costs
def _(x, out) -> Cost:
    return Cost(0, moved(x, out))


@kernel
def fill(out: np.ndarray, *, value: float) -> None:
    """out = value."""
    out[...] = value


@fill.costs
def _(out, *, value) -> Cost:
    return Cost(0, moved(out))
