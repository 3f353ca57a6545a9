"""What is raised when a description of hardware cannot be read or makes no sense."""

from collections.abc import Iterable
from difflib import get_close_matches

from baremetal.errors import BaremetalError


class MachineError(BaremetalError):
    """A quantity, a description or a name of hardware that is wrong, missing or unknown."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'latency'? `` when a known word is near, otherwise nothing."""
    near = get_close_matches(word.casefold(), list(known), n=1)
    return f"did you mean '{near[0]}'? " if near else ""
