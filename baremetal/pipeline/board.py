"""What every rank is doing, where all can read it.

When a process is killed it says nothing. What it was doing must stand somewhere else by then: in
memory that outlives it. So each rank writes down what it begins, one line for each action:

    rank   state       step   action   begun
      0    computing     17        5    4711      the 6th action of its schedule, in step 17
      1    waiting       17        3    4502      for a message
      2    preparing      0       -1       3      compiling: may take long

The supervisor reads it when somebody has died, and to tell a hang from hard work. The board of the
room below has signs of life and the message a rank waits for; this one adds what it is doing.
"""

from enum import IntEnum
from typing import NamedTuple

from baremetal import comm

NO_ACTION = -1
STATE, STEP, ACTION, COUNT = range(4, 8)  # words of a rank's line that `comm` leaves free


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
        action: number of the schedule's step on this rank, or NO_ACTION.
        begun: how many things it has begun so far.
        waits_for: the message or the free slot that it waits for, or None.
        beats: signs of life; they go on while it waits.
    """

    state: State
    step: int
    action: int
    begun: int
    waits_for: comm.WaitingFor | None
    beats: int


class Board(comm.Board):
    """The run's notice board, with what each rank is doing."""

    def say(self, rank: int, state: State, step: int, action: int = NO_ACTION) -> None:
        """This rank begins something."""
        line = self._line(rank)
        self._words[line + STEP], self._words[line + ACTION] = step, action
        self._words[line + STATE] = state
        self._words[line + COUNT] += 1

    def status(self, rank: int) -> Status:
        """What a rank said last."""
        line = self._line(rank)
        state, step, action, count = self._words[line + STATE : line + COUNT + 1].tolist()
        beats = self.beats()[rank]
        return Status(State(state), step, action, count, self.waiting(rank), beats)
