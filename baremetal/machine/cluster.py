"""A cluster: so many GPUs of one kind, and what joins them.

    chip -> node -> NVLink domain -> rack -> fabric -> cluster

It is called by a kind and a number of GPUs in use: ``h100:8192``, ``gb300-nvl72:512``. Which GPU
of which rack those are is the placement's business; a rack or node that is not full is allowed
here, and said there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from baremetal.machine.checks import check_count
from baremetal.machine.chip import Chip
from baremetal.machine.errors import MachineError
from baremetal.machine.fabric import Fabric
from baremetal.machine.link import Link
from baremetal.machine.node import Node
from baremetal.machine.reading import Find, Table


@dataclass(frozen=True)
class Cluster:
    """GPUs, in domains, on a fabric.

    Attributes:
        name: of the kind, ``"gb300-nvl72"``.
        node: what each node is.
        domain: chips that one NVLink domain joins.
        fabric: between the domains.
        gpus: in use; 0: of the kind alone.
        rack_gpus: of a rack; 0: nodes stand by themselves.
        rack_power_W: of a full rack; None: not known.
        software: of which generation runs on it are published, by name.
        sources: by field, where its number is from.

    Raises:
        MachineError: a number is out of range.
    """

    name: str
    node: Node
    domain: int
    fabric: Fabric
    gpus: int = 0
    rack_gpus: int = 0
    rack_power_W: int | None = None
    software: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_count(self, "domain", at_least=1)
        check_count(self, "gpus")
        check_count(self, "rack_gpus")

    @property
    def chip(self) -> Chip:
        """Each of its GPUs."""
        return self.node.chip

    @property
    def scale_up(self) -> Link:
        """Of one GPU into its domain."""
        return self.node.scale_up

    @property
    def network(self) -> Link:
        """Of one network card into the fabric."""
        return self.node.network

    @property
    def network_Bps(self) -> float:  # noqa: N802  (B is bytes)
        """B/s of one GPU's share of its node's cards, one direction.

        Raises:
            MachineError: the cards' rate is not limited, so that there is no such number.
        """
        if self.node.network_bps is None:
            raise MachineError(f"cluster {self.name}: its network has no bandwidth")
        return self.node.network_bps / 8 / self.node.chips


def read_cluster(table: Table, find: Find) -> Cluster:
    """A cluster from its table in a description: of a rack, or of nodes that are domains.

    Raises:
        MachineError: a field is missing, unknown or wrong, or names what is not described.
    """
    name, software = table.text("name"), table.text("software", "current")
    fabric = table.reference("fabric", "fabric", find)
    if "rack" in table:
        rack = table.reference("rack", "rack", find)
        return table.make(
            Cluster, name=name, node=rack.node, domain=rack.domain, fabric=fabric,
            rack_gpus=rack.chips, rack_power_W=rack.power_W, software=software,
        )  # fmt: skip
    node = table.reference("node", "node", find)
    return table.make(
        Cluster, name=name, node=node, domain=node.chips, fabric=fabric, software=software
    )
