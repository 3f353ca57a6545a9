"""Broadcasting, and undoing it: the gradient of "repeat along an axis" is "sum along it"."""

from functools import lru_cache

import numpy as np

from baremetal.autograd.op import Context
from baremetal.errors import BaremetalError
from baremetal.kernels.reduction import sum as sum_kernel

Shape = tuple[int, ...]


@lru_cache(maxsize=4096)  # the same few shapes come back in every step
def broadcast_shapes(name: str, *shapes: Shape) -> Shape:
    """The shape in which all these meet; `name` is the operation, for the message."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(shape) for shape in shapes)
        raise BaremetalError(
            f"'{name}': shapes {listed} do not broadcast: counted from the right, each pair of "
            f"sizes must be equal or one of them 1{_clash(shapes)}"
        ) from None


def _clash(shapes: tuple[Shape, ...]) -> str:
    """Which axis it was, for the message."""
    for axis in range(1, 1 + max(len(shape) for shape in shapes)):
        sizes = [shape[-axis] for shape in shapes if len(shape) >= axis and shape[-axis] != 1]
        if len(set(sizes)) > 1:
            return f"; here axis {-axis} has {' and '.join(map(str, sizes))}"
    return ""


def sum_to_shape(ctx: Context, grad: np.ndarray, shape: Shape) -> np.ndarray:
    """Sum `grad` over the axes along which a value of this shape was repeated to make it."""
    if grad.shape == shape:
        return grad
    out = ctx.empty(shape, grad.dtype)
    axes, kept = _repeated(grad.shape, shape)
    # The kernel writes the kept axes in order; axes of size 1 do not change the memory.
    ctx.launch(sum_kernel, grad, out.reshape(kept), axis=axes)
    return out


@lru_cache(maxsize=4096)
def _repeated(shape: Shape, original: Shape) -> tuple[Shape, Shape]:
    """The axes of `shape` that are repetitions of `original`, and the sizes of the others."""
    leading = len(shape) - len(original)
    stretched = [leading + i for i, n in enumerate(original) if n == 1 and shape[leading + i] != 1]
    axes = (*range(leading), *stretched)
    return axes, tuple(n for i, n in enumerate(shape) if i not in axes)
