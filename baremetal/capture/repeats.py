"""Finding the layers again: stretches of a launch list that repeat.

A model of twelve equal blocks launches the same kernels on the same shapes twelve times; only the
addresses differ. The recording does not know about blocks, but they can be read off it. Give equal
launches (kernel, sizes, strides; not addresses) equal numbers:

    3 1 4 1 5 9 1 4 1 5 9 1 4 1 5 9 2 6
        [1 4 1 5 9] x 3

A stretch of length p that stands c times in a row shows as c p - p places at which a number equals
the one p places on. So every p is tried, the one that saves most (p (c - 1) launches) becomes a
`Repeat`, and what is left of it, right of it and inside it is searched in the same way: gradient
accumulation repeats whole passes, each of which repeats blocks.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

SHORTEST = 2  # launches: a single one that repeats is not worth a function
WORTH_IT = 4  # launches saved, at least


class Repeat(NamedTuple):
    """`times` times in a row the same `period` launches, the first beginning at `start`.

    Attributes:
        body: the first of them, in turn made of launches and repeats.
    """

    start: int
    period: int
    times: int
    body: "list[Node]"


Node: TypeAlias = "int | Repeat"  # the number of a launch, or a stretch of them


def find_repeats(kinds: Sequence[int], start: int = 0, stop: int | None = None) -> list[Node]:
    """The launches from `start` to `stop` in their order, with stretches that repeat put together.

    Args:
        kinds: for each launch a number, equal for equal launches.
    """
    stop = len(kinds) if stop is None else stop
    best = _most_saving(np.asarray(kinds[start:stop]))
    if best is None:
        return list(range(start, stop))
    first, period, count = best
    first += start
    body = find_repeats(kinds, first, first + period)
    return [
        *find_repeats(kinds, start, first),
        Repeat(first, period, count, body),
        *find_repeats(kinds, first + period * count, stop),
    ]


def _most_saving(kinds: np.ndarray) -> tuple[int, int, int] | None:
    """(start, period, count) of the repeat that saves most launches, or None."""
    best, most_saved = None, WORTH_IT - 1
    for period in range(SHORTEST, len(kinds) // 2 + 1):
        start, length = _longest_run(kinds[period:] == kinds[:-period])
        count = length // period + 1
        saved = period * (count - 1)
        if saved > most_saved:  # of equals the shortest: six blocks rather than two halves
            best, most_saved = (start, period, count), saved
    return best


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """(start, length) of the longest stretch of True, the first of several."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest] - starts[longest])
