"""Under `mpiexec`: a process that watches over a rank, so that a rank that is killed has a voice.

    mpiexec ─┬─ guard of rank 0 ── rank 0
             └─ guard of rank 1 ── rank 1

A rank that raises can say what it was doing. One that is killed cannot, and `mpiexec` knows only
the signal. So the process that `mpiexec` has started does not train: it starts the same command
once more, as its child, and waits. The child writes what it begins on a board, as every rank does
(`board.py`), here in an unnamed file that both have open. When the child ends without a word, the
guard reads the board, says what stands there, and ends badly itself, upon which `mpiexec` ends all.

They end together: when the guard is gone (`mpiexec` kills it because another rank has failed), the
child sees the end of a pipe whose other end only the guard holds, and leaves at once. Ctrl-C and
SIGTERM go the same way: some launchers signal the processes that they have started, others those
processes' children as well. So the child is deaf to signals, and hears of each by the pipe, once.

Without the means for that (on Windows) there is no guard, and `mpiexec` says that a rank died.
"""

import _thread
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

VARIABLE = "BAREMETAL_GUARD"  # of a guarded process: its numbers of the board's file and the pipe
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
SPOKEN = (0, 1, 2, 130)  # after a line of ours, or a traceback of Python's
BAD_END = 2


def can_guard() -> bool:
    """Whether this process should become the guard of another one."""
    return os.name == "posix" and VARIABLE not in os.environ


# ---------------------------------------------------------------- the guard


def guard_rank(rank: int, ranks: int) -> int:
    """Start this very command once more and watch over it. Returns its exit status."""
    end_of_ours, ours = os.pipe()
    with tempfile.TemporaryFile() as board:
        for descriptor in (board.fileno(), end_of_ours):
            os.set_inheritable(descriptor, True)
        try:
            process = _start(board, end_of_ours, ours)
            os.close(end_of_ours)
            status = process.wait()
        finally:
            os.close(ours)
        if status in SPOKEN:
            return status
        words = _last_words(board, rank, ranks, status)
        print(f"\nbaremetal: {words}", file=sys.stderr, flush=True)  # a bar may stand there
        return BAD_END


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


def _last_words(board: BinaryIO, rank: int, ranks: int, status: int) -> str:
    """What the rank was doing, and how it ended."""
    from baremetal.comm.board import board_bytes
    from baremetal.pipeline.board import Board
    from baremetal.pipeline.words import describe_end, describe_status, rank_name

    where = f"rank {rank}, while it started"
    size_bytes = board_bytes(ranks)
    if os.fstat(board.fileno()).st_size > size_bytes:
        board.seek(0)
        lines = Board(np.frombuffer(board.read(size_bytes), np.uint8), ranks)
        schedule = pickle.load(board)
        doing = describe_status(schedule, rank, lines.status(rank))
        where = f"{rank_name(schedule, rank)}, {doing}"
    return f"{where}: its process ended without a word ({describe_end(status)})"


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


def guarded_board(schedule: object, size_bytes: int) -> np.ndarray | None:
    """Memory of the board, (size_bytes,) uint8 zeros, that the guard can read; None without one.

    Args:
        schedule: what the numbers on the board mean.
        size_bytes: of the board.
    """
    if VARIABLE not in os.environ:
        return None
    descriptor = int(os.environ[VARIABLE].split()[0])
    os.pwrite(descriptor, bytes(size_bytes) + pickle.dumps(schedule), 0)
    return np.frombuffer(mmap.mmap(descriptor, size_bytes), np.uint8)
