"""The lanes of a run: all that its ranks will ever send each other, laid out before it starts.

A schedule's messages flow in lanes, one for each pair of neighbouring stages on different ranks and
each direction (`schedules/wiring.py`). Each becomes a ring in shared memory whose slots have the
shape of a microbatch's activations, (B, T, C). How many slots it has is either given or the least
number with which no sender ever waits for one, whatever the times (`schedules/slots.py`).
"""

from collections.abc import Sequence

import numpy as np

from baremetal import comm
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


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's links, for runtime and simulator alike."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
