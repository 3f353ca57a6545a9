"""A fabric: the switches between racks, as a rail-optimised fat tree.

A *fat tree* of radix k (ports per switch) gives half of each leaf's ports to network cards and half
to the tier above, so that no cut through it is narrower than what enters. Its reach follows from
the radix alone:

    cards = k (k/2)^(t-1)        t tiers: k, k^2/2, k^3/4, ...

(M. Al-Fares, A. Loukissas, A. Vahdat, "A scalable, commodity data center network architecture",
SIGCOMM 2008, for three tiers.) An oversubscription of s gives s ports of a leaf downwards for each
one upwards: more cards, a narrower tree.

*Rail-optimised*: card number r of every node is joined to leaf switches that serve only cards of
number r, a rail. Messages between equal positions in different nodes, which is what pipeline and
data parallelism send, stay below the leaves or meet no other rail's traffic. *Planes* are trees
beside each other, each with a part of every card's rate.

This file says what a fabric is. Which rank sits on which port is the map's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from baremetal.machine.checks import check_count
from baremetal.machine.errors import MachineError
from baremetal.machine.link import Link
from baremetal.machine.reading import Find, Table
from baremetal.machine.units import DURATION


@dataclass(frozen=True)
class Fabric:
    """Switches of one kind in a rail-optimised fat tree.

    Attributes:
        name: ``"quantum-x800"``.
        port: one direction of one port.
        ports: of one switch, the radix.
        tiers: of switches, leaves counted.
        rails: cards of a node that each have leaves of their own.
        planes: trees beside each other.
        oversubscription: rate into a leaf from below for each bit/s that leads up; at least 1.
        hop_ps: that a message loses in each switch; None: not known.
        sources: by field, where its number is from.

    Raises:
        MachineError: a number is out of range.
    """

    name: str
    port: Link
    ports: int
    tiers: int
    rails: int
    planes: int = 1
    oversubscription: Fraction = Fraction(1)
    hop_ps: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_count(self, "ports", at_least=2)
        for name in ("tiers", "rails", "planes"):
            check_count(self, name, at_least=1)
        if self.hop_ps is not None:
            check_count(self, "hop_ps")
        if not isinstance(self.oversubscription, Fraction) or self.oversubscription < 1:
            raise MachineError(
                f"fabric {self.name}: oversubscription = {self.oversubscription!r}; expected a "
                "Fraction of at least 1"
            )
        if self.ports % 2:
            raise MachineError(f"fabric {self.name}: ports = {self.ports}; expected an even number")

    @property
    def leaf_cards(self) -> int:
        """Ports of a leaf that lead down to network cards."""
        if self.tiers == 1:
            return self.ports
        share = self.oversubscription / (1 + self.oversubscription)
        return int(self.ports * share)

    @property
    def most_leaves(self) -> int:
        """Leaves that one tree can join: k (k/2)^(t-2)."""
        return 1 if self.tiers == 1 else self.ports * (self.ports // 2) ** (self.tiers - 2)

    @property
    def most_cards(self) -> int:
        """Network cards that one tree can reach."""
        return self.most_leaves * self.leaf_cards

    def tiers_for(self, cards: int) -> int:
        """How many tiers a tree of these switches needs to reach so many cards, not oversubscribed.

        Raises:
            MachineError: fewer than one card.
        """
        if cards < 1:
            raise MachineError(f"a fabric for {cards} cards: expected at least 1")
        tiers, reach = 1, self.ports
        while reach < cards:
            tiers, reach = tiers + 1, reach * (self.ports // 2)
        return tiers


def read_fabric(table: Table, find: Find) -> Fabric:
    """A fabric from its table in a description.

    Raises:
        MachineError: a field is missing, unknown or wrong, or names what is not described.
    """
    ratio = table.ratio("oversubscription") if "oversubscription" in table else Fraction(1)
    return table.make(
        Fabric,
        name=table.text("name"),
        port=table.reference("port", "link", find),
        ports=table.count("ports", at_least=2),
        tiers=table.count("tiers", at_least=1),
        rails=table.count("rails", at_least=1),
        planes=table.count("planes", at_least=1) if "planes" in table else 1,
        oversubscription=ratio,
        hop_ps=table.maybe("hop", DURATION),
    )
