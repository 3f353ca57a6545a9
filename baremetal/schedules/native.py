"""The simulator's loop, compiled: one visit to each step, on flat arrays of integers.

The ranks take turns as a stack. A rank does its steps, one after the other, until one needs a
message that has not been sent yet, or a slot that has not been given back yet: there it leaves its
number with that message and goes to sleep. Whoever sends the message, or takes it, puts the rank
back on the stack. So no step is looked at twice without a reason, and when the stack is empty
either everything has been done, or those still asleep wait for each other.

In which order ranks are visited does not matter to any time: what a step waits for is decided by
the schedule, and every link and lane serves messages in the order in which one rank sends them.
`reference.py` says the same at leisure, and the tests compare the two.
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from baremetal.kernels.native.compiler import compile_or_load

NUMBERS, PAIRS = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
PLAY = types.UniTuple(NUMBERS, 7)(NUMBERS, PAIRS, PAIRS, *[NUMBERS] * 6)


@cache
def compiled_play() -> Callable[..., tuple[np.ndarray, ...]]:
    """`play` as machine code, compiled once for a machine and kept on disk."""
    return compile_or_load(lambda on_disk: numba.njit(PLAY, cache=on_disk)(play))


def play(
    first_step, takes, sends, reuses, link, occupancy_ps, flight_ps, duration_ps, link_free_ps
):
    """Play all steps by the rules of `reference.py`.

    Args:
        first_step: rank r has the steps from ``first_step[r]`` to before ``first_step[r + 1]``.
        takes, sends: messages that each step needs and sends, forward and backward, (steps, 2).
        reuses: for each message the one whose slot it takes over, or -1, (messages,).
        link: by which each message leaves.
        occupancy_ps: for how long each message keeps its link busy.
        flight_ps: from when the link is free again to the arrival.
        duration_ps: of each step, host overhead included, (steps,).
        link_free_ps: from when on each link is free; zeros, overwritten.

    Returns:
        start and end of each step; depart, arrive and taken of each message, in ps and -1 where it
        never happened; the step at which each rank stands; the steps in an order in which they can
        be done (those after the last that was done are -1).
    """
    ranks, steps, messages = len(first_step) - 1, len(duration_ps), len(link)
    start_ps, end_ps = np.full(steps, -1, np.int64), np.full(steps, -1, np.int64)
    depart_ps, arrive_ps = np.full(messages, -1, np.int64), np.full(messages, -1, np.int64)
    taken_ps = np.full(messages, -1, np.int64)
    order = np.full(steps, -1, np.int64)
    position = first_step[:-1].copy()
    clock_ps = np.zeros(ranks, np.int64)
    waits_for_it = np.full(messages, -1, np.int64)  # the rank that sleeps until it has been sent
    waits_for_its_slot = np.full(messages, -1, np.int64)  # the rank that does until it is taken
    awake = np.arange(ranks)
    count_awake, done = ranks, 0
    while count_awake > 0:
        count_awake -= 1
        rank = awake[count_awake]
        while position[rank] < first_step[rank + 1]:
            step = position[rank]
            time_ps = _ready(
                step, rank, takes, sends, reuses, arrive_ps, taken_ps, waits_for_it,
                waits_for_its_slot,
            )  # fmt: skip
            if time_ps < 0:
                break  # asleep
            start_ps[step] = max(time_ps, clock_ps[rank])
            clock_ps[rank] = end_ps[step] = start_ps[step] + duration_ps[step]
            for way in range(2):
                message = takes[step, way]
                if message >= 0:
                    taken_ps[message] = start_ps[step]
                    count_awake = _wake(awake, count_awake, waits_for_its_slot[message])
                message = sends[step, way]
                if message >= 0:
                    depart_ps[message] = max(end_ps[step], link_free_ps[link[message]])
                    free_ps = depart_ps[message] + occupancy_ps[message]
                    link_free_ps[link[message]] = free_ps
                    arrive_ps[message] = free_ps + flight_ps[message]
                    count_awake = _wake(awake, count_awake, waits_for_it[message])
            order[done] = step
            done += 1
            position[rank] = step + 1
    return start_ps, end_ps, depart_ps, arrive_ps, taken_ps, position, order


@register_jitable(forceinline=True)
def _ready(step, rank, takes, sends, reuses, arrive_ps, taken_ps, waits_for_it, waits_for_its_slot):
    """When all messages and slots of a step are there; -1 if one is not yet: the rank sleeps."""
    time_ps = 0
    for way in range(2):
        message = takes[step, way]
        if message >= 0:
            if arrive_ps[message] < 0:
                waits_for_it[message] = rank
                return -1
            time_ps = max(time_ps, arrive_ps[message])
        message = sends[step, way]
        if message >= 0 and reuses[message] >= 0:
            earlier = reuses[message]
            if taken_ps[earlier] < 0:
                waits_for_its_slot[earlier] = rank
                return -1
            time_ps = max(time_ps, taken_ps[earlier])
    return time_ps


@register_jitable(forceinline=True)
def _wake(awake, count_awake, rank):
    """Put a rank that slept back on the stack; returns the stack's new height."""
    if rank < 0:
        return count_awake
    awake[count_awake] = rank
    return count_awake + 1
