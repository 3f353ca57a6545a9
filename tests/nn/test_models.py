"""Whole models: shapes, gradients, learning, causality, the cache, and what they refuse."""

import dataclasses
import math

import numpy as np
import pytest

from baremetal.autograd import CPU, AutogradError, Device, gradcheck, no_grad
from baremetal.nn import GPTConfig, GrokConfig, LlamaConfig
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.optim import AdamW, decay_groups

KINDS = ["gpt", "llama", "grok"]
VARIANTS = [
    ("gpt", {}),
    ("gpt", {"tied": False, "bias": False}),
    ("llama", {"kv_heads": 2}),
    ("llama", {"tied": True}),
    ("grok", {"kv_heads": 1, "experts": 4}),
    ("grok", {"tied": False, "experts": 3}),
]
SMALL = {"vocab_size": 5, "context": 3, "layers": 1, "heads": 2, "width": 4}


def batch(seed=0, size=4, vocab_size=11, time=8):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, (size, time + 1))
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def gradients(model):
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


# ------------------------------------------------------------ forward and loss


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_logits_have_one_row_per_token_and_nothing_is_known_at_first(tiny, kind, changes):
    model = tiny(kind, **changes).eval()
    tokens, targets = batch()
    assert model(tokens).shape == (4, 8, 11)
    assert model(tokens[:, :3]).shape == (4, 3, 11)
    # Weights of size 0.02 make nearly equal logits: the loss is that of guessing.
    assert model.loss(tokens, targets).item() == pytest.approx(math.log(11), abs=0.05)
    assert (model.head is None) == model.config.tied


def test_a_weight_that_changed_before_backward_is_called_by_its_path(tiny):
    model = tiny("gpt")
    loss = model.loss(*batch())
    weight = model.blocks[0].mlp.up.weight
    with no_grad():
        weight += 1
    with pytest.raises(AutogradError, match=r"'weight' \('blocks\.0\.mlp\.up\.weight', shape"):
        loss.backward()


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_the_loss_is_the_mean_of_minus_log_p_over_what_counts(tiny, spread, kind, changes):
    model = spread(tiny(kind, **changes)).eval()
    tokens, targets = batch()
    targets[1:3, 2:] = IGNORE_INDEX
    logits = model(tokens).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counts = targets != IGNORE_INDEX
    chosen = np.take_along_axis(log_p, np.where(counts, targets, 0)[..., None], -1)[..., 0]
    expected = -chosen[counts].mean()
    assert model.loss(tokens, targets).item() == pytest.approx(expected, rel=1e-5)
    halved = model.loss(tokens, targets, total=np.array([2.0 * counts.sum()]))
    assert halved.item() == pytest.approx(expected / 2, rel=1e-5)
    assert model.loss(tokens, targets, total=2 * counts.sum()).item() == halved.item()


def test_grok_adds_the_blocks_mean_balance_loss_while_training(tiny):
    model = tiny("grok", balance_weight=0.5, experts=4, capacity_factor=4.0)
    tokens, targets = batch()
    targets[0] = IGNORE_INDEX
    plain = model.eval().loss(tokens, targets).item()
    loss = model.train().loss(tokens, targets)
    balance = np.mean([block.mlp.balance_loss.item() for block in model.blocks])
    assert 1.0 < balance < 2.0
    assert loss.item() == pytest.approx(plain + 0.5 * balance, rel=1e-6)
    # As the cross-entropy, by the share of the tokens that count: 24 of 48.
    part = model.loss(tokens, targets, total=48)
    assert part.item() == pytest.approx(loss.item() / 2, rel=1e-6)
    without = dataclasses.replace(model.config, balance_weight=0.0)
    model.config = without
    assert model.loss(tokens, targets).item() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("training", [True, False])
def test_later_tokens_change_nothing_before(tiny, spread, kind, training):
    model = spread(tiny(kind)).train(training)
    tokens, _ = batch()
    changed = tokens.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    with no_grad():
        before, after = model(tokens).numpy(), model(changed).numpy()
    assert np.array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(axis=-1).all()


def test_later_tokens_change_nothing_before_in_grok_s_evaluation(tiny, spread):
    model = spread(tiny("grok", experts=4, capacity_factor=0.5)).eval()
    tokens, _ = batch()
    changed = tokens.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    # The experts' batches have other sizes then, hence products in another order of summation.
    before, after = model(tokens).numpy(), model(changed).numpy()
    np.testing.assert_allclose(before[:, :5], after[:, :5], rtol=1e-5, atol=1e-5)
    assert model.dropped == 0


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_positions_matter(tiny, spread, kind):
    model = spread(tiny(kind)).eval()
    logits = model(np.array([[3, 4, 5], [4, 3, 5]])).numpy()
    assert not np.allclose(logits[0, -1], logits[1, -1])


# ------------------------------------------------------------ gradients


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt", {}),
        ("gpt", {"tied": False, "bias": False}),
        ("gpt", {"dropout": 0.3}),
        ("llama", {"kv_heads": 1, "hidden": 3}),
        ("llama", {"tied": True, "hidden": 3}),
        ("grok", {"experts": 3, "hidden": 2, "capacity_factor": 0.7, "balance_weight": 0.3}),
    ],
)
def test_every_gradient_of_a_whole_model_is_a_central_difference(
    tiny, spread, as_function, kind, changes
):
    model = spread(tiny(kind, **{**SMALL, **changes}).to(np.float64))
    tokens, targets = batch(size=2, vocab_size=5, time=3)
    targets[1, 0] = IGNORE_INDEX
    function, values = as_function(model, lambda: model.loss(tokens, targets))
    gradcheck(function, values)
    if kind == "grok":
        assert model.dropped > 0


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_compiled_kernels_and_their_references_agree(tiny, spread, kind, changes):
    tokens, targets = batch()
    native = spread(tiny(kind, **changes).to(np.float64, CPU))
    reference = spread(tiny(kind, **changes).to(np.float64, Device("other", kernels="reference")))
    losses = [model.loss(tokens, targets) for model in (native, reference)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    for name, gradient in gradients(native).items():
        other = dict(reference.named_parameters())[name].grad.numpy()
        np.testing.assert_allclose(gradient, other, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_a_few_steps_learn_a_batch_by_heart(tiny, kind, changes):
    model = tiny(kind, **changes)
    tokens, targets = batch(size=2)
    optimizer = AdamW(decay_groups(model.parameters(), 0.01), learning_rate=2e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.loss(tokens, targets)
        loss.backward()
        optimizer.clip(1.0, loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.3
    assert losses[-1] < 0.5


# ------------------------------------------------------------ dropout


def test_dropout_is_only_in_training_and_follows_its_state(tiny):
    model = tiny("gpt", dropout=0.4)
    tokens, targets = batch()
    plain = tiny("gpt")
    assert model.eval().loss(tokens, targets).item() == plain.loss(tokens, targets).item()
    model.train()
    first = model.loss(tokens, targets).item()
    assert model.loss(tokens, targets).item() == first != plain.loss(tokens, targets).item()
    model.dropout_state.set(step=1)
    assert model.loss(tokens, targets).item() != first
    assert tiny("gpt", dropout=0.4).loss(tokens, targets).item() == first


def test_dropout_layers_have_bits_of_their_own(tiny):
    model = tiny("gpt", dropout=0.4)
    layers = [m.layer for _, m in model.named_modules() if type(m).__name__ == "Dropout"]
    assert layers == [0, 1, 2, 3, 4]


def test_microbatches_meet_the_dropout_of_the_whole_batch(tiny, spread):
    model = spread(tiny("gpt", dropout=0.4))
    tokens, _ = batch(size=4)
    model.dropout_state.set(step=3)
    whole = model(tokens).numpy()
    for first in range(4):
        model.dropout_state.set(step=3, first_sample=first)
        alone = model(tokens[first : first + 1]).numpy()
        np.testing.assert_allclose(alone, whole[first : first + 1], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------ the key-value cache


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
@pytest.mark.parametrize("pieces", [(1,) * 8, (5, 1, 2)])
def test_a_cache_gives_the_logits_of_the_whole_sequence(tiny, spread, kind, changes, pieces):
    model = spread(tiny(kind, **changes)).eval()
    tokens, _ = batch(size=3)
    cache, parts, start = model.new_cache(batch=3), [], 0
    with no_grad():
        for size in pieces:
            parts.append(model(tokens[:, start : start + size], cache).numpy())
            start += size
        expected = model(tokens).numpy()
    # One token or eight at once: sums in another order, in float32.
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=2e-4, atol=2e-5)


def test_grouped_queries_shrink_the_cache(tiny):
    full, grouped = tiny("llama").new_cache(), tiny("llama", kv_heads=1).new_cache()
    assert full.size_bytes == 4 * grouped.size_bytes
    assert tiny("gpt").to(np.float64).new_cache().layers[0].keys.dtype == np.float64


# ------------------------------------------------------------ work


@pytest.mark.parametrize(("kind", "changes"), VARIANTS[:4])
def test_flops_are_those_of_the_products_that_run(tiny, kind, changes):
    model = tiny(kind, **changes).eval()
    tokens, _ = batch(size=1)
    counted = 0

    def listen(run, kernel, arrays, attributes):
        nonlocal counted
        run()
        if kernel.name in ("matmul", "linear"):  # (.., inner) x (inner, ..) -> the last array
            counted += 2 * arrays[-1].size * arrays[0].shape[-1]

    with no_grad(), CPU.listen(listen):
        model(tokens)
    config = model.config
    vectors = sum(p.size for p in model.parameters() if p.ndim == 1)  # 6 FLOP each, by the rule
    attention = 12 * config.layers * config.width * config.context
    assert model.flops_per_token() == 3 * counted // 8 + 6 * vectors + attention


@pytest.mark.parametrize("active", [1, 2, 4])
def test_a_mixture_costs_what_an_mlp_of_the_active_experts_width_costs(tiny, active):
    grok = tiny("grok", experts=4, active_experts=active, hidden=6)
    dense = tiny("llama", hidden=6 * active, tied=True)
    routers = sum(block.mlp.router.weight.size for block in grok.blocks)
    for context in (None, 5):
        assert grok.flops_per_token(context) == dense.flops_per_token(context) + 6 * routers


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_that_do_not_fit_are_refused(tiny, kind, refused):
    model = tiny(kind).eval()
    with refused("(3,)", "(batch, time)", "tokens[None, :]"):
        model(np.arange(3))
    with refused("(1, 0)"):
        model(np.zeros((1, 0), np.int64))
    with refused("9 positions", "context of 8"):
        model(np.zeros((1, 9), np.int64))
    cache = model.new_cache()
    with no_grad():
        model(np.zeros((1, 6), np.int64), cache)
    with refused("9 positions", "context of 8"):
        model(np.zeros((1, 3), np.int64), cache)
    with refused("11", "0..10"):
        model(np.array([[0, 11]]))
    with refused("-1", "0..10"):
        model(np.array([[0, -1]]))


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (GPTConfig, {"vocab_size": 0}, ("vocab_size = 0",)),
        (GPTConfig, {"layers": -1}, ("layers = -1",)),
        (GPTConfig, {"width": 18}, ("width 18", "4 heads", "try width 20")),
        (LlamaConfig, {"kv_heads": 3}, ("3 key-value heads",)),
        (LlamaConfig, {"kv_heads": -1}, ("-1 key-value heads",)),
        (LlamaConfig, {"width": 12}, ("3 wide", "even")),
        (LlamaConfig, {"hidden": -4}, ("hidden = -4",)),
        (GrokConfig, {"balance_weight": -0.1}, ("balance_weight = -0.1",)),
    ],
)
def test_impossible_sizes_are_refused(config, changes, words, refused):
    with refused(*words):
        config(**{"vocab_size": 11, "heads": 4, "width": 16, **changes})


def test_sizes_that_are_left_out_are_filled_in():
    config = LlamaConfig(vocab_size=11, heads=4, width=48)
    assert (config.key_value_heads, config.hidden_width) == (4, 128)  # 8/3 of 48, to 16s
    assert LlamaConfig(vocab_size=11, heads=4, width=40).hidden_width == 112
    assert LlamaConfig(vocab_size=11, heads=4, width=40, hidden=7).hidden_width == 7
