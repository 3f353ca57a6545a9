"""The guard of a rank over MPI: what it says of a rank that hangs, and of whom it says nothing."""

import os
import signal
import sys

import numpy as np
import pytest

from baremetal.comm.board import WaitingFor, board_bytes
from baremetal.pipeline import guard
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.patience import Limits
from baremetal.schedules import make_schedule

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no guard on Windows")
SCHEDULE = make_schedule("1f1b", 2, 2)
LIMITS = Limits(hang_s=10.0, start_s=20.0)
FOR_EVER = "import threading; threading.Event().wait()"
OURSELVES = os.getpid()  # no child of ours, and not stopped


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Rank 1 of two, as it begins to write: its board, and the guard's view of it."""
    with (tmp_path / "board").open("w+b") as file:
        desk = guard._Desk(file, 1, 2)
        assert desk.hang(100.0, OURSELVES) is None  # nothing is there
        assert desk.end(1) == "rank 1, while it started: its process ended without a word " + (
            "(exit code 1)"
        )
        monkeypatch.setenv(guard.VARIABLE, f"{file.fileno()} 0")
        yield Board(guard.guarded_board(SCHEDULE, LIMITS, board_bytes(2)), 2), desk


@pytest.mark.parametrize(
    ("state", "quiet_s", "limit_s"),
    [
        (State.COMPUTING, 9.0, None),
        (State.COMPUTING, 11.0, 10),
        (State.UPDATING, 11.0, 10),
        (State.PREPARING, 19.0, None),
        (State.PREPARING, 21.0, 20),
        (State.IDLE, 1000.0, None),  # the leader evaluates
    ],
)
def test_each_thing_a_rank_does_has_its_patience(rank, state, quiet_s, limit_s):
    board, desk = rank
    board.say(1, state, 6, 1 if state is State.COMPUTING else -1)
    said = desk.hang(quiet_s, OURSELVES)
    if limit_s is None:
        assert said is None
    else:
        assert said.startswith("rank 1 (stage 1), ")
        assert f": no progress for {limit_s} s; it was ended with all others (" in said


def test_it_names_the_action_and_lets_compile(rank):
    board, desk = rank
    board.say(1, State.COMPUTING, 6, 1)
    where = "rank 1 (stage 1), step 7, action 1B0 (full backward of stage 1, microbatch 0)"
    assert desk.hang(11.0, OURSELVES).startswith(f"{where}: no progress")
    assert (
        desk.end(-9) == f"{where}: its process ended without a word (killed by signal 9, SIGKILL)"
    )
    board.compiling(1, True)
    assert desk.hang(1000.0, OURSELVES) is None


def test_waiting_is_a_sign_of_life(rank):
    board, desk = rank
    board.wait(1, WaitingFor(0, 3, True))
    written = desk.written()
    board.beat(1)
    assert desk.written() != written


class Child:
    """A process that ends when it is killed; as `subprocess.Popen` has it."""

    def __init__(self):
        self.pid = OURSELVES
        self.was_killed = False

    def wait(self, timeout=None):
        if not self.was_killed:
            raise guard.subprocess.TimeoutExpired("rank", timeout)
        return -signal.SIGKILL

    def kill(self):
        self.was_killed = True


def test_who_hangs_is_killed_and_time_counts_only_while_it_is_watched(rank, monkeypatch):
    board, desk = rank
    board.say(1, State.COMPUTING, 6, 1)
    looks = iter(np.cumsum([0.0, 0.2, 1000.0, *[0.5] * 100]).tolist())  # once we were stopped
    seen = []

    class Watched(guard.Stopwatch):
        def __init__(self):
            super().__init__(lambda: next(looks))

        def look(self):
            seen.append(super().look())
            return seen[-1]

    monkeypatch.setattr(guard, "Stopwatch", Watched)
    child = Child()
    assert "no progress for 10 s" in guard._wait(child, desk)
    assert child.was_killed
    assert seen[:2] == [0.2, 1.2]
    assert 10.2 < seen[-1] < 11.0


def test_a_stopped_process_is_seen_to_be():
    from baremetal.pipeline.patience import is_stopped

    if not hasattr(os, "waitid"):
        pytest.skip("the system does not say")
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", FOR_EVER], {})
    try:
        assert not is_stopped(child)
        os.kill(child, signal.SIGSTOP)
        os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOWAIT)  # until it is
        assert is_stopped(child)
        assert is_stopped(child)  # looking changes nothing
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not is_stopped(child)
