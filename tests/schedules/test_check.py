"""The checker: what is complete, in order and live passes; everything else is named."""

import drawn_schedules as drawn
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baremetal.machine import Link
from baremetal.schedules import Action, Kind, Overlap, Schedule, make_schedule
from baremetal.schedules.check import check_schedule
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.slots import needed_slots
from baremetal.schedules.wiring import Lane, wire


def act(text):
    """``2F0`` as an action, ``1F4+1B2`` as an overlap."""
    parts = [Action(Kind[part[1]], int(part[0]), int(part[2:])) for part in text.split("+")]
    return Overlap(*parts) if len(parts) == 2 else parts[0]


def written(*ranks, microbatches=1, paths=None):
    """A schedule from a line per rank."""
    steps = tuple(tuple(act(word) for word in line.split()) for line in ranks)
    stages = 1 + max(part.stage for each in steps for step in each for part in step.parts)
    return Schedule("mine", microbatches, steps, paths or (tuple(range(stages)),))


# ---------------------------------------------------------------- complete and in order


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (["0F0 0F1 0B0"], ["0I1 (or 0B1)", "missing on rank 0"]),
        (["0F0 0B0 0B1"], ["0F1", "missing"]),
        (["0F0 0I0 0F1 0B1"], ["0W0 (or 0B0)", "missing"]),
        (["0F0 0F0 0B0 0F1 0B1"], ["0F0 and 0F0"]),
        (["0F0 0B0 0W0 0F1 0B1"], ["0B0 and 0W0", "one F and one B"]),
        (["0F0 0I0 0B0 0F1 0B1"], ["0I0 and 0B0"]),
        (["0F0 0B0 0F1 0B1 0F2"], ["0F2", "2 microbatches, 0 to 1"]),
        (["0B0 0F0 0F1 0B1"], ["rank 0 does 0B0 before 0F0"]),
        (["0F0 0W0 0I0 0F1 0B1"], ["rank 0 does 0W0 before 0I0"]),
        (["0F0 1F0 0B0 1B0 0F1 1F1 1B1 0B1"], ["rank 0 does 0B0 before 1B0"]),
        (["1F0 0F0 1B0 0B0 0F1 1F1 1B1 0B1"], ["rank 0 does 1F0 before 0F0"]),
        (["0F0+0B0 0F1 0B1"], ["(0F0;0B0)OVERLAP_F_B", "needs the result of its own other half"]),
        (["0B0+0F1 0F0 0B1"], ["rank 0 overlaps 0B0 with 0F1", "only a forward F"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(ranks, words, refused):
    with refused("mine", *words):
        check_schedule(written(*ranks, microbatches=2))


def test_a_microbatch_of_the_other_path_is_refused(refused):
    schedule = written("0F0 0B0 1F0 1B0", microbatches=2, paths=((0,), (1,)))
    with refused("stage 1 works for microbatch 0", "stages 0"):
        check_schedule(schedule)


@given(st.data())
def test_a_legal_schedule_passes_and_one_without_an_action_does_not(data):
    schedule = data.draw(drawn.schedules())
    checked = check_schedule(schedule)
    assert checked.wiring.flat.steps == sum(map(len, schedule.ranks))
    rank = data.draw(st.integers(0, len(schedule.ranks) - 1))
    assume(len(schedule.ranks[rank]) > 0)
    gone = data.draw(st.integers(0, len(schedule.ranks[rank]) - 1))
    steps = schedule.ranks[rank][:gone] + schedule.ranks[rank][gone + 1 :]
    ranks = (*schedule.ranks[:rank], steps, *schedule.ranks[rank + 1 :])
    with pytest.raises(ScheduleError):
        check_schedule(Schedule("drawn", schedule.microbatches, ranks, schedule.paths))


# ---------------------------------------------------------------- deadlocks


def test_a_circle_of_messages_is_named(refused):
    """Each rank first wants what the other would send later."""
    schedule = written("0F0 0B0 0F1 0B1", "1F1 1B1 1F0 1B0", microbatches=2)
    with refused(
        "mine is deadlocked: rank 0 waits in 0B0 for the gradient of 1B0 from rank 1, "
        "which waits in 1F1 for the activations of 0F1 from rank 0"
    ):
        check_schedule(schedule)


def test_a_circle_through_a_full_lane_is_named(refused):
    """Rank 0 wants to send its second forward first, rank 1 wants the second one first."""
    schedule = written("0F0 0F1 0B1 0B0", "1F1 1B1 1F0 1B0", microbatches=2)
    assert needed_slots(schedule) == {Lane(0, 1): 2, Lane(1, 0): 2}
    check_schedule(schedule, slots=2)
    with refused(
        "rank 0 waits in 0F1 for a free slot (1 in all, until 1F0 takes a message) towards "
        "rank 1, which waits in 1F1 for the activations of 0F1 from rank 0"
    ):
        check_schedule(schedule, slots=1)


def test_ranks_that_wait_for_the_circle_are_not_in_it(refused):
    """Rank 0 waits, too, but nobody waits for it."""
    schedule = written("0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1", "2F1 2B1 2F0 2B0", microbatches=2)
    with pytest.raises(ScheduleError) as error:
        check_schedule(schedule, slots={Lane(2, 1): 1})
    assert str(error.value) == (
        "mine is deadlocked: rank 1 waits in 1B0 for the gradient of 2B0 from rank 2, which waits "
        "in 2B0 for a free slot (1 in all, until 1B1 takes a message) towards rank 1"
    )


def test_no_slots_at_all_are_refused(refused):
    with refused("0 slots", "at least 1"):
        check_schedule(make_schedule("1f1b", 2, 2), slots=0)


# ---------------------------------------------------------------- slots that are enough


def waits_somewhere(schedule, slots, rng, trials=60):
    """Whether any of many durations and latencies makes a sender wait for a slot."""
    wiring = wire(schedule)
    for _ in range(trials):
        # Mostly nothing, here and there very long: that is what brings a wait about.
        long = rng.choice([0.05, 0.3, 0.7])
        durations = np.array(
            [1000 * (rng.random() < long) for _ in range(wiring.flat.steps)], np.int64
        )
        link = {pair: Link("l", None, 1000 * (rng.random() < 0.3)) for pair in wiring.links}
        try:
            timeline = Simulator(wiring, link=link, slots=slots).play(durations)
        except ScheduleError:
            return True  # waits for ever
        if any(timeline.credit_wait_ps):
            return True
    return False


@given(schedule=drawn.schedules(), rng=st.randoms(use_true_random=False))
def test_with_the_needed_slots_nobody_waits(schedule, rng):
    assert not waits_somewhere(schedule, needed_slots(schedule), rng, trials=10)


@given(
    schedule=drawn.schedules(most_ranks=2, most_microbatches=4),
    rng=st.randoms(use_true_random=False),
)
def test_with_one_less_somebody_does(schedule, rng):
    for lane, needed in needed_slots(schedule).items():
        if needed > 1:
            assert waits_somewhere(schedule, {lane: needed - 1}, rng, trials=2000), lane


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 4), (4, 12), (8, 16)])
def test_slots_of_1f1b_and_gpipe(p, m):
    """1F1B: from stage s on there are p - s microbatches at most under way; GPipe: all of them."""
    slots = needed_slots(make_schedule("1f1b", p, m))
    for stage in range(p - 1):
        wanted = min(p - stage, m)
        assert slots[Lane(stage, stage + 1)] == slots[Lane(stage + 1, stage)] == wanted
    assert set(needed_slots(make_schedule("gpipe", p, m)).values()) == {m}


def test_a_slot_is_free_as_soon_as_its_message_is_taken():
    """Stage 2 is back on rank 0: when it has run, rank 1 has taken the message before it."""
    schedule = written("0F0 2F0 0F1 2F1 2B1 2B0 0B1 0B0", "1F0 1F1 1B1 1B0", microbatches=2)
    assert needed_slots(schedule)[Lane(0, 1)] == 1


def test_memory_over_time_of_each_rank():
    checked = check_schedule(make_schedule("1f1b", 4, 8))
    assert checked.peak_activations == [4, 3, 2, 1]
    assert checked.figures()["per_stage"]["peak_activations"] == [4, 3, 2, 1]
