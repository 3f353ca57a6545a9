"""What playing a schedule gives: when everything happened, and the figures made from it.

Two measures of the bubble, never to be mixed:

    span of a rank   = end of its last step - start of its first
    makespan         = end of the last step of all
    bubble_span      = 1 - busy / span        (the zero-bubble paper's, arXiv 2401.10241)
    bubble_makespan  = 1 - busy / makespan

"Zero bubble" is zero in the first only: a rank that starts late and ends late has idled as long,
but outside its span, where the next batch may fill it. Busy is the time spent computing; host
overhead counts as idle. For all ranks together, `bubble_span` is that of the rank with the largest
span, and `bubble_makespan` the mean, the share of all ranks' time that nobody computes in.

A rank that waits does so for one of three reasons:

    work      what it needs has not been computed yet: no link, however fast, would help
    transfer  it has been computed, and is under way: *exposed* transfer time
    credit    everything is there, but a message that it will send has no free slot
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from baremetal.schedules.flat import NONE
from baremetal.schedules.memory import held_activations, peak_activations
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.wiring import Wiring


@dataclass(frozen=True)
class Timeline:
    """A schedule that has been played. All times are int64 in ps.

    Attributes:
        wiring: its steps and messages, and their numbers.
        duration_ps: of each step, without host overhead, (steps,).
        start_ps, end_ps: of each step.
        depart_ps, arrive_ps, taken_ps: of each message, (messages,).
        occupancy_ps: for how long each message kept its link busy.
        reuses: for each message the one whose slot it took over, or -1.
    """

    wiring: Wiring
    duration_ps: np.ndarray
    start_ps: np.ndarray
    end_ps: np.ndarray
    depart_ps: np.ndarray
    arrive_ps: np.ndarray
    taken_ps: np.ndarray
    occupancy_ps: np.ndarray
    reuses: np.ndarray

    @property
    def schedule(self) -> Schedule:
        """What has been played."""
        return self.wiring.schedule

    def by_rank(self, of_steps: np.ndarray) -> list[np.ndarray]:
        """An array over all steps, taken apart: one array per rank."""
        return np.split(of_steps, self.wiring.flat.first_step[1:-1])

    def _sum_by_rank(self, of_steps: np.ndarray) -> list[int]:
        return [int(part.sum()) for part in self.by_rank(of_steps)]

    @cached_property
    def makespan_ps(self) -> int:
        """When the last step of all ends."""
        return int(self.end_ps.max(initial=0))

    @cached_property
    def span_ps(self) -> list[int]:
        """From the start of its first to the end of its last step, by rank."""
        pairs = zip(self.by_rank(self.start_ps), self.by_rank(self.end_ps), strict=True)
        return [int(end[-1] - start[0]) if len(start) else 0 for start, end in pairs]

    @cached_property
    def busy_ps(self) -> list[int]:
        """Time spent computing, by rank."""
        return self._sum_by_rank(self.duration_ps)

    @cached_property
    def host_overhead_ps(self) -> list[int]:
        """Host overhead of all steps, by rank."""
        return self._sum_by_rank(self.end_ps - self.start_ps - self.duration_ps)

    @cached_property
    def bubble_span_by_rank(self) -> list[float]:
        """1 - busy / span, by rank."""
        return [_idle(busy, span) for busy, span in zip(self.busy_ps, self.span_ps, strict=True)]

    @cached_property
    def bubble_makespan_by_rank(self) -> list[float]:
        """1 - busy / makespan, by rank."""
        return [_idle(busy, self.makespan_ps) for busy in self.busy_ps]

    @property
    def bubble_span(self) -> float:
        """That of the rank with the largest span (of several, of the least busy)."""
        pairs = zip(self.span_ps, self.bubble_span_by_rank, strict=True)
        return max(pairs)[1]

    @property
    def bubble_makespan(self) -> float:
        """The share of all ranks' time, up to the makespan, that none computes in."""
        return _idle(sum(self.busy_ps), self.makespan_ps * len(self.busy_ps))

    @cached_property
    def exposed_ps(self) -> list[int]:
        """Time that each rank waited for messages that had been computed already, by rank."""
        but_transfer = np.maximum(self._after_producers, self._after_slots)
        return self._waited(self._after_messages, but_transfer)

    @cached_property
    def credit_wait_ps(self) -> list[int]:
        """Time that each rank waited for a free slot and for nothing else, by rank."""
        return self._waited(self._after_slots, self._after_messages)

    def _waited(self, for_this: np.ndarray, for_others: np.ndarray) -> list[int]:
        """How much later each rank could start for one cause than for the others, by rank.

        On a virtual clock a step starts when its last cause is there, and what is left would be
        its start less the others. On the wall's it starts later than that, for no cause of ours.
        """
        others = np.maximum(self._rank_free, for_others)
        return self._sum_by_rank(np.maximum(for_this - others, 0))

    @cached_property
    def _after_messages(self) -> np.ndarray:
        """When all messages that each step needs have arrived."""
        return self._latest(self.wiring.takes, self.arrive_ps)

    @cached_property
    def _rank_free(self) -> np.ndarray:
        """When each step's rank has ended the step before it."""
        free = np.concatenate([[0], self.end_ps[:-1]]).astype(np.int64)[: len(self.end_ps)]
        first = self.wiring.flat.first_step[:-1]
        free[first[first < len(free)]] = 0
        return free

    @cached_property
    def _after_producers(self) -> np.ndarray:
        """When all that each step needs has been computed, wherever."""
        return self._latest(self.wiring.takes, self.end_ps[self.wiring.sender])

    @cached_property
    def _after_slots(self) -> np.ndarray:
        """When all that each step sends has a free slot."""
        free = np.where(self.reuses != NONE, self.taken_ps[self.reuses], 0)
        return self._latest(self.wiring.sends, free)

    def _latest(self, messages: np.ndarray, time_ps: np.ndarray) -> np.ndarray:
        """The latest time of each step's messages, 0 for a step without, (steps,)."""
        padded = np.append(time_ps, 0)  # index -1, "no message", finds the 0 at the end
        return padded[messages].max(axis=1, initial=0)

    @property
    def peak_activations(self) -> list[float]:
        """The most that each rank holds, in microbatches on its whole share, by rank."""
        return peak_activations(self.wiring.flat)

    def activations(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """What a rank holds over time.

        Returns:
            Times in ps, (2 steps,) int64, and what is held from each of them on, (2 steps,) float,
            in microbatches on the rank's whole share.
        """
        held = held_activations(self.wiring.flat)[rank]
        start, end = self.by_rank(self.start_ps)[rank], self.by_rank(self.end_ps)[rank]
        times = np.stack([start, end], axis=1).ravel()
        return times, np.stack([held.after_start, held.after_end], axis=1).ravel()


def _idle(busy_ps: int, whole_ps: int) -> float:
    return (whole_ps - busy_ps) / whole_ps if whole_ps else 0.0
