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
lifetimes touch its own (Y. Pisarchyk, J. Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020, who take the largest first). No order is best for every step, so several are
tried and the lowest stack wins.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from baremetal.autograd.memory import ALIGNMENT_BYTES


class Lifetime(NamedTuple):
    """A buffer as a rectangle: bytes, and the first and last launch that touch it."""

    size_bytes: int
    first: int
    last: int

    def overlaps(self, other: "Lifetime") -> bool:
        """Whether both are alive during some launch."""
        return self.first <= other.last and other.first <= self.last


def aligned(size_bytes: int) -> int:
    """The size rounded up to whole cache lines: every buffer begins on one of its own."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def lower_bound(lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes (aligned) that are alive during one launch: no plan can be smaller."""
    changes: list[tuple[int, int]] = []
    for lifetime in lifetimes:
        changes.append((lifetime.first, aligned(lifetime.size_bytes)))
        changes.append((lifetime.last + 1, -aligned(lifetime.size_bytes)))
    alive = most = 0
    for _, change in sorted(changes):  # at one moment, what ends comes before what begins
        alive += change
        most = max(most, alive)
    return most


ORDERS: dict[str, Callable[[Lifetime], tuple]] = {
    "largest first": lambda x: (-x.size_bytes, x.first),
    "longest first": lambda x: (x.first - x.last, -x.size_bytes),
    "largest area first": lambda x: (-x.size_bytes * (x.last - x.first + 1), x.first),
    "earliest first": lambda x: (x.first, -x.size_bytes),
    "latest first": lambda x: (-x.last, -x.size_bytes),
}


def plan_arena(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An address for every buffer.

    Returns:
        The offset of each in bytes (multiples of 64), in the given order, and the arena's size.
    """
    best: tuple[list[int], int] | None = None
    bound = lower_bound(lifetimes)
    for key in ORDERS.values():
        keys = [key(lifetime) for lifetime in lifetimes]
        order = sorted(range(len(lifetimes)), key=keys.__getitem__)
        plan = _place(lifetimes, order)
        if best is None or plan[1] < best[1]:
            best = plan
        if best[1] == bound:
            break
    assert best is not None
    return best


def _place(lifetimes: Sequence[Lifetime], order: Sequence[int]) -> tuple[list[int], int]:
    """Place them in this order, each in the smallest gap that fits."""
    offsets = [0] * len(lifetimes)
    placed: list[tuple[int, int, Lifetime]] = []  # (offset, end, lifetime), by offset
    size = 0
    for index in order:
        lifetime = lifetimes[index]
        length = aligned(lifetime.size_bytes)
        offset = _smallest_gap(placed, lifetime, length)
        offsets[index] = offset
        if length:
            _insert(placed, (offset, offset + length, lifetime))
        size = max(size, offset + length)
    return offsets, size


def _smallest_gap(placed: list[tuple[int, int, Lifetime]], lifetime: Lifetime, length: int) -> int:
    """The offset of the smallest gap of at least `length` bytes between contemporaries."""
    best, best_gap = -1, 0
    top = 0  # the end of the contemporaries below
    for offset, end, other in placed:
        if not other.overlaps(lifetime):
            continue
        gap = offset - top
        if gap >= length and (best < 0 or gap < best_gap):
            best, best_gap = top, gap
        top = max(top, end)
    return top if best < 0 else best


def _insert(placed: list, entry: tuple[int, int, Lifetime]) -> None:
    at = len(placed)
    while at > 0 and placed[at - 1][0] > entry[0]:
        at -= 1
    placed.insert(at, entry)
