"""A rack: nodes on one power feed, and the NVLink domains in it.

In an NVL72 rack, 18 trays of 4 GPUs each are one NVLink domain of 72, joined by switch trays:
every GPU reaches every other at full rate. In a rack of 8-GPU nodes each node is a domain of its
own. What must not leave a domain (tensor parallelism) is bounded by its size: the description says
how large it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from baremetal.machine.checks import check_count
from baremetal.machine.errors import MachineError
from baremetal.machine.node import Node
from baremetal.machine.reading import Find, Table
from baremetal.machine.units import POWER


@dataclass(frozen=True)
class Rack:
    """Nodes in one rack.

    Attributes:
        name: ``"gb300-nvl72"``.
        node: what each of its nodes is.
        nodes: how many there are.
        domain: chips that one scale-up (NVLink) domain joins.
        switch_trays: of the scale-up network; 0 where the switches are inside the nodes.
        power_W: the most it draws; None: not known.
        sources: by field, where its number is from.

    Raises:
        MachineError: a number is out of range, or the domains do not divide the rack.
    """

    name: str
    node: Node
    nodes: int
    domain: int
    switch_trays: int = 0
    power_W: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_count(self, "nodes", at_least=1)
        check_count(self, "domain", at_least=1)
        check_count(self, "switch_trays")
        if self.power_W is not None:
            check_count(self, "power_W", at_least=1)
        if self.chips % self.domain or self.domain % self.node.chips:
            raise MachineError(
                f"rack {self.name}: domain = {self.domain} does not divide {self.nodes} nodes of "
                f"{self.node.chips} chips: expected whole nodes, and the same number in each domain"
            )

    @property
    def chips(self) -> int:
        """Chips in the rack."""
        return self.nodes * self.node.chips

    def peak(self, precision: str) -> int:
        """Dense FLOP/s of all its chips together.

        Raises:
            MachineError: its chips have no such precision.
        """
        return self.chips * self.node.chip.peak(precision)


def read_rack(table: Table, find: Find) -> Rack:
    """A rack from its table in a description.

    Raises:
        MachineError: a field is missing, unknown or wrong, or names what is not described.
    """
    return table.make(
        Rack,
        name=table.text("name"),
        node=table.reference("node", "node", find),
        nodes=table.count("nodes", at_least=1),
        domain=table.count("domain", at_least=1),
        switch_trays=table.count("switch_trays") if "switch_trays" in table else 0,
        power_W=table.maybe("power", POWER),
    )
