"""Who waits for whom, when nobody can go on.

Every rank that is stuck waits for one other: the one that would send the message it needs, or the
one that would take the message whose slot it needs. That one is stuck, too, or it would go on. So
following who waits for whom from any of them must come round to where it has been: that is the
circle, and it is what has to be mended.
"""

from typing import NamedTuple

import numpy as np

from baremetal.schedules.flat import NONE
from baremetal.schedules.wiring import BACKWARD, FORWARD, Wiring


class _Wait(NamedTuple):
    """Where a rank stands, and why."""

    rank: int
    waits_in: str  # the step
    reason: str  # "for a free slot towards", "for 0F3 of"
    other: int  # the rank that would have to go on


def describe_deadlock(wiring: Wiring, reuses: np.ndarray, position: np.ndarray) -> str:
    """The circle in one sentence: who waits in which step for what of whom.

    Args:
        wiring: of the schedule.
        reuses: for each message the one whose slot it takes over, or -1, (messages,).
        position: the step at which each rank stands, (ranks,).
    """
    stuck = np.flatnonzero(position < wiring.flat.first_step[1:])
    seen: dict[int, _Wait] = {}
    rank = int(stuck[0])
    while rank not in seen:
        seen[rank] = _why(wiring, reuses, position, rank)
        rank = seen[rank].other
    circle = list(seen.values())[list(seen).index(rank) :]
    first, *others = circle
    text = f"rank {first.rank} waits in {first.waits_in} {first.reason} rank {first.other}"
    for wait in others:
        text += f", which waits in {wait.waits_in} {wait.reason} rank {wait.other}"
    return f"{wiring.schedule.name} is deadlocked: {text}"


def _why(wiring: Wiring, reuses: np.ndarray, position: np.ndarray, rank: int) -> _Wait:
    """What the rank's next step waits for."""
    flat, step = wiring.flat, int(position[rank])

    def has_done(other_step: int) -> bool:
        return other_step < position[flat.rank_of(other_step)]

    for way in (FORWARD, BACKWARD):
        message = int(wiring.takes[step, way])
        if message != NONE and not has_done(int(wiring.sender[message])):
            sender = int(wiring.sender[message])
            reason = f"for the {_content(way)} of {flat.name(sender)} from"
            return _Wait(rank, flat.name(step), reason, flat.rank_of(sender))
        message = int(wiring.sends[step, way])
        if message != NONE and reuses[message] != NONE:
            taker = int(wiring.taker[reuses[message]])
            if not has_done(taker):
                slots = message - int(reuses[message])
                reason = (
                    f"for a free slot ({slots} in all, until {flat.name(taker)} takes a message) "
                    "towards"
                )
                return _Wait(rank, flat.name(step), reason, flat.rank_of(taker))
    raise AssertionError(f"rank {rank} waits for nothing")


def _content(way: int) -> str:
    return "activations" if way == FORWARD else "gradient"
