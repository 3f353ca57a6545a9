"""Under `mpiexec`: a process that watches over a rank, so that a rank that is killed has a voice.

    mpiexec ─┬─ guard of rank 0 ── rank 0
             └─ guard of rank 1 ── rank 1

A rank that raises can say what it was doing. One that is killed cannot, and `mpiexec` knows only
the signal. So the process that `mpiexec` has started does not train: it starts the same command
once more, as its child, and waits. The child writes what it begins on a board, as every rank does
(`board.py`), here in an unnamed file that both have open. When the child ends without a word, the
guard reads the board, says what stands there, and ends badly itself, upon which `mpiexec` ends all.

The same when the child hangs: not a byte of the board changes for longer than what stands there may
take (`patience.py`). A rank that waits for a neighbour counts its rounds of waiting, so it is not
taken for one that hangs; nor is one that waits for the leader's next command, which may be
evaluating. A guard sees its own rank only, so if all wait, for a message that never comes, it says
nothing; but MPI loses none.

They end together: when the guard is gone (`mpiexec` kills it because another rank has failed), the
child sees the end of a pipe whose other end only the guard holds, and leaves at once. Ctrl-C and
SIGTERM go the same way: some launchers signal the processes that they have started, others those
processes' children as well. So the child is deaf to signals, and hears of each by the pipe, once.

Without the means for that (on Windows) there is no guard, and `mpiexec` says that a rank died.
"""

import _thread
import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from typing import BinaryIO

import numpy as np

from baremetal.comm.board import board_bytes
from baremetal.pipeline.board import Board, State, Status
from baremetal.pipeline.patience import Limits, Stopwatch, describe_hang, is_stopped, limit_s
from baremetal.pipeline.words import describe_end, describe_status, rank_name
from baremetal.schedules import Schedule

VARIABLE = "BAREMETAL_GUARD"  # of a guarded process: its numbers of the board's file and the pipe
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
SPOKEN = (0, 1, 2, 130)  # after a line of ours, or a traceback of Python's
BAD_END = 2
LOOK_S = 0.25  # how often the board is looked at
QUIET_S = 1.0  # before that nobody is suspected


def can_guard() -> bool:
    """Whether this process should become the guard of another one."""
    return os.name == "posix" and VARIABLE not in os.environ


# ---------------------------------------------------------------- the guard


def guard_rank(rank: int, ranks: int) -> int:
    """Start this very command once more and watch over it. Returns its exit status."""
    end_of_ours, ours = os.pipe()
    with tempfile.TemporaryFile() as file:
        for descriptor in (file.fileno(), end_of_ours):
            os.set_inheritable(descriptor, True)
        try:
            process = _start(file, end_of_ours, ours)
            os.close(end_of_ours)
            desk = _Desk(file, rank, ranks)
            end = _wait(process, desk)
        finally:
            os.close(ours)
    if end is None:
        return process.returncode
    print(f"\nbaremetal: {end}", file=sys.stderr, flush=True)  # a bar may stand there
    return BAD_END


def _wait(process: subprocess.Popen, desk: "_Desk") -> str | None:
    """Until the rank has ended, or has hung and been killed; None if it has spoken for itself."""
    watch, written, since_s = Stopwatch(), b"", 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(LOOK_S)
            return None if status in SPOKEN else desk.end(status)
        now_s, before = watch.look(), written
        written = desk.written()
        if written != before:
            since_s = now_s
        elif (end := desk.hang(now_s - since_s, process.pid)) is not None:
            process.kill()
            process.wait()
            return end


class _Desk:
    """What a rank has written: its board, and behind it what the numbers there mean."""

    def __init__(self, file: BinaryIO, rank: int, ranks: int) -> None:
        self._file, self._rank, self._ranks = file, rank, ranks
        self._size_bytes = board_bytes(ranks)

    def written(self) -> bytes:
        """The board, as it stands."""
        return os.pread(self._file.fileno(), self._size_bytes, 0)

    def end(self, status: int) -> str:
        """What the rank was doing, and how it ended."""
        where = f"rank {self._rank}, while it started"
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # it ended before it was there
            where = self._where(self._meaning()[0])
        return f"{where}: its process ended without a word ({describe_end(status)})"

    def hang(self, quiet_s: float, process: int) -> str | None:
        """That the rank hangs, if it does: nothing has changed for so long."""
        if quiet_s < QUIET_S or self._status().begun == 0:
            return None  # before its first word nothing is known, not even its patience
        schedule, limits = self._meaning()
        status, stopped = self._status(), is_stopped(process)
        if status.state == State.IDLE and not stopped:
            return None
        time_s = limit_s(limits, status, stopped)
        return f"{self._where(schedule)}: {describe_hang(time_s)}" if quiet_s > time_s else None

    def _meaning(self) -> tuple[Schedule, Limits]:
        self._file.seek(self._size_bytes)
        return pickle.load(self._file)

    def _status(self) -> Status:
        memory = np.zeros(self._size_bytes, np.uint8)
        written = np.frombuffer(self.written(), np.uint8)
        memory[: len(written)] = written
        return Board(memory, self._ranks).status(self._rank)

    def _where(self, schedule: Schedule) -> str:
        doing = describe_status(schedule, self._rank, self._status())
        return f"{rank_name(schedule, self._rank)}, {doing}"


def _start(board: BinaryIO, end_of_ours: int, ours: int) -> subprocess.Popen:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # for the child, which inherits it
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.write(ours, bytes([number])))
    process = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {VARIABLE: f"{board.fileno()} {end_of_ours}"},
        close_fds=False,  # MPI talks with mpiexec through what it has opened for us
    )
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


# ---------------------------------------------------------------- the guarded rank


def listen_to_the_guard() -> None:
    """A thread that hears of signals from the guard, and of its end, which ends this process."""
    if VARIABLE not in os.environ:
        return
    pipe = int(os.environ[VARIABLE].split()[1])

    def listen() -> None:
        while number := os.read(pipe, 1):
            told = signal.Signals(number[0])
            if signal.getsignal(told) == signal.SIG_DFL:
                os._exit(128 + told)
            _thread.interrupt_main(told)  # as if it had come here
        os._exit(BAD_END)

    threading.Thread(target=listen, name="guard", daemon=True).start()


def guarded_board(schedule: Schedule, limits: Limits, size_bytes: int) -> np.ndarray | None:
    """Memory of the board, (size_bytes,) uint8 zeros, that the guard can read; None without one.

    Args:
        schedule: what the numbers on the board mean.
        limits: how long they may stand still.
        size_bytes: of the board.
    """
    if VARIABLE not in os.environ:
        return None
    descriptor = int(os.environ[VARIABLE].split()[0])
    os.pwrite(descriptor, bytes(size_bytes) + pickle.dumps((schedule, limits)), 0)
    return np.frombuffer(mmap.mmap(descriptor, size_bytes), np.uint8)
