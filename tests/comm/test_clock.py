"""Clocks, and a link as a queue."""

import time
from fractions import Fraction

import pytest

from baremetal.comm.clock import VirtualClock, WallClock
from baremetal.comm.link_queue import INSTANT, LinkQueue
from baremetal.machine.link import Link


def test_virtual_time_only_grows():
    clock = VirtualClock()
    assert [clock.wait_until(5), clock.advance(3), clock.wait_until(2), clock.now_ps()] == [
        5,
        8,
        8,
        8,
    ]


@pytest.mark.parametrize("ahead_ps", [0, 10**6, 10**8, 3 * 10**10])
def test_wall_time_is_not_reached_too_early(ahead_ps):
    clock = WallClock(time.monotonic_ns())
    then = clock.now_ps() + ahead_ps
    assert clock.wait_until(then) >= then
    assert clock.now_ps() >= then
    assert clock.wait_until(then - 10**6) >= then  # past already


def test_wall_time_is_not_reached_by_a_sleep_that_ends_early(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    clock = WallClock(time.monotonic_ns())
    then = clock.now_ps() + 10**9
    assert clock.wait_until(then) >= then


def test_wall_time_is_in_picoseconds_since_the_origin(monkeypatch):
    monkeypatch.setattr(time, "monotonic_ns", lambda: 5_000)
    assert WallClock(3_000).now_ps() == 2_000_000  # 2 us


def test_wall_time_takes_work_as_done():
    clock = WallClock(time.monotonic_ns())
    assert clock.advance(10**15) < 10**15  # a modelled quarter of an hour is not slept through


def test_a_wall_clock_that_waits_looks_whether_the_run_is_over():
    def over():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WallClock(time.monotonic_ns(), over).wait_until(10**18)


def test_one_message_at_a_time():
    link = LinkQueue(Link("slow", 8 * 10**12, latency_ps=100, overhead_ps=10), 0, 1)
    assert link.carry(90, 1000) == (1000, 1100, 1200)
    assert link.carry(40, 1010) == (1100, 1150, 1250)  # waits
    assert link.carry(40, 5000) == (5000, 5050, 5150)  # does not


def test_losses_and_jitter_are_those_of_the_description():
    link = Link(
        "bad", 8 * 10**12, 100, overhead_ps=10, jitter_ps=999, loss=Fraction(1, 2),
        retransmit_timeout_ps=50,
    )  # fmt: skip
    queue, free = LinkQueue(link, 2, 5, seed=11), 0
    for k in range(50):
        losses, jitter = link.fate(11, 2, 5, k)
        transfer = queue.carry(90, 0)
        assert transfer == (free, free + link.busy_ps(90, losses), transfer.free_ps + 100 + jitter)
        free = transfer.free_ps
    assert free > 50 * 100 + 10 * 150  # some were lost


@pytest.mark.parametrize("wrong", [{"loss": Fraction(1, 2)}, {"jitter_ps": 999}])
def test_a_link_that_is_only_lossy_or_only_late_is_not_taken_for_certain(wrong):
    link = Link("bad", 8 * 10**12, 100, retransmit_timeout_ps=50, **wrong)
    queue, perfect = LinkQueue(link, 2, 5, seed=11), LinkQueue(Link("ok", 8 * 10**12, 100), 2, 5)
    found = [queue.carry(90, 0).arrival_ps for _ in range(50)]
    assert found != [perfect.carry(90, 0).arrival_ps for _ in range(50)]


def test_a_link_that_fails_says_so(refused):
    queue = LinkQueue(Link("old", None, 0, fails_after=2), 0, 1)
    queue.carry(1, 0)
    queue.carry(1, 0)
    with refused("'old' from rank 0 to rank 1", "after 2 messages"):
        queue.carry(1, 0)


def test_no_link_is_no_time():
    assert LinkQueue(INSTANT, 0, 1).carry(10**9, 7) == (7, 7, 7)
