"""The loops of all element-wise kernels: one small scalar function, any shapes, any strides.

NumPy describes an array by its address, its shape and its strides: how far in memory the next
element lies along each axis. A broadcast axis is one with stride 0. So an element-wise kernel is

    for each index (i, j, ..., k):   out[i so0 + j so1 + ...] = f(x[i sx0 + j sx1 + ...])

and the work is to make the innermost loop long and its strides 1, where the compiler vectorises.
`merged_axes` below does that in Python: it orders the axes by `out`'s strides, drops those of
size 1, and merges neighbours that are one axis in disguise (for every array, the stride of the
outer one is the size times the stride of the inner one). Arrays that lie contiguously become a
single axis. What is left is the inner axis and some outer ones, whose joint index is a row.

A kernel is declared in `elementwise.py` by its scalar function:

    @unary
    def silu(x):
        return x * sigmoid(x)

from which the decorator makes a body (the loop with this function in it; the compiler inlines the
call) and returns the packing function `silu(x, out)`.

The block of words has room for four arrays (inputs, then out), whatever their number:

    0-3    addresses               4  size of the inner axis
    5-8    strides of the inner axis, in elements, one per array
    9      number of outer axes
    10-    five words for each outer axis: its size, its stride in each array
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from baremetal.kernels.native.abi import (
    FLOATING,
    Body,
    Launch,
    integer,
    offset,
    pointer,
    pointer_u8,
)
from baremetal.kernels.native.vmath import PRECISE

BLOCK = 256  # elements brought together on the stack where they do not lie together in memory


# ---------------------------------------------------------------- memory, seen by the vectoriser


def _scope(builder):
    """The name, for LLVM, of the memory that element-wise kernels read."""
    domain = builder.module.add_metadata(["element-wise"])
    return builder.module.add_metadata([builder.module.add_metadata(["inputs", domain])])


@intrinsic
def load(typing_context, base, index):
    """base[index], where no store of this loop changes an element that is read later.

    `add(a, b, a)` is allowed: out may be an input, element for element. Without this promise the
    compiler adds a check for overlapping arrays, which that call would fail, and it would run
    element by element.
    """

    def generate(context, builder, signature, values):
        loaded = builder.load(builder.gep(values[0], [values[1]]))
        loaded.set_metadata("alias.scope", _scope(builder))
        return loaded

    return base.dtype(base, types.intp), generate


@intrinsic
def store(typing_context, base, index, value):
    """base[index] = value, converted to the pointer's type; see `load` for the promise."""

    def generate(context, builder, signature, values):
        value = context.cast(builder, values[2], signature.args[2], base.dtype)
        builder.store(value, builder.gep(values[0], [values[1]])).set_metadata(
            "noalias", _scope(builder)
        )
        return context.get_dummy_value()

    return types.void(base, types.intp, value), generate


@intrinsic
def quotient(typing_context, a, b):
    """a // b of non-negative integers: one instruction, where Python's rules take a dozen."""

    def generate(context, builder, signature, values):
        return builder.udiv(*values)

    return types.int64(types.int64, types.int64), generate


@njit(**PRECISE)
def row_starts(args, row, word=9):
    """Where row number `row` starts in each of the four arrays, in elements.

    `word` is where the list of axes stands that the row number counts through.
    """
    first, second, third, fourth = 0, 0, 0, 0
    for axis in range(integer(args, word) - 1, -1, -1):
        at = word + 1 + 5 * axis
        rest = quotient(row, integer(args, at))
        index = row - rest * integer(args, at)
        first += index * integer(args, at + 1)
        second += index * integer(args, at + 2)
        third += index * integer(args, at + 3)
        fourth += index * integer(args, at + 4)
        row = rest
    return first, second, third, fourth


@intrinsic
def buffer(typing_context, base):
    """BLOCK elements on the stack, of the type that `base` points to."""

    def generate(context, builder, signature, values):
        with builder.goto_entry_block():  # once per call, not once per pass of a loop
            slot = builder.alloca(ir.ArrayType(values[0].type.pointee, BLOCK))
        slot.align = 64
        return builder.bitcast(slot, values[0].type)

    return base(base), generate


@njit(**PRECISE)
def gather(base, stride, count, block):
    """`count` elements from base on as a contiguous array: in place, or copied into `block`."""
    if stride == 1:
        return base
    if stride == 0:
        value = base[0]
        for i in range(count):
            block[i] = value
    else:
        for i in range(count):
            block[i] = base[i * stride]
    return block


@njit(**PRECISE)
def scatter(block, base, stride, count):
    """The way back, for the result; nothing to do where it was written in place."""
    if stride != 1:
        for i in range(count):
            base[i * stride] = block[i]


# ---------------------------------------------------------------- the loops
#
# `lo` and `hi` count elements. Each pass of the outer loop does a piece of one row. Where a
# stride is not 1, a block of elements is first brought together on the stack, so that the scalar
# function stands in one loop only, over contiguous arrays, which vectorises.
#
# These three are patterns, never run as they stand: `make_body` binds the two names below anew.

FUNCTION: Any = None  # the scalar function
RESULT: Any = pointer  # how a binary kernel's result is addressed: comparisons yield bytes


def unary_pattern(lo, hi, args):
    """Elements lo..hi of out = f(x)."""
    inner, sx, so = integer(args, 4), integer(args, 5), integer(args, 6)
    x_block, out_block = buffer(pointer(args, 0)), buffer(pointer(args, 1))
    longest = hi - lo if sx == 1 and so == 1 else BLOCK
    row = lo // inner
    column = lo - row * inner
    while lo < hi:
        count = min(inner - column, hi - lo, longest)
        x_row, out_row, _, _ = row_starts(args, row)
        x_at = offset(pointer(args, 0), x_row + column * sx)
        out_at = offset(pointer(args, 1), out_row + column * so)
        x = gather(x_at, sx, count, x_block)
        out = out_at if so == 1 else out_block
        for i in range(count):
            store(out, i, FUNCTION(load(x, i)))
        scatter(out, out_at, so, count)
        lo, column = lo + count, column + count
        if column == inner:
            row, column = row + 1, 0


def binary_pattern(lo, hi, args):
    """Elements lo..hi of out = f(a, b)."""
    inner = integer(args, 4)
    sa, sb, so = integer(args, 5), integer(args, 6), integer(args, 7)
    a_block, b_block = buffer(pointer(args, 0)), buffer(pointer(args, 1))
    out_block = buffer(RESULT(args, 2))
    longest = hi - lo if sa == 1 and sb == 1 and so == 1 else BLOCK
    row = lo // inner
    column = lo - row * inner
    while lo < hi:
        count = min(inner - column, hi - lo, longest)
        a_row, b_row, out_row, _ = row_starts(args, row)
        a_at = offset(pointer(args, 0), a_row + column * sa)
        b_at = offset(pointer(args, 1), b_row + column * sb)
        out_at = offset(RESULT(args, 2), out_row + column * so)
        a = gather(a_at, sa, count, a_block)
        b = gather(b_at, sb, count, b_block)
        out = out_at if so == 1 else out_block
        for i in range(count):
            store(out, i, FUNCTION(load(a, i), load(b, i)))
        scatter(out, out_at, so, count)
        lo, column = lo + count, column + count
        if column == inner:
            row, column = row + 1, 0


def choice_pattern(lo, hi, args):
    """Elements lo..hi of out = f(condition, a, b), the condition in bytes."""
    inner = integer(args, 4)
    sc, sa, sb, so = integer(args, 5), integer(args, 6), integer(args, 7), integer(args, 8)
    c_block, a_block = buffer(pointer_u8(args, 0)), buffer(pointer(args, 1))
    b_block, out_block = buffer(pointer(args, 2)), buffer(pointer(args, 3))
    longest = hi - lo if sc == 1 and sa == 1 and sb == 1 and so == 1 else BLOCK
    row = lo // inner
    column = lo - row * inner
    while lo < hi:
        count = min(inner - column, hi - lo, longest)
        c_row, a_row, b_row, out_row = row_starts(args, row)
        c_at = offset(pointer_u8(args, 0), c_row + column * sc)
        a_at = offset(pointer(args, 1), a_row + column * sa)
        b_at = offset(pointer(args, 2), b_row + column * sb)
        out_at = offset(pointer(args, 3), out_row + column * so)
        c = gather(c_at, sc, count, c_block)
        a = gather(a_at, sa, count, a_block)
        b = gather(b_at, sb, count, b_block)
        out = out_at if so == 1 else out_block
        for i in range(count):
            store(out, i, FUNCTION(load(c, i), load(a, i), load(b, i)))
        scatter(out, out_at, so, count)
        lo, column = lo + count, column + count
        if column == inner:
            row, column = row + 1, 0


# ---------------------------------------------------------------- from a function to a kernel


def make_body(pattern: Callable, function: Callable, result: Any = pointer) -> Body:
    """The pattern's code with FUNCTION bound to this scalar function, under a name of its own.

    Equal code with another global: numba compiles each as a function in its own right, and finds
    it again on disk by its name. (A closure would be told apart by a pickle of what it closes
    over, which for a compiled function differs from process to process.)
    """
    scope = pattern.__globals__ | {"FUNCTION": njit(**PRECISE)(function), "RESULT": result}
    body = FunctionType(pattern.__code__, scope, function.__name__ + "_body")
    body.__qualname__ = body.__name__
    body.__module__ = function.__module__
    said = str(pattern.__doc__).replace(" f(", f" {function.__name__.strip('_')}(").rstrip(".")
    body.__doc__ = f"{said}. Words: 0-3 inputs, then out, 4- axes (broadcast.py)."
    return Body(body, reassociate=False)


def unary(function: Callable | None = None, *, work: int = 1) -> Any:
    """Decorator: the kernel (x, out) of a function of one number.

    `work` is how many times longer an element takes than an addition, where it matters.
    """
    if function is None:
        return lambda f: unary(f, work=work)
    body = make_body(unary_pattern, function)

    def kernel(x, out):
        return pack(body, (x, out), out.dtype, work) if x.dtype == out.dtype else None

    return kernel


def binary(function: Callable | None = None, *, work: int = 1) -> Any:
    """Decorator: the kernel (a, b, out) of a function of two numbers."""
    if function is None:
        return lambda f: binary(f, work=work)
    body = make_body(binary_pattern, function)

    def kernel(a, b, out):
        if a.dtype != out.dtype or b.dtype != out.dtype:
            return None
        return pack(body, (a, b, out), out.dtype, work)

    return kernel


def comparison(function: Callable) -> Callable:
    """Decorator: the kernel (a, b, out) of a yes-or-no question; out is boolean."""
    body = make_body(binary_pattern, function, pointer_u8)

    def kernel(a, b, out):
        if out.dtype != np.bool_ or a.dtype != b.dtype:
            return None
        return pack(body, (a, b, out), a.dtype, 1)

    return kernel


def choice(function: Callable) -> Callable:
    """Decorator: the kernel (condition, a, b, out) of a function of a byte and two numbers."""
    body = make_body(choice_pattern, function)

    def kernel(condition, a, b, out):
        if condition.dtype != np.bool_ or a.dtype != out.dtype or b.dtype != out.dtype:
            return None
        return pack(body, (condition, a, b, out), out.dtype, 1)

    return kernel


# ---------------------------------------------------------------- packing


_ABSENT = {2: (0, 0), 3: (0,), 4: ()}  # words in the place of arrays that a kernel has not


def pack(body: Body, arrays: tuple, dtype: np.dtype, work: int) -> Sequence[Launch] | None:
    """One launch over arrays that broadcast to the last of them; None if NumPy must do it."""
    if dtype not in FLOATING:
        return None
    size, shape = arrays[-1].size, arrays[-1].shape
    for array in arrays:
        if array.shape != shape or not array.flags.c_contiguous:
            axes = merged_axes(arrays)
            return None if axes is None else pack_axes(body, arrays, dtype, axes, work)
    words = (*arrays, *_ABSENT[len(arrays)], size, 1, 1, 1, 1, 0)
    return (Launch(body, dtype, words, size, work),)


def pack_axes(
    body: Body, arrays: tuple, dtype: np.dtype, axes: list[tuple[int, ...]], work: int
) -> Sequence[Launch]:
    """The same for arrays of any layout that `merged_axes` could describe."""
    absent = _ABSENT[len(arrays)]
    inner = axes[-1]
    words = [*arrays, *absent, *inner, *absent, len(axes) - 1]
    for axis in axes[:-1]:
        words += (*axis, *absent)
    return (Launch(body, dtype, words, arrays[-1].size, work),)


def merged_axes(arrays: tuple) -> list[tuple[int, ...]] | None:
    """The fewest axes that describe these arrays: tuples (size, stride in each, in elements).

    Ordered by the strides of the last array, the result, largest first; at least one axis. None
    where an array is not aligned (a field of a packed structured array).
    """
    shape = arrays[-1].shape
    strides = []
    for array in arrays:
        if not array.flags.aligned:
            return None
        strides.append(_strides(array, shape))
    axes = [axis for axis in zip(shape, *strides, strict=True) if axis[0] != 1]
    if len(axes) < 2:
        return axes or [(1,) * (len(arrays) + 1)]
    axes.sort(key=itemgetter(-1), reverse=True)
    merged: list[tuple[int, ...]] = []
    for axis in axes:
        size = axis[0]
        if merged and merged[-1][1:] == tuple([size * stride for stride in axis[1:]]):
            axis = (merged.pop()[0] * size, *axis[1:])
        merged.append(axis)
    return merged


def _strides(array: np.ndarray, shape: tuple[int, ...]) -> list[int]:
    """Strides in elements of an aligned array broadcast to this shape."""
    item = array.itemsize
    strides = [stride // item for stride in array.strides]
    if array.shape != shape:
        strides = [0 if n == 1 else s for n, s in zip(array.shape, strides, strict=True)]
        strides = [0] * (len(shape) - array.ndim) + strides
    return strides
