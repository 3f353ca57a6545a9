"""Whether a schedule keeps within memory, counted as a search's question counts it."""

from fractions import Fraction
from math import lcm

import numpy as np

from baremetal.schedules.action import Kind
from baremetal.schedules.auto_question import Question
from baremetal.schedules.flat import NONE, Flat, flatten
from baremetal.schedules.memory import stage_share
from baremetal.schedules.schedule import Schedule


def fits(schedule: Schedule, question: Question) -> bool:
    """Whether every rank keeps within its memory, counted as the question counts it."""
    held = most_held(flatten(schedule), Fraction(str(question.kept_for_weights)))
    return all(most <= limit for most, limit in zip(held, question.limits, strict=True))


def most_held(flat: Flat, kept: Fraction) -> list[Fraction]:
    """The most that each rank holds, in microbatches on its whole share, by rank.

    As `memory.peak_activations` where `kept` is 1; else an I gives back 1 - `kept`, its W the rest.
    """
    shares = [stage_share(flat.schedule, stage) for stage in range(flat.schedule.stages)]
    whole = lcm(*((share * kept).denominator * share.denominator for share in shares))
    units = np.array([[int(share * part * whole) for share in shares] for part in (1, kept)])
    forward, backward, kind = flat.forward_stage, flat.backward_stage, flat.backward_kind
    takes = np.where(forward != NONE, units[0, forward], 0)
    gives = np.select(
        [kind == Kind.B, kind == Kind.I, kind == Kind.W],
        [units[0, backward], units[0, backward] - units[1, backward], units[1, backward]],
        0,
    )
    most = []
    for first, last in zip(flat.first_step, flat.first_step[1:], strict=False):
        after = np.cumsum(takes[first:last] - gives[first:last]) + gives[first:last]
        most.append(Fraction(int(after.max(initial=0)), whole))
    return most
