"""What hardware is: chips, links, nodes, racks and fabrics, as data with sources beside it."""

from baremetal.machine.catalogue import find_chip, find_fabric, find_link, find_node, find_rack
from baremetal.machine.chip import Chip
from baremetal.machine.errors import MachineError
from baremetal.machine.fabric import Fabric
from baremetal.machine.link import Fate, Link
from baremetal.machine.node import Node
from baremetal.machine.rack import Rack

__all__ = [
    "Chip",
    "Fabric",
    "Fate",
    "Link",
    "MachineError",
    "Node",
    "Rack",
    "find_chip",
    "find_fabric",
    "find_link",
    "find_node",
    "find_rack",
]
