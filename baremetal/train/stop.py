"""Stopping in order: Ctrl-C and SIGTERM finish the step, save, and leave.

The first signal only sets a flag that the training loop reads between steps, so nothing is ever
half done. A second Ctrl-C means it: it interrupts at once, as usual.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopFlag:
    """True once someone has asked the run to stop."""

    def __init__(self) -> None:
        self.reason = ""

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """While open, SIGINT and SIGTERM set the flag instead of interrupting.

    Outside the main thread Python delivers no signals; the flag then simply stays down.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.reason = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
