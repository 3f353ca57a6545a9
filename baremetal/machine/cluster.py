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
from baremetal.machine.rack import Rack
from baremetal.machine.reading import Find, Table


@dataclass(frozen=True)
class Cluster:
    """GPUs, in domains, on a fabric.

    Attributes:
        name: of the kind, ``"gb300-nvl72"``.
        unit: what it is built of: racks, or nodes that are NVLink domains of their own.
        fabric: between the domains.
        software: generation whose runs on it are published, by name.
        gpus: in use; None: of the kind alone.
        sources: by field, where its number is from.

    Raises:
        MachineError: no GPUs.
    """

    name: str
    unit: Rack | Node
    fabric: Fabric
    software: str = "current"
    gpus: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.gpus is not None:
            check_count(self, "gpus", at_least=1)

    @property
    def node(self) -> Node:
        """What each of its nodes is."""
        return self.unit.node if isinstance(self.unit, Rack) else self.unit

    @property
    def domain(self) -> int:
        """Chips that one NVLink domain joins."""
        return self.unit.domain if isinstance(self.unit, Rack) else self.unit.chips

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
    """A cluster from its table in a description: its unit is a rack or a node.

    Raises:
        MachineError: a field is missing, unknown or wrong, or names what is not described.
    """
    return table.make(
        Cluster,
        name=table.text("name"),
        unit=_unit(table, find),
        fabric=table.reference("fabric", "fabric", find),
        software=table.text("software", "current"),
    )


def _unit(table: Table, find: Find) -> Rack | Node:
    try:
        return table.reference("unit", "rack", find)
    except MachineError:
        return table.reference("unit", "node", find)
