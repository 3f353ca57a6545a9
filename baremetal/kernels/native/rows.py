"""What kernels that work row by row share: where the rows are, and the largest element of one."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from baremetal.kernels.native.compiler import inlined
from baremetal.kernels.native.vmath import exp, like


def rows_of(x: np.ndarray) -> tuple[int, int] | None:
    """(rows, distance between rows in elements) of an array seen as (rows, width).

    None if its last axis is not contiguous, or its rows are not evenly spaced in memory.
    """
    width = x.shape[-1]
    if x.flags.c_contiguous:
        return (x.size // width if width else 0), width
    step = x.itemsize
    if x.strides[-1] != step and width != 1:
        return None
    rows, distance = 1, width * step
    for size, stride in zip(reversed(x.shape[:-1]), reversed(x.strides[:-1]), strict=True):
        if size == 1:
            continue
        if rows > 1 and stride != rows * distance:
            return None
        if rows == 1:
            distance = stride
        rows *= size
    return (rows, distance // step) if distance % step == 0 else None


def _integer_like(element: types.Type) -> tuple[types.Type, ir.IntType]:
    wide = element.bitwidth == 64
    return (types.int64 if wide else types.int32), ir.IntType(64 if wide else 32)


def _flip_if_negative(builder, bits):
    """Invert all bits but the sign where the sign is set; its own inverse."""
    size = bits.type.width
    sign_everywhere = builder.ashr(bits, bits.type(size - 1))
    return builder.xor(bits, builder.lshr(sign_everywhere, bits.type(1)))


@intrinsic
def _order_key(typing_context, x):
    """An integer that sorts like x: IEEE floats are sign and magnitude, integers two's complement.

    -inf < ... < -0 < 0 < ... < inf < NaN (a NaN with its sign set sorts before everything).
    """
    key, bits_type = _integer_like(x)

    def generate(context, builder, signature, values):
        return _flip_if_negative(builder, builder.bitcast(values[0], bits_type))

    return key(x), generate


@intrinsic
def _from_order_key(typing_context, key):
    """The float that `_order_key` made this integer from."""
    element = types.float32 if key == types.int32 else types.float64
    float_type = ir.FloatType() if key == types.int32 else ir.DoubleType()

    def generate(context, builder, signature, values):
        return builder.bitcast(_flip_if_negative(builder, values[0]), float_type)

    return element(key), generate


@inlined
def largest(x, count):
    """The largest of x[0..count), count >= 1, or NaN. A NaN among them may also be overlooked.

    A maximum of floats does not vectorise: the compiler may not reorder comparisons that a NaN
    could decide. A maximum of integers does, and is ten times faster. Whoever calls this
    subtracts the result from the same numbers and sums them, so a NaN shows in the end anyway.
    """
    top = _order_key(x[0])
    for j in range(count):
        key = _order_key(x[j])
        top = key if key > top else top
    return _from_order_key(top)


# Sums may be reordered, so that they vectorise. The permission is confined to a function of its
# own: given to a whole body, it lets the compiler turn (x - peak) - log(total), which is exact
# where it matters, into x - (peak + log(total)), which is not.
@inlined(reassociate=True)
def sum_of_exp(x, shift, count):
    """exp(x[0] - shift) + ... + exp(x[count - 1] - shift)."""
    total = like(shift, 0)
    for j in range(count):
        total += exp(x[j] - shift)
    return total
