"""A slot: where one message lies, and the compiled code that fills and empties it.

    header   line 0, written by the sender:    label size depart arrival attempt kept header_sum
             line 1, written by the sender:    written sum weighted
             line 2, written by the receiver:  taken release request wanted
    payload  aligned to a cache line

Each side writes its own cache lines, so that the two processors do not fight over one.

**Order.** The receiver must not see the label before what it labels. Two things could disturb
that order: the compiler, which may move stores around, and the processor. x86 keeps stores in
order and loads in order (only a load may overtake an earlier store), so there only the compiler
must be held back. ARM keeps neither. A *release* store (everything before it becomes visible
first) paired with an *acquire* load (nothing after it is read earlier) is right on both; LLVM
makes plain moves of them on x86, and `stlr` and `ldar` on ARM. NumPy has neither, so whatever
orders anything is read and written by the two intrinsics below. Words are aligned to 8 bytes, and
so are written in one piece.

**One pass.** A message is limited by memory, not by arithmetic: a second pass to sum what was just
copied would halve the rate. Both sums of `checksum.py` are made while the words go by, in a loop
that vectorises (a widening multiplication and two additions for four bytes).

**Following.** 64 MiB copied into the slot and then copied out of it would travel at half the rate
of memcpy. So the sender publishes the header first and then, block by block, how far it has come
(`written`), and the receiver follows a block behind, on its own core.

Addresses are integers, and the functions do not hold the GIL. The constants that compiled code
reads stand in this file and in no other: numba's disk cache looks at the file, not at its imports.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, register_jitable

from baremetal.kernels.native.compiler import compile_or_load

LINE_BYTES = 64  # a cache line
HEADER_BYTES = 3 * LINE_BYTES

# Words of the header, 8 bytes each.
LABEL, SIZE, DEPART, ARRIVAL, ATTEMPT, KEPT, HEADER_SUM = range(7)
WRITTEN, SUM, WEIGHTED = range(8, 11)
TAKEN, RELEASE, REQUEST, WANTED = range(16, 20)

BLOCK_WORDS = 32768  # 128 KiB: the sums of a block are exact in 64 bits, and it fits into L2
PRIME = 2**61 - 1
LOW_31, LOW_30 = 2**31 - 1, 2**30 - 1

NOT_YET, READY, ABORTED, DAMAGED = range(4)  # what looking finds

WORD = ir.IntType(64)
HALF = ir.IntType(32)


@intrinsic
def load_acquire(typing_context, address):
    """The word at an address; what is read after it is not read before it."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], WORD.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def store_release(typing_context, address, value):
    """Write the word at an address; what was written before it is seen before it."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], WORD.as_pointer())
        builder.store_atomic(values[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def load_half(typing_context, address, index):
    """The 32-bit word `index` from an address, which need not be aligned."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], HALF.as_pointer())
        load = builder.load(builder.gep(pointer, [values[1]]))
        load.align = 1
        return load

    return types.uint32(types.int64, types.int64), generate


@intrinsic
def store_half(typing_context, address, index, value):
    """Write the 32-bit word `index` from an address, which need not be aligned."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], HALF.as_pointer())
        store = builder.store(values[2], builder.gep(pointer, [values[1]]))
        store.align = 1
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint32), generate


def _byte_access(name):
    """An intrinsic for one byte: the message's last three, where it does not end on a word."""
    byte = ir.IntType(8)

    @intrinsic
    def load(typing_context, address):
        def generate(context, builder, signature, values):
            return builder.load(builder.inttoptr(values[0], byte.as_pointer()))

        return types.uint8(types.int64), generate

    @intrinsic
    def store(typing_context, address, value):
        def generate(context, builder, signature, values):
            builder.store(values[1], builder.inttoptr(values[0], byte.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64, types.uint8), generate

    return load if name == "load" else store


load_byte = _byte_access("load")
store_byte = _byte_access("store")


@register_jitable
def _reduced(x):
    """x mod 2^61 - 1, for x of 64 bits."""
    x = (x & np.uint64(PRIME)) + (x >> np.uint64(61))
    return x - np.uint64(PRIME) if x >= np.uint64(PRIME) else x


@register_jitable
def _times(base, x):
    """base * x mod 2^61 - 1, for base < 2^31 and x < 2^48, in 64 bits.

    x = high * 2^30 + low. base * low < 2^61. base * high = y < 2^49, and y * 2^30 is, with
    2^61 = 1, the low 31 bits of y shifted up, plus the rest.
    """
    y = base * (x >> np.uint64(30))
    shifted = ((y & np.uint64(LOW_31)) << np.uint64(30)) + (y >> np.uint64(31))
    return _reduced(base * (x & np.uint64(LOW_30)) + shifted)


@register_jitable
def _block_sums(target, source, first, words):
    """Copy `words` words from number `first` on, and sum them; target 0: only sum.

    Returns the plain and the weighted sum, exact: below 2^15 * 2^32 and 2^15 * 2^15 * 2^32.
    """
    total = np.uint64(0)
    weighted = np.uint64(0)
    source += 4 * first
    if target == 0:
        for i in range(words):
            word = load_half(source, i)
            total += np.uint64(word)
            weighted += np.uint64(np.uint32(i)) * np.uint64(word)
        return total, weighted
    target += 4 * first
    for i in range(words):
        word = load_half(source, i)
        store_half(target, i, word)
        total += np.uint64(word)
        weighted += np.uint64(np.uint32(i)) * np.uint64(word)
    return total, weighted


@register_jitable
def _last_word(target, source, start, end):
    """Copy the message's last one to three bytes; they as a word, filled up with zeros."""
    word = np.uint64(0)
    for k in range(end - start):
        byte = load_byte(source + start + k)
        if target != 0:
            store_byte(target + start + k, byte)
        word |= np.uint64(byte) << np.uint64(8 * k)
    return word


@register_jitable
def _pass(target, source, start, end, total, weighted):
    """Copy and sum the bytes from start, a multiple of a block, to end, at most a block later."""
    first = start // 4
    words = (end - start) // 4
    base = np.uint64(first)
    plain, places = _block_sums(target, source, first, words)
    if (end - start) % 4:
        word = _last_word(target, source, start + 4 * words, end)
        plain += word
        places += np.uint64(words) * word
    total = _reduced(total + plain)
    weighted = _reduced(weighted + _reduced(places))
    return total, _reduced(weighted + _times(base, plain))


@register_jitable
def _header_sum(header):
    """The header's words with odd weights mod 2^64: a change of any one of them is seen.

    The label's weight is 1, so that a message's sum is known before its label is written.
    """
    total = 0
    for word in range(HEADER_SUM):
        total += (2 * word + 1) * load_acquire(header + 8 * word)
    return total


def _put(header, payload, source, size, label, depart, arrival, attempt, kept):
    """Fill a slot and publish it; source 0: the payload is in its place, and is only summed."""
    store_release(header + 8 * LABEL, 0)
    store_release(header + 8 * WRITTEN, -1)
    store_release(header + 8 * SIZE, size)
    store_release(header + 8 * DEPART, depart)
    store_release(header + 8 * ARRIVAL, arrival)
    store_release(header + 8 * ATTEMPT, attempt)
    store_release(header + 8 * KEPT, kept)
    store_release(header + 8 * HEADER_SUM, _header_sum(header) + label)
    store_release(header + 8 * LABEL, label)
    target = payload if source != 0 else 0
    if source == 0:
        source = payload
    total = np.uint64(0)
    weighted = np.uint64(0)
    block = 4 * BLOCK_WORDS
    done = 0
    while done < size:
        end = min(done + block, size)
        total, weighted = _pass(target, source, done, end, total, weighted)
        done = end
        if done < size:
            store_release(header + 8 * WRITTEN, done)
    store_release(header + 8 * SUM, np.int64(total))
    store_release(header + 8 * WEIGHTED, np.int64(weighted))
    store_release(header + 8 * WRITTEN, size)


def _await_word(address, wanted, abort, spins):
    """Look at a word until it is at least `wanted`, the run is ended, or `spins` looks are over."""
    for _ in range(spins):
        if load_acquire(address) >= wanted:
            return READY
        if load_acquire(abort) != 0:
            return ABORTED
    return NOT_YET


def _await_label(header, label, attempt, abort, spins):
    """The same until a slot holds this message, in this attempt or a later one.

    DAMAGED: it does, but the words of the header are not those that the sender wrote.
    """
    for _ in range(spins):
        here = load_acquire(header + 8 * LABEL) == label
        if here and load_acquire(header + 8 * ATTEMPT) >= attempt:
            whole = _header_sum(header) == load_acquire(header + 8 * HEADER_SUM)
            return READY if whole else DAMAGED
        if load_acquire(abort) != 0:
            return ABORTED
    return NOT_YET


def _take(header, payload, target, size, state, abort, spins):
    """Copy and sum what the sender has written so far, to be called until it says READY.

    state: address of three words, how far we are and the two sums, 0 at first.
    """
    done = load_acquire(state)
    total = np.uint64(load_acquire(state + 8))
    weighted = np.uint64(load_acquire(state + 16))
    block = 4 * BLOCK_WORDS
    looks = 0
    while True:
        written = load_acquire(header + 8 * WRITTEN)
        while done < written and done < size:
            end = min(done + block, size)
            total, weighted = _pass(target, payload, done, end, total, weighted)
            done = end
        if written >= size:
            break
        looks += 1
        if looks > spins or load_acquire(abort) != 0:
            break
    store_release(state, done)
    store_release(state + 8, np.int64(total))
    store_release(state + 16, np.int64(weighted))
    if load_acquire(header + 8 * WRITTEN) >= size and done >= size:
        return READY
    return ABORTED if load_acquire(abort) != 0 else NOT_YET


class Compiled(NamedTuple):
    """The compiled functions, by the names above."""

    put: Callable[..., None]
    take: Callable[..., int]
    await_word: Callable[..., int]
    await_label: Callable[..., int]
    header_sum: Callable[..., int]
    load: Callable[[int], int]
    store: Callable[[int, int], None]


def _load(address):
    return load_acquire(address)


def _store(address, value):
    store_release(address, value)


@lru_cache(maxsize=1)
def compiled() -> Compiled:
    """Machine code, made when it is first needed and then kept on disk."""

    def make(function: Callable, signature: str) -> Any:
        return compile_or_load(
            lambda cache: njit(signature, nogil=True, error_model="numpy", cache=cache)(function)
        )

    def words(count: int) -> str:
        return f"({', '.join(['int64'] * count)})"

    return Compiled(
        put=make(_put, "void" + words(9)),
        take=make(_take, "int64" + words(7)),
        await_word=make(_await_word, "int64" + words(4)),
        await_label=make(_await_label, "int64" + words(5)),
        header_sum=make(_header_sum, "int64" + words(1)),
        load=make(_load, "int64" + words(1)),
        store=make(_store, "void" + words(2)),
    )
