"""What the links do to each message of a schedule: how long it keeps one busy, how late it is.

Both are known before anything is played: a message's size by its stage, its jitter and its losses
by the seed, the two ranks and its number on their link.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.wiring import Wiring


class Fate(Protocol):
    """What becomes of one message."""

    @property
    def losses(self) -> int:
        """Attempts that were lost."""

    @property
    def jitter_ps(self) -> int:
        """By how much it is late."""


class Link(Protocol):
    """One direction between two ranks, such as `baremetal.machine.link.Link`."""

    @property
    def latency_ps(self) -> int:
        """From the last bit sent to the last bit there."""

    def busy_ps(self, size_bytes: int, losses: int = 0) -> int:
        """How long the message keeps the link busy."""

    def fate(self, seed: int, src: int, dst: int, sequence: int) -> Fate:
        """Losses and jitter of a message."""

    def fails_at(self, sequence: int) -> bool:
        """Whether the link no longer carries this message."""


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
        for message in np.flatnonzero(wiring.link == number).tolist():
            sequence = int(wiring.sequence[message])
            if link.fails_at(sequence):
                raise ScheduleError(
                    f"{wiring.schedule.name}: the link from rank {source} to rank {target} fails "
                    f"before message {sequence}, which "
                    f"{wiring.flat.name(int(wiring.sender[message]))} sends"
                )
            fate = link.fate(seed, source, target, sequence)
            size = sizes[wiring.lane[message]]
            occupancy_ps[message] = link.busy_ps(size, fate.losses)
            flight_ps[message] = link.latency_ps + fate.jitter_ps
    return occupancy_ps, flight_ps


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
