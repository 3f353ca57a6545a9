"""The supervisor: whoever fails is named, and nobody is left."""

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import contextmanager

import pytest
from pipeline_dummies import run_dummy, run_late

from baremetal import comm
from baremetal.pipeline.board import Board
from baremetal.pipeline.errors import RankError
from baremetal.pipeline.patience import Limits
from baremetal.pipeline.supervisor import Supervisor

RANKS = 2
LONG_S = 60.0  # nothing here waits so long, unless it is broken
LONG_B = 1 << 24
needs_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="there are no signals to be killed by"
)
LAYOUT = comm.Layout(RANKS, tuple(comm.Lane(a, 1 - a, 1, (4,), label="x") for a in range(RANKS)))


def describe(rank, step, action):
    return f"step {step + 1}, action {action}"


@contextmanager
def ranks(main=run_dummy, **limits):
    with comm.Exchange(LAYOUT) as exchange:
        board = Board(exchange.board.memory, RANKS)
        patience = Limits(grace_s=2.0, **limits)
        with Supervisor(main, [exchange.address] * RANKS, board, describe, patience) as supervisor:
            yield supervisor
    assert multiprocessing.active_children() == []
    with pytest.raises(comm.CommError):
        comm.SharedMemory.attach(exchange.address.name, 1)


def test_all_answer_in_the_order_of_ranks():
    with ranks() as supervisor:
        assert supervisor.call("echo", "hello") == [(0, "hello"), (1, "hello")]
        assert supervisor.call("echo", "you", ranks=[1]) == [(1, "you")]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "rank 1, step 8, action 3: it went wrong: mend it"),
        ("raises_unexpectedly", "rank 1, step 8, action 3: KeyError: 'nobody thought of this'"),
        ("exits", "rank 1, step 8, action 3: its process ended without a word (exit code 3)"),
    ],
)
def test_the_one_that_failed_is_named_and_not_those_that_waited_for_it(how, said):
    with ranks() as supervisor:
        with pytest.raises(RankError) as caught:
            supervisor.call("fail", 1, how)
        assert str(caught.value).startswith(said)
        assert caught.value.rank == 1
        with pytest.raises(RankError, match="the run is over"):
            supervisor.call("echo", "anybody?")


@needs_signals
def test_a_killed_rank_is_named_with_its_signal():
    with ranks() as supervisor, pytest.raises(RankError, match="killed by signal 9, SIGKILL"):
        supervisor.call("fail", 0, "dies")


def test_a_rank_that_hangs_is_found_out_among_those_that_wait():
    with (
        ranks(hang_s=0.5) as supervisor,
        pytest.raises(RankError, match=r"rank 0, step 8, action 3: no progress for 0.5 s"),
    ):
        supervisor.call("fail", 0, "hangs")


def test_all_waiting_is_a_hang_too():
    with (
        ranks(hang_s=0.5) as supervisor,
        pytest.raises(RankError, match="while it waited for a neighbour: no progress"),
    ):
        supervisor.call("fail", None, "nobody")


def test_a_rank_that_cannot_begin_is_named():
    with ranks(run_late) as supervisor, pytest.raises(RankError, match="cannot begin"):
        supervisor.call("echo", "hello")


# ---------------------------------------------------------------- between commands


def kill(supervisor, rank):
    os.kill(supervisor.process_ids[rank], signal.SIGKILL)


def kill_and_wait(supervisor, rank):
    """Work that would never end."""
    with supervisor.interruptible():
        kill(supervisor, rank)
        threading.Event().wait(LONG_S)


def kill_and_finish(supervisor, rank, done):
    """Some more of it, which had better be finished."""
    with supervisor.interruptible():
        with supervisor.finishing():
            kill(supervisor, rank)
            supervisor._processes[rank].join()
            done.append("saved")
        threading.Event().wait(LONG_S)


@needs_signals
def test_a_rank_that_dies_between_commands_ends_the_work_of_the_leading_process():
    """It waits for something that never comes: nothing else would end it."""
    with ranks() as supervisor:
        supervisor.call("echo", "hello")
        with pytest.raises(
            RankError, match=r"^rank 1, between two commands: its process ended wit"
        ):
            kill_and_wait(supervisor, 1)
        assert not any(process.is_alive() for process in supervisor._processes)


@needs_signals
def test_what_it_had_better_finish_it_finishes_first():
    done = []
    with ranks() as supervisor:
        supervisor.call("echo", "hello")
        with pytest.raises(RankError, match=r"^rank 0, between two commands"):
            kill_and_finish(supervisor, 0, done)
    assert done == ["saved"]


@needs_signals
def test_in_a_command_the_message_is_that_of_the_command_and_there_is_one():
    with ranks() as supervisor:
        with (
            pytest.raises(RankError, match="rank 1, step 8, action 3: it went wrong"),
            supervisor.interruptible(),
        ):
            supervisor.call("fail", 1, "raises")
        with supervisor.interruptible():  # nothing comes later
            supervisor._watcher.join()


@needs_signals
def test_without_such_work_the_next_command_says_it():
    with ranks() as supervisor:
        supervisor.call("echo", "hello")
        kill(supervisor, 1)
        supervisor._processes[1].join()
        with pytest.raises(RankError, match="rank 1, between two commands: its process ended"):
            supervisor.call("echo", "anybody?")


@needs_signals
@pytest.mark.parametrize("what", ["command", "answer"])
def test_a_rank_that_is_stopped_in_the_midst_of_a_long_message_is_found_out(what):
    """More than a pipe holds: whoever waits for the rest of it waits for ever."""
    said = r"^rank 1, between two commands: no progress for 0.5 s"
    with ranks(hang_s=0.5) as supervisor:
        supervisor.call("echo", "hello")
        if what == "command":
            os.kill(supervisor.process_ids[1], signal.SIGSTOP)
        command = ("echo", bytes(LONG_B)) if what == "command" else ("answer_half",)
        with pytest.raises(RankError, match=said):
            supervisor.call(*command)


@needs_signals
def test_a_rank_that_is_stopped_while_it_prepares_or_compiles_is_found_out():
    with (
        ranks(hang_s=0.5) as supervisor,
        pytest.raises(RankError, match=r"rank 0, while it prepared .*: no progress for 0.5 s"),
    ):
        supervisor.call("stop_while_it_compiles", 0)
