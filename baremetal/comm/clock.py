"""Clocks: what time it is on the modelled machine, in integer picoseconds.

- A `VirtualClock` is a number. Work moves it forward by what the work is charged, a message moves
  it to the later of now and the arrival. It gives the same times on any computer, however many
  cores it has, and however long things really take (the idea is L. Lamport's, "Time, Clocks, and
  the Ordering of Events in a Distributed System", 1978; with durations on it, it is a simulation
  that happens to compute real gradients).
- A `WallClock` is the computer's own. Work takes as long as it takes, and a receiver really waits
  until the message would have arrived over the modelled link.
"""

import time
from collections.abc import Callable
from typing import Protocol

PS_PER_NS = 1000
LONGEST_SLEEP_S = 0.01  # between two looks at whether the run is over
SPIN_NS = 60_000  # a sleep may oversleep by this much: the rest is waited for awake


class Clock(Protocol):
    """What a rank needs of a clock."""

    def now_ps(self) -> int:
        """The time since the run began, in ps."""

    def wait_until(self, time_ps: int) -> int:
        """Not before this time: moves or waits. Returns the time then."""

    def advance(self, duration_ps: int) -> int:
        """Work that is charged this much has been done. Returns the time then."""


class VirtualClock:
    """A number that only grows.

    Args:
        start_ps: what it shows first.
    """

    def __init__(self, start_ps: int = 0) -> None:
        self._now_ps = start_ps

    def now_ps(self) -> int:
        """The time since the run began, in ps."""
        return self._now_ps

    def wait_until(self, time_ps: int) -> int:
        """The later of now and then."""
        self._now_ps = max(self._now_ps, time_ps)
        return self._now_ps

    def advance(self, duration_ps: int) -> int:
        """Later by this much."""
        self._now_ps += duration_ps
        return self._now_ps


class WallClock:
    """The computer's clock, from an instant that all ranks of a run know.

    `time.monotonic_ns` counts from the same instant in every process of a computer. Between
    computers it does not: there each rank takes as its origin the moment when it leaves a barrier.

    Args:
        origin_ns: of `time.monotonic_ns`, when the run began.
        idle: called between naps; it raises if the run is over.
    """

    def __init__(self, origin_ns: int, idle: Callable[[], None] = lambda: None) -> None:
        self._origin_ns = origin_ns
        self._idle = idle

    def now_ps(self) -> int:
        """The time since the run began, in ps."""
        return (time.monotonic_ns() - self._origin_ns) * PS_PER_NS

    def wait_until(self, time_ps: int) -> int:
        """Sleep, and wait the last 60 us awake; never less than asked for."""
        while (left_ns := (time_ps - self.now_ps()) // PS_PER_NS) > SPIN_NS:
            time.sleep(min((left_ns - SPIN_NS) / 1e9, LONGEST_SLEEP_S))
            self._idle()
        while (now_ps := self.now_ps()) < time_ps:
            pass
        return now_ps

    def advance(self, duration_ps: int) -> int:
        """Real work has taken real time already."""
        return self.now_ps()
