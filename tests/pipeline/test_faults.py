"""What goes wrong on purpose: it happens where it was said, and is survived or named.

In modelled time it costs the same executed as simulated."""

import multiprocessing
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
from pipeline_models import tiny_job, windows

from baremetal import comm
from baremetal.comm.board import board_bytes
from baremetal.comm.faults import Wrong
from baremetal.machine import find_link
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.compiling import LOCK, tell_of_compiling
from baremetal.pipeline.errors import PipelineError, RankError
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.faults import (
    ProcessFault,
    WrongMessage,
    check_faults,
    faults_after,
    message_faults,
    parse_faults,
    process_faults,
)
from baremetal.pipeline.patience import Limits, Patience
from baremetal.pipeline.run import PipelineRun
from baremetal.pipeline.runner import Batch
from baremetal.schedules import Action, Kind, make_schedule
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import wire

MICROBATCHES, RATE = 4, 1e-2
SCHEDULE = make_schedule("zb-h1", 2, MICROBATCHES)


# ---------------------------------------------------------------- the plan


def test_a_line_of_faults_is_read_and_written():
    line = (
        "kill rank 1 step 20 action 5, hang rank 0  step 3, drop 0F3 step 2 times 2,"
        "stop rank 1 step 1 action 1I2"
    )
    faults = parse_faults(line)
    assert faults == (
        ProcessFault("kill", 1, 19, 5),
        ProcessFault("hang", 0, 2, 0),
        WrongMessage(Wrong.DROP, Action(Kind.F, 0, 3), 1, 2),
        ProcessFault("stop", 1, 0, Action(Kind.I, 1, 2)),
    )
    assert parse_faults(", ".join(map(str, faults))) == faults
    assert parse_faults("") == ()
    assert faults_after(faults, 2) == faults[:1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("explode rank 1 step 2", "unknown 'explode'; a process can raise, exit, kill, stop, hang"),
        ("kill rank 1", "expected 'kill rank R step S action A'"),
        ("kill rank 1 step 0", "steps count from 1"),
        ("kill rank 1 step 1 action 1X2", "'1X2' is no action"),
        ("kill rank 2 step 1", "there are ranks 0 to 1"),
        ("kill rank 1 step 1 action 99", "rank 1 has the actions 0 to 11"),
        ("kill rank 1 step 1 action 0F0", "rank 1 has no such action"),
        ("drop step 2", "expected 'drop ACTION step S'"),
        ("drop 0W1 step 1", "no action 0W1 that sends a message to another rank"),
        ("drop 1F1 step 1", "no action 1F1 that sends a message"),
        ("reorder 0F1 step 1 times 2", "only drop and corrupt"),
        ("duplicate 0F0 step 1, drop 0F1 step 1", "something else happens to that message"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(line, said):
    with pytest.raises(PipelineError, match="--fault") as caught:
        check_faults(parse_faults(line), wire(SCHEDULE))
    assert said in str(caught.value)


def test_messages_are_numbered_over_the_whole_run():
    wiring = wire(SCHEDULE)
    faults = parse_faults("drop 0F3 step 2, corrupt 1I0 step 6 times 4")
    assert message_faults(faults, wiring, 4) == [comm.MessageFault(Wrong.CORRUPT, 1, 4, times=4)]
    first, _ = message_faults(faults, wiring, 0)
    assert (first.lane, first.sequence) == (0, 7)


# ---------------------------------------------------------------- what is survived


def job_with(line, **options):
    link = replace(find_link("800g"), jitter_ps=10**6, retransmit_timeout_ps=5 * 10**6)
    options = {"times": Times.uniform(2, 10**6, 10**6, 10**6), "link": link} | options
    return tiny_job(SCHEDULE, charge="unit", eager=True, faults=parse_faults(line), **options)


def test_messages_that_fail_change_no_bit_and_cost_what_the_simulator_says():
    line = (
        "drop 0F1 step 1 times 2, corrupt 1I2 step 1, duplicate 0F3 step 1, reorder 0F2 step 2, "
        "reorder 1I3 step 2, corrupt 0F3 step 3 times 3, drop 1I0 step 3, duplicate 1I1 step 3"
    )
    job = job_with(line, stragglers={1: 1.5})
    clean, weights = [], []
    with PipelineRun(job) as run:
        start = run.state()
        for turn in range(2):  # in the second nothing fails any more
            losses = []
            for step in range(3):
                done = run.step(Batch(*windows(step, MICROBATCHES), step), RATE)
                losses.append(done.losses)
                if turn == 0:
                    assert first_difference(done.executed, run.simulate(done)) is None
                else:
                    clean.append(done.executed.makespan_ps)
            weights.append((np.array(losses), run.state()[0]))
            run.load(*start)
        counts = run.ranks.call("counts")
    (losses, faulty), (clean_losses, wanted) = weights
    assert (losses == clean_losses).all()
    assert all((faulty[name] == wanted[name]).all() for name in wanted)
    assert sum(count.resent for count in counts) >= 8


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(
            "exit rank 1 step 1 action 1F2",
            "rank 1 (stage 1), step 1, action 1F2 (forward of stage 1, microbatch 2): its process "
            "ended without a word (exit code 3)",
            id="exit",
        ),
        pytest.param(
            "stop rank 0 step 1 action 3",
            "rank 0 (stage 0), step 1, action 0W0 (weight-gradient of stage 0, microbatch 0): no "
            "progress for 3 s",
            id="stop",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP"),
        ),
        pytest.param(
            "corrupt 0F3 step 1 times 4",
            "rank 1 (stage 1), step 1, action 1F3 (forward of stage 1, microbatch 3): ",
            id="corrupt",
        ),
    ],
)
def test_what_ends_the_run_is_named_with_stage_action_microbatch_and_cause(line, said):
    with PipelineRun(job_with(line), Limits(hang_s=3.0)) as run:
        with pytest.raises(RankError) as caught:
            run.step(Batch(*windows(0, MICROBATCHES), 0), RATE)
        assert str(caught.value).startswith(said)
        assert multiprocessing.active_children() == []
        name = run.ranks.exchange.address.name
    with pytest.raises(comm.CommError):
        comm.SharedMemory.attach(name, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_each_kind_does_what_it_says_where_it_says(monkeypatch):
    done = []

    class Event:
        def wait(self):
            done.append("sleeps")

    monkeypatch.setattr("os._exit", done.append)
    monkeypatch.setattr("os.kill", lambda process, number: done.append(number))
    monkeypatch.setattr("threading.Event", Event)
    faults = parse_faults(
        "exit rank 1 step 1, kill rank 1 step 2 action 1, stop rank 1 step 2 action 2, "
        "hang rank 1 step 3 action 2, raise rank 0 step 1"
    )
    before_action = process_faults(faults, wire(SCHEDULE), 1)
    for step in range(3):
        for number in range(3):
            before_action(step, number)
    assert done == [3, signal.SIGKILL, signal.SIGSTOP, "sleeps"]
    with pytest.raises(PipelineError, match="an error on purpose"):
        process_faults(faults, wire(SCHEDULE), 0)(0, 0)


# ---------------------------------------------------------------- what is no hang


@pytest.fixture
def board():
    return Board(np.zeros(board_bytes(1) // 8, np.int64).view(np.uint8), 1)


def test_a_launch_in_a_plan_is_progress(board):
    """A list of launches counts on the board, without Python in between."""
    from baremetal.autograd import Tensor
    from baremetal.capture import capture
    from baremetal.kernels.native.pool import POOL

    def twice(x):
        return [Tensor(x) * 2.0 + 1.0]

    captured = capture(twice)
    for _ in range(2):
        captured(np.zeros(3, np.float32))
    launches = len(captured.plan.launches)
    board.say(0, State.COMPUTING, 0, 0)
    POOL.count_in(board.count_of(0))
    try:
        captured(np.zeros(3, np.float32))
    finally:
        POOL.count_in(np.zeros(1, np.int64))
    assert board.status(0).begun == 1 + launches


def test_who_compiles_does_not_hang(board):
    board.say(0, State.COMPUTING, 0, 0)
    patience = Patience(board, Limits(hang_s=-1.0), [0])
    board.compiling(0, True)
    assert board.status(0).state is State.COMPUTING
    assert patience.exhausted() is None  # that was progress
    assert patience.exhausted() is None
    board.compiling(0, False)
    assert patience.exhausted() is None  # that was progress
    assert patience.exhausted() == (0, -1.0)


def test_each_is_named_once_and_first_who_is_stopped():
    """The one that is quiet may be so because of the other."""
    board = Board(np.zeros(board_bytes(3), np.uint8), 3)
    for rank in range(3):
        board.say(rank, State.COMPUTING, 0, 0)
    patience = Patience(board, Limits(hang_s=-1.0), range(3), lambda rank: rank == 1)
    assert patience.exhausted() == (1, -1.0)
    patience.asked -= {0}  # it has answered
    board.say(2, State.COMPUTING, 0, 0)
    assert patience.exhausted() is None
    assert patience.exhausted() == (2, -1.0)
    assert patience.exhausted() is None


def test_compiling_is_told_of_once_however_deep():
    from numba.core import event

    told = []
    listener = tell_of_compiling(told.append)
    try:
        with event.trigger_event(LOCK), event.trigger_event(LOCK):
            assert told == [True]
        assert told == [True, False]
    finally:
        event.unregister(LOCK, listener)
