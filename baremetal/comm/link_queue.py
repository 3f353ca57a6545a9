"""A link as a queue: when a message leaves, and when it is there.

    depart   = max(ready, free)          the link carries one message at a time
    free'    = depart + occupancy        overhead + bytes / bandwidth, and repetitions after losses
    arrival  = free' + latency + jitter

There is one link for each ordered pair of ranks, each direction its own (full duplex), and the rank
that sends keeps its state: nobody else needs to know when it is free. All lanes between the two
share it. What a message costs on a link, and what it suffers there, is `machine/`'s to say; it is a
pure function of the seed, the two ranks and the number of the message on the link, so that the
simulator comes to the same picosecond.
"""

from typing import NamedTuple, Protocol


class Transfer(NamedTuple):
    """One message on a link: when it left, until when it held the link, when it was there; ps."""

    depart_ps: int
    free_ps: int
    arrival_ps: int


class Charge(NamedTuple):
    """What a link takes for a message, in ps: how long it is busy, how much later it is there."""

    occupancy_ps: int
    delay_ps: int


class LinkModel(Protocol):
    """What is asked of a link's description."""

    def charge(self, size_bytes: int, src: int, dst: int, sequence: int) -> Charge:
        """For message `sequence` of this ordered pair of ranks."""


class NoLink:
    """Messages are there as soon as they are sent."""

    def charge(self, size_bytes: int, src: int, dst: int, sequence: int) -> Charge:
        """Nothing."""
        return Charge(0, 0)


class LinkQueue:
    """The state of one directed link, kept by the rank that sends.

    Args:
        model: what a message costs.
        src, dst: the ranks at its ends.
    """

    def __init__(self, model: LinkModel, src: int, dst: int) -> None:
        self.model = model
        self.src, self.dst = src, dst
        self.free_ps = 0
        self.sequence = 0  # of the next message

    def carry(self, size_bytes: int, ready_ps: int) -> Transfer:
        """Put a message on the link that is ready at this time."""
        charge = self.model.charge(size_bytes, self.src, self.dst, self.sequence)
        depart_ps = max(ready_ps, self.free_ps)
        self.free_ps = depart_ps + charge.occupancy_ps
        self.sequence += 1
        return Transfer(depart_ps, self.free_ps, self.free_ps + charge.delay_ps)
