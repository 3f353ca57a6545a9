"""Element-wise kernels, compiled: one scalar function each, looped over by `broadcast.py`.

The decorator turns the function of numbers into the kernel over arrays: `silu` below, written as
a function of one x, becomes the packing function `silu(x, out)`. Constants go through `like(x,
0.5)`, because a bare 0.5 is a float64 and would pull the arithmetic of a whole float32 loop into
float64.
"""

import math
from collections.abc import Sequence

import numpy as np

from baremetal.kernels.elementwise import GELU_CUBIC, SQRT_2, SQRT_2_OVER_PI, SQRT_2_PI
from baremetal.kernels.native import vmath
from baremetal.kernels.native.abi import (
    Body,
    Launch,
    body,
    cast,
    pointer,
    pointer_f32,
    pointer_f64,
    pointer_i64,
)
from baremetal.kernels.native.broadcast import (
    binary,
    choice,
    comparison,
    make_body,
    merged_axes,
    pack,
    pack_axes,
    unary,
    unary_pattern,
)
from baremetal.kernels.native.transpose import transposed_copy
from baremetal.kernels.native.vmath import like, select

# A copy moves bits, so any 4-byte number may travel as a float32.
_MOVED_AS: dict[int, np.dtype] = {4: np.dtype(np.float32), 8: np.dtype(np.float64)}
LIBRARY_CALL = 16  # an element through the C library takes about as long as 16 additions


# ---------------------------------------------------------------- unary


@unary
def negative(x):
    return -x


@unary
def absolute(x):
    return abs(x)


@unary
def square(x):
    return x * x


@unary
def reciprocal(x):
    return like(x, 1.0) / x


@unary
def sqrt(x):
    return math.sqrt(x)


@unary
def exp(x):
    return vmath.exp(x)


@unary
def log(x):
    return vmath.log(x)


@unary(work=LIBRARY_CALL)
def sin(x):
    return math.sin(x)


@unary(work=LIBRARY_CALL)
def cos(x):
    return math.cos(x)


@unary
def erf(x):
    return vmath.erf(x)


# ---------------------------------------------------------------- activations and their backward


@unary
def tanh(x):
    return vmath.tanh(x)


@binary
def tanh_backward(y, grad):
    return grad * (like(y, 1.0) - y * y)


@unary
def sigmoid(x):
    return vmath.sigmoid(x)


@binary
def sigmoid_backward(y, grad):
    return grad * y * (like(y, 1.0) - y)


@unary
def relu(x):
    zero = like(x, 0.0)
    return select(x < zero, zero, x)  # NaN is not less: it stays


@binary
def relu_backward(x, grad):
    zero = like(x, 0.0)
    return select(x > zero, grad, zero)


@unary
def gelu(x):
    half = like(x, 0.5)
    return x * (half + half * vmath.erf(x * like(x, 1 / SQRT_2)))


@binary
def gelu_backward(x, grad):
    half = like(x, 0.5)
    cdf = half + half * vmath.erf(x * like(x, 1 / SQRT_2))
    density = vmath.exp(-half * x * x) * like(x, 1 / SQRT_2_PI)
    # x * density is inf * 0 at infinity, where its limit is 0.
    second = select(density != like(x, 0.0), x * density, density)
    return grad * (cdf + second)


@unary
def gelu_tanh(x):
    # (1 + tanh u) / 2 = sigmoid(2u): cheaper, and exact where 1 + tanh u cancels.
    linear, cubic = like(x, 2 * SQRT_2_OVER_PI), like(x, 2 * SQRT_2_OVER_PI * GELU_CUBIC)
    return x * vmath.sigmoid(x * (linear + cubic * (x * x)))


@binary
def gelu_tanh_backward(x, grad):
    linear, cubic = like(x, 2 * SQRT_2_OVER_PI), like(x, 2 * SQRT_2_OVER_PI * GELU_CUBIC)
    square = x * x
    s = vmath.sigmoid(x * (linear + cubic * square))
    flat = s * (like(x, 1.0) - s)
    slope = x * (linear + like(x, 3.0) * cubic * square)  # x times the derivative of 2u
    # Where the sigmoid has reached 0 or 1 the second term is 0, also where the slope overflows.
    return grad * (s + select(flat != like(x, 0.0), flat * slope, flat))


@unary
def silu(x):
    return x * vmath.sigmoid(x)


@binary
def silu_backward(x, grad):
    s = vmath.sigmoid(x)
    flat = s * (like(x, 1.0) - s)
    # x * flat is inf * 0 at infinity, where its limit is 0.
    return grad * (s + select(flat != like(x, 0.0), x * flat, flat))


# ---------------------------------------------------------------- binary


@binary
def add(a, b):
    return a + b


@binary
def subtract(a, b):
    return a - b


@binary
def multiply(a, b):
    return a * b


@binary
def divide(a, b):
    return a / b


@binary(work=LIBRARY_CALL)
def power(a, b):
    return math.pow(a, b)


@binary
def maximum(a, b):
    return select((a > b) | (a != a), a, b)  # a NaN wins on either side


@binary
def minimum(a, b):
    return select((a < b) | (a != a), a, b)


# ---------------------------------------------------------------- comparisons and choice


@comparison
def equal(a, b):
    return a == b


@comparison
def not_equal(a, b):
    return a != b


@comparison
def less(a, b):
    return a < b


@comparison
def less_equal(a, b):
    return a <= b


@comparison
def greater(a, b):
    return a > b


@comparison
def greater_equal(a, b):
    return a >= b


@choice
def where(condition, a, b):
    return select(condition != 0, a, b)


# ---------------------------------------------------------------- moving


def move(x):
    return x


_copy_body = make_body(unary_pattern, move)


@body
def widen_body(lo, hi, args):
    """Elements lo..hi of out (float64) = x (T, float32). Words: 0-1 x out."""
    x, out = pointer(args, 0), pointer_f64(args, 1)
    for i in range(lo, hi):
        out[i] = np.float64(x[i])


@body
def narrow_body(lo, hi, args):
    """Elements lo..hi of out (float32) = x (T, float64), rounded. Words: 0-1 x out."""
    x, out = pointer(args, 0), pointer_f32(args, 1)
    for i in range(lo, hi):
        out[i] = np.float32(x[i])


@body
def from_integers_body(lo, hi, args):
    """Elements lo..hi of out (T) = x (int64), rounded. Words: 0-1 x out."""
    x, out = pointer_i64(args, 0), pointer(args, 1)
    for i in range(lo, hi):
        out[i] = cast(args, x[i])


F32, F64, I64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
# (from, to): the body, and the element type T it is compiled for
_CASTS: dict[tuple[np.dtype, np.dtype], tuple[Body, np.dtype]] = {
    (F32, F64): (widen_body, F32),
    (F64, F32): (narrow_body, F64),
    (I64, F32): (from_integers_body, F32),
    (I64, F64): (from_integers_body, F64),
}


def _cast(x, out) -> Sequence[Launch] | None:
    """Pack a conversion of contiguous arrays; NumPy does the rarer ones."""
    found = _CASTS.get((x.dtype, out.dtype))
    contiguous = x.flags.c_contiguous and out.flags.c_contiguous and x.shape == out.shape
    if found is None or not (contiguous and x.flags.aligned and out.flags.aligned):
        return None
    body, element = found
    return (Launch(body, element, (x, out), x.size),)


def copy(x, out):
    """Pack out = x: equal dtypes with any strides, or a conversion of contiguous arrays."""
    if x.dtype != out.dtype:
        return _cast(x, out)
    element = _MOVED_AS.get(out.dtype.itemsize) if out.dtype.kind in "fiu" else None
    if element is None:
        return None
    if x.shape == out.shape and x.flags.c_contiguous and out.flags.c_contiguous:
        return pack(_copy_body, (x, out), element, 1)
    axes = merged_axes((x, out))
    if axes is None:
        return None
    transposed = transposed_copy(x, out, element, axes)
    return transposed or pack_axes(_copy_body, (x, out), element, axes, 1)


def fill(out, *, value):
    """Pack out = value: a broadcast copy of one number."""
    return copy(np.array(value, out.dtype), out)
