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
from typing import Any, NamedTuple

import numpy as np

POOLED_FROM_BYTES = 32 * 1024  # smaller arrays come faster from NumPy's own small-object cache
ALIGNMENT_BYTES = 64  # a cache line, and an AVX-512 register
REMEMBERED_SHAPES = 10_000  # generation meets a new one with every token


class _Memory(NamedTuple):
    """One piece of memory from the system, and its first aligned address."""

    owner: np.ndarray
    address: int


class _SizeClass:
    """Memory of one size: the pieces that are free, and the type of block that lends them.

    The blocks are ctypes arrays, because that is the cheapest object NumPy accepts as memory that
    also has a destructor; their size is part of their type.
    """

    def __init__(self, pool: "MemoryPool", size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.free: list[_Memory] = []

        def give_back(block: Any) -> None:
            pool.give_back(self, block.memory)

        attributes = {"__slots__": ("memory",), "__del__": give_back}
        self.block: Any = type("Block", (ctypes.c_char * size_bytes,), attributes)


def rounded_size(size_bytes: int) -> int:
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
        self._classes: dict[int, _SizeClass] = {}
        # The same few shapes are asked for again and again: remember the class of each.
        self._class_of: dict[tuple, _SizeClass | None] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An uninitialised C-contiguous array; large ones are 64-byte aligned and recycled."""
        try:
            size_class = self._class_of[shape, dtype]
        except KeyError:
            size_class = self._find_class(shape, dtype)
        if size_class is None:
            return np.empty(shape, dtype)
        size_bytes = size_class.size_bytes
        self.used_bytes += size_bytes
        if self.used_bytes > self.peak_bytes:
            self.peak_bytes = self.used_bytes
        if size_class.free:
            self.free_bytes -= size_bytes
            memory = size_class.free.pop()
        else:
            memory = _from_system(size_bytes)
        block = size_class.block.from_address(memory.address)
        block.memory = memory
        return np.ndarray(shape, dtype, block)

    def _find_class(self, shape: tuple[int, ...], dtype: np.dtype) -> _SizeClass | None:
        size_bytes = math.prod(shape) * dtype.itemsize
        size_class = None
        if size_bytes >= POOLED_FROM_BYTES:
            size_bytes = rounded_size(size_bytes)
            size_class = self._classes.get(size_bytes)
            if size_class is None:
                size_class = self._classes[size_bytes] = _SizeClass(self, size_bytes)
        if len(self._class_of) >= REMEMBERED_SHAPES:
            self._class_of.clear()
        self._class_of[shape, dtype] = size_class
        return size_class

    def give_back(self, size_class: _SizeClass, memory: _Memory) -> None:
        """Called by a block when its last array is gone."""
        size_bytes = size_class.size_bytes
        self.used_bytes -= size_bytes
        if self.free_bytes + size_bytes <= self.keep_bytes:
            self.free_bytes += size_bytes
            size_class.free.append(memory)

    def release(self) -> None:
        """Return all unused memory to the system."""
        for size_class in self._classes.values():
            size_class.free.clear()
        self.free_bytes = 0

    def reset_peak(self) -> None:
        """Start a new measurement of `peak_bytes`."""
        self.peak_bytes = self.used_bytes


def _from_system(size_bytes: int) -> _Memory:
    memory = aligned_memory(size_bytes)
    return _Memory(memory, memory.__array_interface__["data"][0])


def aligned_memory(size_bytes: int) -> np.ndarray:
    """Uninitialised bytes, (size_bytes,) uint8, that begin on a cache line."""
    whole = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -whole.__array_interface__["data"][0] % ALIGNMENT_BYTES
    return whole[start : start + size_bytes]
