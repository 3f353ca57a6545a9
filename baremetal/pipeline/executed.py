"""What the ranks did, put together: an executed step as the same object as a simulated one.

Each rank keeps a record of its own actions and messages. Together they are a `Timeline`, which can
be drawn, exported, and compared with the one that the simulator makes of the same schedule, with
the same durations and links. With a virtual clock the two are equal to the last picosecond, and
`first_difference` says where if they are not: that would be a fault in one of them.
"""

from collections.abc import Sequence

import numpy as np

from baremetal.pipeline.executor import RankRecord
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.wiring import Wiring


def executed_timeline(
    wiring: Wiring, records: Sequence[RankRecord], reuses: np.ndarray
) -> Timeline:
    """The records of all ranks, in their order, as one timeline.

    Args:
        wiring: of the schedule that was executed.
        records: of one step of training.
        reuses: for each message the one whose slot it took over, or -1 (`Simulator.reuses`).
    """
    depart_ps, arrive_ps, taken_ps, free_ps = (
        _by_message(wiring, [getattr(record, name) for record in records])
        for name in ("depart_ps", "arrive_ps", "taken_ps", "link_free_ps")
    )
    return Timeline(
        wiring=wiring,
        duration_ps=np.concatenate([record.duration_ps for record in records]),
        start_ps=np.concatenate([record.start_ps for record in records]),
        end_ps=np.concatenate([record.end_ps for record in records]),
        depart_ps=depart_ps,
        arrive_ps=arrive_ps,
        taken_ps=taken_ps,
        occupancy_ps=free_ps - depart_ps,
        reuses=reuses,
    )


def _by_message(wiring: Wiring, found: Sequence[dict[int, int]]) -> np.ndarray:
    times = np.zeros(wiring.messages, np.int64)
    for part in found:
        for message, time_ps in part.items():
            times[message] = time_ps
    return times


def first_difference(executed: Timeline, simulated: Timeline) -> str | None:
    """Where two timelines of one schedule part company; None if nowhere."""
    steps = [step for steps in executed.schedule.ranks for step in steps]
    for name in ("start_ps", "end_ps"):
        ours, theirs = getattr(executed, name), getattr(simulated, name)
        for number in np.flatnonzero(ours != theirs)[:1].tolist():
            return (
                f"{name} of {steps[number]}: executed {ours[number]} ps, simulated "
                f"{theirs[number]} ps"
            )
    for name in ("depart_ps", "arrive_ps", "taken_ps"):
        ours, theirs = getattr(executed, name), getattr(simulated, name)
        for number in np.flatnonzero(ours != theirs)[:1].tolist():
            lane = executed.wiring.lanes[executed.wiring.lane[number]]
            return (
                f"{name} of message {executed.wiring.number[number]} {lane}: executed "
                f"{ours[number]} ps, simulated {theirs[number]} ps"
            )
    return None
