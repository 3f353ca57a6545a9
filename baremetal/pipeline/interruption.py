"""Interrupting the main thread: what it does is of no use any more, a rank has died.

Between two steps the leading process evaluates, saves, draws, or waits for a terminal that takes
no more text. A thread beside it notices a death at once, but a thread cannot raise an exception in
another one. What can is a signal. Python runs a signal's handler in the main thread, between two
of its instructions, and what the handler raises is raised there; a system call that would last is
broken off. It is what Ctrl-C does, and the same signal serves here: code that survives Ctrl-C
survives this.

    thread                               main thread
    interrupt() ── SIGINT ──>            handler: raise Interrupted     (Ctrl-C's handler is put
                                         ... cleans up ...               in front of, and still
                                         allowed() ends                  answers Ctrl-C)

`Interrupted` is no `Exception`: who handles failures of a step of his own ("no picture: disk
full") must not take it for one.

Limits. One native call (a kernel, a read from disk) runs to its end first. A section that is
better finished than broken off, the saving of a checkpoint, is given some seconds (`finishing`).
Outside the main thread, where Python delivers no signals, nothing is interrupted.
"""

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

PAUSE_S = 0.001
LOOK_S = 0.02  # how often one that waits for its moment looks whether it is still wanted


class Interrupted(BaseException):
    """Raised in the midst of what the main thread does."""


class Interruption:
    """One thread's work, and another one that can end it, once."""

    def __init__(self) -> None:
        self._unbroken = threading.RLock()  # held by the main thread: not now
        self._deciding = threading.Lock()  # whether anything is sent
        self._is_allowed = False
        self._was_sent = False
        self._has_arrived = False

    # ------------------------------------------------------------ in the main thread

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Work that can be interrupted.

        Raises:
            Interrupted: it was.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._handler_before(before))
        self._is_allowed = True
        try:
            yield
        finally:
            try:
                self._end()
            finally:
                signal.signal(signal.SIGINT, before)

    def finishing(self) -> AbstractContextManager[Any]:
        """Work inside it that had better be finished: the interruption waits for a while."""
        return self._unbroken

    def _handler_before(self, before: Any) -> Callable[[int, FrameType | None], None]:
        def handler(number: int, frame: FrameType | None) -> None:
            if self._was_sent and not self._has_arrived:
                self._has_arrived = True
                raise Interrupted
            if callable(before):
                before(number, frame)
            elif before == signal.SIG_DFL:
                raise KeyboardInterrupt

        return handler

    def _end(self) -> None:
        """From now on nothing is sent, and what was has arrived: the next handler is another's."""
        with self._deciding:
            self._is_allowed = False
        while self._was_sent and not self._has_arrived:
            time.sleep(PAUSE_S)

    # ------------------------------------------------------------ in another thread

    def interrupt(self, patience_s: float, is_needless: Callable[[], bool]) -> None:
        """End the main thread's work, if it can be.

        Args:
            patience_s: for what it had better finish.
            is_needless: asked while that is waited for, and at the last moment: whether the work
                has ended by itself.
        """
        deadline = time.monotonic() + patience_s
        while not (got := self._unbroken.acquire(timeout=LOOK_S)):
            if is_needless() or time.monotonic() > deadline:
                break
        try:
            with self._deciding:
                if self._is_allowed and not self._was_sent and not is_needless():
                    self._was_sent = True
                    _signal_main_thread()
        finally:
            if got:
                self._unbroken.release()


def _signal_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):  # wakes it from a system call
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:  # Windows
        _thread.interrupt_main()
