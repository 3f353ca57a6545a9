"""Captured steps with recomputation: the bits of eager ones, in a smaller arena."""

import numpy as np
import pytest

from baremetal.capture import capture
from baremetal.nn import GPT, GPTConfig, Llama, LlamaConfig
from baremetal.nn.block import POLICIES
from baremetal.optim import AdamW, decay_groups

SIZES = {"vocab_size": 11, "context": 16, "layers": 3, "heads": 2, "width": 32}
BATCH, PARTS, STEPS = 4, 2, 3


def training(kind, policy, late=False):
    """A model and a step over two microbatches, whose dropout knows where in the batch it is.

    With `late`, both forwards come before both backwards, as in a pipeline.
    """
    rng = np.random.default_rng(0)
    if kind == "llama":
        model = Llama(LlamaConfig(**SIZES, tied=True), rng=rng)
    else:
        model = GPT(GPTConfig(**SIZES, dropout=0.3), rng=rng, dropout_seed=3)
    model.recompute = policy
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
