"""The finder of the first NaN: every kind of parameter and layer of every model, by its name."""

from functools import partial

import numpy as np
import pytest

from baremetal import nn
from baremetal.train.blame import ONLY_IN_THE_NORM, find_first_non_finite

SIZES = {"vocab_size": 11, "context": 8, "layers": 2, "heads": 2, "width": 16}
TOKENS = np.arange(16).reshape(2, 8) % 11
TARGETS = (TOKENS + 1) % 11
MODELS = {
    "gpt": lambda rng: nn.GPT(nn.GPTConfig(**SIZES), rng=rng),
    "gpt untied": lambda rng: nn.GPT(nn.GPTConfig(**SIZES, tied=False), rng=rng),
    "llama": lambda rng: nn.Llama(nn.LlamaConfig(**SIZES, kv_heads=1), rng=rng),
    "moe": lambda rng: nn.Grok(nn.GrokConfig(**SIZES, experts=3, active_experts=2), rng=rng),
}


def build(kind):
    return MODELS[kind](np.random.default_rng(0))


def blame(model):
    with np.errstate(all="ignore"):
        return find_first_non_finite(model, partial(model.loss, TOKENS, TARGETS))


PARAMETERS = [(kind, name) for kind in MODELS for name, _ in build(kind).named_parameters()]
MODULES = [(kind, name) for kind in MODELS for name, _ in build(kind).named_modules() if name]


@pytest.mark.parametrize(("kind", "name"), PARAMETERS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_parameter_is_named(kind, name, poison):
    model = build(kind)
    dict(model.named_parameters())[name].data.reshape(-1)[3] = poison
    assert blame(model) == f"in the weights themselves: {name}"


@pytest.mark.parametrize(("kind", "name"), MODULES)
def test_a_layer_whose_output_overflows_is_named(kind, name):
    model = build(kind)
    plant(model, name, lambda y: (y * 1e30) * 1e30)
    assert blame(model).startswith(f"in the output of {name} (")


@pytest.mark.parametrize(("kind", "name"), MODULES)
def test_a_layer_whose_gradient_overflows_is_named(kind, name):
    model = build(kind)
    # Forwards this adds a number that has become 0; backwards, a gradient times 1e50.
    plant(model, name, lambda y: y + ((((y * 1e-25) * 1e-25) * 1e25) * 1e25))
    assert blame(model) == (
        f"in the gradient of {name} ({type_name(model, name)}), kernel 'multiply'"
    )


@pytest.mark.parametrize(
    ("kind", "parts", "place"),
    [
        ("gpt", ("token_embedding", "position_embedding"), "dropout (Dropout)"),
        ("llama", ("token_embedding", "blocks.0.attention"), "blocks.0.norm_2 (RMSNorm)"),
    ],
)
def test_a_sum_between_layers_is_found_before_the_next_layer(kind, parts, place):
    model = build(kind)
    for part in parts:
        plant(model, part, lambda y: y * 0.0 + 3e38)  # each is finite, their sum is not
    assert blame(model) == f"in what goes into {place}, computed from finite outputs"


def test_the_logits_of_a_tied_head_are_the_models_own():
    model = build("gpt")
    plant(model, "norm", lambda y: y * 0.0 + 3e38)
    model.token_embedding.weight.data *= 1e3
    assert blame(model) == "in the output of the model itself (GPT)"


@pytest.mark.parametrize("kind", MODELS)
def test_a_healthy_step_has_nothing_but_its_norm_to_blame(kind):
    model = build(kind)
    assert blame(model) == ONLY_IN_THE_NORM
    assert not any("forward" in vars(module) for _, module in model.named_modules())


def plant(model, name, change):
    """Let the module's forward end with `change`, by way of a class of its own."""
    module = dict(model.named_modules())[name]
    usual = type(module)

    def forward(self, *inputs, **options):
        return change(usual.forward(self, *inputs, **options))

    module.__class__ = type(usual.__name__, (usual,), {"forward": forward})


def type_name(model, name):
    return type(dict(model.named_modules())[name]).__name__
