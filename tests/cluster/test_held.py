"""What each rank holds: every layer once (twice where the model is mirrored), every parameter."""

import pytest

from baremetal.cluster.cost.held import held_by_rank, share_of
from baremetal.cluster.cost.layer import Sizes
from baremetal.cluster.cost.software import find_software
from baremetal.cluster.models import find_model, model_parameters
from baremetal.cluster.plan import Plan
from baremetal.cluster.step import predict
from baremetal.machine.catalogue import find_cluster
from baremetal.schedules import make_schedule

LINE = [("1f1b", 1), ("interleaved", 5), ("zb-h1", 1), ("zb-v", 2), ("v-half", 2)]


def held(model, schedule, vp, **plan):
    chosen = Plan(pp=4, vp=vp, schedule=schedule, gbs=8, **plan)
    sizes = Sizes(find_model(model), chosen, find_software("current"), "bf16", 4096)
    return sizes, held_by_rank(sizes, make_schedule(schedule, 4, 8, vp))


@pytest.mark.parametrize(("schedule", "vp"), LINE)
def test_every_layer_is_held_once(schedule, vp):
    _, ranks = held("llama3-70b", schedule, vp)
    assert sorted(layer for each in ranks for layer in each.layers) == list(range(80))
    assert [each.has_embedding for each in ranks] == [True, False, False, False]
    last = 0 if schedule in ("zb-v", "v-half") else 3
    assert [rank for rank, each in enumerate(ranks) if each.has_head] == [last]


def test_a_v_comes_back_to_where_it_began():
    _, ranks = held("llama3-70b", "zb-v", 2)
    assert [each.places for each in ranks] == [(0, 7), (1, 6), (2, 5), (3, 4)]
    assert ranks[1].layers == (*range(10, 20), *range(60, 70))


@pytest.mark.parametrize(("schedule", "copies"), [("1f1b", 1), ("dualpipe", 2)])
@pytest.mark.parametrize("model", ["llama3-70b", "deepseek-v3", "gpt3-175b", "qwen3-30b-a3b"])
def test_the_ranks_hold_all_parameters_together(model, schedule, copies):
    sizes, ranks = held(model, schedule, 1)
    parameters = model_parameters(sizes.model)
    final_norm = sizes.model.norm_parameters * sizes.model.width
    # A tied head on a rank of its own is a copy (DualPipe's ends have both tables); positions and
    # the last norm are not counted.
    again = parameters.embedding if sizes.model.tied and copies == 1 else 0
    expected = parameters.total - parameters.positions - final_norm + again
    found = sum(share_of(sizes, each).total for each in ranks)
    assert found == pytest.approx(copies * expected, rel=1e-9)


def test_parallelism_divides_what_it_says():
    whole = held("qwen3-30b-a3b", "1f1b", 1)
    parts = held("qwen3-30b-a3b", "1f1b", 1, tp=4, ep=8, dp=2)
    one, share = (share_of(sizes, ranks[1]) for sizes, ranks in (whole, parts))
    assert share.experts == one.experts / 8
    assert one.dense / 4 < share.dense < one.dense / 3  # norms and routers stay whole


def step(schedule, vp):
    cluster = find_cluster("gb300-nvl72:64")
    plan = Plan(tp=4, pp=8, dp=2, vp=vp, schedule=schedule, gbs=64)
    return predict(find_model("llama3-70b"), cluster, plan)


def test_schedules_of_every_placement_are_predicted():
    line, v, mirrored = step("zb-h1", 1), step("zb-v", 2), step("dualpipe", 1)
    for found in (line, v, mirrored):
        assert sum(found.breakdown_s.values()) == pytest.approx(found.step_time_s)
        assert found.breakdown_s["bubble"] >= 0
    # The V's ranks are even, for embedding and head share one: so its bubble is the smallest.
    assert v.breakdown_s["bubble"] < line.breakdown_s["bubble"]
    # DualPipe keeps the model twice.
    assert mirrored.memory_bytes["weights"] == pytest.approx(
        2 * line.memory_bytes["weights"], rel=0.1
    )


def test_a_further_predictor_costs_its_block_and_head():
    cluster = find_cluster("gb300-nvl72:256")
    plan = Plan(ep=64, pp=4, dp=64, gbs=4096, seq=4096)
    with_, without = (
        predict(find_model(f"deepseek-v3@extra_predictors={n}"), cluster, plan) for n in (1, 0)
    )
    assert with_.step_time_s > without.step_time_s
    for convention, flops in with_.model_flops.items():
        assert flops > without.model_flops[convention]
