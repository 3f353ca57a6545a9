"""The exception of this room."""

from baremetal.errors import BaremetalError


class AutogradError(BaremetalError):
    """The tape cannot do what was asked: the message says what was met and what to do."""
