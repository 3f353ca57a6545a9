"""The report of a step: against closed forms, against the simulator, and as JSON and text."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pipeline_models import tiny_job
from pipelines import maker

from baremetal.comm.board import board_bytes
from baremetal.machine import find_chip, find_link
from baremetal.optim import AdamW
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.closed_form import closed_form
from baremetal.pipeline.memory import StageMemory, stage_memory
from baremetal.pipeline.messages import message_lines, messages
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.report import mean_times, report, report_text, speed
from baremetal.pipeline.stage_plan import most_in_flight
from baremetal.schedules import SCHEDULES, Schedule, make_schedule
from baremetal.schedules.forward_only import SLOTS
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.schedules.tracks import message_name
from baremetal.train.pipeline_console import preparing_text

MS = 10**9
MEMORY = StageMemory(100, 100, 200, slots=2, slot_bytes=30, scratch_bytes=5)


def unit(schedule, f=MS, i=MS, w=MS):
    return Times.uniform(schedule.stages, f, i, w)


@pytest.mark.parametrize("name", SCHEDULES)
def test_for_equal_stages_and_ideal_links_paper_and_simulation_are_equal(name):
    schedule = make_schedule(name, 4, 8)
    times = unit(schedule)
    forms, played = closed_form(schedule, times), simulate(schedule, times)
    assert not forms.is_even
    assert forms.makespan_ps == played.makespan_ps
    assert forms.bubble_makespan == pytest.approx(played.bubble_makespan, abs=1e-12)
    assert forms.bubble_span == pytest.approx(played.bubble_span, abs=1e-12)
    assert list(forms.peaks) == played.peak_activations


def test_where_no_formula_is_known_for_the_times_it_is_asked_for_equal_ones():
    schedule = make_schedule("zb-v", 4, 8)
    forms = closed_form(schedule, unit(schedule, f=4, i=6, w=2))
    assert forms.is_even
    assert forms.bubble_span == 0
    assert forms.work_ps == 8 * 2 * (4 + 6 + 2)  # of two chunks


def test_a_latency_per_hop_is_counted_where_a_formula_knows_it():
    schedule, link = make_schedule("1f1b", 4, 8), find_link("800g")
    transfer_ps = link.transfer_ps(10**6)
    forms = closed_form(schedule, unit(schedule), transfer_ps)
    played = simulate(schedule, unit(schedule), link=link, size_bytes=10**6)
    assert forms.makespan_with_transfer_ps == played.makespan_ps > forms.makespan_ps


def test_work_that_takes_no_time_has_no_bubble():
    schedule = make_schedule("1f1b", 2, 4, 1)
    forms = closed_form(schedule, unit(schedule, f=0, i=0, w=0))
    assert forms.figures()["bubble_makespan"] == forms.figures()["bubble_span"] == 0.0


def test_a_schedule_that_only_borrows_a_name_has_no_closed_form():
    mine = Schedule("1f1b", 2, make_schedule("gpipe", 2, 2).ranks, ((0, 1),))
    assert closed_form(mine, unit(mine)) is None


def reported(name="1f1b", chunks=None, **options):
    """A step that was simulated twice, with a report of it."""
    schedule = make_schedule(name, 2, 4, chunks)
    job = replace(tiny_job(schedule, link=find_link("800g")), chip=find_chip("gb300"), **options)
    times = unit(schedule)
    setting = {"link": job.link, "size_bytes": job.message_bytes}
    played = simulate(schedule, times, **setting)
    memory = dict.fromkeys(range(schedule.stages), MEMORY)
    return job, played, report(job, played, simulate(schedule, times, **setting), times, memory)


def test_a_report_is_json_and_says_whether_the_simulator_agrees():
    job, played, found = reported()
    found |= speed(job, played.makespan_ps, tokens=640, flops=10**15, wall_s=2.0)
    assert json.loads(json.dumps(found)) == found
    assert found["simulator"]["equal"]
    assert found["transfer"] == job.link.transfer_ps(job.message_bytes) / 1e12
    assert 0 < found["exposed_share"] < 1
    assert found["exposed_share"] == sum(played.exposed_ps) / (2 * played.makespan_ps)
    assert found["tokens_per_s_wall"] == 320
    assert found["tokens_per_s_modelled"] == 640 / (played.makespan_ps / 1e12)
    # Two stages on two ranks, the slots of one lane into each, and of one of evaluation.
    slots = job.lane_slots
    assert found["memory_by_rank"] == [465 + job.message_bytes * slots[1],
                                       465 + job.message_bytes * (slots[0] + SLOTS)]  # fmt: skip
    text = report_text(found)
    assert "simulator:   equal to the picosecond, in all 16 steps and 8 messages" in text
    assert "microbatches held at most, by rank: 2 1, as the formula says" in text
    assert "640 tokens/s" not in text
    assert "this computer:    320 tokens/s" in text


def test_a_clock_on_the_wall_knows_no_modelled_speed():
    job, played, found = reported(clock="wall", charge="measured")
    found |= speed(job, played.makespan_ps, tokens=640, flops=10**15, wall_s=2.0)
    assert found["tokens_per_s_modelled"] is found["mfu_modelled"] is None
    text = report_text(found)
    assert "modelled machine" not in text
    assert "this computer:    320 tokens/s" in text


def test_slots_of_messages_lie_where_these_arrive():
    job, _, found = reported("zb-v")
    into = {0: 0, 1: 0}
    for lane, slots in zip(job.wiring.lanes, job.lane_slots, strict=True):
        into[job.schedule.rank_of[lane.target]] += slots
    into[1] += SLOTS  # of an evaluation: stage 0 to 1, and 2 to 3
    into[0] += SLOTS
    assert into[0] != into[1]
    expected = [2 * MEMORY.total_bytes + n * job.message_bytes for n in into.values()]
    assert found["memory_by_rank"] == expected


def test_mfu_is_of_the_chips_that_were_charged():
    job, played, _ = reported(charge="roofline")
    peak = 2 * job.chip.peak(job.precision)
    found = speed(job, played.makespan_ps, tokens=1, flops=10**15, wall_s=None)
    assert found["mfu_modelled"] == pytest.approx(10**15 / (played.makespan_ps / 1e12) / peak)
    assert found["tokens_per_s_wall"] is None
    unit_job, _, _ = reported(charge="unit")
    assert speed(unit_job, played.makespan_ps, 1, 1, 1.0)["mfu_modelled"] is None


def test_a_difference_is_named():
    job, played, _ = reported()
    late = played.start_ps.copy()
    late[3] += 1
    wrong = replace(played, start_ps=late)
    found = report(job, played, wrong, None, {0: MEMORY, 1: MEMORY})
    assert not found["simulator"]["equal"]
    assert "DIFFERENT, first in start_ps of" in report_text(found)
    on_a_wall = report_text(found | {"clock": "wall"})
    assert "DIFFERENT" not in on_a_wall
    assert "a clock on the wall" in on_a_wall


def test_a_stage_whose_memory_is_not_planned_is_not_added_up():
    job, played, _ = reported()
    eager = StageMemory(100, 100, 200)
    found = report(job, played, played, None, {0: eager, 1: eager})
    assert found["memory"][0]["total_bytes"] is None
    assert "not planned, so not counted" in report_text(found)


@pytest.mark.parametrize("name", ["1f1b", "zb-v", "dualpipev"])
def test_times_that_were_measured_are_found_again(name):
    schedule = make_schedule(name, 2, 6)
    rng = np.random.default_rng(0)
    f, i, w = (tuple(rng.integers(1, 99, schedule.stages).tolist()) for _ in range(3))
    times = mean_times(simulate(schedule, Times(f, i, w)))
    assert times.forward_ps == f
    if name == "1f1b":
        assert times.full_backward_ps == tuple(a + b for a, b in zip(i, w, strict=True))
    elif name == "zb-v":
        assert (times.input_gradient_ps, times.weight_gradient_ps) == (i, w)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("name", ["1f1b", "zb-v", "dualpipe", "dualpipev"])
def test_every_message_is_named_by_what_it_carries(name):
    schedule = make_schedule(name, 4, 8)
    played = simulate(schedule, unit(schedule), link=find_link("800g"), size_bytes=100)
    found = messages(played)
    assert len(found) == played.wiring.messages
    for number, each in enumerate(found):
        kind = "F" if each.what == "activations" else "[IB]"
        expected = message_name(played.wiring, number)  # "activations of 2F0"
        assert expected.startswith(f"{each.what} of {each.source}")
        assert expected.endswith(str(each.microbatch))
        assert expected.removeprefix(f"{each.what} of {each.source}")[0] in kind
        assert schedule.rank_of[each.target] == each.dst != each.src
        assert each.depart_ps < each.arrive_ps <= each.taken_ps


def test_verbose_lines_are_a_send_and_a_receive_each_in_the_order_of_time():
    job, played, _ = reported()
    lines = list(message_lines(job, played))
    assert len(lines) == 2 * played.wiring.messages
    assert (
        lines[0].split()
        == (
            "1000.000000 us rank 0 -> rank 1 stage 0 -> 1 microbatch 0 activations "
            f"1.02 kB arrives {(played.arrive_ps[0]) / 1e6:.6f} us"
        ).split()
    )
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)
    assert sum("->" in line.partition("stage")[0] for line in lines) == played.wiring.messages
    assert sum("<-" in line for line in lines) == played.wiring.messages
    assert sum(" gradient " in line for line in lines) == played.wiring.messages


# ---------------------------------------------------------------- what ranks say of themselves


def test_memory_is_counted_where_it_lies():
    make = maker(layers=4)
    schedule = make_schedule("1f1b", 2, 4)
    parts = parts_of_stages(schedule, [1.0] * 4)
    stages = build_stages(make, parts, range(2))
    optimizers = {number: AdamW(stage.trainable().values()) for number, stage in stages.items()}
    runners = build_runners(stages, schedule, (2, 4))
    for number, stage in stages.items():
        held = stage_memory(stage, runners[number], optimizers[number])
        size = sum(parameter.data.nbytes for parameter in stage.trainable().values())
        assert held.weights_bytes == size
        assert size <= held.gradients_bytes < size + 64 * len(stage.trainable())
        assert held.optimizer_bytes == 2 * held.gradients_bytes
        assert held.slots == most_in_flight(schedule, number) == 2 - number
        assert held.activations_bytes == runners[number].segments.memory.total_bytes
        assert held.total_bytes > held.state_bytes > 3 * size
    eager = build_runners(stages, schedule, (2, 4), eager=True)
    assert stage_memory(stages[0], eager[0], None).activations_bytes == 0


def test_what_preparing_ranks_say():
    board = Board(np.zeros(board_bytes(2), np.uint8), 2)
    assert preparing_text(board, 2) == "starting 2 processes (0 are up)"
    for _ in range(3):
        board.say(0, State.PREPARING, 0)
    assert preparing_text(board, 2) == "starting 2 processes (1 are up)"
    board.say(1, State.PREPARING, 0)
    assert preparing_text(board, 2) == "preparing 2 ranks: 2 kernels compiled or loaded (0 ready)"
    board.say(0, State.IDLE, 0)
    assert preparing_text(board, 2).endswith("(1 ready)")
    board.say(1, State.COMPUTING, 0)
    assert preparing_text(board, 2) == ""
