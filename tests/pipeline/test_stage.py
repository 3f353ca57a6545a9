"""One stage: its names and values, its plan, its costs; evaluation, generation, what is refused."""

import gc
import weakref

import numpy as np
import pytest
from pipelines import (
    CONTEXT,
    SHAPE,
    VOCAB,
    actions,
    assert_close,
    gradients,
    in_one_piece,
    make_batch,
    make_pipeline,
    make_stages,
    maker,
    one_f_one_b,
    summed_gradients,
)

from baremetal.autograd import no_grad
from baremetal.nn import use_precision
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.costs import action_costs
from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.partition import Part, partition
from baremetal.pipeline.runner import cut_batch
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage, most_in_flight, splits_backward
from baremetal.schedules import Kind, Schedule, ScheduleError

KINDS = ["gpt", "llama", "moe"]


def middle_and_last(make=None):
    make = make or maker(layers=2)
    return [Stage(make(), part) for part in partition([1, 1], 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_stages_are_the_model_in_pieces(kind):
    """Names, values, nothing else; tied or not."""
    for tied in (True, False):
        make = maker(kind, layers=3, tied=tied)
        whole = {name: array.tobytes() for name, array in make().state_dict().items()}
        stages = build_stages(make, partition([1, 1, 1], 3), range(3)).values()
        found = {}
        for stage in stages:
            for name, parameter in stage.named_parameters():
                assert parameter.name == name
                found.setdefault(name, []).append(parameter.data.tobytes())
        assert found.keys() == whole.keys()
        for name, copies in found.items():
            assert copies == [whole[name]] * (2 if tied and "token_embedding" in name else 1)
        arrays = [p.data for stage in stages for _, p in stage.named_parameters()]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_a_stage_holds_on_to_nothing_else():
    """What others have is gone as soon as the model that it came from is."""
    model = maker(layers=3)()
    others = [weakref.ref(module) for module in (model.blocks[0], model.blocks[2], model.norm)]
    mine = weakref.ref(model.blocks[1])
    stage = Stage(model, Part(1, 2, 3))
    del model
    gc.collect()
    assert [ref() for ref in others] == [None] * 3
    assert stage.blocks[1] is mine()


# ---------------------------------------------------------------- captured and eager


def in_halves(schedule, microbatches):
    """The same with I instead of B for some microbatches, and their W at the end."""
    ranks = []
    for rank in schedule.ranks:
        chosen = [a for a in rank if a.kind is Kind.B and a.microbatch in microbatches]
        order = [a._replace(kind=Kind.I) if a in chosen else a for a in rank]
        ranks.append((*order, *(a._replace(kind=Kind.W) for a in chosen)))
    return Schedule("in halves", schedule.microbatches, tuple(ranks), schedule.paths)


@pytest.mark.parametrize("options", [
    {"dropout": 0.3},
    {"kind": "llama"},
    {"freeze": ("embedding", "blocks.0", "blocks.1"), "tied": False},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("halves", [(), (1, 3), (0, 1, 2, 3)], ids=str)
def test_captured_stages_have_the_bits_of_eager_ones(options, halves):
    """Where `halves` are the microbatches whose backward comes in two."""
    make = maker(layers=4, dtype=np.float32, **options)
    schedule = in_halves(one_f_one_b(2, 4), halves)
    found = []
    for captured in (False, True):
        stages = make_stages(make, schedule)
        pipeline = make_pipeline(stages, schedule, captured)
        for step in range(2):  # the second finds used slots
            for stage in stages:
                stage.model.zero_grad()
            losses = pipeline.step(make_batch(4, seed=step, step=step))
        bits = [(n, g if g is None else g.tobytes()) for s in stages
                for n, g in gradients(s.model).items()]  # fmt: skip
        found.append((losses, bits))
    assert found[0] == found[1]


@pytest.mark.parametrize("policy", ["selective", "block"])
def test_blocks_that_are_computed_again(policy):
    def make():
        model = maker(layers=2, dropout=0.3)()
        model.recompute = policy
        return model

    schedule, batch = one_f_one_b(2, 2), make_batch(2)
    stages = make_stages(make, schedule)
    make_pipeline(stages, schedule, captured=True).step(batch)
    assert_close(summed_gradients(stages), gradients(in_one_piece(make, batch)[0]))


def test_matrices_in_few_bits():
    def make():
        model = maker(layers=2, dtype=np.float32, tied=False)()
        use_precision(model, "bf16")
        return model

    schedule, batch = one_f_one_b(2, 2), make_batch(2)
    stages = make_stages(make, schedule)
    make_pipeline(stages, schedule, captured=True).step(batch)
    assert_close(summed_gradients(stages), gradients(in_one_piece(make, batch)[0]), bound=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_scale_multiplies_every_gradient(kind):
    """The experts' balance, too, wherever they are."""
    make, schedule, batch = maker(kind, layers=2), one_f_one_b(2, 2), make_batch(2)
    expected = gradients(in_one_piece(make, batch)[0])
    stages = dict(enumerate(make_stages(make, schedule)))
    scales = {n: np.array(8.0) for n in stages}
    runners = build_runners(stages, schedule, SHAPE, cotangents=scales)
    InProcess(schedule, [*runners.values()]).step(batch)
    found = {n: g / 8 for n, g in summed_gradients(stages.values()).items()}
    assert_close(found, expected)


def test_steps_without_zero_grad_add_up():
    make, schedule = maker(layers=2, tied=False), one_f_one_b(2, 2)
    stages = make_stages(make, schedule)
    pipeline, expected = make_pipeline(stages, schedule, captured=True), {}
    for seed in range(2):
        batch = make_batch(2, seed=seed)
        pipeline.step(batch)
        for name, grad in gradients(in_one_piece(make, batch)[0]).items():
            expected[name] = expected.get(name, 0.0) + grad
    assert_close(summed_gradients(stages), expected)


# ---------------------------------------------------------------- slots and costs


def test_slots_are_those_in_flight():
    schedule = one_f_one_b(4, 8)
    assert [most_in_flight(schedule, stage) for stage in range(4)] == [4, 3, 2, 1]
    assert [most_in_flight(one_f_one_b(4, 2), stage) for stage in range(4)] == [2, 2, 2, 1]
    assert not splits_backward(schedule, 0)
    apart = Schedule("zb", 2, (actions("0F0 0I0 0F1 0I1 0W0 0W1"),), ((0,),))
    assert most_in_flight(apart, 0) == 2
    assert splits_backward(apart, 0)
    stages = make_stages(maker(layers=4), schedule)
    for number, stage in enumerate(stages):
        runner = CapturedStage.for_schedule(stage, SHAPE, schedule, number)
        assert runner.segments.slots == 4 - number


def test_a_microbatch_too_many_is_refused(refused):
    _, last = middle_and_last()
    runner = CapturedStage(last, SHAPE, slots=2)
    runner.begin_step(make_batch(3))
    for m in range(2):
        runner.activation_in(m)[...] = 1.0
        runner.do(Kind.F, m)
    with refused("block 1, head", "microbatch 2 begins while [0, 1] are in flight", "2 slots"):
        runner.activation_in(2)
    runner.begin_step(make_batch(3))  # gives up what was in flight
    runner.activation_in(2)[...] = 1.0
    runner.do(Kind.F, 2)
    assert runner.losses[2] > 0


@pytest.mark.parametrize("captured", [True, False])
def test_backward_of_what_is_not_in_flight_is_refused(captured, refused):
    first, _ = middle_and_last()
    runner = CapturedStage(first, SHAPE, 1) if captured else EagerStage(first, SHAPE)
    with refused("begin_step"):
        runner.do(Kind.F, 0)
    runner.begin_step(make_batch(2))
    runner.do(Kind.F, 0)
    for kind in (Kind.W, Kind.I, Kind.B):
        with refused("backward of microbatch 1, which is not in flight"):
            runner.do(kind, 1)


def test_nothing_received_is_refused(refused):
    first, last = middle_and_last()
    runner = EagerStage(last, SHAPE)
    runner.begin_step(make_batch(1))
    with refused("nothing has come for microbatch 0", "activation_in"):
        runner.do(Kind.F, 0)
    runner = EagerStage(first, SHAPE)
    runner.begin_step(make_batch(1))
    runner.do(Kind.F, 0)
    with refused("nothing has come for microbatch 0", "gradient_in"):
        runner.do(Kind.B, 0)


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_costs_of_a_plan_are_those_of_a_rehearsal(kind):
    """And of a whole backward, those of its halves."""
    for part in partition([1, 1, 1], 3):
        make = maker(kind, layers=3)
        split = CapturedStage(Stage(make(), part), SHAPE, slots=1)
        whole = CapturedStage(Stage(make(), part), SHAPE, slots=1, split=False)
        eager = EagerStage(Stage(make(), part), SHAPE)
        assert split.costs == eager.costs == action_costs(Stage(make(), part), SHAPE)
        assert split.costs[Kind.B] == split.costs[Kind.I] + split.costs[Kind.W]
        assert {kind: split.costs[kind] for kind in (Kind.F, Kind.B)} == whole.costs
        assert whole.segments.memory.slot_bytes < split.segments.memory.slot_bytes


# ---------------------------------------------------------------- forward alone


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_that_of_the_whole_model(kind):
    options = {"dropout": 0.4} if kind == "gpt" else {}
    make, schedule, batch = maker(kind, layers=3, **options), one_f_one_b(3, 4), make_batch(4)
    model = make().eval()
    with no_grad():
        expected = sum(
            model.loss(inputs, targets, total=np.array([float(batch.tokens)])).item()
            for inputs, targets in zip(batch.inputs, batch.targets, strict=True)
        )
    stages = make_stages(make, schedule)
    pipeline = make_pipeline(stages, schedule)
    assert pipeline.evaluate(batch) == pytest.approx(expected, rel=1e-14)
    assert all(stage.model.training for stage in stages)
    assert all(g is None for stage in stages for g in gradients(stage.model).values())


@pytest.mark.parametrize("kind", KINDS)
def test_generation_through_stages(kind):
    """Token by token with caches: the logits of the whole model."""
    make = maker(kind, layers=3)
    stages = [Stage(make(), part) for part in partition([1, 1, 1], 2)]
    caches = [stage.new_cache() for stage in stages]
    model = make().eval()
    text = np.random.default_rng(0).integers(0, VOCAB, (1, CONTEXT))
    with no_grad():
        expected = model(text).numpy()
    for start, stop in ((0, 2), (2, 3), (3, CONTEXT)):
        x = text[:, start:stop]
        for stage, cache in zip(stages, caches, strict=True):
            x = stage.evaluate(x, cache)
        np.testing.assert_allclose(x, expected[:, start:stop], rtol=1e-12)


# ---------------------------------------------------------------- what does not work


def test_experts_are_not_captured(refused):
    stage = Stage(maker("moe", layers=2)(), Part(0, 1, 2))
    with refused("Grok cannot be captured", "--eager"):
        CapturedStage(stage, SHAPE, slots=1)
    runners = build_runners({0: stage}, one_f_one_b(2, 2), SHAPE)
    assert isinstance(runners[0], EagerStage)


def test_an_order_that_waits_for_itself_is_refused(refused):
    schedule = Schedule("mine", 1, (actions("0B0 0F0"), actions("1F0 1B0")), ((0, 1),))
    pipeline = make_pipeline(make_stages(maker(layers=2), schedule), schedule)
    with refused("mine: the ranks wait for one another before 0B0, 1F0"):
        pipeline.step(make_batch(1))
    with pytest.raises(ScheduleError):
        pipeline.step(make_batch(1))


def test_a_batch_that_cannot_be_divided_is_refused(refused):
    tokens = np.zeros((6, CONTEXT), np.int64)
    assert cut_batch(tokens, tokens, 3).inputs.shape == (3, 2, CONTEXT)
    for count in (4, 0):
        with refused(f"6 sequences in {count} microbatches"):
            cut_batch(tokens, tokens, count)
    with pytest.raises(PipelineError):
        cut_batch(tokens, tokens, -1)
