"""How many microbatches' activations a rank holds, and when.

A microbatch's activations on a stage are kept from the start of its F to the end of its W (or its
B; where nothing comes back, of the same F). A rank does one step at a time, so how much it holds at
most follows from its order alone; when it holds how much, from the times.

The unit is one microbatch on a rank's whole share of the model. A stage that is one of v which a
path has on this rank counts 1 / v. (Both of DualPipe's mirrored copies count 1: a microbatch goes
through one of them.)
"""

from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np

from baremetal.schedules.action import Kind
from baremetal.schedules.flat import NONE, Flat
from baremetal.schedules.schedule import Schedule


class Held(NamedTuple):
    """What a rank holds, step by step of its own.

    Attributes:
        after_start: once the step's forward, if it has one, keeps its activations, (steps,) float.
        after_end: once those that the step gives back are gone, (steps,) float.
    """

    after_start: np.ndarray
    after_end: np.ndarray


def stage_share(schedule: Schedule, stage: int) -> Fraction:
    """What one microbatch on this stage counts: 1 / (stages of its path that its rank holds)."""
    path = next(path for path in schedule.paths if stage in path)
    rank = schedule.rank_of[stage]
    return Fraction(1, sum(schedule.rank_of[other] == rank for other in path))


def held_activations(flat: Flat) -> list[Held]:
    """For each rank, the activations that it holds around each of its steps."""
    shares = [stage_share(flat.schedule, stage) for stage in range(flat.schedule.stages)]
    whole = lcm(*(share.denominator for share in shares))  # in this unit all shares are integers
    weight = np.array([int(share * whole) for share in shares], np.int64)
    takes = np.where(flat.forward_stage != NONE, weight[flat.forward_stage], 0)
    gives = np.isin(flat.backward_kind, (Kind.W, Kind.B))
    returns = np.where(gives, weight[flat.backward_stage], 0)
    if flat.schedule.forward_only:
        returns = takes
    held = []
    for first, last in zip(flat.first_step, flat.first_step[1:], strict=False):
        after_end = np.cumsum(takes[first:last] - returns[first:last])
        held.append(Held((after_end + returns[first:last]) / whole, after_end / whole))
    return held


def peak_activations(flat: Flat) -> list[float]:
    """The most that each rank holds, by rank."""
    return [float(np.max(held.after_start, initial=0.0)) for held in held_activations(flat)]
