"""Training: clipping across stages, copies, state; against a process that has the whole model."""

import numpy as np
import pytest
from pipelines import (
    in_one_piece,
    make_batch,
    make_pipeline,
    make_stages,
    maker,
    mirrored,
    one_f_one_b,
)

from baremetal.optim import SGD, AdamW, Muon, decay_groups
from baremetal.pipeline.copies import Copies, copies, holders
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.exchange import Local
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.update import Update

CLIP = 0.1  # well below the norms here: every step is clipped


def adamw(model):
    return AdamW(decay_groups(model.parameters(), 0.1), learning_rate=0.02)


def muon(model):
    named = [*model.named_parameters()]
    inside = [p for name, p in named if name.startswith("blocks.") and p.ndim == 2]
    others = [p for name, p in named if not (name.startswith("blocks.") and p.ndim == 2)]
    return Muon(inside, decay_groups(others, 0.1), learning_rate=0.02, weight_decay=0.1)


def sgd(model):
    return SGD(model.parameters(), learning_rate=0.02, momentum=0.9)


class Pipelined:
    """A model in stages, all in this process, with its optimisers."""

    def __init__(self, make, schedule, optimizer=adamw, captured=False):
        model = make()
        parts = parts_of_stages(schedule, [1.0] * len(model.blocks))
        self.stages = dict(enumerate(make_stages(make, schedule)))
        made = {n: optimizer(s.model) for n, s in self.stages.items() if s.trainable()}
        every = holders(model, parts)
        self.update = Update(self.stages, made, every, schedule.stages, Local())
        self.pipeline = make_pipeline([*self.stages.values()], schedule, captured)

    def train(self, batch):
        self.update.zero_grad()
        self.pipeline.step(batch)
        runners = self.pipeline.runners
        self.update.clip(CLIP, {n: runner.losses for n, runner in enumerate(runners)})
        self.update.step()

    def norms(self):
        return {o.gradient_norm for o in self.update.optimizers.values()}

    def weights(self):
        found = {}
        for stage in self.stages.values():
            for name, array in stage.state_dict().items():
                assert found.setdefault(name, array).tobytes() == array.tobytes(), name
        return found


class Whole:
    """The same in one piece."""

    def __init__(self, make, optimizer=adamw):
        self.model = make()
        self.optimizer = optimizer(self.model)

    def train(self, batch):
        self.optimizer.zero_grad()
        state = getattr(self.model, "dropout_state", None)
        for m, (inputs, targets) in enumerate(zip(batch.inputs, batch.targets, strict=True)):
            if state is not None:
                state.set(batch.step, first_sample=m * len(inputs))
            self.model.loss(inputs, targets, total=np.array([float(batch.tokens)])).backward()
        self.optimizer.clip(CLIP)
        self.optimizer.step()

    def norms(self):
        return {self.optimizer.gradient_norm}

    def weights(self):
        return self.model.state_dict()


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


def train(run, first, stop, microbatches=4):
    norms = []
    for step in range(first, stop):
        run.train(make_batch(microbatches, seed=step, step=step))
        (norm,) = run.norms()  # the same on all stages
        norms.append(norm)
    return norms


UNTIED = {"gpt": {"tied": False, "dropout": 0.2}, "llama": {"kind": "llama"}}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [adamw, sgd, muon])
@pytest.mark.parametrize("model", UNTIED)
def test_training_has_the_same_bits_at_any_number_of_stages(model, optimizer, dtype):
    """Weights, moments and norms; where nothing is held twice and W comes in its order."""
    make = maker(layers=4, dtype=dtype, **UNTIED[model])
    whole = Whole(make, optimizer)
    norms = train(whole, 0, 3)
    assert min(norms) > CLIP
    for stages in (1, 2, 4):
        run = Pipelined(make, one_f_one_b(stages, 4), optimizer, captured=stages == 2)
        assert train(run, 0, 3) == norms
        assert bits(run.weights()) == bits(whole.weights())
        assert bits(run.update.state_dict()) == bits(whole.optimizer.state_dict())


def test_tied_weights_are_close_and_their_copies_equal():
    """Lookup and product add up apart, not in turns: the last bits differ from one process."""
    make = maker(layers=4, dropout=0.2)
    whole = Whole(make)
    norms = train(whole, 0, 3)
    at = {}
    for stages in (2, 3, 4):
        run = Pipelined(make, one_f_one_b(stages, 4))
        np.testing.assert_allclose(train(run, 0, 3), norms, rtol=1e-12)
        weights = run.weights()  # (which compares copies)
        for name, array in whole.weights().items():
            np.testing.assert_allclose(weights[name], array, rtol=1e-9, atol=1e-12, err_msg=name)
        at[stages] = bits(weights)
    assert at[2] == at[3] == at[4]  # but not from pipeline to pipeline


def test_mirrored_copies_are_equal_and_count_once():
    make = maker(layers=2, dropout=0.2)
    whole, run = Whole(make), Pipelined(make, mirrored(one_f_one_b(2, 2)))
    norms = train(whole, 0, 3)
    np.testing.assert_allclose(train(run, 0, 3), norms, rtol=1e-12)
    weights = run.weights()
    for name, array in whole.weights().items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("stages", [(2, 4), (3, 1), (4, 3)])
def test_a_run_goes_on_at_another_number_of_stages(stages):
    """State and weights are those of a whole model: load them into any cut of it."""
    make = maker(layers=4, tied=False, dropout=0.2)
    straight = Pipelined(make, one_f_one_b(stages[0], 4))
    train(straight, 0, 4)
    before = Pipelined(make, one_f_one_b(stages[0], 4))
    train(before, 0, 2)
    weights = {name: array.copy() for name, array in before.weights().items()}
    state = {name: array.copy() for name, array in before.update.state_dict().items()}
    after = Pipelined(make, one_f_one_b(stages[1], 4))
    for stage in after.stages.values():
        stage.load_state_dict(weights)
    after.update.load_state_dict(state)
    train(after, 2, 4)
    assert bits(after.weights()) == bits(straight.weights())
    assert bits(after.update.state_dict()) == bits(straight.update.state_dict())


def test_a_state_that_lacks_something_is_refused(refused):
    make = maker(layers=2)
    run = Pipelined(make, one_f_one_b(2, 2))
    weights, state = make().state_dict(), run.update.state_dict()
    del weights["norm.weight"]
    run.stages[0].load_state_dict(weights)  # the last stage's
    with refused("missing 'norm.weight'"):
        run.stages[1].load_state_dict(weights)
    del state["first_moment.norm.weight"]
    with refused("missing 'first_moment.norm.weight'"):
        run.update.load_state_dict(state)


def test_a_loss_that_is_not_finite_closes_every_gate():
    run = Pipelined(maker(layers=2, tied=False), one_f_one_b(2, 2))
    before = bits(run.weights())
    batch = make_batch(2)
    run.update.zero_grad()
    run.pipeline.step(batch)
    losses = {0: np.zeros(2), 1: np.array([0.5, np.nan])}
    assert np.isnan(run.update.clip(CLIP, losses)[1])
    run.update.step()
    assert bits(run.weights()) == before
    assert not any(o.last_step_was_finite for o in run.update.optimizers.values())
    run.train(batch)
    assert bits(run.weights()) != before


def test_a_gradient_that_is_not_finite_closes_every_gate():
    run = Pipelined(maker(layers=2, tied=False), one_f_one_b(2, 2))
    before = bits(run.weights())
    run.update.zero_grad()
    run.pipeline.step(make_batch(2))
    run.stages[1].trainable()["norm.weight"].grad.data[0] = np.inf
    run.update.clip(CLIP, {0: np.zeros(2), 1: np.zeros(2)})
    run.update.step()
    assert bits(run.weights()) == before


def test_a_frozen_stage_has_no_optimiser_and_takes_part():
    make = maker(layers=2, tied=False, freeze=("embedding", "blocks.0"))
    whole, run = Whole(make), Pipelined(make, one_f_one_b(2, 4))
    assert [*run.update.optimizers] == [1]
    assert train(run, 0, 2) == train(whole, 0, 2)
    assert bits(run.weights()) == bits(whole.weights())
    with pytest.raises(PipelineError, match=r"optimisers for stages \[\], but .* \[1\]"):
        Update(run.stages, {}, holders(make(), [s.part for s in run.stages.values()]), 2, Local())


def test_who_holds_what():
    model = maker(layers=2)()
    schedule = one_f_one_b(2, 2)
    every = holders(model, parts_of_stages(schedule, [1.0, 1.0]))
    assert [*every] == sorted(dict(model.named_parameters()))
    assert every["token_embedding.weight"] == (0, 1)
    assert every["position_embedding.weight"] == (0,)
    assert every["norm.bias"] == (1,)
    assert copies(every) == [Copies((0, 1), ("token_embedding.weight",))]
    twice = holders(model, parts_of_stages(mirrored(schedule), [1.0, 1.0]))
    groups = copies(twice)
    assert [group.stages for group in groups] == [(0, 1, 2, 3), (0, 2), (1, 3)]
    assert sum(len(group.names) for group in groups) == len(every)


def test_gradients_that_came_after_the_exchange_are_refused(refused):
    run = Pipelined(maker(layers=2, tied=False), one_f_one_b(2, 2))
    run.train(make_batch(2))
    run.update.zero_grad()
    run.pipeline.step(make_batch(2))
    run.update.clip(CLIP, {0: np.zeros(2), 1: np.zeros(2)})
    run.pipeline.step(make_batch(2))
    with refused("gradients have changed since clip()"):
        run.update.step()


def test_the_loss_is_that_of_one_process():
    make = maker(layers=3, tied=False, dropout=0.2)
    batch = make_batch(4, step=2)
    _, expected = in_one_piece(make, batch)
    for stages in (1, 2, 3):
        schedule = one_f_one_b(stages, 4)
        assert make_pipeline(make_stages(make, schedule), schedule).step(batch) == expected
