"""The partitioner against all cuts there are; what is printed; what is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import SHAPE, maker, mirrored, one_f_one_b

from baremetal.pipeline.costs import action_costs, block_costs
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.partition import Part, balance, partition, parts_of_stages
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Kind


def largest(costs, bounds):
    return max(sum(costs[a:b]) for a, b in itertools.pairwise([0, *bounds, len(costs)]))


@given(costs=st.lists(st.integers(0, 20), min_size=1, max_size=9), data=st.data())
def test_no_cut_has_a_smaller_largest_part(costs, data):
    count = data.draw(st.integers(1, len(costs)))
    parts = partition(costs, count)
    assert [i for part in parts for i in range(part.start, part.stop)] == [*range(len(costs))]
    assert len(parts) == count
    assert all(part.start < part.stop for part in parts)
    every = itertools.combinations(range(1, len(costs)), count - 1)
    best = min(largest(costs, bounds) for bounds in every)
    assert max(sum(costs[part.start : part.stop]) for part in parts) == best


def test_filling_up_to_an_even_share_would_be_worse():
    """The simpler rule: each part takes blocks while it has no more than its share of 4."""
    costs = [2, 2, 2, 3, 3]
    assert largest(costs, [2, 3]) == 6
    parts = partition(costs, 3)
    assert [sum(costs[part.start : part.stop]) for part in parts] == [4, 5, 3]


def test_even_blocks_are_divided_evenly():
    assert partition([1.0] * 8, 4) == [Part(i, i + 2, 8) for i in (0, 2, 4, 6)]
    assert len(partition([1.0] * 128, 32)) == 32


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_stages_than_blocks_are_refused(count, refused):
    with refused(f"{count} stages of a model of 3 blocks", "choose 1 to 3"):
        partition([1, 1, 1], count)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_costs_that_are_none_are_refused(cost, refused):
    with refused(f"costs {cost}"):
        partition([1.0, cost], 2)


def test_mirrored_stages_hold_the_same():
    schedule = mirrored(one_f_one_b(2, 2))
    parts = parts_of_stages(schedule, [1.0, 1.0, 5.0])
    assert parts == [Part(0, 2, 3), Part(2, 3, 3)] * 2


def test_the_balance_is_printed():
    costs = [30e6, 10e6, 10e6, 50e6]
    text = balance(partition(costs, 2), costs, "FLOP").splitlines()
    assert text[2].split() == ["0", "embedding,", "blocks", "0-2", "50.0", "M", "1.000"]
    assert text[3].split() == ["1", "block", "3,", "head", "50.0", "M", "1.000"]
    assert "FLOP" in text[0]


# ---------------------------------------------------------------- costs


def test_parameters_are_counted_where_they_lie():
    model = maker(layers=3)()
    costs = block_costs(model, SHAPE, by="parameters")
    table = model.token_embedding.weight.size
    assert sum(costs) == model.num_parameters() + table  # both ends hold the tied matrix
    block = sum(p.size for p in model.blocks[1].parameters())
    assert costs[1] == block
    assert costs[0] == block + table + model.position_embedding.weight.size


@pytest.mark.parametrize("kind", ["gpt", "llama", "moe"])
def test_flops_are_those_of_the_whole_step(kind):
    """What is launched for all pieces is what is launched for the model in one."""
    make = maker(kind, layers=3)
    pieces = block_costs(make(), SHAPE, by="flops")
    whole = action_costs(Stage(make(), Part(0, 3, 3)), SHAPE)
    total = whole[Kind.F].flops + whole[Kind.B].flops
    assert sum(pieces) == pytest.approx(total, rel=0.1 if kind == "moe" else 0.02)
    assert pieces[2] > pieces[1] > 0  # the head is no small thing here


def test_time_is_positive_and_gradients_are_left_as_they_were():
    model = maker(layers=2)()
    assert all(cost > 0 for cost in block_costs(model, SHAPE, by="time"))
    assert all(p.grad is None for p in model.parameters())


def test_other_measures_and_gradients_at_work_are_refused(refused):
    model = maker(layers=1)()
    with refused("balance by 'money'", "flops"):
        block_costs(model, SHAPE, by="money")
    model.norm.weight.grad = model.norm.weight.data
    with refused("has gradients", "zero_grad"):
        block_costs(model, SHAPE)


def test_a_part_of_another_model_is_refused():
    with pytest.raises(PipelineError, match=r"a part of a model of 3 blocks .* this one has 2"):
        Stage(maker(layers=2)(), Part(0, 1, 3))
