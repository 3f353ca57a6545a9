"""What is raised when a schedule cannot be made, read or run."""

from baremetal.errors import BaremetalError


class ScheduleError(BaremetalError):
    """A schedule that is incomplete, out of order, deadlocked, or outside its domain."""
