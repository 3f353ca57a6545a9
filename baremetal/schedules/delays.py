"""What the links do to each message of a schedule: how long it keeps one busy, how late it is.

Both are known before anything is played: a message's size by its stage, its jitter and its losses
by the seed, the two ranks and its number on their link.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from baremetal.machine.fate import MOST_LOSSES
from baremetal.machine.link import Link
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.times import LONGEST_PS
from baremetal.schedules.wiring import Wiring

Links = Link | Mapping[tuple[int, int], Link] | None


def message_delays(
    wiring: Wiring, links: Links, size_bytes: int | Sequence[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """How long each message occupies its link, and how much later than that it arrives.

    Args:
        wiring: the messages.
        links: one for all pairs of ranks, or by (source rank, target rank); None: no delay.
        size_bytes: of all messages, or by the stage whose activations they carry.
        seed: for jitter and losses.

    Returns:
        Occupancy and flight in ps, (messages,) int64 each.

    Raises:
        ScheduleError: a link is missing, or fails before its last message; a size is negative, or
            there are sizes for another number of stages.
    """
    occupancy_ps = np.zeros(wiring.messages, np.int64)
    flight_ps = np.zeros(wiring.messages, np.int64)
    if links is None:
        return occupancy_ps, flight_ps
    sizes = lane_sizes(wiring, size_bytes)
    for number, (source, target) in enumerate(wiring.links):
        link = links.get((source, target)) if isinstance(links, Mapping) else links
        if link is None:
            raise ScheduleError(
                f"{wiring.schedule.name}: rank {source} sends to rank {target}, "
                "but no link between them is given"
            )
        messages = np.flatnonzero(wiring.link == number)
        _refuse_failure(wiring, link, messages)
        _refuse_slowness(wiring, link, max(sizes))
        flight_ps[messages] = link.latency_ps
        alone_ps = np.array([link.busy_ps(size) for size in sizes], np.int64)  # (lanes,)
        occupancy_ps[messages] = alone_ps[wiring.lane[messages]]
        if not (link.jitter_ps or link.loss):
            continue
        for message in messages.tolist():
            fate = link.fate(seed, source, target, int(wiring.sequence[message]))
            occupancy_ps[message] = link.busy_ps(sizes[wiring.lane[message]], fate.losses)
            flight_ps[message] += fate.jitter_ps
    return occupancy_ps, flight_ps


def _refuse_failure(wiring: Wiring, link: Link, messages: np.ndarray) -> None:
    """A link that fails for good before its last message makes waiting endless: say so now."""
    last = messages[np.argmax(wiring.sequence[messages])]
    if link.fails_at(int(wiring.sequence[last])):
        source, target = wiring.links[wiring.link[last]]
        raise ScheduleError(
            f"{wiring.schedule.name}: the link from rank {source} to rank {target} fails after "
            f"{link.fails_after} messages, but the schedule sends {len(messages)} by it"
        )


def _refuse_slowness(wiring: Wiring, link: Link, size_bytes: int) -> None:
    """A message that takes weeks would not fit 64 bits of picoseconds."""
    losses = MOST_LOSSES if link.loss else 0
    longest_ps = max(link.busy_ps(size_bytes, losses), link.latency_ps + link.jitter_ps)
    if longest_ps > LONGEST_PS // 2:
        raise ScheduleError(
            f"{wiring.schedule.name}: a message of {size_bytes} B may last {longest_ps / 1e12:.3g} "
            f"s on link {link.name}: more than can be counted in picoseconds"
        )


def lane_sizes(wiring: Wiring, size_bytes: int | Sequence[int]) -> list[int]:
    """The size in bytes of each lane's messages: of the activations that leave the upper stage."""
    stages = wiring.schedule.stages
    sizes = [size_bytes] * stages if isinstance(size_bytes, int) else list(size_bytes)
    if len(sizes) != stages:
        raise ScheduleError(
            f"{wiring.schedule.name} has {stages} stages, but there are {len(sizes)} message sizes"
        )
    if min(sizes) < 0:
        raise ScheduleError(f"a message of {min(sizes)} B: expected 0 or more")
    upper = [lane.source if wiring.is_activations(lane) else lane.target for lane in wiring.lanes]
    return [sizes[stage] for stage in upper]
