"""Executed time is simulated time, to the picosecond: every schedule, link and buffer.

The ranks are threads here, with stages that compute nothing: what is tested is the executor, its
channels and its clock against the simulator. Processes and real stages are in `test_run.py`.
"""

import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baremetal import comm
from baremetal.machine.link import Link
from baremetal.pipeline.board import Board
from baremetal.pipeline.executed import executed_timeline, first_difference
from baremetal.pipeline.executor import Executor
from baremetal.pipeline.lanes import lane_slots, schedule_lanes
from baremetal.pipeline.runner import Batch
from baremetal.pipeline.stage_plan import leaving
from baremetal.schedules import SCHEDULES, ScheduleError, make_schedule
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.times import Times, step_durations
from baremetal.schedules.wiring import wire

SHAPE = (1, 2, 3)  # of activations


class Idle:
    """A stage that passes on what it gets, one more than that; into the send slot, or to be copied.

    Like a plan, it gives away memory only for what leaves the rank.
    """

    def __init__(self, microbatches, is_last, is_first, in_place=(False, False)):
        self._in_place = in_place
        self.losses = np.zeros(microbatches)
        self._is_last, self._is_first = is_last, is_first
        self._in = {}

    def begin_step(self, batch):
        self._in.clear()

    def activation_in(self, microbatch):
        return self._in.setdefault(("x", microbatch), np.zeros(SHAPE, np.float32))

    def gradient_in(self, microbatch):
        return self._in.setdefault(("dy", microbatch), np.zeros(SHAPE, np.float32))

    def fills_send_slot(self, kind):
        return kind.name != "W" and self._in_place[kind.name != "F"]

    def do(self, kind, microbatch, send_slot=None):
        assert (send_slot is not None) == self.fills_send_slot(kind)
        if kind.name == "W":
            return None
        forward = kind.name == "F"
        if (forward and self._is_last) or (not forward and self._is_first):
            return None
        into = self.activation_in if forward else self.gradient_in
        return np.add(into(microbatch), 1, out=send_slot)


def execute(schedule, *, times, link, slots, host_overhead_ps, seed, stragglers, in_place=True):
    """One step by threads; the executed timeline and the simulated one."""
    wiring = wire(schedule)
    sizes = lane_slots(wiring, slots)
    lanes = schedule_lanes(wiring, sizes, SHAPE, "float32")
    ranks = len(schedule.ranks)
    durations = step_durations(wiring.flat, times, stragglers)
    table = np.split(durations, wiring.flat.first_step[1:-1])
    records, errors, copied = [None] * ranks, [], []

    def run(rank, address):
        try:
            ways = {(rank, other): link for other in range(ranks)}
            endpoint = comm.Endpoint(address, rank, ways)
            endpoint.begin_phase(seed)
            stages = {
                number: Idle(
                    schedule.microbatches,
                    schedule.behind(number) is None,
                    schedule.before(number) is None,
                    leaving(schedule, number) if in_place else (False, False),
                )
                for number, its in enumerate(schedule.rank_of)
                if its == rank
            }
            executor = Executor(
                wiring, rank, stages, endpoint.senders, endpoint.receivers,
                Board(endpoint.board.memory, ranks), table[rank].tolist(), host_overhead_ps,
            )  # fmt: skip
            tokens = np.zeros((schedule.microbatches, 1, 2), np.int64)
            records[rank] = executor.run(Batch(tokens, tokens), comm.VirtualClock())
            copied.append(endpoint.counts.copied)
        except BaseException as error:
            errors.append(error)
            endpoint.abort(f"rank {rank} failed")

    with comm.Exchange(comm.Layout(ranks, tuple(lanes))) as exchange:
        threads = [threading.Thread(target=run, args=(r, exchange.address)) for r in range(ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    assert sum(copied) == (0 if in_place else wiring.messages)
    simulator = Simulator(
        wiring, link=link, size_bytes=4 * int(np.prod(SHAPE)), seed=seed,
        slots=dict(zip(wiring.lanes, sizes, strict=True)), host_overhead_ps=host_overhead_ps,
    )  # fmt: skip
    executed = executed_timeline(wiring, records, simulator.reuses)
    return executed, simulator.play(times, stragglers)


LINKS = st.builds(
    Link,
    name=st.just("drawn"),
    bandwidth_bps=st.sampled_from([None, 10**9, 10**12, 3 * 10**13]),
    latency_ps=st.integers(0, 50),
    overhead_ps=st.integers(0, 5),
    jitter_ps=st.sampled_from([0, 0, 7, 100]),
    loss=st.sampled_from([Fraction(0), Fraction(0), Fraction(1, 4)]),
    retransmit_timeout_ps=st.integers(0, 30),
)


@st.composite
def schedules(draw):
    """Any named schedule within its own domain."""
    generator = SCHEDULES[draw(st.sampled_from(sorted(SCHEDULES)))]
    ranks, microbatches = draw(st.integers(2, 8)), draw(st.integers(1, 12))
    chunks = draw(st.sampled_from([None, 1, 2, 3]))
    for m in range(microbatches, 4 * microbatches + 12):  # the nearest that there is
        try:
            return make_schedule(generator.name, ranks, m, chunks)
        except ScheduleError:
            continue
    return make_schedule("gpipe", ranks, microbatches)


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.data())
def test_executed_time_is_simulated_time(data):
    schedule = data.draw(schedules())
    duration = st.integers(1, 40)

    def per_stage():
        return tuple(data.draw(duration) for _ in range(schedule.stages))

    times = Times(per_stage(), per_stage(), per_stage())
    executed, simulated = execute(
        schedule,
        times=times,
        link=data.draw(LINKS),
        slots=data.draw(st.sampled_from([None, schedule.microbatches])),
        host_overhead_ps=data.draw(st.integers(0, 3)),
        seed=data.draw(st.integers(0, 2**40)),
        stragglers=data.draw(st.sampled_from([{}, {1: 1.5}])),
        in_place=data.draw(st.booleans()),
    )
    assert first_difference(executed, simulated) is None
    assert (executed.occupancy_ps == simulated.occupancy_ps).all()
    assert (executed.duration_ps == simulated.duration_ps).all()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("slots", [1, 2])
def test_senders_that_wait_for_room_wait_as_long_as_simulated(slots, in_place):
    """GPipe's first rank is fast and its second slow: with few slots the first must wait."""
    schedule = make_schedule("gpipe", 2, 6)
    times = Times((1, 10), (1, 1), (1, 1))
    setting = {
        "link": Link("l", None, 3), "host_overhead_ps": 0, "seed": 0, "stragglers": {},
        "in_place": in_place,
    }  # fmt: skip
    executed, simulated = execute(schedule, times=times, slots=slots, **setting)
    assert first_difference(executed, simulated) is None
    free, _ = execute(schedule, times=times, slots=None, **setting)
    assert executed.credit_wait_ps[0] > 0
    assert free.credit_wait_ps[0] == 0
