"""How long a collective takes: alpha and beta, along a ring inside a domain and along rails.

A ring over n ranks moves n - 1 pieces of size/n past every link (twice for an all-reduce), each
piece with a latency alpha of its own:

    all_gather, reduce_scatter   (n-1) alpha + (n-1)/n size / rate
    all_reduce                 2 (n-1) alpha + 2 (n-1)/n size / rate
    all_to_all                   alpha (n-1) + (n-1)/n size / rate   each rank sends size/n to each
    send                         alpha + size / rate

(R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in
MPICH", IJHPCA 19(1), 2005.) A group that spans domains goes two ways at once, NVLink inside and one
network card per GPU between (hierarchical): inside first, then each rank's piece along its rail.
"""

from dataclasses import dataclass

from baremetal.cluster.cost.constants import Constants
from baremetal.cluster.cost.work import Collective
from baremetal.cluster.errors import ClusterError
from baremetal.machine.cluster import Cluster


@dataclass(frozen=True)
class Group:
    """Ranks that exchange: how many, and how many of them sit in one NVLink domain."""

    size: int
    inside: int

    @property
    def domains(self) -> int:
        """How many domains it spans."""
        return -(-self.size // self.inside)


@dataclass(frozen=True)
class Wires:
    """What a collective reaches of a cluster's links.

    Attributes:
        scale_up_Bps, network_Bps: of one GPU, one direction.
        scale_up_share, network_share: of these, for large messages.
        scale_up_alpha_s, network_alpha_s: for each step of a ring.
        start_s: of a collective, before anything moves.
    """

    scale_up_Bps: float
    network_Bps: float
    scale_up_share: float
    network_share: float
    scale_up_alpha_s: float
    network_alpha_s: float
    start_s: float

    @classmethod
    def of(cls, cluster: Cluster, constants: Constants) -> "Wires":
        """Of a cluster's links.

        Raises:
            ClusterError: its NVLink has no bandwidth.
        """
        rate = cluster.scale_up.bandwidth_bps
        if rate is None:
            raise ClusterError(f"cluster {cluster.name}: its scale-up link has no bandwidth")
        return cls(
            rate / 8, cluster.network_Bps, constants.scale_up, constants.network,
            constants.scale_up_alpha_s, constants.network_alpha_s, constants.start_s,
        )  # fmt: skip


def collective_s(wires: Wires, what: Collective, size_bytes: float, group: Group) -> float:
    """Seconds that a collective of so many bytes takes in a group."""
    if group.size == 1 or size_bytes == 0:
        return 0.0
    if group.domains == 1:
        return wires.start_s + _ring_s(
            what, size_bytes, group.size, wires.scale_up_Bps * wires.scale_up_share,
            wires.scale_up_alpha_s,
        )  # fmt: skip
    network = wires.network_Bps * wires.network_share
    if what in ("send", "all_to_all"):
        outside = (group.size - group.inside) / (group.size - 1)
        size = size_bytes if what == "send" else size_bytes * outside
        return wires.start_s + _ring_s(what, size, group.domains, network, wires.network_alpha_s)
    inner = _ring_s(
        what, size_bytes, group.inside, wires.scale_up_Bps * wires.scale_up_share,
        wires.scale_up_alpha_s,
    )  # fmt: skip
    outer = _ring_s(what, size_bytes / group.inside, group.domains, network, wires.network_alpha_s)
    return wires.start_s + inner + outer


def _ring_s(
    what: Collective, size_bytes: float, ranks: int, rate_Bps: float, alpha_s: float
) -> float:
    if ranks == 1:
        return 0.0
    if what == "send":
        return alpha_s + size_bytes / rate_Bps
    rounds = 2 if what == "all_reduce" else 1
    steps = rounds * (ranks - 1)
    return steps * alpha_s + steps / ranks * size_bytes / rate_Bps
