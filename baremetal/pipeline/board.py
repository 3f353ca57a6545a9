"""What every rank is doing, where all can read it.

When a process is killed it says nothing. What it was doing must stand somewhere else by then: in
memory that outlives it. So each rank writes down what it begins, one line for each action:

    rank   state       step   action   begun
      0    computing     17        5    4711      the 6th action of its schedule, in step 17
      1    waiting       17        3    4502      for a message
      2    preparing      0       -1       3      compiling: may take long

The supervisor reads it when somebody has died, and to tell a hang from hard work: the count goes up
with each action, and within one with each of its launches, from compiled code too. The board of the
room below has signs of life and the message a rank waits for; this one adds what it is doing.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from baremetal import comm

NO_ACTION = -1
STATE, STEP, ACTION, COUNT = range(4, 8)  # words of a rank's line that `comm` leaves free
COMPILING = 1 << 8  # added to the state while a kernel is compiled


class State(IntEnum):
    """What a rank is doing."""

    STARTING = 0  # importing, attaching
    PREPARING = 1  # building the model, compiling, capturing
    COMPUTING = 2
    UPDATING = 3  # norms, clipping, optimiser
    IDLE = 4  # waits for a command


class Status(NamedTuple):
    """A rank's line.

    Attributes:
        state: what it does.
        step: of the training, from 0.
        action: number of the schedule's step on this rank, those of an evaluation behind those of
            training; or NO_ACTION.
        begun: how many things it has begun so far, launches of kernels included.
        waits_for: the message or the free slot that it waits for, or None.
        beats: signs of life; they go on while it waits.
        is_compiling: a kernel, whatever else it does.
    """

    state: State
    step: int
    action: int
    begun: int
    waits_for: comm.WaitingFor | None
    beats: int
    is_compiling: bool = False


class Board(comm.Board):
    """The run's notice board, with what each rank is doing."""

    def say(self, rank: int, state: State, step: int, action: int = NO_ACTION) -> None:
        """This rank begins something."""
        line = self._line(rank)
        self._words[line + STEP], self._words[line + ACTION] = step, action
        self._words[line + STATE] = state
        self._words[line + COUNT] += 1

    def compiling(self, rank: int, begins: bool) -> None:
        """This rank begins to compile in the midst of what it does, or has ended."""
        line = self._line(rank)
        state = self._words[line + STATE] % COMPILING
        self._words[line + STATE] = state + COMPILING * begins
        self._words[line + COUNT] += 1

    def count_of(self, rank: int) -> np.ndarray:
        """The word, (1,) int64, in which the rank counts what it begins."""
        start = 8 * (self._line(rank) + COUNT)
        return self._memory[start : start + 8].view(np.int64)

    def status(self, rank: int) -> Status:
        """What a rank said last."""
        line = self._line(rank)
        state, step, action, count = self._words[line + STATE : line + COUNT + 1].tolist()
        is_compiling, state = divmod(state, COMPILING)
        beats = self.beats()[rank]
        return Status(
            State(state), step, action, count, self.waiting(rank), beats, bool(is_compiling)
        )
