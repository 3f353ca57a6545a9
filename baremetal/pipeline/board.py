"""The board: where every rank writes what it is doing, and where all can read it.

When a process is killed it says nothing. What it was doing must stand somewhere else by then: in
memory that outlives it. Each rank has a row of words that it alone writes, a store each, at every
action of the schedule:

    state   step   action   progress
    what    which  which    counts up whenever something is done

    rank 0     2     17       5        4711          17th step, its 5th action, computing
    rank 1     3     17       4        4502          waiting for a message

The supervisor reads it when somebody has died, and to tell a hang from hard work: a rank that
neither compiles nor counts up is stuck. Beside the rows stands one word for all, *abort*: not 0
means that the run is over, and whoever waits for a message stops waiting.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from baremetal.comm import SharedMemory

WORDS = 8  # of a row: one cache line, so that no two ranks write the same
STATE, STEP, ACTION, PROGRESS = range(4)
NO_ACTION = -1


class State(IntEnum):
    """What a rank is doing."""

    STARTING = 0  # importing, attaching
    PREPARING = 1  # building the model, compiling, capturing: may take long
    COMPUTING = 2
    WAITING = 3  # for a message, or for a free slot
    IDLE = 4  # for a command


class Status(NamedTuple):
    """A row of the board."""

    state: State
    step: int
    action: int  # index into the rank's steps; -1 between them
    progress: int


class Board:
    """Words in shared memory: a row for each rank, and one for all.

    Args:
        memory: at least `size_bytes(ranks)`.
    """

    def __init__(self, memory: SharedMemory, ranks: int) -> None:
        words = memory.bytes[: self.size_bytes(ranks)].view(np.int64).reshape(ranks + 1, WORDS)
        self._rows, self._all = words[:ranks], words[ranks]
        self._memory = memory  # keeps it mapped

    @staticmethod
    def size_bytes(ranks: int) -> int:
        """What a board for so many ranks needs."""
        return (ranks + 1) * WORDS * 8

    @property
    def abort_address(self) -> int:
        """Where the abort word lies in this process, for compiled code that waits."""
        return self._all.ctypes.data

    @property
    def is_aborted(self) -> bool:
        """Whether the run is over."""
        return bool(self._all[0])

    def abort(self) -> None:
        """End the run: everybody who waits stops waiting."""
        self._all[0] = 1

    def write(self, rank: int, state: State, step: int, action: int = NO_ACTION) -> None:
        """What this rank does now; counts as progress."""
        row = self._rows[rank]
        row[STEP], row[ACTION], row[STATE] = step, action, state
        row[PROGRESS] += 1

    def read(self, rank: int) -> Status:
        """What a rank said last."""
        state, step, action, progress = map(int, self._rows[rank][:4])
        return Status(State(state), step, action, progress)
