"""What is raised when ranks cannot reach each other, or when what arrives is wrong."""

from baremetal.errors import BaremetalError


class CommError(BaremetalError):
    """A channel that cannot be made, or a message that cannot be delivered."""


class CorruptionError(CommError):
    """A message whose bytes are not the ones that were sent, and which cannot be had again."""


class SequenceError(CommError):
    """A message number that is not the one that is due, or a message of another size."""


class AbortedError(CommError):
    """The run was ended from outside while this rank waited."""
