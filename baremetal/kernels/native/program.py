"""What a generated program is written in: bodies, blocks of words, and the parallel loop.

A captured step can be written out as source (`capture/program.py`), one call after another, with
every size a number in the text:

    run(matmul, 24, threads, words_f32((x, weight, out, 192, 384, 128, 0, 1, 128, 128, 384)))
    gelu_tanh(0, 4096, words_f32((out, activated)))

The words are the block of `abi.py`, here on the stack. A body is called in one of two ways:

    run         by its address, on all threads: the machine code that eager execution and replay
                call too, hence the same bits
    by name     inlined where it stands, on this thread. The compiler then sees the sizes as
                numbers: loops of known length are unrolled, tests of a flag disappear. That pays
                where a launch takes less than its call, and sums may come out in another order

This file holds what such source imports.
"""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.extending import intrinsic

from baremetal.kernels.native.abi import find_body
from baremetal.kernels.native.compiler import (
    COMPILING,
    arithmetic,
    compile_or_load,
    inlined,
)
from baremetal.kernels.native.pool import POOL

__all__ = ["bits", "inline", "part", "run", "table", "words_f32", "words_f64"]

WORD = ir.IntType(64)


def _words_of(element: types.Type) -> Any:
    """An intrinsic that puts a tuple of integers on the stack, for bodies over `element`."""

    @intrinsic
    def words(typing_context, values):
        if not isinstance(values, types.BaseTuple):
            return None
        plain = types.Tuple([types.int64] * len(values))

        def generate(context, builder, signature, arguments):
            count = len(signature.args[0])
            block = cgutils.alloca_once(builder, ir.ArrayType(WORD, count))
            for index in range(count):
                word = builder.extract_value(arguments[0], index)
                zero = ir.Constant(ir.IntType(32), 0)
                place = builder.gep(block, [zero, ir.Constant(ir.IntType(32), index)])
                builder.store(word, place)
            return builder.bitcast(block, context.get_value_type(signature.return_type))

        return types.CPointer(element)(plain), generate

    return words


words_f32 = _words_of(types.float32)
words_f64 = _words_of(types.float64)


@intrinsic
def bits(typing_context, value):
    """A floating-point attribute as a word: the bit pattern of the float64."""

    def generate(context, builder, signature, values):
        return builder.bitcast(values[0], WORD)

    return types.int64(types.float64), generate


@intrinsic
def table(typing_context, address):
    """An address as that of a table of integers, to be indexed."""

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], WORD.as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def _address(typing_context, pointer):
    """A pointer as an integer, which the parallel loop can hand to its threads."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(values[0], WORD)

    return types.int64(pointer), generate


_drive = POOL.driver


@numba.njit(nogil=True, error_model="numpy")
def run(body, items, threads, words):
    """Call the body at this address for all its items, divided over the threads."""
    _drive(body, _address(words), items, min(threads, items))


def inline(key: str) -> Callable[..., None]:
    """The body with this key as a function: compiled into wherever generated source calls it."""
    body = find_body(key)
    return inlined(reassociate=body.reassociate)(body.function)


def part(function: Callable) -> Any:
    """Decorator of a function of the program other than the whole: compiled once, and called."""
    return numba.njit(nogil=True, **arithmetic(reassociate=False))(function)


# The whole program: where the arena and the workspace lie, where two tables of addresses lie (of
# what is outside the arena; of compiled bodies), and the number of threads.
SIGNATURE = "void(int64, int64, int64, int64, int64)"


def compile_program(function: Callable) -> Any:
    """The step itself, from the disk cache if this very source was compiled before."""
    options = arithmetic(reassociate=False)
    COMPILING.tell("the step")
    with event.install_listener("numba:compile", _Teller()):
        program = compile_or_load(
            lambda cache: numba.njit(SIGNATURE, nogil=True, cache=cache, **options)(function)
        )
    if sum(program.stats.cache_hits.values()):
        COMPILING.loaded += 1
    else:
        COMPILING.compiled += 1
    return program


class _Teller(event.Listener):
    """Passes on which function of the program numba compiles: the whole takes some seconds."""

    def on_start(self, event: Any) -> None:
        COMPILING.tell(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        """Nothing to say."""
