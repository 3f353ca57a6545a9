"""One piece of memory for all transient buffers: which address, when lifetimes are known.

Each buffer is a rectangle, its size high and its lifetime wide; the arena's size is the height of
the stack. No two rectangles may overlap, and none can move sideways:

    address
      ^   [  c  ]
      |   [   a    ][ d ]
      |      [    b     ]
      +---------------------> launches

The least possible height is the most that is alive at one moment: the *lower bound*. Reaching it is
NP-hard in general (dynamic storage allocation; M. Garey, D. Johnson, "Computers and
Intractability", 1979, problem SR2), but the rectangles of a training step are kind: activations
nest like brackets, last made first freed. So a greedy rule gets within a few percent: take the
rectangles in some order, and put each into the smallest gap that fits among those placed whose
lifetimes touch its own (`placement.py`; Y. Pisarchyk, J. Lee, "Efficient Memory Management for
Deep Neural Net Inference", 2020, who take the largest first). No order is best for every step, so
several are tried and the lowest stack wins.
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeVar

import numpy as np

from baremetal.autograd.memory import ALIGNMENT_BYTES

Size = TypeVar("Size", int, np.ndarray)  # one size, or the sizes of many buffers


class Lifetime(NamedTuple):
    """A buffer as a rectangle: bytes, and the first and last launch that touch it."""

    size_bytes: int
    first: int
    last: int

    def overlaps(self, other: "Lifetime") -> bool:
        """Whether both are alive during some launch."""
        return self.first <= other.last and other.first <= self.last


def aligned(size_bytes: Size) -> Size:
    """The size rounded up to whole cache lines: every buffer begins on one of its own."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def lower_bound(lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes (aligned) that are alive during one launch: no plan can be smaller."""
    if not lifetimes:
        return 0
    sizes, first, last = np.array(lifetimes, np.int64).T
    changes = np.zeros(last.max() + 2, np.int64)
    np.add.at(changes, first, aligned(sizes))
    np.subtract.at(changes, last + 1, aligned(sizes))
    return int(changes.cumsum().max())


def _orders(lengths: np.ndarray, first: np.ndarray, last: np.ndarray) -> Iterator[np.ndarray]:
    """Orders in which to place the buffers: largest, longest-lived, largest area, earliest, latest
    first. (`lexsort` sorts by its last key, and by those before it where that is equal.)"""
    lives = last - first + 1
    yield np.lexsort((first, -lengths))
    yield np.lexsort((-lengths, -lives))
    yield np.lexsort((first, -lengths * lives))
    yield np.lexsort((-lengths, first))
    yield np.lexsort((-lengths, -last))


def plan_arena(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An address for every buffer.

    Returns:
        The offset of each in bytes (multiples of 64), in the given order, and the arena's size.
    """
    from baremetal.capture.placement import compiled_placement  # numba: not before it is needed

    place = compiled_placement()
    sizes, first, last = np.array(lifetimes, np.int64).reshape(-1, 3).T.copy()
    lengths = aligned(sizes)
    bound = lower_bound(lifetimes)
    plans = []
    for order in _orders(lengths, first, last):
        plans.append(place(lengths, first, last, order))
        if plans[-1][1] == bound:
            break
    offsets, size = min(plans, key=itemgetter(1))
    return offsets.tolist(), size
