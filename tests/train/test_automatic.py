"""`baremetal train --schedule auto`: the order follows from the model and the machine."""

import pytest

from baremetal.errors import BaremetalError
from baremetal.schedules import make_schedule
from baremetal.schedules.memory import peak_activations
from baremetal.schedules.simulate import simulate
from baremetal.schedules.wiring import wire
from baremetal.train.build import build_model
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import make_job

SIZES = {
    "layers": 4, "width": 16, "heads": 2, "context": 16, "batch": 8, "microbatches": 8,
    "stages": 2, "schedule": "auto", "charge": "unit", "unit_times": "4 us/9 us, 6 us, 3 us/2 us",
}  # fmt: skip


def job_for(**options):
    config = TrainConfig(**SIZES | options)
    return make_job(config, build_model(config, vocab_size=50))


def test_it_is_no_longer_than_those_by_hand_on_the_job_s_own_machine():
    job = job_for(memory_limit="3", straggler="1:1.5")

    def makespan_ps(schedule):
        return simulate(
            schedule, job.times, stragglers=job.stragglers, link=job.link,
            size_bytes=job.message_bytes,
        ).makespan_ps  # fmt: skip

    assert job.schedule.name == "auto"
    assert max(peak_activations(wire(job.schedule).flat)) <= 3
    best = min(makespan_ps(make_schedule(name, 2, 8)) for name in ("1f1b", "zb-h1", "zb-h2"))
    assert makespan_ps(job.schedule) <= best


def test_the_roofline_s_times_and_chunks():
    options = {"charge": "roofline", "chunks": 2, "unit_times": TrainConfig.unit_times}
    job = job_for(**options)
    assert (len(job.schedule.ranks), job.schedule.stages) == (2, 4)
    assert job.schedule == job_for(**options).schedule


def test_a_v_of_two_chunks():
    job = job_for(schedule="zb-v-auto", charge="roofline", unit_times=TrainConfig.unit_times)
    assert job.schedule.name == "zb-v-auto"
    assert job.schedule.rank_of == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_limit": "0.5"}, "a memory limit of 0.5 microbatches"),
        ({"memory_limit": "lots"}, "--memory-limit lots: expected a number"),
        ({"stages": 5, "unit_times": TrainConfig.unit_times}, "5 stages of a model of 4 blocks"),
    ],
)
def test_what_cannot_be_is_said(options, words):
    with pytest.raises(BaremetalError, match=words):
        job_for(**options)
