"""Policies of recomputation: the gradients of every model, what blocks keep, and generation."""

import numpy as np
import pytest

from baremetal import BaremetalError
from baremetal.autograd import CPU, no_grad
from baremetal.nn import generate
from baremetal.nn.block import POLICIES

TOKENS = np.random.default_rng(2).integers(0, 11, (3, 8))
TARGETS = np.roll(TOKENS, -1, axis=1)


def gradients(model, policy, deferred=False):
    """Loss and gradients of two microbatches, both forwards before both backwards."""
    model.recompute = policy
    losses = []
    for first in (0, 3):
        if hasattr(model, "dropout_state"):
            model.dropout_state.set(step=4, first_sample=first)
        losses.append(model.loss(TOKENS, TARGETS, total=2.0 * TARGETS.size))
    for loss in losses:
        owed = loss.backward(defer_weights=deferred)
        if deferred:
            owed.pay()
    found = {name: p.grad.numpy().tobytes() for name, p in model.named_parameters()}
    return [loss.item() for loss in losses], found


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt", {"dropout": 0.4}),
        ("gpt", {"tied": False, "bias": False}),
        ("llama", {"kv_heads": 2, "tied": True}),
        ("grok", {"experts": 3, "active_experts": 2}),
    ],
)
def test_gradients_have_the_same_bits(tiny, spread, kind, changes, policy, deferred):
    one, other = (spread(tiny(kind, **changes)) for _ in range(2))
    assert gradients(other, policy, deferred) == gradients(one, "none", deferred)


def kept_bytes(model, policy):
    """What lies between forward and backward of one block, in float32 per position."""
    model.recompute = policy
    start = CPU.memory.used_bytes
    batch, time = 64, model.config.context
    tokens = np.zeros((batch, time), np.int64)
    loss = model.loss(tokens, tokens)
    kept = CPU.memory.used_bytes - start
    assert loss.requires_grad
    return kept / (4 * batch * time)


@pytest.mark.parametrize(
    ("policy", "numbers"), [("none", 16 * 64), ("selective", 10 * 64), ("block", 64)]
)
def test_a_block_keeps_what_the_formula_says(tiny, policy, numbers):
    """Two blocks more, twice the formula more: 16 C, 10 C or C (and a few numbers per row)."""
    sizes = {"width": 64, "heads": 4, "context": 16}
    few, many = (kept_bytes(tiny("gpt", layers=layers, **sizes), policy) for layers in (2, 4))
    # Attention's H and the norms' 4 numbers are below the pool's threshold or beside the point.
    assert numbers <= (many - few) / 2 <= numbers + 8


def test_generation_goes_through_the_cache_as_ever(tiny, spread):
    texts = []
    for policy in POLICIES:
        model = spread(tiny("gpt")).eval()
        model.recompute = policy
        rng = np.random.default_rng(0)
        texts.append([*generate(model, np.array([1, 2]), 5, rng)])
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_learnt_through_a_cache(tiny, policy):
    model = tiny("gpt")
    model.recompute = policy
    with pytest.raises(BaremetalError, match="a key-value cache keeps values off the tape"):
        model(TOKENS, model.new_cache(3))
    with no_grad():
        model(TOKENS, model.new_cache(3))


def test_a_policy_that_there_is_not_is_refused(tiny):
    model = tiny("gpt")
    with pytest.raises(BaremetalError, match="choose one of none, selective, block"):
        model.recompute = "everything"
    assert model.recompute == "none"
