"""The process of a rank: what the supervisor's end of the pipe sees as a rank.

It begins by making itself independent of the keyboard and dependent on the supervisor: Ctrl-C goes
to all processes of a terminal, but only one of them is to answer it; and when that one is gone, in
whatever way, this one must not stay. Then it does what it is told, one command after the other,
each answered by a `Reply`, until the pipe ends.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from baremetal.comm import AbortedError
from baremetal.errors import BaremetalError

OURS_TO_ANSWER = (signal.SIGINT, signal.SIGTERM)  # a terminal sends Ctrl-C to the ranks as well


class Reply(NamedTuple):
    """What a rank answers."""

    is_error: bool
    result: Any  # or the error's text
    is_consequence: bool = False  # it was only woken, because something else went wrong


def run_rank(main: Callable[..., None], rank: int, setup: Any, pipe: Connection) -> None:
    """What a new process begins with; see `Supervisor`."""
    for number in OURS_TO_ANSWER:
        signal.signal(number, signal.SIG_IGN)
    _end_with_the_supervisor()

    def serve(worker: Any) -> None:
        _serve(worker, pipe)

    try:
        main(rank, setup, serve)
    except BaseException as error:
        _answer(pipe, _reply_of(error))
        raise SystemExit(1) from None


@contextlib.contextmanager
def deaf_to_signals() -> Iterator[None]:
    """Processes that are started inside do not even hear Ctrl-C while they import Python."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # at its own start it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS_TO_ANSWER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_the_supervisor() -> None:
    """A thread that waits for the supervisor's end, and then ends this process at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="supervisor's end", daemon=True).start()


def _serve(worker: Any, pipe: Connection) -> None:
    """Do what is asked, until the pipe ends."""
    while True:
        try:
            method, args = pipe.recv()
        except (EOFError, OSError):
            return
        _answer(pipe, Reply(False, getattr(worker, method)(*args)))


def _answer(pipe: Connection, reply: Reply) -> None:
    with contextlib.suppress(OSError):  # nobody is there to read it
        pipe.send(reply)


def _reply_of(error: BaseException) -> Reply:
    """An error as text: ours say what to do, of others the place is what helps."""
    if isinstance(error, BaremetalError):
        return Reply(True, str(error), isinstance(error, AbortedError))
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{last.filename}:{last.lineno}"
    return Reply(True, f"{type(error).__name__}: {error} ({where})")
