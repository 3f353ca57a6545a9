"""What every description checks of its own numbers, however it was made."""

from fractions import Fraction
from typing import Any

from baremetal.machine.errors import MachineError


def check_count(thing: Any, field: str, at_least: int = 0) -> None:
    """Refuse a field that is no integer, or below `at_least`.

    Raises:
        MachineError: names the thing, the field and what it holds.
    """
    value = getattr(thing, field)
    if type(value) is not int or value < at_least:
        raise MachineError(
            f"{_called(thing)}: {field} = {value!r}; expected an integer of at least {at_least}"
        )


def check_share(thing: Any, field: str) -> None:
    """Refuse a field that is no Fraction from 0 to 1.

    Raises:
        MachineError: names the thing, the field and what it holds.
    """
    value = getattr(thing, field)
    if not isinstance(value, Fraction) or not 0 <= value <= 1:
        raise MachineError(f"{_called(thing)}: {field} = {value!r}; expected a Fraction, 0 to 1")


def _called(thing: Any) -> str:
    return f"{type(thing).__name__.lower()} {thing.name}"
