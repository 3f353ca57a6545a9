"""What the cluster model refuses: one line that says what was given, and what to give instead."""

from baremetal.errors import BaremetalError


class ClusterError(BaremetalError):
    """A model, a plan or a cluster that cannot be, or that do not go together."""
