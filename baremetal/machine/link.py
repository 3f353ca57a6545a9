"""A link: what stands between two chips, in one direction.

A message of n bytes first occupies the sender's end, then travels:

    occupancy = overhead + 8 n / bandwidth              the next message has to wait for this
    arrival   = departure + occupancy + latency + jitter

(R. Hockney's model of a message, "The communication challenge for MPP", Parallel Computing 20,
1994, with LogGP's overhead; A. Alexandrov et al., "LogGP", SPAA 1995.) Each direction is a link of
its own. What data sheets print is the *sum* of both for NVLink and PCIe: here it is one.

Links err. A message may be late (jitter) or lost, each by chance that is a pure function of seed,
ranks and message number (`fate.py`). A lost message is sent again after a timeout, and nothing
behind it may overtake (stop-and-wait), so that n losses occupy the link for

    (n + 1) occupancy + n timeout

A link may run at a part of its rate (`degraded`), or fail for good after so many messages.

Durations are integers of picoseconds, rounded up once per message.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from baremetal.machine.checks import check_count, check_share
from baremetal.machine.errors import MachineError
from baremetal.machine.fate import CERTAIN, fate
from baremetal.machine.reading import Find, Table
from baremetal.machine.units import BIT_RATE, DURATION, ceil_div

PS_PER_S = 10**12
BITS_PER_BYTE = 8
UNLIMITED = "unlimited"  # in place of a bandwidth


class Fate(NamedTuple):
    """What becomes of one message: attempts that are lost, and lateness in ps."""

    losses: int
    jitter_ps: int


@dataclass(frozen=True)
class Link:
    """One direction of a link.

    Attributes:
        name: ``"800g"``.
        bandwidth_bps: bit/s; None: a message of any size takes no time to send.
        latency_ps: from the last bit sent to the last bit there.
        overhead_ps: that every message occupies the link, however small.
        jitter_ps: the most a message can be late.
        loss: chance of every attempt to be lost, below 1.
        retransmit_timeout_ps: until a lost message is sent again.
        fails_after: messages after which the link carries no more; None: it never fails.
        sources: by field, where its number is from.

    Raises:
        MachineError: a number is out of range.
    """

    name: str
    bandwidth_bps: int | None
    latency_ps: int
    overhead_ps: int = 0
    jitter_ps: int = 0
    loss: Fraction = Fraction(0)
    retransmit_timeout_ps: int = 0
    fails_after: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.bandwidth_bps is not None:
            check_count(self, "bandwidth_bps", at_least=1)
        for name in ("latency_ps", "overhead_ps", "jitter_ps", "retransmit_timeout_ps"):
            check_count(self, name)
        check_share(self, "loss")
        if self.loss == 1:
            raise MachineError(f"link {self.name}: loss 1 lets nothing through; expected below 1")
        if self.fails_after is not None:
            check_count(self, "fails_after")

    def occupancy_ps(self, size_bytes: int) -> int:
        """How long sending `size_bytes` once keeps the link from sending anything else."""
        if self.bandwidth_bps is None:
            return self.overhead_ps
        bits = size_bytes * BITS_PER_BYTE
        return self.overhead_ps + ceil_div(bits * PS_PER_S, self.bandwidth_bps)

    def transfer_ps(self, size_bytes: int) -> int:
        """From the departure of a message to its arrival, if it is neither late nor lost."""
        return self.occupancy_ps(size_bytes) + self.latency_ps

    def busy_ps(self, size_bytes: int, losses: int = 0) -> int:
        """How long the link is taken by a message that is lost `losses` times before it arrives."""
        again_ps = losses * self.retransmit_timeout_ps
        return (losses + 1) * self.occupancy_ps(size_bytes) + again_ps

    def fate(self, seed: int, src: int, dst: int, sequence: int) -> Fate:
        """What becomes of message number `sequence` from rank `src` to rank `dst`."""
        return Fate(*fate(seed, src, dst, sequence, self.loss_chance, self.jitter_ps))

    @property
    def loss_chance(self) -> int:
        """`loss` in parts of 2^32, as `machine.fate.fate` takes it; rounded up, so none is lost."""
        return min(ceil_div(self.loss.numerator * CERTAIN, self.loss.denominator), CERTAIN - 1)

    def fails_at(self, sequence: int) -> bool:
        """Whether message number `sequence` is one that the link no longer carries."""
        return self.fails_after is not None and sequence >= self.fails_after

    def degraded(self, share: Fraction) -> "Link":
        """This link with only this share of its bandwidth left, latency as before.

        Raises:
            MachineError: a share that is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise MachineError(
                f"link {self.name}: {share} of its bandwidth; expected above 0 and at most 1"
            )
        if self.bandwidth_bps is None:
            return self
        return replace(self, bandwidth_bps=max(1, int(self.bandwidth_bps * Fraction(share))))


def read_link(table: Table, find: Find) -> Link:
    """A link from its table in a description.

    Raises:
        MachineError: a field is missing, unknown or wrong.
    """
    loss = table.share("loss") if "loss" in table else Fraction(0)
    return table.make(
        Link,
        name=table.text("name"),
        bandwidth_bps=_bandwidth(table),
        latency_ps=table.quantity("latency", DURATION),
        overhead_ps=table.optional("overhead", DURATION, 0),
        jitter_ps=table.optional("jitter", DURATION, 0),
        loss=loss,
        retransmit_timeout_ps=table.optional("retransmit_timeout", DURATION, 0),
        fails_after=table.count("fails_after") if "fails_after" in table else None,
    )


def _bandwidth(table: Table) -> int | None:
    if table.says("bandwidth", UNLIMITED):
        return None
    return table.quantity("bandwidth", BIT_RATE, positive=True)
