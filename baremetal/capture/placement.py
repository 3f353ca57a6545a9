"""The arena's greedy rule, compiled: each buffer into the smallest gap that fits.

For every buffer, all that were placed before it are looked at, n² / 2 looks for n buffers: half a
million for a step of a thousand launches. In Python that took 50 microseconds a launch, most of
the time that planning took; compiled, all of planning takes one to two (`baremetal bench
launches`).

The placed buffers are kept in the order of their addresses, so that one walk over them meets the
contemporaries from the bottom of the arena to its top, and sees every gap between them:

        top = 0
        for each contemporary, from below:
            the gap from top to where it begins: does it fit, and is it smaller than the best?
            top = where it ends, if that is higher
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from baremetal.kernels.native.compiler import compile_or_load

INT64S = types.Array(types.int64, 1, "C")
PLACE = types.Tuple((INT64S, types.int64))(INT64S, INT64S, INT64S, INT64S)


@cache
def compiled_placement() -> Callable[..., tuple[np.ndarray, int]]:
    """`place_in_order` as machine code, compiled once for a machine and kept on disk."""
    return compile_or_load(lambda on_disk: numba.njit(PLACE, cache=on_disk)(place_in_order))


def place_in_order(lengths, first, last, order):
    """Place buffers one after the other, each into the smallest gap that fits.

    Args:
        lengths: of each buffer in bytes, whole cache lines, (n,) int64.
        first, last: the launches between which it is alive, both included, (n,) int64.
        order: the numbers of the buffers in the order in which they are placed, (n,) int64.

    Returns:
        The offset of each buffer in bytes, (n,) int64, and the arena's size in bytes.
    """
    offsets = np.zeros(len(lengths), np.int64)
    placed = np.empty(len(lengths), np.int64)  # those placed so far, by offset
    count = size = 0
    for buffer in order:
        length = lengths[buffer]
        if length == 0:
            continue
        offset = _smallest_gap(placed[:count], offsets, lengths, first, last, buffer)
        offsets[buffer] = offset
        size = max(size, offset + length)
        at = count
        while at > 0 and offsets[placed[at - 1]] > offset:
            placed[at] = placed[at - 1]
            at -= 1
        placed[at] = buffer
        count += 1
    return offsets, size


@register_jitable
def _smallest_gap(placed, offsets, lengths, first, last, buffer):
    """Where the smallest gap between contemporaries begins that the buffer fits into."""
    best = smallest = -1
    top = 0  # where the contemporaries below end
    for other in placed:
        if first[other] > last[buffer] or first[buffer] > last[other]:
            continue
        gap = offsets[other] - top
        if gap >= lengths[buffer] and (best < 0 or gap < smallest):
            best, smallest = top, gap
        top = max(top, offsets[other] + lengths[other])
    return top if best < 0 else best
