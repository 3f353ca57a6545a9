"""The scaled-down machine: equal numbers without a unit, and equal pipelines because of them."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from baremetal.machine import find_chip, find_link
from baremetal.nn import GPT, GPTConfig
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.full_size import (
    GPT_3,
    FullSize,
    StageCost,
    extrapolated,
    full_size_stages,
)
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.scale import (
    Pipeline,
    compared,
    machine_numbers,
    outcome,
    scaled_down,
    shape_numbers,
    stretched_times,
)
from baremetal.schedules import make_schedule

# Small enough to be built, and beyond all that the family is measured at.
GPT_SIZE = FullSize("gpt", 7, 4, 4, 4 * 16, 0, 200, 256)
LLAMA_SIZE = FullSize("llama", 6, 4, 2, 4 * 16, 160, 200, 256)


def built_stages(full, schedule, parts):
    stages = build_stages(full.build, parts, range(schedule.stages))
    runners = build_runners(stages, schedule, (full.samples, full.context))
    return [StageCost.of(runners[number]) for number in range(schedule.stages)]


@pytest.mark.parametrize(
    ("full", "name"),
    [(GPT_SIZE, "zb-v"), (GPT_SIZE, "dualpipe"), (LLAMA_SIZE, "1f1b")],
)
def test_what_a_family_foretells_is_what_the_member_costs(full, name):
    schedule = make_schedule(name, 2, 4)
    parts, foretold = full_size_stages(full, schedule)
    built = built_stages(full, schedule, parts)
    for one, other in zip(foretold, built, strict=True):
        for kind, launches in one.launches.items():
            assert Counter(launches) == Counter(other.launches[kind])
        assert one.parameters == other.parameters
        # Many blocks' buffers may be packed a little better, or worse, than many times one's.
        assert one.slot_bytes == pytest.approx(other.slot_bytes, rel=5e-3)


def test_a_point_that_is_not_on_the_curve_is_found_out():
    at = (1, 2, 3, 4, 5)
    cubes = [x**3 - x for x in at]
    assert extrapolated(at, cubes, 100) == 100**3 - 100
    with pytest.raises(PipelineError, match="are not those of a cubic"):
        extrapolated(at, [*cubes[:-1], cubes[-1] + 1], 100)


def test_the_full_size_itself_belongs_to_its_family():
    assert GPT_3.shrunken(GPT_3.head_width, GPT_3.layers) == GPT_3
    assert GPT_3.shrunken(2, 4).width == 192


def test_one_stage_is_refused():
    with pytest.raises(PipelineError, match="at least two"):
        full_size_stages(GPT_SIZE, make_schedule("1f1b", 1, 4))


# ---------------------------------------------------------------- the machine


@cache
def full_stages(name):
    _, costs = full_size_stages(replace(GPT_SIZE, layers=48), make_schedule(name, 2, 4))
    return [cost.stored(2, 1) for cost in costs]


@cache
def small_stages(name):
    """Of a model that is not of the family."""
    schedule = make_schedule(name, 2, 4)
    config = GPTConfig(vocab_size=50, context=16, layers=len(schedule.paths[0]), heads=2, width=32)

    def make():
        return GPT(config, rng=np.random.default_rng(0))

    parts = parts_of_stages(schedule, [1.0] * config.layers)
    runners = build_runners(build_stages(make, parts, range(schedule.stages)), schedule, (2, 16))
    return [StageCost.of(runners[number]) for number in range(schedule.stages)], 2 * 16 * 32 * 4


def pipelines(name="zb-v", stretch=Fraction(1), **chip):
    schedule = make_schedule(name, 2, 4)
    # A link so slow beside this model's stages that transfers are exposed.
    link = replace(find_link("800g"), overhead_ps=300_000)
    machine = replace(find_chip("gb300"), **chip)
    full = Pipeline(schedule, full_stages(name), 256 * 64 * 2, machine, link, "bf16")
    return full, scaled_down(full, *small_stages(name), stretch)


@pytest.mark.parametrize("name", ["zb-v", "1f1b", "dualpipe"])
@pytest.mark.parametrize("stretch", [Fraction(1), Fraction(250)])
def test_the_machines_numbers_are_equal(name, stretch):
    full, scaled = pipelines(name, stretch)
    for ratio in compared(machine_numbers(full), machine_numbers(scaled)):
        assert ratio.residue < 1e-4, ratio  # times are whole picoseconds, of 10 us
    # and so are times, up to the stretch
    assert float(scaled.work_ps / full.work_ps) == pytest.approx(stretch, rel=1e-5)
    on_the_full_machine = replace(scaled, chip=full.chip, link=full.link)
    off = compared(machine_numbers(full), machine_numbers(on_the_full_machine))
    assert max(ratio.residue for ratio in off) > 0.5


@pytest.mark.parametrize("name", ["zb-v", "1f1b", "dualpipe"])
def test_with_full_size_times_all_that_happens_is_the_same(name):
    full, scaled = pipelines(name)
    wanted = outcome(full.play())
    assert wanted["exposed transfer"] > 0.01
    found = outcome(scaled.play(stretched_times(full, Fraction(1))))
    for ratio in compared(wanted, found):
        assert ratio.residue < 1e-4, ratio
    own = outcome(scaled.play())  # by its own kernels, whose shape is another one
    assert own != found
    assert own["bubble of makespan"] == pytest.approx(wanted["bubble of makespan"], rel=0.2)


def test_launch_overhead_is_scaled_with_the_rest():
    full, scaled = pipelines(stretch=Fraction(10), launch_overhead_ps=2_000_000)
    assert scaled.chip.launch_overhead_ps == 20_000_000
    assert float(scaled.work_ps / full.work_ps) == pytest.approx(10, rel=1e-5)


def test_work_lasts_as_long_where_both_sides_of_the_roofline_matter():
    """Some of the small model's actions wait for memory where the large one's compute."""
    full, scaled = pipelines(memory_rate_Bps=80 * 10**12)
    assert machine_numbers(full)["memory / arithmetic"] == pytest.approx(1.13, abs=0.01)
    assert float(scaled.work_ps / full.work_ps) == pytest.approx(1, rel=1e-5)


def test_the_shape_adds_up():
    full, _ = pipelines("zb-v")
    shape = shape_numbers(full)
    assert sum(shape[f"{kind} / work"] for kind in "FIW") == pytest.approx(1)
    assert shape["busiest rank / mean"] >= 1


def test_a_stretch_must_be_positive():
    with pytest.raises(PipelineError, match="expected more than 0"):
        pipelines(stretch=Fraction(0))
