"""Patience: when a rank that says nothing new is no longer at work, but hangs.

Nobody can tell a hang from hard work by waiting for its end. So a rank counts what it begins, each
action of its schedule and each launch of a kernel, and the count is looked at from outside. It may
stand still for as long as what is being done may take:

    starting               `start_s`: Python and numba are imported, on a busy machine
    preparing              `start_s`, or `hang_s` if that is more: model, kernels, plans
    compiling a kernel     for ever: LLVM says nothing until it is done
    anything else          `hang_s`

A process that the system has stopped (SIGSTOP) does nothing of all that, and has `hang_s`.

Time is counted in looks, each of which counts for a second at most: whoever looks may have been
stopped himself meanwhile, by Ctrl-Z or a closed lid, and then says nothing about the others.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from baremetal.pipeline.board import Board, State, Status

LONGEST_LOOK_S = 1.0  # what the time between two looks counts for, at most


@dataclass(frozen=True)
class Limits:
    """How long to wait for what, in seconds.

    Attributes:
        hang_s: without any progress, while computing or waiting.
        start_s: without any, while a rank starts and prepares.
        grace_s: between the end of the run and the killing of who is still there; and for the
            leading process to finish what must not be broken off.
    """

    hang_s: float = 60.0
    start_s: float = 120.0
    grace_s: float = 2.0


def limit_s(limits: Limits, status: Status, is_stopped: bool) -> float:
    """How long a rank's count may stand still, in seconds, given its line of the board."""
    if is_stopped:
        return limits.hang_s
    if status.is_compiling:
        return float("inf")
    if status.state == State.STARTING:
        return limits.start_s
    if status.state == State.PREPARING:
        return max(limits.start_s, limits.hang_s)
    return limits.hang_s


def describe_hang(time_s: float) -> str:
    """What a message says of a rank that was ended because it did nothing new for so long."""
    return (
        f"no progress for {time_s:g} s; it was ended with all others (a longer patience: "
        "--hang-limit)"
    )


def is_stopped(process: int) -> bool:
    """Whether the system has stopped this child of ours; False where it does not say."""
    if not hasattr(os, "waitid"):
        return False
    try:
        # Only looked at: whoever waits for the child's end must still find it.
        found = os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except OSError:  # it is gone
        return False
    return found is not None


class Stopwatch:
    """The time that somebody has watched, in seconds: gaps between looks count for little."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last = now()
        self.time_s = 0.0

    def look(self) -> float:
        """Look once more; returns the time watched so far."""
        now = self._now()
        self.time_s += min(now - self._last, LONGEST_LOOK_S)
        self._last = now
        return self.time_s


class Patience:
    """Who of those that were asked for something has done nothing new for too long.

    A waiting rank is not to blame as long as somebody else is at work. Only if all that are asked
    wait is something amiss that no rank will ever tell: a message that was lost on the way.

    Args:
        board: written by the ranks.
        limits: how long.
        asked: the ranks.
        is_stopped: whether the system has stopped a rank's process.

    Attributes:
        asked: those that have not answered yet.
    """

    def __init__(
        self,
        board: Board,
        limits: Limits,
        asked: Iterable[int],
        is_stopped: Callable[[int], bool] = lambda rank: False,
    ) -> None:
        self._board, self._limits, self._is_stopped = board, limits, is_stopped
        self.asked = frozenset(asked)
        self._named: frozenset[int] = frozenset()
        self._watch = Stopwatch()
        self._seen = {rank: (board.status(rank).begun, 0.0) for rank in self.asked}

    def exhausted(self) -> tuple[int, float] | None:
        """A rank that hangs, if there is one, and the limit in seconds that it has passed.

        Each rank is named once. Those that the system has stopped come first: the others may be
        quiet because of them.
        """
        now_s = self._watch.look()
        late: list[tuple[bool, int, float]] = []
        at_work = False
        for rank in sorted(self.asked - self._named):
            status = self._board.status(rank)
            begun, since_s = self._seen[rank]
            quiet_s = now_s - since_s
            # The system is asked only once a stopped process would be late.
            stopped = quiet_s > self._limits.hang_s and self._is_stopped(rank)
            may_s = limit_s(self._limits, status, stopped)
            if status.begun != begun:
                self._seen[rank] = status.begun, now_s
            elif quiet_s > may_s:
                late.append((not stopped, rank, may_s))
                continue
            at_work = at_work or status.waits_for is None
        working = [each for each in late if self._board.status(each[1]).waits_for is None]
        stuck = working or ([] if at_work else late)
        if not stuck:
            return None
        _, rank, may_s = min(stuck)
        self._named |= {rank}
        return rank, may_s
