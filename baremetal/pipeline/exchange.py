"""The one thing that stages do together at the end of a step: add up arrays.

Gradients of copies, sums of squares, losses: each is a sum over stages of arrays of one shape, and
every stage that took part needs it. To have the same bits everywhere, and whichever ranks the
stages are on, it is added in the order of the stages' numbers:

    ((array of stage 0 + array of stage 1) + array of stage 2) + ...

Who runs the stages says how arrays get from one to another; `Local` is for one process.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Exchange(Protocol):
    """Adds arrays up over stages."""

    def sum(self, own: Mapping[int, np.ndarray], stages: Sequence[int]) -> np.ndarray:
        """The sum over stages of an array that each of them has.

        All ranks with one of these stages call it, in the same order of calls.

        Args:
            own: the arrays of this rank's stages, by number; of one shape and dtype everywhere.
            stages: all that take part, by rising number.

        Returns:
            A new array, the same bits on every rank.
        """
        ...


class Local:
    """All stages in one process: nothing has to be sent."""

    def sum(self, own: Mapping[int, np.ndarray], stages: Sequence[int]) -> np.ndarray:
        """See `Exchange.sum`."""
        return in_order([own[stage] for stage in stages])


def in_order(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """((a + b) + c) + ...: for an exchange that has got them all together."""
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total
