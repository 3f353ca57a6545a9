"""A result that was saved for a backward, and overwritten by the next call.

The tape notices changes in place by a count (`autograd/tape.py`). What a captured function returns
is changed by every call, so its count goes up with each: not by counting again, which a small step
would feel, but by looking at the count of calls that there is anyway.
"""

from typing import Protocol

from baremetal.autograd.tape import Version


class Called(Protocol):
    """Something that counts its calls."""

    calls: int


class ResultVersion(Version):
    """The changes of a result: those made to it by its own operations, and one for each call.

    Args:
        own: counts the former; views of the same memory share it.
        captured: whose result it is.
    """

    __slots__ = ("_captured", "_own")

    def __init__(self, own: Version, captured: Called) -> None:
        self._own = own
        self._captured = captured

    @property
    def count(self) -> int:  # type: ignore[override]
        """All changes so far."""
        return self._own.count + self._captured.calls

    @property
    def changed_by(self) -> str:  # type: ignore[override]
        """What made the changes."""
        call = "the next call of the captured function"
        return f"{self._own.changed_by} or {call}" if self._own.changed_by else call

    def bump(self, changed_by: str) -> None:
        """Note a change that is no call."""
        self._own.bump(changed_by)
