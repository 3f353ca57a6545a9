"""Memory for arrays, recycled.

A training step allocates the same few hundred arrays again and again. Asking the operating
system each time is expensive in a way no profiler of Python shows: fresh pages are cleared and
mapped one page fault at a time, which for a large activation costs more than computing it. So
memory that an array no longer needs goes to a free list by size, and the next array of that size
gets it, still warm in cache.

How an array says that it is no longer needed: it is built over a small object, its *block*, that
knows where the memory is. NumPy keeps the block alive as the array's `base` (and that of every
view of it), and when the last one goes the block hands its memory back. Sizes are rounded up to
eight steps per power of two, so at most an eighth is wasted. (A captured step later replaces all
this by one arena planned beforehand.)
"""

import ctypes
import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np

POOLED_FROM_BYTES = 32 * 1024  # smaller arrays come faster from NumPy's own small-object cache
ALIGNMENT_BYTES = 64  # a cache line, and an AVX-512 register


class _Memory(NamedTuple):
    """One piece of memory from the system, and its first aligned address."""

    owner: np.ndarray
    address: int


class _Block:
    """Lends one piece of memory to an array and all its views; gives it back when they are gone.

    Concrete classes come from `_block_class`: the size of a ctypes array is part of its type.
    ctypes, because it is the cheapest object NumPy accepts as memory that also has a destructor.
    """

    __slots__ = ()
    pool: "MemoryPool"
    memory: _Memory

    def __del__(self) -> None:
        self.pool.give_back(self.memory, ctypes.sizeof(self))  # type: ignore[arg-type]


def _block_class(size_bytes: int) -> type:
    attributes = {"__slots__": ("memory", "pool")}
    return type("Block", (_Block, ctypes.c_char * size_bytes), attributes)


def size_class(size_bytes: int) -> int:
    """The rounded-up size in bytes: 8, 9, ... 15 eighths of a power of two."""
    step = 1 << max(size_bytes.bit_length() - 4, 0)
    return -(-size_bytes // step) * step


class MemoryPool:
    """Free lists of memory by size.

    Args:
        keep_bytes: at most this much unused memory is kept; the rest goes back to the system.
    """

    def __init__(self, keep_bytes: int = 2 << 30) -> None:
        self.keep_bytes = keep_bytes
        self.used_bytes = 0  # in live pooled arrays
        self.peak_bytes = 0  # the largest `used_bytes` since `reset_peak`
        self.free_bytes = 0
        self._free: defaultdict[int, list[_Memory]] = defaultdict(list)
        self._classes: dict[int, type] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An uninitialised C-contiguous array; large ones are 64-byte aligned and recycled."""
        size_bytes = math.prod(shape) * dtype.itemsize
        if size_bytes < POOLED_FROM_BYTES:
            return np.empty(shape, dtype)
        size_bytes = size_class(size_bytes)
        block_class = self._classes.get(size_bytes)
        if block_class is None:
            block_class = self._classes[size_bytes] = _block_class(size_bytes)
        memory = self._take(size_bytes)
        block = block_class.from_address(memory.address)  # type: ignore[attr-defined]
        block.memory, block.pool = memory, self
        return np.ndarray(shape, dtype, block)

    def _take(self, size_bytes: int) -> _Memory:
        self.used_bytes += size_bytes
        if self.used_bytes > self.peak_bytes:
            self.peak_bytes = self.used_bytes
        free = self._free[size_bytes]
        if free:
            self.free_bytes -= size_bytes
            return free.pop()
        owner = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
        address = owner.__array_interface__["data"][0]
        return _Memory(owner, -(-address // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)

    def give_back(self, memory: _Memory, size_bytes: int) -> None:
        """Called by a block when its last array is gone."""
        self.used_bytes -= size_bytes
        if self.free_bytes + size_bytes <= self.keep_bytes:
            self.free_bytes += size_bytes
            self._free[size_bytes].append(memory)

    def release(self) -> None:
        """Return all unused memory to the system."""
        self._free.clear()
        self.free_bytes = 0

    def reset_peak(self) -> None:
        """Start a new measurement of `peak_bytes`."""
        self.peak_bytes = self.used_bytes
