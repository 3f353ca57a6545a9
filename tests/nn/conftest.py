"""What the tests of this room share: tiny models, and modules as functions of their parameters."""

import numpy as np
import pytest

from baremetal.nn import GPT, GPTConfig, Grok, GrokConfig, Llama, LlamaConfig

KINDS = {"gpt": (GPT, GPTConfig), "llama": (Llama, LlamaConfig), "grok": (Grok, GrokConfig)}
SIZES = {"vocab_size": 11, "context": 8, "layers": 2, "heads": 4, "width": 16}


@pytest.fixture
def tiny():
    """`tiny("llama", heads=2, seed=3)`: a model of two layers, four heads, width 16, context 8."""

    def make(kind, seed=0, **changes):
        model, config = KINDS[kind]
        return model(config(**{**SIZES, **changes}), rng=np.random.default_rng(seed))

    return make


@pytest.fixture
def spread():
    """Give a model larger random weights, so that nothing is nearly zero or nearly one."""

    def change(model, seed=0, size=0.3):
        rng = np.random.default_rng(seed)
        for parameter in model.parameters():
            parameter.data += (size * rng.standard_normal(parameter.shape)).astype(parameter.dtype)
        return model

    return change


@pytest.fixture
def as_function():
    """`f, values = as_function(module, call)`: f(*parameters) = call(), for `gradcheck`.

    The module's parameters are replaced by the tensors that f is given; it is of no other use
    afterwards.
    """

    def make(module, call):
        names = [name for name, _ in module.named_parameters()]
        values = [parameter.data.astype(np.float64) for parameter in module.parameters()]

        def function(*parameters):
            for name, tensor in zip(names, parameters, strict=True):
                *path, last = name.split(".")
                place = module
                for step in path:
                    place = place[int(step)] if step.isdigit() else getattr(place, step)
                setattr(place, last, tensor)
            return call()

        return function, values

    return make
