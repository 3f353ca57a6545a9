"""Buffers between stages: whose slot a message takes over, and how many slots are enough.

A lane is a ring of n slots: message k is written where message k - n was, once that has been taken.
The sender may have to wait for that. When is n so large that it never waits, whatever the times?

Exactly when the taking of message k - n *happens before* the sending of message k in any case, by
the order of each rank's steps and by messages that must have arrived in between (L. Lamport, "Time,
clocks, and the ordering of events in a distributed system", CACM 21, 1978). 1F1B on two ranks:

    rank 0   0F0 0F1 0B0 0F2 ...       0F2 follows 0B0, that needs 1B0's gradient, and 1B0 follows
    rank 1   1F0 1B0 1F1 1B1 ...       1F0, which took message 0: two slots are enough for F

If it does not happen before, there are times with which the sender waits: let everything that the
taker waits for, and the sender does not, last long. Happens-before is decided by *vector clocks*
(F. Mattern, "Virtual time and global states of distributed systems", 1989): for each step, how many
steps of each rank happen before its end.
"""

from collections.abc import Mapping

import numpy as np

from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.flat import NONE
from baremetal.schedules.loop import play_to_the_end
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.wiring import Lane, Wiring, wire

Slots = int | Mapping[Lane, int] | None


def reused_slots(wiring: Wiring, slots: Slots) -> np.ndarray:
    """For each message the one whose slot it takes over, or -1, (messages,) int64.

    Args:
        wiring: the messages.
        slots: of every lane, or by lane; None, and for lanes left out: no end of them.

    Raises:
        ScheduleError: fewer than one slot, or a lane that the schedule has not.
    """
    if slots is None:
        slots = {}
    elif isinstance(slots, int):
        slots = dict.fromkeys(wiring.lanes, slots)
    for lane, count in slots.items():
        if lane not in wiring.lanes:
            raise ScheduleError(f"{wiring.schedule.name} has no messages {lane} between ranks")
        if count < 1:
            raise ScheduleError(f"messages {lane} have {count} slots: expected at least 1")
    per_lane = np.array([slots.get(lane, wiring.messages + 1) for lane in wiring.lanes], np.int64)
    own = per_lane[wiring.lane]  # (messages,)
    return np.where(wiring.number >= own, np.arange(wiring.messages) - own, NONE)


def order_of_steps(wiring: Wiring, reuses: np.ndarray) -> np.ndarray:
    """All steps, each after those that it waits for, (steps,) int64.

    Raises:
        ScheduleError: there is no such order: the ranks wait for each other in a circle.
    """
    nothing = np.zeros(wiring.messages, np.int64)
    at_once = np.zeros(wiring.flat.steps, np.int64)
    return play_to_the_end(wiring, reuses, nothing, nothing, at_once).order


def vector_clocks(wiring: Wiring) -> np.ndarray:
    """How many steps of each rank happen before the end of each step, (steps, ranks) int32.

    The step itself is counted. Slots do not count: they are as many as anyone likes.

    Raises:
        ScheduleError: the ranks wait for each other in a circle.
    """
    flat = wiring.flat
    ranks = flat.ranks()
    first = flat.first_step.tolist()
    clocks = np.zeros((flat.steps, len(first) - 1), np.int32)
    takes, sender = wiring.takes.tolist(), wiring.sender.tolist()
    for step in order_of_steps(wiring, reused_slots(wiring, None)).tolist():
        clock, rank = clocks[step], ranks[step]
        if step > first[rank]:
            clock[:] = clocks[step - 1]
        for message in takes[step]:
            if message != NONE:
                np.maximum(clock, clocks[sender[message]], out=clock)
        clock[rank] = step - first[rank] + 1
    return clocks


def needed_slots(schedule: Schedule | Wiring) -> dict[Lane, int]:
    """The least number of slots of each lane with which no sender ever waits for one.

    Raises:
        ScheduleError: the schedule is incomplete, out of order or deadlocked.
    """
    wiring = schedule if isinstance(schedule, Wiring) else wire(schedule)
    clocks = vector_clocks(wiring)
    ranks = wiring.flat.ranks()
    taken_at = wiring.taker - wiring.flat.first_step[ranks[wiring.taker]]  # place on its rank
    needed = {}
    for number, lane in enumerate(wiring.lanes):
        own = np.flatnonzero(wiring.lane == number)
        taker_rank = wiring.schedule.rank_of[lane.target]
        # How many steps of the taker's rank surely precede each sending: (messages,)
        known = clocks[wiring.sender[own], taker_rank]
        needed[lane] = _least(known, taken_at[own])
    return needed


def _least(known: np.ndarray, taken_at: np.ndarray) -> int:
    """The least n for which message k - n has surely been taken when k is sent, for all k."""
    count = len(known)
    for slots in range(1, count):
        if np.all(known[slots:] > taken_at[:-slots]):
            return slots
    return max(count, 1)
