"""Calls the compiled loop (`native.py`), and says what a deadlock is about.

Apart from it, because compiled code brings numba with it: nobody waits for that before something
is to be played.
"""

from typing import NamedTuple

import numpy as np

from baremetal.schedules.deadlock import describe_deadlock
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.wiring import Wiring


class Played(NamedTuple):
    """When everything happened, in ps, and an order in which it can.

    Attributes:
        start_ps, end_ps: of each step, (steps,) int64.
        depart_ps, arrive_ps, taken_ps: of each message, (messages,) int64.
        order: all steps, each after those that it waits for, (steps,) int64.
    """

    start_ps: np.ndarray
    end_ps: np.ndarray
    depart_ps: np.ndarray
    arrive_ps: np.ndarray
    taken_ps: np.ndarray
    order: np.ndarray


def play_to_the_end(
    wiring: Wiring,
    reuses: np.ndarray,
    occupancy_ps: np.ndarray,
    flight_ps: np.ndarray,
    duration_ps: np.ndarray,
) -> Played:
    """Play all steps.

    Args:
        wiring: the steps and messages.
        reuses: for each message the one whose slot it takes over, or -1, (messages,) int64.
        occupancy_ps: for how long each message keeps its link busy, (messages,) int64.
        flight_ps: from when the link is free again to the arrival, (messages,) int64.
        duration_ps: of each step, host overhead included, (steps,) int64.

    Raises:
        ScheduleError: the ranks wait for each other in a circle; the message names it.
    """
    from baremetal.schedules.native import compiled_play  # numba: not before it is needed

    first_step = wiring.flat.first_step
    start, end, depart, arrive, taken, position, order = compiled_play()(
        first_step, wiring.takes, wiring.sends, reuses, wiring.link, occupancy_ps, flight_ps,
        duration_ps, np.zeros(len(wiring.links), np.int64),
    )  # fmt: skip
    if np.any(position < first_step[1:]):
        raise ScheduleError(describe_deadlock(wiring, reuses, position))
    return Played(start, end, depart, arrive, taken, order)
