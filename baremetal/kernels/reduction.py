"""Reductions: many elements to one.

    out[kept] = reduce over the axes of x             sum, mean, max, argmax, logsumexp, variance

`axis` is a tuple of distinct non-negative axes; `out` has the shape of the axes that are left
(no axes of size 1 stay behind). An empty `axis` reduces nothing; all axes give a 0-d result.

Adding n float32 numbers one after the other can lose log2(n) bits: each addition to the growing
sum is rounded to the sum's precision. The relative error is at most about n u, with u = 2^-24 the
unit roundoff, and u log2(n) if the numbers are added in pairs, pairs of pairs and so on
(N. Higham, "The accuracy of floating point summation", SIAM J. Sci. Comput. 14(4), 1993). NumPy
adds so along the fast axis; `native/reduction.py` says what the compiled kernels do, and
`precision.py` why numbers of 16 bits are added in float64.
"""

import math

import numpy as np

from baremetal.kernels.cost import TRANSCENDENTAL, Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.precision import sums_in

# How the compiled kernels add up the rows of a matrix (`native/row_sum.py`).
BAND = 128  # rows added up by one item of the first launch
BLOCK = 16  # columns finished by one item of the second
WORTH_IT = 2 * BAND  # rows; below, one pass over blocks of columns is as fast


@kernel
def sum(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...]) -> None:
    """out = sum of x over these axes."""
    out[...] = np.sum(x, axis=axis, dtype=sums_in(x.dtype))


@sum.costs
def _sum_cost(x, out, *, axis) -> Cost:
    return Cost(x.size, moved(x, out))


@kernel
def mean(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...]) -> None:
    """out = mean of x over these axes; NaN over no elements."""
    total = np.sum(x, axis=axis, dtype=sums_in(x.dtype))
    with np.errstate(invalid="ignore"):  # over no elements: 0 / 0
        out[...] = np.true_divide(total, math.prod(x.shape[a] for a in axis))


@mean.costs
def _mean_cost(x, out, *, axis) -> Cost:
    return Cost(x.size + out.size, moved(x, out))


@kernel
def max(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...]) -> None:
    """out = largest element over these axes; NaN if there is one. At least one element."""
    np.max(x, axis=axis, out=out)


@max.costs
def _max_cost(x, out, *, axis) -> Cost:
    return Cost(x.size, moved(x, out))


@kernel
def argmax(x: np.ndarray, out: np.ndarray, *, axis: tuple[int]) -> None:
    """out (int64) = index of the first largest element along one axis; a NaN counts as largest."""
    np.argmax(x, axis=axis[0], out=out)


@argmax.costs
def _argmax_cost(x, out, *, axis) -> Cost:
    return Cost(x.size, moved(x, out))


@kernel
def logsumexp(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...]) -> None:
    """out = log(sum(exp(x))) over these axes, computed as m + log(sum(exp(x - m))), m = max(x).

    Over no elements it is the logarithm of 0, -inf.
    """
    with np.errstate(divide="ignore", over="ignore"):  # log(0) = -inf and exp(inf) = inf are right
        largest = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
        # inf - inf would be NaN
        shift = np.where(np.isinf(largest), np.zeros_like(largest), largest)
        total = np.sum(np.exp(x - shift), axis=axis, dtype=sums_in(x.dtype))
        out[...] = np.log(total) + shift.reshape(total.shape)


@logsumexp.costs
def _logsumexp_cost(x, out, *, axis) -> Cost:
    return Cost((TRANSCENDENTAL + 3) * x.size + (TRANSCENDENTAL + 1) * out.size, moved(x, out))


@kernel
def variance(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...], ddof: int = 0) -> None:
    """out = sum((x - mean(x))^2) / (n - ddof) over these axes, n elements each."""
    out[...] = np.var(x, axis=axis, ddof=ddof, dtype=sums_in(x.dtype))


@variance.costs
def _variance_cost(x, out, *, axis, ddof=0) -> Cost:
    return Cost(4 * x.size + 2 * out.size, moved(x, out))
