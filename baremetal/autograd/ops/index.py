"""x[key]: NumPy's indexing, and its gradient.

Integers, slices, `...` and `None` choose a regular grid of elements, so the result is a *view* and
the gradient is written back through the same view. Arrays of integers or booleans (advanced
indexing) choose elements in any order, any of them several times. They become a list of flat
positions: forward gathers those rows, backward adds into them, in the order of the list, so that
a row chosen twice gets the same bits in every run.
"""

import math
import operator
from typing import Any

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.layout import added, contiguous
from baremetal.autograd.traced import Traced
from baremetal.kernels import elementwise as element_kernels
from baremetal.kernels import indexing as kernels


@op(is_view=True)
def index(ctx: Context, x: np.ndarray, *, key: Any) -> np.ndarray:
    """x[key]; a view for slices and integers, a copy for arrays of indices or booleans."""
    parts = as_key(key)
    if not any(isinstance(part, np.ndarray) for part in parts):
        ctx.remember(parts)
        # With the dots even x[0] of a vector is an array (of shape ()), not a NumPy scalar.
        return x[parts if Ellipsis in parts else (*parts, ...)]
    positions, chosen_shape, table_shape = _flat_positions(parts, x.shape)
    ctx.save(positions)
    ctx.remember(None, table_shape)
    out = ctx.empty(chosen_shape, x.dtype)
    table = contiguous(ctx, x).reshape(table_shape)
    ctx.launch(kernels.gather_rows, table, positions, out.reshape(positions.size, table_shape[1]))
    return out


@index.vjp("x", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    parts = ctx.notes[0]
    if parts is None and into is not None and not into.flags.c_contiguous:
        # Rows of a transposed matrix are no rows in memory: add them up elsewhere.
        return added(ctx, _scattered(ctx, grad, _zeros(ctx, ctx.empty_like(into))), into, beta)
    if into is None:
        into = ctx.empty(ctx.shapes[0], grad.dtype)
    if beta == 0.0:
        _zeros(ctx, into)
    if parts is None:
        return _scattered(ctx, grad, into)
    target = into[parts if Ellipsis in parts else (*parts, ...)]
    ctx.launch(element_kernels.add, target, grad, target)
    return into


def _zeros(ctx: Context, out: np.ndarray) -> np.ndarray:
    ctx.launch(element_kernels.fill, out, value=0.0)
    return out


def _scattered(ctx: Context, grad: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Add the gradient of each chosen row into its place."""
    (positions,) = ctx.saved
    if positions.size:
        _, table_shape = ctx.notes
        rows = contiguous(ctx, grad).reshape(positions.size, table_shape[1])
        ctx.launch(kernels.scatter_add_rows, rows, positions, into.reshape(table_shape))
    return into


def as_key(key: Any) -> tuple:
    """The key as a tuple of integers, slices, None, ... and arrays (of integers or booleans)."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(_as_part(part) for part in parts)


def _as_part(part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, Traced):
        part = part.data
    if isinstance(part, (bool, np.bool_, list, np.ndarray)):
        array = np.asarray(part)
        if array.size == 0 and array.dtype.kind == "f":
            array = array.astype(np.int64)  # [] is an empty list of indices
        if array.dtype.kind in "iub":
            return array
    else:
        try:
            return operator.index(part)
        except TypeError:
            pass
    raise IndexError(
        f"a tensor cannot be indexed by {part!r}: expected integers, slices, None, ..., or arrays "
        "of integers or booleans"
    )


def _flat_positions(parts: tuple, shape: tuple) -> tuple[np.ndarray, tuple, tuple[int, int]]:
    """Which rows are chosen, the shape of the result, and x's shape as a table of such rows.

    Rows, because x[indices] usually chooses along the first axes and takes all of the others.
    """
    choosers = _expand_booleans(parts, shape)
    if choosers is not None:
        axes = shape[: len(choosers)]
        checked = [
            _checked(c, axis, n) for axis, (c, n) in enumerate(zip(choosers, axes, strict=True))
        ]
        chosen = np.broadcast_arrays(*checked)
        positions = np.ravel_multi_index(chosen, axes) if chosen[0].size else chosen[0]
        rest = shape[len(choosers) :]
    else:  # mixed with slices: let NumPy work out which elements those are
        axes, rest = shape, ()
        positions = np.arange(math.prod(shape)).reshape(shape)[parts]
    flat = np.ascontiguousarray(positions, dtype=np.int64).reshape(-1)
    return flat, (*positions.shape, *rest), (math.prod(axes), math.prod(rest))


def _expand_booleans(parts: tuple, shape: tuple) -> list | None:
    """The key as one integer array or integer per leading axis, or None if there is more in it."""
    choosers: list = []
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype == np.bool_:
            covered = shape[len(choosers) : len(choosers) + part.ndim]
            if part.ndim == 0 or part.shape != covered or len(parts) > 1:
                return None  # NumPy will do it, or say what is wrong with it
            choosers.extend(np.nonzero(part))
        elif isinstance(part, (int, np.ndarray)):
            choosers.append(part)
        else:
            return None
    return choosers if len(choosers) <= len(shape) else None


def _checked(chooser: Any, axis: int, size: int) -> np.ndarray:
    """Indices counted from the front, all of them within the axis."""
    array = np.asarray(chooser, dtype=np.int64)  # an int8 holds no size to compare with
    if array.size and not -size <= array.min() <= array.max() < size:
        worst = array.min() if array.min() < -size else array.max()
        raise IndexError(f"index {worst} is out of bounds for axis {axis} with size {size}")
    return np.where(array < 0, array + size, array)
