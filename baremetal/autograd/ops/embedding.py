"""Rows of a table chosen by integers, and the reverse: rows added where integers say.

    embedding      out[i] = table[indices[i]]          its gradient is scatter_rows
    scatter_rows   out[indices[i]] += values[i]        its gradient is embedding

An embedding is a matrix product with one-hot rows, without the zeros. Rows that are chosen twice
get the sum of both gradients, added in the order of the indices: the same bits in every run.
"""

import math
from functools import partial

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.layout import added, as_int64, contiguous
from baremetal.errors import BaremetalError
from baremetal.kernels import indexing as kernels
from baremetal.kernels.elementwise import fill


@op
def embedding(ctx: Context, table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """table (rows, ...)[indices (...)] -> (*indices.shape, *table.shape[1:])."""
    if table.ndim == 0:
        raise BaremetalError("embedding: the table has shape (), expected (rows, ...)")
    indices = _checked_indices(ctx, "embedding", indices, len(table))
    ctx.save(indices)
    out = ctx.empty((*indices.shape, *table.shape[1:]), table.dtype)
    ctx.launch(kernels.gather_rows, _rows(ctx, table, 1), indices, _rows(ctx, out, indices.ndim))
    return out


@embedding.vjp("table", accumulates=True)
def _(ctx: Context, grad: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    (indices,) = ctx.saved
    if into is not None and not into.flags.c_contiguous:
        return added(ctx, _scattered(ctx, grad, indices, ctx.shapes[0]), into, beta)
    return _scattered(ctx, grad, indices, ctx.shapes[0], into, beta)


@op
def scatter_rows(ctx: Context, values: np.ndarray, indices: np.ndarray, *, rows: int) -> np.ndarray:
    """Zeros (rows, ...), with values (*indices.shape, ...) added at the rows in `indices`."""
    indices = _checked_indices(ctx, "scatter_rows", indices, rows)
    if values.shape[: indices.ndim] != indices.shape:
        raise BaremetalError(
            f"scatter_rows: values have shape {values.shape}, indices {indices.shape}: there must "
            "be one row of values per index"
        )
    ctx.save(indices)
    return _scattered(ctx, values, indices, (rows, *values.shape[indices.ndim :]))


@scatter_rows.vjp("values")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    (indices,) = ctx.saved
    out = ctx.empty(ctx.shapes[0], grad.dtype)
    ctx.launch(kernels.gather_rows, _rows(ctx, grad, 1), indices, _rows(ctx, out, indices.ndim))
    return out


def _scattered(
    ctx: Context,
    values: np.ndarray,
    indices: np.ndarray,
    shape: tuple[int, ...],
    into: np.ndarray | None = None,
    beta: float = 0.0,
) -> np.ndarray:
    """beta * into + the values added up by row; `into` must be contiguous."""
    into = ctx.empty(shape, values.dtype) if into is None else into
    if beta == 0.0:
        ctx.launch(fill, into, value=0.0)
    ctx.launch(
        kernels.scatter_add_rows, _rows(ctx, values, indices.ndim), indices, _rows(ctx, into, 1)
    )
    return into


def _rows(ctx: Context, array: np.ndarray, leading: int) -> np.ndarray:
    """(leading axes..., anything) -> (leading axes..., width): what the kernels take."""
    if array.ndim == leading + 1:
        return array
    width = math.prod(array.shape[leading:])
    return contiguous(ctx, array).reshape((*array.shape[:leading], width))


def _checked_indices(ctx: Context, name: str, indices: np.ndarray, rows: int) -> np.ndarray:
    """As int64, contiguous, all within 0..rows-1."""
    if indices.dtype.kind not in "iu":
        raise BaremetalError(
            f"{name}: indices have dtype {indices.dtype}, expected integers: use astype(np.int64)"
        )
    ctx.device.check(partial(_check_range, name, rows), indices)
    return as_int64(ctx, indices)


def _check_range(name: str, rows: int, indices: np.ndarray) -> None:
    """Refuse an index that is no row."""
    if indices.size and not 0 <= indices.min() <= indices.max() < rows:
        wrong = indices.max() if indices.max() >= rows else indices.min()
        raise BaremetalError(
            f"{name}: index {wrong} is not in 0..{rows - 1}: the table has {rows} rows "
            "(was the text encoded with another vocabulary?)"
        )
