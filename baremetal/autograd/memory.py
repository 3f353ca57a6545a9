"""Memory for arrays, recycled.

A training step allocates the same few hundred arrays again and again. Asking the operating
system each time is expensive in a way no profiler of Python shows: fresh pages are cleared and
mapped one page fault at a time, which for a large activation costs more than computing it. So
memory that an array no longer needs goes to a free list by size, and the next array of that size
gets it, still warm in cache.

How an array says that it is no longer needed: its memory is owned by a `_Block`, NumPy keeps the
block alive as the array's `base` (and the base of every view of it), and when the last one goes
the block hands its memory back. Sizes are rounded up to eight steps per power of two, so at most
an eighth is wasted. (A captured step later replaces all this by one arena planned beforehand.)
"""

import math
from collections import defaultdict

import numpy as np

POOLED_FROM_BYTES = 32 * 1024  # smaller arrays come faster from NumPy's own small-object cache
ALIGNMENT_BYTES = 64  # a cache line, and an AVX-512 register


class _Block:
    """Owns one piece of pooled memory on behalf of an array and all its views."""

    __slots__ = ("__array_interface__", "_memory", "_pool", "_size_bytes")

    def __init__(self, pool: "MemoryPool", memory: np.ndarray, size_bytes: int) -> None:
        self._pool, self._memory, self._size_bytes = pool, memory, size_bytes

    def __del__(self) -> None:
        self._pool.give_back(self._memory, self._size_bytes)


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
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An uninitialised C-contiguous array; large ones are 64-byte aligned and recycled."""
        size_bytes = math.prod(shape) * dtype.itemsize
        # A dtype that is not NumPy's own (bfloat16) has no interface string to describe it by.
        if size_bytes < POOLED_FROM_BYTES or dtype.kind == "V":
            return np.empty(shape, dtype)
        size_bytes = size_class(size_bytes)
        memory = self._take(size_bytes)
        address = memory.__array_interface__["data"][0]
        block = _Block(self, memory, size_bytes)
        block.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (-(-address // ALIGNMENT_BYTES) * ALIGNMENT_BYTES, False),
        }
        return np.asarray(block)

    def _take(self, size_bytes: int) -> np.ndarray:
        self.used_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        free = self._free[size_bytes]
        if free:
            self.free_bytes -= size_bytes
            return free.pop()
        return np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)

    def give_back(self, memory: np.ndarray, size_bytes: int) -> None:
        """Called by a block when its last array is gone."""
        self.used_bytes -= size_bytes
        if self.free_bytes + size_bytes <= self.keep_bytes:
            self.free_bytes += size_bytes
            self._free[size_bytes].append(memory)

    def reset_peak(self) -> None:
        """Start a new measurement of `peak_bytes`."""
        self.peak_bytes = self.used_bytes
