"""Forwards alone: complete, live with two slots, and as short as they can be."""

from itertools import pairwise

import pytest

from baremetal.schedules import SCHEDULES, Action, Kind, Schedule, ScheduleError, make_schedule
from baremetal.schedules.check import check_schedule
from baremetal.schedules.forward_only import SLOTS, forward_only
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times

F = 10


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (3, 12), (4, 8), (8, 16)])
def test_forwards_take_the_time_of_the_closed_form(name, ranks, microbatches):
    """v m F on every rank, and beside it p - 1 of them, or twice as many in a V."""
    try:
        training = make_schedule(name, ranks, microbatches)
    except ScheduleError:
        pytest.skip("outside its domain")
    schedule = forward_only(training)
    checked = check_schedule(schedule, SLOTS)
    assert schedule.rank_of == training.rank_of[: schedule.stages]
    chunks = schedule.stages // ranks
    is_v = schedule.rank_of[-1] == 0 and chunks > 1
    played = simulate(schedule, Times.uniform(schedule.stages, F, 0, 0), slots=SLOTS)
    ramp = (ranks - 1) * (2 if is_v else 1)
    assert played.makespan_ps == (chunks * microbatches + ramp) * F
    assert checked.peak_activations == [1 / chunks] * ranks  # gone with the forward
    assert checked.wiring.messages == microbatches * (schedule.stages - chunks_meet(schedule) - 1)


def chunks_meet(schedule):
    """How many neighbouring stages lie on one rank and need no message."""
    rank_of = schedule.rank_of
    return sum(a == b for a, b in pairwise(rank_of))


@pytest.mark.parametrize("name", ["gpipe", "interleaved", "zb-v"])
def test_one_slot_is_enough_if_it_was_planned_for(name):
    schedule = forward_only(make_schedule(name, 4, 8), slots=1)
    check_schedule(schedule, 1)


def test_what_is_missing_or_comes_back_is_named(refused):
    def alone(*steps, forward=True):
        actions = tuple(Action(Kind[step[1]], int(step[0]), int(step[2])) for step in steps)
        return Schedule("mine", 2, (actions,), ((0,),), forward_only=forward)

    check_schedule(alone("0F0", "0F1"))
    with refused("mine: 0F1 is missing"):
        check_schedule(alone("0F0"))
    with refused("rank 0 has 0B0, but nothing comes back here"):
        check_schedule(alone("0F0", "0F1", "0B0"))
    with refused("0I0 (or 0B0) is missing"):  # a schedule to train with
        check_schedule(alone("0F0", "0F1", forward=False))
