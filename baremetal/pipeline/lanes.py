"""The lanes of a run: all that its ranks will ever send each other, laid out before it starts.

A schedule's messages flow in lanes, one for each pair of neighbouring stages on different ranks and
each direction (`schedules/wiring.py`). Each becomes a ring in shared memory whose slots have the
shape of a microbatch's activations, (B, T, C). How many slots it has is either given or the least
number with which no sender ever waits for one, whatever the times (`schedules/slots.py`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from baremetal import comm
from baremetal.machine.link import Link
from baremetal.schedules.slots import needed_slots
from baremetal.schedules.wiring import Wiring


def lane_slots(wiring: Wiring, slots: int | None = None) -> list[int]:
    """How many slots each lane of a schedule has.

    Args:
        wiring: its messages.
        slots: of every lane; None: as many as are needed lest a sender wait.
    """
    if slots is not None:
        return [slots] * len(wiring.lanes)
    needed = needed_slots(wiring)
    return [needed[lane] for lane in wiring.lanes]


def schedule_lanes(
    wiring: Wiring,
    slots: Sequence[int],
    shape: tuple[int, ...],
    dtype: str,
    modelled_bytes: int | None = None,
) -> list[comm.Lane]:
    """The schedule's lanes as rings between its ranks, in the order of `wiring.lanes`.

    Args:
        wiring: the schedule's messages.
        slots: of each lane.
        shape, dtype: of every message: activations of one microbatch, or their gradient.
        modelled_bytes: what a message counts on the modelled link; None: what it is.
    """
    rank_of = wiring.schedule.rank_of
    lanes = []
    for lane, count in zip(wiring.lanes, slots, strict=True):
        what = "activations" if wiring.is_activations(lane) else "gradients"
        lanes.append(
            comm.Lane(
                src=rank_of[lane.source],
                dst=rank_of[lane.target],
                slots=count,
                shape=shape,
                dtype=dtype,
                label=f"{what} of stage {lane.source} for stage {lane.target}",
                modelled_bytes=modelled_bytes,
            )
        )
    return lanes


class StepLinks:
    """The links of one training step, as the sending ends ask for them.

    Jitter and loss are drawn from (seed, step): each step has its own, and a simulation of the same
    step has the same.

    Args:
        links: one for all pairs of ranks, or by (source rank, target rank).
        seed: of the run.
    """

    def __init__(self, links: Link | Mapping[tuple[int, int], Link], seed: int) -> None:
        self._links = links
        self._seed = seed
        self.step = 0

    def charge(self, size_bytes: int, src: int, dst: int, sequence: int) -> comm.Charge:
        """What message `sequence` of this step suffers between two ranks."""
        link = self._links[src, dst] if isinstance(self._links, Mapping) else self._links
        fate = link.fate(step_seed(self._seed, self.step), src, dst, sequence)
        return comm.Charge(
            link.busy_ps(size_bytes, fate.losses), link.latency_ps + fate.jitter_ps
        )


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's links, for runtime and simulator alike."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
