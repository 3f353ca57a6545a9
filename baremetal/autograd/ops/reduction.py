"""Sums, means, maxima and their like over axes. The gradient of "many to one" is "one to many".

`axis` is an integer, a tuple, or None for all axes; negative ones count from the end, and one that
is not there raises BaremetalError. With `keepdims` the reduced axes stay as size 1, so that the
result broadcasts against the input.
"""

import math
from functools import lru_cache

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.axes import checked_axes, checked_axis
from baremetal.autograd.ops.layout import reshaped
from baremetal.errors import BaremetalError
from baremetal.kernels import elementwise as element_kernels
from baremetal.kernels import reduction as kernels

Axis = int | tuple[int, ...] | None
Shape = tuple[int, ...]


def _axes_and_shapes(name: str, shape: Shape, axis: Axis) -> tuple[Shape, Shape, Shape]:
    """The axes as a sorted tuple, the shape without them, and the shape with 1 in their place."""
    if axis is not None and type(axis) is not int:
        axis = checked_axes(name, shape, axis)  # plain integers: what the cache can tell apart
    return _without_axes(name, shape, axis)


@lru_cache(maxsize=4096)
def _without_axes(name: str, shape: Shape, axis: Axis) -> tuple[Shape, Shape, Shape]:
    axes = tuple(sorted(checked_axes(name, shape, axis)))
    kept = tuple(n for a, n in enumerate(shape) if a not in axes)
    flattened = tuple(1 if a in axes else n for a, n in enumerate(shape))
    return axes, kept, flattened


def _reduce(ctx: Context, kernel, x: np.ndarray, axis: Axis, keepdims: bool, **extra) -> np.ndarray:
    axes, kept, flattened = _axes_and_shapes(kernel.name, x.shape, axis)
    out = ctx.empty(kept, x.dtype)
    ctx.launch(kernel, x, out, axis=axes, **extra)
    ctx.remember(axes, flattened, x.shape)
    return out.reshape(flattened) if keepdims else out


def _binary(ctx: Context, kernel, a: np.ndarray, b: np.ndarray, shape: Shape) -> np.ndarray:
    out = ctx.empty(shape, a.dtype)
    ctx.launch(kernel, a, b, out)
    return out


@op(promotes="common")
def sum(ctx: Context, x: np.ndarray, *, axis: Axis = None, keepdims: bool = False) -> np.ndarray:
    """The sum over these axes. As in NumPy, small integers are summed as int64 (or uint64)."""
    if x.dtype.kind in "iub" and x.dtype.itemsize < 8:
        wide = ctx.empty(x.shape, np.uint64 if x.dtype.kind == "u" else np.int64)
        ctx.launch(element_kernels.copy, x, wide)
        x = wide
    return _reduce(ctx, kernels.sum, x, axis, keepdims)


@sum.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    _, flattened, shape = ctx.notes
    out = ctx.empty(shape, grad.dtype)
    ctx.launch(element_kernels.copy, reshaped(ctx, grad, flattened), out)
    return out


@op(promotes="quotient")
def mean(ctx: Context, x: np.ndarray, *, axis: Axis = None, keepdims: bool = False) -> np.ndarray:
    """The arithmetic mean over these axes."""
    return _reduce(ctx, kernels.mean, x, axis, keepdims)


@mean.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    axes, flattened, shape = ctx.notes
    count = math.prod(shape[a] for a in axes) or 1  # of none there is nothing to share
    share = ctx.constant(1.0 / count, grad.dtype)
    grad = reshaped(ctx, grad, flattened)
    return _binary(ctx, element_kernels.multiply, grad, share, shape)


@op(promotes="common")
def max(ctx: Context, x: np.ndarray, *, axis: Axis = None, keepdims: bool = False) -> np.ndarray:
    """The largest element; where several are equal they share the gradient evenly."""
    axes, _, _ = _axes_and_shapes("max", x.shape, axis)
    if any(x.shape[a] == 0 for a in axes):
        raise BaremetalError(
            f"max over axis {axis} of shape {x.shape}: there is no element to choose from"
        )
    out = _reduce(ctx, kernels.max, x, axis, keepdims)
    ctx.save(x, out)
    return out


@max.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    x, out = ctx.saved
    axes, flattened, shape = ctx.notes
    is_largest = ctx.empty(shape, np.bool_)
    ctx.launch(element_kernels.equal, x, reshaped(ctx, out, flattened), is_largest)
    share = ctx.empty(shape, grad.dtype)
    ctx.launch(element_kernels.copy, is_largest, share)
    ties = ctx.empty(tuple(n for a, n in enumerate(shape) if a not in axes), grad.dtype)
    ctx.launch(kernels.sum, share, ties, axis=axes)
    grad = reshaped(ctx, grad, flattened)
    per_tie = _binary(ctx, element_kernels.divide, grad, ties.reshape(flattened), flattened)
    return _binary(ctx, element_kernels.multiply, share, per_tie, shape)


@op(promotes="quotient")
def logsumexp(
    ctx: Context, x: np.ndarray, *, axis: Axis = None, keepdims: bool = False
) -> np.ndarray:
    """log Σ exp(x), without overflow; its gradient is softmax(x) = exp(x - result)."""
    out = _reduce(ctx, kernels.logsumexp, x, axis, keepdims)
    ctx.save(x, out)
    return out


@logsumexp.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    x, out = ctx.saved
    _, flattened, shape = ctx.notes
    weights = _binary(ctx, element_kernels.subtract, x, reshaped(ctx, out, flattened), shape)
    ctx.launch(element_kernels.exp, weights, weights)
    ctx.launch(element_kernels.multiply, weights, reshaped(ctx, grad, flattened), weights)
    return weights


@op(promotes="quotient")
def variance(
    ctx: Context, x: np.ndarray, *, axis: Axis = None, keepdims: bool = False, ddof: int = 0
) -> np.ndarray:
    """Σ (x - mean)² / (N - ddof)."""
    axes, _, _ = _axes_and_shapes("variance", x.shape, axis)
    count = math.prod(x.shape[a] for a in axes)
    if not isinstance(ddof, (int, np.integer)):
        raise BaremetalError(f"variance with ddof={ddof!r}: expected an integer")
    if count <= ddof:
        raise BaremetalError(f"variance of {count} elements with ddof {ddof}: at least {ddof + 1}")
    ctx.save(x)
    return _reduce(ctx, kernels.variance, x, axis, keepdims, ddof=int(ddof))


@variance.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    # 2 (x - mean) / (N - ddof); the mean's own dependence on x cancels, for Σ (x - mean) = 0.
    (x,) = ctx.saved
    axes, flattened, shape = ctx.notes
    centre = ctx.empty(tuple(n for a, n in enumerate(shape) if a not in axes), x.dtype)
    ctx.launch(kernels.mean, x, centre, axis=axes)
    slope = _binary(ctx, element_kernels.subtract, x, centre.reshape(flattened), shape)
    count = math.prod(shape[a] for a in axes) - ctx.attributes.get("ddof", 0)
    factor = ctx.constant(2.0 / count, x.dtype)
    grad = reshaped(ctx, grad, flattened)
    per_row = _binary(ctx, element_kernels.multiply, grad, factor, flattened)
    ctx.launch(element_kernels.multiply, slope, per_row, slope)
    return slope


@op(promotes="common", differentiable=False)
def argmax(
    ctx: Context, x: np.ndarray, *, axis: int | None = None, keepdims: bool = False
) -> np.ndarray:
    """The index (int64) of the first largest element along an axis, or in the flattened tensor."""
    if x.size == 0:
        raise BaremetalError(f"argmax of shape {x.shape}: there is no element to choose from")
    one = None if axis is None else checked_axis("argmax", x.shape, axis)
    flattened = _axes_and_shapes("argmax", x.shape, one)[2]
    if one is None:
        x = reshaped(ctx, x, (x.size,))
    axes, kept, _ = _axes_and_shapes("argmax", x.shape, one or 0)
    out = ctx.empty(kept, np.int64)
    ctx.launch(kernels.argmax, x, out, axis=axes)
    return out.reshape(flattened) if keepdims else out
