"""A node: the chips that one operating system sees, and how each of them reaches the others.

    chip --- scale_up ---> the switches of its NVLink domain (in NVL72 a rack's)
    chip --- network ----> a network card, and the fabric behind it

Every chip has a port of its own into both: the links described are those of one chip, one
direction. A node may hold only a part of its NVLink domain: a tray of NVL72 has 4 of 72 chips.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from baremetal.machine.checks import check_count
from baremetal.machine.chip import Chip
from baremetal.machine.link import Link
from baremetal.machine.reading import Find, Table
from baremetal.machine.units import BYTE_RATE, POWER, SIZE


@dataclass(frozen=True)
class Node:
    """Chips under one operating system.

    Attributes:
        name: ``"gb300-tray"``.
        chip: what each of its chips is.
        chips: how many there are.
        scale_up: of each chip, into its NVLink domain (ICI of a TPU).
        network: of each network card, into the fabric.
        network_cards: how many there are; a multiple or a divisor of `chips`.
        processors: sockets of the host.
        host_memory_bytes: of all sockets together.
        host_memory_rate_Bps: of one socket; None: not known.
        power_W: the most it draws; None: not known.
        sources: by field, where its number is from.

    Raises:
        MachineError: a number is out of range.
    """

    name: str
    chip: Chip
    chips: int
    scale_up: Link
    network: Link
    network_cards: int
    processors: int
    host_memory_bytes: int | None = None
    host_memory_rate_Bps: int | None = None
    power_W: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("chips", "network_cards", "processors"):
            check_count(self, name, at_least=1)
        for name in ("host_memory_bytes", "host_memory_rate_Bps", "power_W"):
            if getattr(self, name) is not None:
                check_count(self, name, at_least=1)

    @property
    def network_bps(self) -> int | None:
        """bit/s of all its network cards together, one direction; None: unlimited."""
        one = self.network.bandwidth_bps
        return None if one is None else one * self.network_cards


def read_node(table: Table, find: Find) -> Node:
    """A node from its table in a description.

    Raises:
        MachineError: a field is missing, unknown or wrong, or names what is not described.
    """
    return table.make(
        Node,
        name=table.text("name"),
        chip=table.reference("chip", "chip", find),
        chips=table.count("chips", at_least=1),
        scale_up=table.reference("scale_up", "link", find),
        network=table.reference("network", "link", find),
        network_cards=table.count("network_cards", at_least=1),
        processors=table.count("processors", at_least=1),
        host_memory_bytes=table.maybe("host_memory", SIZE),
        host_memory_rate_Bps=table.maybe("host_memory_rate", BYTE_RATE),
        power_W=table.maybe("power", POWER),
    )
