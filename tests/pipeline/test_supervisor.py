"""The supervisor: whoever fails is named, and nobody is left."""

import multiprocessing
import sys
from contextlib import contextmanager

import pytest
from pipeline_dummies import run_dummy, run_late

from baremetal import comm
from baremetal.pipeline.board import Board
from baremetal.pipeline.errors import RankError
from baremetal.pipeline.patience import Limits
from baremetal.pipeline.supervisor import Supervisor

RANKS = 2
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


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals to be killed by")
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
