"""Captured steps and stages with recomputation: the bits of those without, in less memory."""

import numpy as np
import pytest

from baremetal import Tensor
from baremetal.capture import capture, capture_segments
from baremetal.nn import GPT, GPTConfig, Llama, LlamaConfig
from baremetal.nn.block import POLICIES
from baremetal.optim import AdamW, decay_groups

SIZES = {"vocab_size": 11, "context": 16, "layers": 3, "heads": 2, "width": 32}
BATCH, PARTS, STEPS = 4, 2, 3


def make_model(kind, policy):
    rng = np.random.default_rng(0)
    if kind == "llama":
        model = Llama(LlamaConfig(**SIZES, tied=True), rng=rng)
    else:
        model = GPT(GPTConfig(**SIZES, dropout=0.3), rng=rng, dropout_seed=3)
    model.recompute = policy
    return model


def training(kind, policy, late=False):
    """A model and a step over two microbatches, whose dropout knows where in the batch it is.

    With `late`, both forwards come before both backwards, as in a pipeline.
    """
    model = make_model(kind, policy)
    optimizer = AdamW(decay_groups(model.parameters(), 0.1), learning_rate=0.01)
    state = getattr(model, "dropout_state", None)

    def step(inputs, targets):
        optimizer.zero_grad()
        losses = []
        for part in range(PARTS):
            if state is not None:
                state.begin_microbatch(part * BATCH)
            losses.append(model.loss(inputs[part], targets[part]))
            if not late:
                losses[-1].backward()
        for loss in losses if late else []:
            loss.backward()
        optimizer.clip(0.5, losses[-1])
        optimizer.step()
        return losses

    return model, step


def run(kind, policy, captured, late=False):
    """Losses of a few steps, the weights after them, and the plan."""
    model, step = training(kind, policy, late)
    step = capture(step) if captured else step
    rng = np.random.default_rng(1)
    losses = []
    for number in range(STEPS):
        windows = rng.integers(0, SIZES["vocab_size"], (PARTS, BATCH, SIZES["context"] + 1))
        if hasattr(model, "dropout_state"):
            model.dropout_state.set(step=number)
        losses += [loss.item() for loss in step(windows[..., :-1], windows[..., 1:])]
    weights = {name: array.tobytes() for name, array in model.state_dict().items()}
    return (losses, weights), step.plan if captured else None


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_bits_are_those_of_an_eager_step_without_recomputation(kind, late):
    expected, _ = run(kind, "none", captured=False, late=late)
    plans = []
    for policy in POLICIES:
        assert run(kind, policy, captured=False, late=late)[0] == expected
        found, plan = run(kind, policy, captured=True, late=late)
        assert found == expected
        plans.append(plan)
    arenas = [plan.memory.planned_bytes for plan in plans]
    flops = [plan.cost.flops for plan in plans]
    assert arenas[0] > arenas[1] > arenas[2]
    assert flops[0] < flops[1] < flops[2] < 4 / 3 * flops[0]
    for plan in plans:
        assert plan.memory.planned_bytes <= 1.05 * plan.memory.bound_bytes


def test_the_plan_computes_nothing_in_vain():
    """Per block, what is launched again: all but the last product, dropout and addition."""
    names = {}
    for policy in POLICIES:
        plan = run("gpt", policy, captured=True)[1]
        names[policy] = [launch.kernel.name for launch in plan.launches]
    again = {
        name: names["block"].count(name) - names["none"].count(name) for name in set(names["block"])
    }
    per_block = {"layer_norm": 2, "linear": 3, "causal_attention": 1, "gelu_tanh": 1,
                 "dropout": 1, "add": 1}  # fmt: skip
    blocks = PARTS * SIZES["layers"]
    assert {n: k for n, k in again.items() if k} == {n: k * blocks for n, k in per_block.items()}
    cheap = {name: names["selective"].count(name) - names["none"].count(name) for name in again}
    assert {n: k for n, k in cheap.items() if k} == {"layer_norm": 2 * blocks, "gelu_tanh": blocks}


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_most_that_is_alive_is_what_the_closed_form_says(policy, fuse):
    """Per position: what all blocks keep, one block at work, and the gradients on their way.

    The summit is in the last block, behind the product `down`: the gradients of the residual
    stream (C) and of GELU's output (4 C), and GELU's output (4 C) if it is computed again. A fusion
    that kept something alive which should be computed again would show.
    """
    layers, width, heads, batch, context = 4, 64, 4, 8, 64
    config = GPTConfig(vocab_size=11, context=context, layers=layers, heads=heads, width=width)
    model = GPT(config, rng=np.random.default_rng(0))
    model.recompute = policy
    tokens = np.zeros((batch, context), np.int64)

    def step(tokens):
        model.zero_grad()
        loss = model.loss(tokens, tokens)
        loss.backward()
        return loss

    captured = capture(step, fuse=fuse)
    captured(tokens)
    numbers = {
        "none": layers * (16 * width + heads + 4) + 5 * width,
        "selective": layers * (10 * width + heads) + 9 * width,
        "block": layers * width + (15 * width + heads + 4) + 5 * width,
    }
    memory = captured.plan.memory
    if not fuse:
        assert memory.bound_bytes == 4 * tokens.size * numbers[policy]
    assert memory.bound_bytes <= 4 * tokens.size * numbers[policy]
    assert memory.planned_bytes <= 1.05 * memory.bound_bytes


class Stage:
    """The blocks of a GPT as a pipeline stage: F, and the two halves of its backward."""

    def __init__(self, policy):
        self.model = make_model("gpt", policy)

    def forward(self, x):
        self.x = Tensor(x, requires_grad=True)
        self.y = self.x
        for block in self.model.blocks:
            self.y = block(self.y)
        return self.y

    def input_gradient(self, dy):
        self.owed = self.y.backward(dy, defer_weights=True)
        return self.x.grad

    def weight_gradient(self):
        self.owed.pay()


def run_stage(policy, slots):
    """Gradients of three microbatches, one slot or all in flight; and the memory of a slot."""
    stage = Stage(policy)
    parameters = [p for block in stage.model.blocks for p in block.parameters()]
    shape = (BATCH, SIZES["context"], SIZES["width"])
    example = np.zeros(shape, np.float32)
    segments = capture_segments(
        {"F": stage.forward, "I": stage.input_gradient, "W": stage.weight_gradient},
        inputs={"F": (example,), "I": (example,)},
        parameters=parameters,
        slots=slots,
    )
    rng = np.random.default_rng(2)
    xs, dys = rng.standard_normal((2, 3, *shape), np.float32)
    stage.model.zero_grad()
    found = {}
    for some in ([0, 1, 2],) if slots == 3 else ([0], [1], [2]):  # who are in flight together
        for m in some:
            stage.model.dropout_state.set(step=7, first_sample=m * BATCH)
            found["y", m] = segments["F"].run(m % slots, xs[m]).numpy().tobytes()
        for m in some:
            found["dx", m] = segments["I"].run(m % slots, dys[m]).numpy().tobytes()
        for m in some:
            segments["W"].run(m % slots)
    found |= {("grad", n): p.grad.numpy().tobytes() for n, p in enumerate(parameters)}
    return found, segments.memory.slot_bytes


def test_a_stage_keeps_less_for_each_microbatch_in_flight():
    expected, slot_bytes = run_stage("none", slots=1)
    for policy in POLICIES[1:]:
        found, less_bytes = run_stage(policy, slots=3)
        assert found == expected
        assert less_bytes < slot_bytes
        slot_bytes = less_bytes
