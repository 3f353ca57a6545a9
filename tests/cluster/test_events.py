"""Every GPU by itself: against the simulator where all are equal, against Python where none are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.events import Crowd, Spread, draw_crowd, play_every_gpu
from baremetal.cluster.events.every_gpu import step_order
from baremetal.cluster.events.reference import play_replica
from baremetal.machine.link import Link
from baremetal.schedules import make_schedule
from baremetal.schedules.simulate import Simulator, simulate
from baremetal.schedules.times import Times, step_durations

LINK = Link("wire", 80 * 10**9, 1_000, overhead_ps=50)
SCHEDULES = [
    ("gpipe", 3, 4, 1), ("1f1b", 4, 6, 1), ("interleaved", 2, 4, 3), ("zb-h1", 4, 8, 1),
    ("zb-v", 2, 4, 2), ("dualpipe", 4, 8, 1),
]  # fmt: skip


def ones(*shape):
    return Crowd(np.ones(shape), np.ones(shape))


@pytest.mark.parametrize(("name", "p", "m", "v"), SCHEDULES)
@settings(max_examples=15, deadline=None)
@given(times=st.tuples(*[st.integers(0, 10**7)] * 3), size=st.integers(0, 10**5))
def test_equal_gpus_are_the_simulator_to_the_picosecond(name, p, m, v, times, size):
    schedule = make_schedule(name, p, m, v)
    per_stage = Times.uniform(schedule.stages, *times)
    found = play_every_gpu(
        schedule,
        per_stage,
        ones(2, p, 3),
        link=LINK,
        size_bytes=size,
        host_overhead_ps=7,
        threads=2,
    )
    timeline = simulate(schedule, per_stage, link=LINK, size_bytes=size, host_overhead_ps=7)
    assert found.step_ps == found.pipeline_ps == timeline.makespan_ps
    assert found.late_ps.sum() == 0
    work = np.add.reduceat(
        step_durations(schedule, per_stage) + 7, timeline.wiring.flat.first_step[:-1]
    )
    assert (found.busy_ps == work[None, :, None]).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_unequal_gpus_are_those_of_the_reference(which, seed, width, threads):
    name, p, m, v = which
    schedule, rng = make_schedule(name, p, m, v), np.random.default_rng(seed)
    rows = rng.integers(0, 10**6, (3, schedule.stages)).tolist()
    times = Times(*(tuple(row) for row in rows))
    crowd = draw_crowd((3, p, width), Spread(0.2, 0.3, 0.2, 2.0), rng)
    found = play_every_gpu(schedule, times, crowd, link=LINK, size_bytes=20_000, threads=threads)
    simulator = Simulator(schedule, link=LINK, size_bytes=20_000)
    duration_ps = step_durations(schedule, times)
    order = step_order(simulator, duration_ps)
    for replica in range(3):
        busy_ps, late_ps, end_ps = play_replica(
            simulator.wiring, order, simulator.occupancy_ps, simulator.flight_ps, duration_ps,
            crowd, replica,
        )  # fmt: skip
        np.testing.assert_array_equal(found.busy_ps[replica], busy_ps)
        np.testing.assert_array_equal(found.late_ps[replica], late_ps)
        np.testing.assert_array_equal(found.end_ps[replica], end_ps)


def test_one_slow_gpu_is_named_and_its_stage_waited_for():
    schedule, crowd = make_schedule("1f1b", 4, 8, 1), ones(5, 4, 8)
    crowd.compute[3, 2, 6] = 1.5
    found = play_every_gpu(schedule, Times.uniform(4, 1000, 1000, 1000), crowd)
    # F and B of eight microbatches, half again as long: what the seven others wait for it.
    assert found.latest(1) == [((3, 2, 6), 8 * 3000 // 2)]
    assert found.replica_ps.argmax() == 3
    assert np.ptp(np.delete(found.replica_ps, 3)) == 0


def test_gradients_go_at_the_pace_of_the_slowest_card_of_their_stage():
    schedule, crowd = make_schedule("gpipe", 2, 2, 1), ones(4, 2, 2)
    crowd.network[2, 1, 0] = 3.0
    found = play_every_gpu(
        schedule, Times.uniform(2, 10, 10, 10), crowd, gradients_ps=np.array([1000, 100])
    )
    assert found.gradients_ps.tolist() == [1000, 300]
    assert found.step_ps == int((found.end_ps.max(axis=0) + found.gradients_ps).max())


def test_a_seed_is_a_cluster():
    one, same, other = (
        draw_crowd((4, 3, 2), Spread(0.1, 0.1, 0.5), np.random.default_rng(seed))
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one.compute, same.compute)
    np.testing.assert_array_equal(one.network, same.network)
    assert (one.compute != other.compute).all()


def test_a_crowd_of_other_ranks_and_a_spread_out_of_range_are_refused():
    with pytest.raises(ClusterError, match="a crowd of 3 pipeline ranks for a schedule of 4"):
        play_every_gpu(make_schedule("1f1b", 4, 4, 1), Times.uniform(4, 1, 1, 1), ones(1, 3, 1))
    with pytest.raises(ClusterError, match=r"compute = -0\.1; expected 0 to 1"):
        Spread(compute=-0.1)
