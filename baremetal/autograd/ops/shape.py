"""Shapes and places: other views of the same numbers, pieces of them, and pieces put together.

Where NumPy can give a view, nothing is copied: the result shares the input's memory, and its
count of in-place changes. The gradient of "look at it differently" is "look back".
"""

import math
import operator
from functools import lru_cache
from typing import Any

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.axes import checked_axis, checked_sizes
from baremetal.autograd.ops.broadcasting import broadcast_shapes, sum_to_shape
from baremetal.autograd.ops.layout import reshaped
from baremetal.errors import BaremetalError
from baremetal.kernels import indexing as kernels

Shape = tuple[int, ...]


@op(is_view=True)
def reshape(ctx: Context, x: np.ndarray, *, shape: Shape) -> np.ndarray:
    """The same elements in the same order in another shape; one size may be -1."""
    return reshaped(ctx, x, _complete(x.shape, checked_sizes("reshape", x.shape, shape)))


@reshape.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return reshaped(ctx, grad, ctx.shapes[0])


@lru_cache(maxsize=4096)
def _complete(old: Shape, new: Shape) -> Shape:
    """`new` with its -1 worked out."""
    known = math.prod(n for n in new if n != -1)
    size = math.prod(old)
    if new.count(-1) == 1 and known > 0 and size % known == 0:
        return tuple(size // known if n == -1 else n for n in new)
    if -1 in new or known != size or any(n < 0 for n in new):
        raise BaremetalError(
            f"reshape of {old} ({size} elements) to {new}: the sizes must multiply to {size} "
            "(one of them may be -1, to be worked out)"
        )
    return new


@op(is_view=True)
def transpose(ctx: Context, x: np.ndarray, *, axes: Shape) -> np.ndarray:
    """The axes in another order: axis i of the result is axis axes[i] of x."""
    order = [checked_axis("transpose", x.shape, axis) for axis in axes]
    if sorted(order) != list(range(x.ndim)):
        raise BaremetalError(
            f"transpose of shape {x.shape} with axes {tuple(axes)}: each of the {x.ndim} axes "
            "must be named once"
        )
    ctx.remember(order)
    return x.transpose(order)


@transpose.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    back = [0] * grad.ndim
    for to, axis in enumerate(ctx.notes[0]):
        back[axis] = to
    return grad.transpose(back)


@op(is_view=True)
def broadcast_to(ctx: Context, x: np.ndarray, *, shape: Shape) -> np.ndarray:
    """Repeated along axes of size 1 and new leading axes, without a copy."""
    shape = checked_sizes("broadcast_to", x.shape, shape)
    if broadcast_shapes("broadcast_to", x.shape, shape) != shape:
        raise BaremetalError(
            f"broadcast_to from {x.shape} to {shape}: only axes of size 1 can be repeated"
        )
    return np.broadcast_to(x, shape)


@broadcast_to.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, grad, ctx.shapes[0])


@op(promotes="common")
def concatenate(ctx: Context, *parts: np.ndarray, axis: int = 0) -> np.ndarray:
    """The parts one after the other along an axis; their other sizes are equal."""
    first = parts[0]
    axis = checked_axis("concatenate", first.shape, axis)
    for part in parts[1:]:
        if part.ndim != first.ndim or _without(part.shape, axis) != _without(first.shape, axis):
            raise BaremetalError(
                f"concatenate along axis {axis}: shapes {first.shape} and {part.shape} differ "
                "elsewhere too"
            )
    sizes = [part.shape[axis] for part in parts]
    ctx.remember(axis, sizes)
    total = 0
    for size in sizes:
        total += size
    out = ctx.empty((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)
    ctx.launch(kernels.concatenate, *parts, out, axis=axis)
    return out


@concatenate.vjp("parts")
def _(ctx: Context, grad: np.ndarray) -> tuple[np.ndarray, ...]:
    axis, sizes = ctx.notes
    before = (slice(None),) * axis
    pieces, start = [], 0
    for size in sizes:
        pieces.append(grad[(*before, slice(start, start + size))])
        start += size
    return tuple(pieces)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


@op(promotes="common")
def pad(
    ctx: Context, x: np.ndarray, *, widths: tuple[tuple[int, int], ...], value: float = 0.0
) -> np.ndarray:
    """`value` around x: `widths[k]` = (how many before, how many after) along axis k."""
    pairs = _checked_widths(x.shape, widths)
    if x.dtype.kind in "biu" and not float(value).is_integer():
        raise BaremetalError(
            f"pad with value {value} of a tensor of dtype {x.dtype}, which holds integers only: "
            "pad with one, or convert the tensor with astype first"
        )
    ctx.remember(pairs)
    grown = tuple(n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True))
    out = ctx.empty(grown, x.dtype)
    ctx.launch(kernels.pad, x, out, widths=pairs, value=value)
    return out


@pad.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    inner = zip(ctx.shapes[0], ctx.notes[0], strict=True)
    return grad[tuple(slice(before, before + n) for n, (before, _) in inner)]


def _checked_widths(shape: Shape, widths: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple((operator.index(before), operator.index(after)) for before, after in widths)
    except (TypeError, ValueError):  # no integers, or not two of them
        pairs = ()
    if len(pairs) != len(shape) or any(min(pair) < 0 for pair in pairs):
        raise BaremetalError(
            f"pad of shape {shape} with widths {widths}: expected one (before, after) per axis, "
            "none negative"
        )
    return pairs
