"""Being told when this process compiles: the one thing that may take long without any progress.

A kernel is compiled when it is first needed, which may be in the midst of a step: the optimiser's
in the first update, say. numba holds one lock while it compiles and announces that (an event of its
own), so whoever must not take it for a hang can be told.
"""

from collections.abc import Callable
from typing import Any

from numba.core import event

LOCK = "numba:compiler_lock"  # held while anything is compiled


class _Listener(event.Listener):
    """Tells of the outermost of nested beginnings and ends."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell = tell
        self._depth = 0

    def on_start(self, event: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            self._tell(True)

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._tell(False)


def tell_of_compiling(tell: Callable[[bool], None]) -> event.Listener:
    """From now on, call ``tell(True)`` when compiling begins and ``tell(False)`` when it ends.

    Returns:
        Who listens; to be taken away by numba's ``event.unregister(LOCK, ...)``.
    """
    listener = _Listener(tell)
    event.register(LOCK, listener)
    return listener
