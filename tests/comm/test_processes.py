"""Ranks in processes of their own: times, large messages, and what happens when one dies."""

import os
import sys
import time
from itertools import pairwise

import comm_ranks
import numpy as np
import pytest

from baremetal.comm.clock import VirtualClock, WallClock
from baremetal.comm.endpoint import Endpoint, Exchange
from baremetal.comm.errors import AbortedError, CommError
from baremetal.comm.faults import MessageFault, Wrong
from baremetal.comm.layout import Lane, make_layout
from baremetal.comm.leftovers import records_folder, sweep_leftovers
from baremetal.comm.shared_memory import SharedMemory

PATIENCE_S = 60  # until a process that does not answer fails the test; one that works needs none


def answer(pipe):
    assert pipe.poll(PATIENCE_S), "no answer"
    return pipe.recv()


def check_alive(process):
    """A duty: do not wait for a process that has failed."""
    assert process.exitcode in (None, 0), "the other process failed"


def there_and_back(start, shape, messages, slots=2, clock=None, wall_origin_ns=None, faults=()):
    """Rank 0 sends all it can before it takes what comes back; rank 1 halves. Our end's times."""
    clock = clock or VirtualClock()
    lanes = [Lane(0, 1, slots, shape, label="there"), Lane(1, 0, slots, shape, label="back")]
    with Exchange(make_layout(2, lanes)) as exchange:
        process, pipe = start(
            comm_ranks.relay_process, exchange.address, comm_ranks.CALM, messages, 100,
            wall_origin_ns=wall_origin_ns, faults=faults,
        )  # fmt: skip
        with Endpoint(exchange.address, 0, comm_ranks.CALM, faults=faults) as ends:
            ends.waiting.duties.append(lambda: check_alive(process))
            out, back = ends.senders[0], ends.receivers[1]
            into = np.empty(shape, np.float32)
            times = []
            for k in range(messages):
                out.free(k)
                message = comm_ranks.message(k, out.lane)
                sent = out.send(k, message, clock.now_ps())
                arrival = back.arrival(k)
                now = clock.wait_until(arrival)
                back.receive(k, into, now)
                np.testing.assert_array_equal(into, message * np.float32(0.5))
                times.append((sent, arrival, now))
        end_ps, counts = answer(pipe)
        process.join()
    assert process.exitcode == 0
    return times, end_ps, counts, ends.counts


def test_virtual_time_is_the_closed_form_s(start):
    times, end_ps, _, _ = there_and_back(start, (25,), 20)  # 100 bytes
    # there: 10 + 100 bytes at 1 ps, 1000 latency; work 100; back: 50 ps, 2000 latency
    lap = 110 + 1000 + 100 + 50 + 2000
    assert [now for *_, now in times] == [lap * (k + 1) for k in range(20)]
    assert end_ps == 19 * lap + 110 + 1000 + 100


def test_large_messages_are_followed_while_they_are_written(start):
    shape = (5, 200_001)  # 4 MB, and no multiple of a block
    _, _, theirs, ours = there_and_back(start, shape, 6, slots=1)
    assert theirs.received == ours.sent == 6
    assert theirs.received_bytes == ours.sent_bytes == 6 * 5 * 200_001 * 4


def test_faults_are_mended_between_processes(start):
    faults = [
        MessageFault(wrong, lane, 3 * k) for lane in range(2) for k, wrong in enumerate(Wrong)
    ]
    _, _, theirs, ours = there_and_back(start, (1000,), 14, faults=faults)
    assert theirs.damaged == ours.damaged == 1
    assert theirs.duplicated == ours.duplicated == 1
    assert theirs.out_of_order == ours.out_of_order == 1
    assert theirs.resent == ours.resent == 4


def test_on_the_wall_nothing_arrives_too_early(start):
    origin_ns = time.monotonic_ns()
    times, *_ = there_and_back(
        start, (25,), 5, clock=WallClock(origin_ns), wall_origin_ns=origin_ns
    )
    lap = 110 + 1000 + 50 + 2000  # the work takes what it takes
    for sent, arrival, now in times:
        assert now >= arrival >= sent.arrival_ps + 50 + 2000
        assert sent.arrival_ps == sent.depart_ps + 1110
    arrivals = [arrival for _, arrival, _ in times]
    assert all(later >= earlier + lap for earlier, later in pairwise(arrivals))


def test_a_rank_whose_peer_is_killed_is_woken(start):
    # Rank 0 hangs and is killed. The supervisor (this process) learns it from the closed pipe.
    with Exchange(make_layout(2, [Lane(0, 1, 1, (10,))])) as exchange:
        victim, victim_pipe = start(comm_ranks.hang)
        waiter, waiter_pipe = start(comm_ranks.wait_for_ever, exchange.address)
        assert answer(victim_pipe) == "here"
        assert answer(waiter_pipe) == "waiting"
        victim.kill()
        assert victim_pipe.poll(PATIENCE_S)
        with pytest.raises(EOFError):
            victim_pipe.recv()
        exchange.board.abort("rank 0 died (killed by signal 9)")
        assert answer(waiter_pipe) == "rank 1 stopped: rank 0 died (killed by signal 9)"
        waiter.join()
        assert waiter.exitcode == 0


def test_a_rank_whose_supervisor_is_killed_ends(start):
    with Exchange(make_layout(2, [Lane(0, 1, 1, (10,))])) as exchange:
        supervisor, pipe = start(comm_ranks.start_a_rank, exchange.address)
        assert answer(pipe) == "waiting"
        supervisor.kill()
        supervisor.join()
        assert answer(pipe) == "rank 1 stopped: the process that started it is gone"


def test_a_rank_of_this_process_can_end_the_run(joined):
    _, (one, two) = joined(Lane(0, 1, 1, (10,)))
    one.abort("F3 of stage 0 raised")
    with pytest.raises(AbortedError, match="F3 of stage 0 raised"):
        two.receivers[0].arrival(0)


posix = pytest.mark.skipif(sys.platform == "win32", reason="segments go with their processes")


@posix
def test_the_next_start_clears_what_a_killed_run_left(start):
    owner, pipe = start(comm_ranks.own_an_exchange)
    name = answer(pipe)
    assert sweep_leftovers() == []  # it lives
    owner.kill()
    owner.join()
    with Exchange(make_layout(2, [Lane(0, 1, 1, (10,))])):  # the next start
        assert sweep_leftovers() == []
        assert len(list(records_folder().glob("*.run"))) == 1
    with pytest.raises(CommError):
        SharedMemory.attach(name, 1)


@posix
def test_a_damaged_record_removes_nothing_else():
    other = SharedMemory.create(f"somebody-{os.getpid()}", 10)
    try:
        record = records_folder() / "old.run"
        record.write_bytes(f"{other.name}\n\xff\xfe\nbaremetal-gone\n".encode("latin-1"))
        assert sweep_leftovers() == []
        assert not record.exists()
        SharedMemory.attach(other.name, 10)
    finally:
        other.unlink()


@posix
def test_a_folder_of_somebody_else_is_refused(monkeypatch, refused):
    with monkeypatch.context() as patch, refused("not a folder of this user"):
        folder = records_folder()
        patch.setattr(os, "getuid", lambda: 12345)
        folder.rename(folder.with_name("baremetal-12345"))
        records_folder()
