"""The simulator: plays a schedule exactly, for any durations, links and buffers.

    timeline = simulate(schedule, Times.uniform(4, 10, 10, 10), link=load_link("800g"))
    timeline.makespan_ps, timeline.bubble_span, timeline.exposed_ps

Its rules are in `reference.py`, in Python to be read; here they are obeyed by a compiled loop
(`native.py`) that plays millions of steps a second. What does not depend on durations is worked
out once: messages (`wiring.py`), how long each keeps its link busy, whose slot it takes over. So a
search or a sweep makes one `Simulator` and plays it as often as it likes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from baremetal.schedules.delays import Links, message_delays
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.loop import play_to_the_end
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.slots import Slots, reused_slots
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import LONGEST_PS, Factor, Times, step_durations, table_of_durations
from baremetal.schedules.wiring import Wiring, wire

Durations = Times | np.ndarray | Sequence[Sequence[int]]


class Simulator:
    """A schedule on given links with given buffers, to be played with any durations.

    Attributes:
        wiring: its messages.
        reuses: for each message the one whose slot it takes over, or -1, (messages,) int64.
        occupancy_ps, flight_ps: of each message, (messages,) int64.
    """

    def __init__(
        self,
        schedule: Schedule | Wiring,
        *,
        link: Links = None,
        size_bytes: int | Sequence[int] = 0,
        slots: Slots = None,
        host_overhead_ps: int = 0,
        seed: int = 0,
    ) -> None:
        """Work out everything that does not depend on durations.

        Args:
            schedule: or its wiring, if there is one already.
            link: between any two ranks, or by (source rank, target rank); None: messages are
                there at once.
            size_bytes: of a message; one for all, or by the stage whose activations (or whose
                gradient of them) it carries.
            slots: of every lane, or by lane; None, and for lanes left out: no end of them.
            host_overhead_ps: added to every step.
            seed: for jitter and losses.

        Raises:
            ScheduleError: the schedule is incomplete or out of order, a size or a number of slots
                is out of range, or a link is missing or fails for good within the schedule.
        """
        self.wiring = schedule if isinstance(schedule, Wiring) else wire(schedule)
        if host_overhead_ps < 0:
            raise ScheduleError(f"host overhead is {host_overhead_ps} ps: expected 0 or more")
        self.host_overhead_ps = host_overhead_ps
        self.reuses = reused_slots(self.wiring, slots)
        self.occupancy_ps, self.flight_ps = message_delays(self.wiring, link, size_bytes, seed)

    def play(
        self, durations: Durations, stragglers: Mapping[int, Factor] | None = None
    ) -> Timeline:
        """Play the schedule once.

        Args:
            durations: `Times` per stage, or ps per step: flat, (steps,) int64, or by rank.
            stragglers: factors by rank that `Times` are multiplied with.

        Raises:
            ScheduleError: the durations do not fit, or the ranks wait for each other in a circle:
                the message names it.
        """
        duration_ps = self._durations(durations, stragglers)
        self._check_length(duration_ps)
        played = play_to_the_end(
            self.wiring, self.reuses, self.occupancy_ps, self.flight_ps,
            duration_ps + self.host_overhead_ps,
        )  # fmt: skip
        return Timeline(self.wiring, duration_ps, *played[:5], self.occupancy_ps, self.reuses)

    def _check_length(self, duration_ps: np.ndarray) -> None:
        """Everything one after the other is the longest that it can take: that must fit 64 bits."""
        steps_ps = duration_ps.sum(dtype=np.float64) + self.host_overhead_ps * len(duration_ps)
        messages_ps = (self.occupancy_ps + self.flight_ps).sum(dtype=np.float64)
        if steps_ps + messages_ps > LONGEST_PS:
            raise ScheduleError(
                f"{self.wiring.schedule.name}: all steps and messages together last "
                f"{(steps_ps + messages_ps) / 1e12:.3g} s; at most {LONGEST_PS / 1e12:.3g} s fit"
            )

    def _durations(
        self, durations: Durations, stragglers: Mapping[int, Factor] | None
    ) -> np.ndarray:
        flat = self.wiring.flat
        if isinstance(durations, Times):
            return step_durations(flat, durations, stragglers)
        if stragglers:
            raise ScheduleError(
                "stragglers multiply Times per stage; durations per step hold them already"
            )
        if not isinstance(durations, np.ndarray):
            return table_of_durations(flat.schedule, durations)
        if durations.shape != (flat.steps,) or durations.dtype != np.int64:
            raise ScheduleError(
                f"durations are {durations.dtype} {durations.shape}: expected int64 "
                f"({flat.steps},), one per step of {flat.schedule.name}"
            )
        return durations


def simulate(
    schedule: Schedule | Wiring,
    durations: Durations,
    *,
    stragglers: Mapping[int, Factor] | None = None,
    **setting: Any,
) -> Timeline:
    """Play a schedule once: `Simulator` takes the settings, `Simulator.play` the durations."""
    return Simulator(schedule, **setting).play(durations, stragglers)
