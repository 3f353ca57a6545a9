"""A schedule's steps as columns of numbers, and who did what in which of them.

Python objects are for reading. To check, wire or play a schedule of a million steps, the same is
wanted as arrays: one row per step, rank after rank. Every step has at most a forward part and a
backward part (an `Overlap` has both, any other step one), so five columns hold it.

    step        forward: stage  microbatch    backward: kind  stage  microbatch
    0F2                      0           2               -1     -1           -1
    1W0                     -1          -1                2      1            0
    (1F4;1B2)                1           4                3      1            2
"""

from dataclasses import dataclass

import numpy as np

from baremetal.schedules.action import Kind, Overlap, Step
from baremetal.schedules.schedule import Schedule

FORWARD = Kind.F  # looked up once: Python's enumerations are slow to ask a million times
NONE = -1  # stands for "no such part", "no message", "not yet"


@dataclass(frozen=True)
class Flat:
    """All steps of a schedule, numbered rank after rank in their order.

    Attributes:
        schedule: where they come from.
        first_step: rank r has the steps ``first_step[r]`` to ``first_step[r + 1] - 1``,
            (ranks + 1,) int64.
        forward_stage, forward_microbatch: of each step's forward part, or -1, (steps,) int64.
        backward_kind, backward_stage, backward_microbatch: of its I, W or B, or -1, (steps,) int64.
    """

    schedule: Schedule
    first_step: np.ndarray
    forward_stage: np.ndarray
    forward_microbatch: np.ndarray
    backward_kind: np.ndarray
    backward_stage: np.ndarray
    backward_microbatch: np.ndarray

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.forward_stage)

    def rank_of(self, step: int) -> int:
        """The rank that does the step."""
        return int(np.searchsorted(self.first_step, step, side="right")) - 1

    def name(self, step: int) -> str:
        """As the schedule writes it, ``2F0``."""
        rank = self.rank_of(step)
        return str(self.schedule.ranks[rank][step - int(self.first_step[rank])])

    def ranks(self) -> np.ndarray:
        """The rank of every step, (steps,) int64."""
        return np.repeat(np.arange(len(self.first_step) - 1), np.diff(self.first_step))


def flatten(schedule: Schedule) -> Flat:
    """The columns of a schedule."""
    rows = [_row(step) for steps in schedule.ranks for step in steps]
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    lengths = [len(steps) for steps in schedule.ranks]
    first_step = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Flat(schedule, first_step, *(np.ascontiguousarray(column) for column in columns))


def _row(step: Step) -> tuple[int, int, int, int, int]:
    if isinstance(step, Overlap):
        return (*step.forward[1:], *step.backward)
    if step.kind == FORWARD:
        return step.stage, step.microbatch, NONE, NONE, NONE
    return (NONE, NONE, *step)


def chunk_numbers(schedule: Schedule) -> list[int]:
    """For each stage, which of its rank's stages it is, from 0."""
    held = [0] * len(schedule.ranks)
    numbers = []
    for rank in schedule.rank_of:
        numbers.append(held[rank])
        held[rank] += 1
    return numbers


@dataclass(frozen=True)
class Done:
    """In which step a microbatch's work on a stage is done; -1 where it never is.

    Attributes:
        forward: the F, (stages, microbatches) int64.
        gradient: the I or the B, after which the gradient is sent on.
        weight: the W or the B, after which the microbatch's activations are given back.
    """

    forward: np.ndarray
    gradient: np.ndarray
    weight: np.ndarray


def find_done(flat: Flat) -> Done:
    """The steps in which each microbatch passes each stage, (stages, microbatches)."""
    shape = flat.schedule.stages, flat.schedule.microbatches
    done = Done(*(np.full(shape, NONE, np.int64) for _ in range(3)))
    step = np.flatnonzero(flat.forward_stage != NONE)
    done.forward[flat.forward_stage[step], flat.forward_microbatch[step]] = step
    for table, kinds in ((done.gradient, (Kind.I, Kind.B)), (done.weight, (Kind.W, Kind.B))):
        step = np.flatnonzero(np.isin(flat.backward_kind, kinds))
        table[flat.backward_stage[step], flat.backward_microbatch[step]] = step
    return done
