"""The calling convention of every compiled kernel: an address and a block of words.

A launch on a GPU is, underneath, a function's address and a list of argument words
(`cuLaunchKernel(function, ..., void **arguments)`). Ours is the same:

    void body(int64 lo, int64 hi, int64 *args)

`args` is a block of 64-bit words: addresses of arrays, sizes, strides, and floating-point
attributes as bit patterns. `lo` and `hi` say which items (rows, elements, heads) this call is to
do, so that one function serves one thread or many (`pool.py` splits the range). Three things
follow:

* all kernels have one type, so one parallel driver, compiled once, runs them all;
* a launch is plain data: it can be recorded, and replayed later for the price of one call;
* a body is compiled for float32 and for float64 and for nothing else. Shapes and strides are
  arguments, so no new signature is ever met at run time.

A body is ordinary Python in numba's subset, written over flat memory as one would in C:

    @body
    def relu(lo, hi, args):
        x, out = pointer(args, 0), pointer(args, 1)
        for i in range(lo, hi):
            out[i] = max(x[i], 0)

and is packed by a function that takes NumPy arrays:

    def relu(x, out):
        return [Launch(relu_body, x.dtype, (x, out), items=x.size)]
"""

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from baremetal.kernels.native import blas  # noqa: F401  registers the BLAS symbols (see there)
from baremetal.kernels.native.compiler import compile_body
from baremetal.kernels.native.pool import POOL

WORD = ir.IntType(64)
LINE_BYTES = 64  # a cache line
FLOATING = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}


# ---------------------------------------------------------------- reading the block, in a body


def _word(builder, args, index):
    """Load word `index` of the block as a 64-bit integer."""
    words = builder.bitcast(args, WORD.as_pointer())
    return builder.load(builder.gep(words, [index]))


@intrinsic
def pointer(typing_context, args, index):
    """Word `index` as a pointer to the body's own element type T (float32 or float64)."""
    signature = types.CPointer(args.dtype)(args, index)

    def generate(context, builder, signature, values):
        address = _word(builder, values[0], values[1])
        return builder.inttoptr(address, context.get_value_type(signature.return_type))

    return signature, generate


def _pointer_to(element: types.Type):
    """An intrinsic that reads a word as a pointer to a given element type, whatever T is."""

    @intrinsic
    def read(typing_context, args, index):
        signature = types.CPointer(element)(args, index)

        def generate(context, builder, signature, values):
            address = _word(builder, values[0], values[1])
            return builder.inttoptr(address, context.get_value_type(signature.return_type))

        return signature, generate

    return read


pointer_i64 = _pointer_to(types.int64)
pointer_i32 = _pointer_to(types.int32)
pointer_u16 = _pointer_to(types.uint16)
pointer_u8 = _pointer_to(types.uint8)  # booleans too: NumPy stores one per byte
pointer_f32 = _pointer_to(types.float32)
pointer_f64 = _pointer_to(types.float64)


@intrinsic
def integer(typing_context, args, index):
    """Word `index` as a signed 64-bit integer: a size, a stride, a flag."""

    def generate(context, builder, signature, values):
        return _word(builder, values[0], values[1])

    return types.int64(args, index), generate


@intrinsic
def scalar(typing_context, args, index):
    """Word `index` as a floating-point attribute, rounded to the body's element type T."""
    signature = args.dtype(args, index)

    def generate(context, builder, signature, values):
        bits = _word(builder, values[0], values[1])
        value = builder.bitcast(bits, ir.DoubleType())
        return context.cast(builder, value, types.float64, signature.return_type)

    return signature, generate


@intrinsic
def scalar_f64(typing_context, args, index):
    """Word `index` as a floating-point attribute in full precision, whatever T is."""

    def generate(context, builder, signature, values):
        return builder.bitcast(_word(builder, values[0], values[1]), ir.DoubleType())

    return types.float64(args, index), generate


@intrinsic
def cast(typing_context, args, value):
    """`value` converted to the body's element type T: keeps float32 arithmetic in float32."""
    signature = args.dtype(args, value)

    def generate(context, builder, signature, values):
        return context.cast(builder, values[1], signature.args[1], signature.return_type)

    return signature, generate


@intrinsic
def offset(typing_context, base, elements):
    """The pointer `elements` elements after `base`: C's ``base + elements``."""

    def generate(context, builder, signature, values):
        return builder.gep(values[0], [values[1]])

    return base(base, elements), generate


@intrinsic(prefer_literal=True)
def stack(typing_context, args, count):
    """`count` elements of T on the stack: C's ``float tile[4096];``. `count` is a literal.

    The memory is not cleared and dies when the body returns. It is reserved once per call of
    the function that asks, so asking inside a loop does not grow the stack.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None
    element, length = args.dtype, count.literal_value

    def generate(context, builder, signature, values):
        array = ir.ArrayType(context.get_value_type(element), length)
        with builder.goto_entry_block():  # numba's own helper would clear the memory as well
            slot = builder.alloca(array)
        slot.align = 64  # one cache line, one AVX-512 register
        return builder.bitcast(slot, context.get_value_type(signature.return_type))

    return types.CPointer(element)(args, count), generate


# ---------------------------------------------------------------- packing the block, in Python


_DATA_FIELD = object.__basicsize__  # an ndarray is: object header, then `char *data`, ...


def _address_from_header(array: np.ndarray) -> int:
    """The address of an array's first element, read from the array's own C header.

    The data pointer has been the first field of NumPy's array struct since NumPy 1.0 ("NumPy
    C-API, PyArrayObject"). Reading it costs a fifth of the official ways, and a launch needs
    one per argument.
    """
    return ctypes.c_void_p.from_address(id(array) + _DATA_FIELD).value or 0


def _address_from_interface(array: np.ndarray) -> int:
    """The same by the array interface protocol: the documented way, and the slower one."""
    return array.__array_interface__["data"][0]


def _choose_address() -> Callable[[np.ndarray], int]:
    """Use the fast way only where it demonstrably gives what the documented way gives."""
    probe = np.arange(6.0)[2:]
    agree = _address_from_header(probe) == _address_from_interface(probe)
    return _address_from_header if agree else _address_from_interface


address_of = _choose_address()


_DOUBLE, _INTEGER, _INT64 = struct.Struct("<d"), struct.Struct("<q"), np.dtype(np.int64)


def pack_words(values: Sequence[Any]) -> np.ndarray:
    """Arrays become addresses, integers stay, floats become their bit pattern: one int64 block."""
    words = []
    for value in values:  # this loop is most of a launch's price: the common types first
        kind = type(value)
        if kind is int:
            words.append(value)
        elif kind is np.ndarray:
            words.append(address_of(value))
        else:
            words.append(_uncommon_word(value))
    return np.array(words, _INT64)


def _uncommon_word(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return address_of(value)
    if isinstance(value, (np.inexact, np.bool_)):
        # `array[i]` of a 1-d array looks like a 0-d array, has no address, and would crash.
        raise TypeError(
            f"{value!r} is a NumPy scalar: pass a 0-d array where a kernel takes an array, "
            "float(...) where it takes a number"
        )
    if isinstance(value, float):
        return _INTEGER.unpack(_DOUBLE.pack(value))[0]
    return int(value)


class Scratch(np.ndarray):
    """Memory that a launch needs while it runs and not afterwards.

    Its type says so: whoever keeps a list of launches may let them all use the same piece, since
    they run one after another.
    """


def scratch(shape: tuple[int, ...], dtype: Any) -> Scratch:
    """Uninitialised memory for the time of one call, for a packing function to hand its bodies."""
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    whole = np.empty(size_bytes + LINE_BYTES, np.uint8)
    start = -address_of(whole) % LINE_BYTES  # on a cache line
    return np.ndarray(shape, dtype, whole, start).view(Scratch)


class Body:
    """A compiled kernel body: one machine-code address per element type, compiled when first used.

    Args:
        function: the Python source of the body, ``function(lo, hi, args)``.
        reassociate: allow sums to be reordered so that they vectorise (never allows the compiler
            to assume that NaN or infinity do not occur).
    """

    def __init__(self, function: Callable, reassociate: bool) -> None:
        self.name = function.__name__
        self.function = function
        self.reassociate = reassociate
        self._compiled: dict[np.dtype, Any] = {}
        self.key = f"{function.__module__}:{self.name}"
        _BODIES[self.key] = self

    def address(self, dtype: np.dtype) -> int:
        """The machine-code address of the body for this element type (compiles on first use)."""
        compiled = self._compiled.get(dtype)
        if compiled is None:
            signature = types.void(types.int64, types.int64, types.CPointer(FLOATING[dtype]))
            compiled = compile_body(self.function, signature, self.reassociate)
            self._compiled[dtype] = compiled
        return compiled.address


_BODIES: dict[str, Body] = {}  # by module and name


def find_body(key: str) -> Body:
    """The body with this key. Raises KeyError if the module that declares it is not imported."""
    return _BODIES[key]


def is_ours(body: Body) -> bool:
    """Whether a program may be compiled with this body in it.

    Machine code on disk is kept under a hash of the kernels' sources. A body from elsewhere (a
    test, a user's kernel) is not in that hash, and a name may be given twice there.
    """
    return body.key.startswith("baremetal.kernels.") and _BODIES[body.key] is body


def body(function: Callable | None = None, *, reassociate: bool = False) -> Any:
    """Decorator: ``@body`` or ``@body(reassociate=True)`` over ``function(lo, hi, args)``."""
    if function is None:
        return lambda f: Body(f, reassociate)
    return Body(function, reassociate)


class Launch:
    """One call of one body, with every argument decided: plain data, to run now or to keep.

    Attributes:
        body: what runs.
        dtype: the element type it runs for.
        block: its argument words, int64.
        items: how many items (rows, elements, heads) the range covers.
        work: elements touched per item, for deciding whether threads pay.
        arrays: the arrays whose addresses are in the block, kept alive with it.
    """

    __slots__ = ("address", "arrays", "block", "body", "dtype", "items", "work")

    def __init__(
        self, body: Body, dtype: np.dtype, arguments: Sequence[Any], items: int, work: int = 1
    ) -> None:
        self.body = body
        self.dtype = dtype
        self.arrays = arguments  # the block holds bare addresses: someone must own the memory
        self.block = pack_words(arguments)
        self.items = items
        self.work = work
        self.address = body.address(dtype)

    def run(self) -> None:
        """Run on the one thread pool; small launches stay on the calling thread."""
        if self.items:
            POOL.run(self.address, address_of(self.block), self.items, self.items * self.work)
