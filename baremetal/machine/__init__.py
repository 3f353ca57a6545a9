"""What hardware is: chips, links, nodes, racks and fabrics, as data with sources beside it."""

from baremetal.machine.catalogue import find_chip, find_link
from baremetal.machine.chip import Chip
from baremetal.machine.errors import MachineError
from baremetal.machine.link import Fate, Link

__all__ = ["Chip", "Fate", "Link", "MachineError", "find_chip", "find_link"]
