"""Moving elements by index: no arithmetic, only addresses.

    gather_rows        out[i] = table[indices[i]]               an embedding's forward
    scatter_add_rows   out[indices[i]] += grad[i]               and its backward
    concatenate, pad, transpose                                 whole blocks, moved

Gathering is memory traffic and nothing else. Scattering has a catch: two indices may name the
same row, and floating-point sums depend on their order, so threads that simply add as they come
give another result every time. Here each row of `out` receives its terms in the order in which
they stand in `indices`, always: the same bits with any number of threads.

Indices must lie in 0..rows-1; who launches checks that (and can say which token was wrong). The
compiled kernels never touch memory outside the table all the same: a gathered row that does not
exist becomes NaN, a scattered one is dropped.
"""

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.precision import widened


@kernel
def gather_rows(table: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """out (..., width) = table (rows, width)[indices (...)]; indices are int64."""
    out[...] = table[indices]


@gather_rows.costs
def _gather_rows_cost(table, indices, out) -> Cost:
    return Cost(0, out.nbytes + moved(indices, out))  # each gathered row is read once


@kernel
def scatter_add_rows(grad: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """out (rows, width)[indices (...)] += grad (..., width), in the order of the indices."""
    total = widened(out)
    np.add.at(total, indices, grad)
    if total is not out:
        out[...] = total


@scatter_add_rows.costs
def _scatter_add_rows_cost(grad, indices, out) -> Cost:
    return Cost(grad.size, 2 * grad.nbytes + moved(grad, indices))  # rows of out: read and written


@kernel
def concatenate(*parts_and_out: np.ndarray, axis: int) -> None:
    """out = the parts one after the other along axis: ``concatenate(*parts, out, axis=0)``."""
    *parts, out = parts_and_out
    np.concatenate(parts, axis=axis, out=out)


@concatenate.costs
def _concatenate_cost(*parts_and_out, axis) -> Cost:
    return Cost(0, moved(*parts_and_out))


@kernel
def pad(
    x: np.ndarray, out: np.ndarray, *, widths: tuple[tuple[int, int], ...], value: float
) -> None:
    """out = x with `widths[k]` = (before, after) elements of `value` added around axis k."""
    out[...] = value
    out[tuple(slice(w[0], w[0] + n) for w, n in zip(widths, x.shape, strict=True))] = x


@pad.costs
def _pad_cost(x, out, *, widths, value) -> Cost:
    return Cost(0, moved(x, out))


@kernel
def transpose(x: np.ndarray, out: np.ndarray, *, axes: tuple[int, ...]) -> None:
    """out[i_axes[0], i_axes[1], ...] = x[i_0, i_1, ...]: the axes reordered, memory moved."""
    out[...] = x.transpose(axes)


@transpose.costs
def _transpose_cost(x, out, *, axes) -> Cost:
    return Cost(0, moved(x, out))
