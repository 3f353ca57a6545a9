"""What an action is charged: its launches one after another, or the time that it really took."""

from dataclasses import replace

import pytest

from baremetal.errors import BaremetalError
from baremetal.kernels.cost import Cost
from baremetal.machine import find_chip, find_link
from baremetal.pipeline.costs import roofline_times
from baremetal.schedules import Kind, make_schedule
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.train.build import build_model
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import make_job

PRODUCT, COPY = Cost(10**12, 10**6), Cost(10**6, 10**9)  # one computes, one moves


def test_launches_take_their_times_one_after_another():
    """The arithmetic of one does not hide behind the other's traffic; each has its overhead."""
    chip = replace(find_chip("h100"), launch_overhead_ps=5_000_000)
    alone = [chip.time_ps(cost.flops, cost.size_bytes, "bf16") for cost in (PRODUCT, COPY)]
    (both,) = roofline_times([{Kind.F: [PRODUCT, COPY]}], chip, "bf16").forward_ps
    assert both == pytest.approx(sum(alone), abs=1)
    as_one = chip.time_ps(PRODUCT.flops + COPY.flops, PRODUCT.size_bytes + COPY.size_bytes, "bf16")
    assert both > 1.2 * as_one


def test_what_a_stage_never_does_takes_no_time():
    times = roofline_times([{Kind.F: [COPY], Kind.B: [COPY, COPY]}], find_chip("h100"), "bf16")
    assert (times.input_gradient_ps, times.weight_gradient_ps) == ((0,), (0,))
    assert times.full_backward_ps[0] > times.forward_ps[0] > 0


def test_on_a_clock_on_the_wall_work_counts_as_measured(refused):
    """With a charge beside it, a rank that computed all the time would look idle."""
    config = TrainConfig(
        layers=2, width=16, heads=2, context=16, batch=4, stages=2, microbatches=2, clock="wall",
    )  # fmt: skip
    assert config.charge == "roofline"
    job = make_job(config, build_model(config, 11))
    assert job.charge == "measured"
    with refused("charge roofline", "clock on the wall", "measured"):
        replace(job, charge="roofline")


def test_a_chip_that_has_no_such_precision_is_refused_before_there_are_processes():
    options = {
        "layers": 2, "width": 16, "heads": 2, "context": 16, "batch": 4, "stages": 2,
        "microbatches": 2, "chip": "a100", "modelled_precision": "nvfp4",
    }  # fmt: skip
    config = TrainConfig(**options)
    model = build_model(config, 11)
    with pytest.raises(BaremetalError, match="does not compute in nvfp4"):
        make_job(config, model)
    make_job(replace(config, charge="unit"), model)  # where nobody asks the chip


def test_a_late_start_on_the_wall_is_no_waiting_for_slots():
    """The computer was busy with something else: no link, and no slot, was to blame."""
    schedule = make_schedule("1f1b", 2, 4)
    played = simulate(schedule, Times.uniform(2, 10, 10, 10), link=find_link("800g"), slots=1)
    assert sum(played.exposed_ps) > 0
    late = replace(played, start_ps=played.start_ps + 3, end_ps=played.end_ps + 3)
    assert sum(late.credit_wait_ps) <= sum(played.credit_wait_ps)
    assert sum(late.exposed_ps) <= sum(played.exposed_ps)
