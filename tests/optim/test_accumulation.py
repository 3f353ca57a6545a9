"""Microbatches add up to the large batch, exactly normalised, also where targets are ignored."""

import numpy as np
import pytest

from baremetal.nn import GPT, GPTConfig, Grok, GrokConfig, Llama, LlamaConfig
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.optim import AdamW

SIZES = {"vocab_size": 11, "context": 6, "layers": 2, "heads": 2, "width": 8}
MODELS = {
    "gpt": (GPT, GPTConfig(**SIZES, dropout=0.2)),
    "llama": (Llama, LlamaConfig(**SIZES, kv_heads=1)),
    "grok": (Grok, GrokConfig(**SIZES, experts=3, capacity_factor=0.8)),
}


def build(kind):
    make, config = MODELS[kind]
    model = make(config, rng=np.random.default_rng(0)).to(np.float64)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.shape)
    return model


def batch(ignored):
    rng = np.random.default_rng(2)
    tokens, targets = rng.integers(0, 11, (2, 6, 6))
    if ignored:  # very unequally: a mean per microbatch would weigh them wrongly
        targets[0] = IGNORE_INDEX
        targets[1, 1:] = IGNORE_INDEX
        targets[4, :2] = IGNORE_INDEX
    return tokens, targets


def accumulate(model, tokens, targets, sizes, *, divide_by_own=False):
    """Gradients by name and the summed loss, over microbatches of these sizes."""
    total = np.array([float((targets != IGNORE_INDEX).sum())])
    model.zero_grad()
    loss, first = 0.0, 0
    for size in sizes:
        part = slice(first, first + size)
        if hasattr(model, "dropout_state"):
            model.dropout_state.set(step=3, first_sample=first)
        divisor = None if divide_by_own else total
        value = model.loss(tokens[part], targets[part], total=divisor)
        value.backward()
        loss += value.item()
        first += size
    return {n: p.grad.numpy().copy() for n, p in model.named_parameters()}, loss


@pytest.mark.parametrize("sizes", [(3, 3), (1,) * 6, (1, 4, 1)])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_the_parts_add_up_to_the_large_batch(kind, ignored, sizes):
    model = build(kind)
    tokens, targets = batch(ignored)
    whole, whole_loss = accumulate(model, tokens, targets, (6,))
    mean, mean_loss = accumulate(model, tokens, targets, (6,), divide_by_own=True)
    parts, parts_loss = accumulate(model, tokens, targets, sizes)
    assert parts_loss == pytest.approx(whole_loss, rel=1e-13)
    assert mean_loss == pytest.approx(whole_loss, rel=1e-13)
    for name, gradient in whole.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(parts[name], gradient, rtol=0, atol=1e-13 * scale, err_msg=name)
        np.testing.assert_allclose(mean[name], gradient, rtol=0, atol=1e-13 * scale, err_msg=name)


def test_dividing_each_part_by_its_own_count_is_another_gradient():
    model = build("gpt")
    tokens, targets = batch(ignored=True)
    whole, _ = accumulate(model, tokens, targets, (6,))
    parts, _ = accumulate(model, tokens, targets, (3, 3), divide_by_own=True)
    name = "blocks.0.mlp.up.weight"
    assert np.abs(parts[name] / 2 - whole[name]).max() > 0.05 * np.abs(whole[name]).max()


def test_the_update_is_that_of_the_large_batch():
    tokens, targets = batch(ignored=True)
    weights = []
    for sizes in ((6,), (2, 2, 2)):
        model = build("gpt")
        optimizer = AdamW(model.parameters(), learning_rate=1e-2)
        for _ in range(3):
            _, loss = accumulate(model, tokens, targets, sizes)
            optimizer.clip(0.1, loss)
            optimizer.step()
        weights.append({n: a.copy() for n, a in model.state_dict().items()})
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, rtol=1e-9, atol=1e-10, err_msg=name)


def test_a_mixture_of_experts_is_the_exception_that_the_page_names():
    """Routing looks at its neighbours: the reference is the same microbatches, not the batch."""
    tokens, targets = batch(ignored=False)
    model = build("grok")
    whole, _ = accumulate(model, tokens, targets, (6,))
    parts, _ = accumulate(model, tokens, targets, (3, 3))
    again, _ = accumulate(model, tokens, targets, (3, 3))
    router = "blocks.0.mlp.router.weight"
    assert not np.allclose(parts[router], whole[router], rtol=1e-3)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_without_capacity_and_balance_a_mixture_adds_up_too():
    tokens, targets = batch(ignored=True)
    config = GrokConfig(**SIZES, experts=3, capacity_factor=3.0, balance_weight=0.0)
    model = Grok(config, rng=np.random.default_rng(0)).to(np.float64)
    whole, _ = accumulate(model, tokens, targets, (6,))
    parts, _ = accumulate(model, tokens, targets, (1, 4, 1))
    assert model.dropped == 0
    for name, gradient in whole.items():
        atol = 1e-12 * np.abs(gradient).max()
        np.testing.assert_allclose(parts[name], gradient, rtol=0, atol=atol, err_msg=name)
