"""A link as a queue: when a message leaves, and when it is there.

    depart   = max(ready, free)          the link carries one message at a time
    free'    = depart + busy             (losses + 1) occupancy + losses timeout
    arrival  = free' + latency + jitter

There is one link for each ordered pair of ranks, each direction its own (full duplex), and the
rank that sends keeps its state: nobody else needs to know when it is free. All lanes between the
two share it. What a message costs and suffers is `machine/link.py`'s to say, a pure function of
the seed, the two ranks and the message's number on the link, so that whoever else asks (the
simulator, another transport) comes to the same picosecond.
"""

from typing import NamedTuple

from baremetal.comm.errors import CommError
from baremetal.machine.link import Link

INSTANT = Link("instant", bandwidth_bps=None, latency_ps=0)


class Transfer(NamedTuple):
    """One message on a link: when it left, until when it held the link, when it was there; ps."""

    depart_ps: int
    free_ps: int
    arrival_ps: int


class LinkQueue:
    """The state of one directed link, kept by the rank that sends.

    Args:
        link: its description.
        src, dst: the ranks at its ends.
        seed: of what happens to messages.

    Attributes:
        free_ps: from when on the link is free.
        sequence: the number of the next message.
    """

    def __init__(self, link: Link, src: int, dst: int, seed: int = 0) -> None:
        self.link, self.src, self.dst, self.seed = link, src, dst, seed
        self.free_ps = 0
        self.sequence = 0
        self._certain = not link.jitter_ps and not link.loss
        self._busy_ps: dict[int, int] = {}  # by size, of a message that is not lost

    def carry(self, size_bytes: int, ready_ps: int, more_losses: int = 0) -> Transfer:
        """Put a message on the link that is ready at this time.

        Args:
            size_bytes: what it is charged as.
            ready_ps: when the sender has it.
            more_losses: attempts that are lost beyond those that chance has it (injected faults).

        Raises:
            CommError: the link has failed.
        """
        link = self.link
        if link.fails_after is not None and link.fails_at(self.sequence):
            raise CommError(
                f"the link '{link.name}' from rank {self.src} to rank {self.dst} failed after "
                f"{link.fails_after} messages: message {self.sequence} cannot be sent"
            )
        losses = jitter_ps = 0
        if not self._certain:
            losses, jitter_ps = link.fate(self.seed, self.src, self.dst, self.sequence)
        losses += more_losses
        depart_ps = max(ready_ps, self.free_ps)
        self.free_ps = depart_ps + self._busy(size_bytes, losses)
        self.sequence += 1
        return Transfer(depart_ps, self.free_ps, self.free_ps + link.latency_ps + jitter_ps)

    def begin_phase(self, seed: int) -> None:
        """The link is free, and its messages count from 0, with another seed."""
        self.seed = seed
        self.free_ps = self.sequence = 0

    def occupy(self, size_bytes: int) -> None:
        """Something that is no message of its own takes its time on the link: a duplicate."""
        self.free_ps += self.link.occupancy_ps(size_bytes)

    def _busy(self, size_bytes: int, losses: int) -> int:
        if losses:
            return self.link.busy_ps(size_bytes, losses)
        if size_bytes not in self._busy_ps:
            self._busy_ps[size_bytes] = self.link.busy_ps(size_bytes)
        return self._busy_ps[size_bytes]
