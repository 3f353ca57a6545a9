"""The exception of this room."""

from baremetal.errors import BaremetalError


class CaptureError(BaremetalError):
    """A function cannot be captured, or a captured one was called with what it was not made for."""
