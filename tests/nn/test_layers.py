"""The small layers against a few lines of NumPy, and their gradients against differences."""

import math

import numpy as np
import pytest

from baremetal.autograd import Tensor, gradcheck
from baremetal.nn import (
    MLP,
    Dropout,
    DropoutState,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    SwiGLU,
)

RNG = np.random.default_rng
X = RNG(1).standard_normal((2, 3, 4))


def erf(x):
    return np.vectorize(math.erf)(x)


def gelu(x, approximate):
    if approximate == "tanh":
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    return x * (1 + erf(x / np.sqrt(2))) / 2


def linear(layer, x):
    y = x @ layer.weight.data.T
    return y if layer.bias is None else y + layer.bias.data


def layer_norm(layer, x):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    y = y * layer.weight.data
    return y if layer.bias is None else y + layer.bias.data


def rms_norm(layer, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + layer.eps) * layer.weight.data


def mlp(layer, x):
    return linear(layer.down, gelu(linear(layer.up, x), layer.approximate))


def swiglu(layer, x):
    gate, up = np.split(linear(layer.gate_up, x), 2, axis=-1)
    return linear(layer.down, gate / (1 + np.exp(-gate)) * up)


CASES = {
    "linear": (lambda: Linear(4, 5, rng=RNG(0)), linear),
    "linear without bias": (lambda: Linear(4, 5, rng=RNG(0), bias=False), linear),
    "layer norm": (lambda: LayerNorm(4, eps=1e-3), layer_norm),
    "layer norm without bias": (lambda: LayerNorm(4, bias=False), layer_norm),
    "rms norm": (lambda: RMSNorm(4, eps=1e-3), rms_norm),
    "mlp": (lambda: MLP(4, rng=RNG(0)), mlp),
    "mlp, exact": (lambda: MLP(4, rng=RNG(0), hidden=3, approximate="none", bias=False), mlp),
    "swiglu": (lambda: SwiGLU(4, 3, rng=RNG(0)), swiglu),
    "swiglu with bias": (lambda: SwiGLU(4, 3, rng=RNG(0), bias=True), swiglu),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_its_formula_and_so_is_its_gradient(case, spread, as_function):
    make, formula = CASES[case]
    layer = spread(make().to(np.float64))
    y = layer(Tensor(X))
    np.testing.assert_allclose(y.numpy(), formula(layer, X), rtol=1e-12, atol=1e-12)

    x = Tensor(X)
    function, values = as_function(layer, lambda: layer(x))
    gradcheck(function, values)
    gradcheck(lambda x: layer(x), [X])


def test_an_embedding_is_rows_of_its_table(as_function):
    layer = Embedding(5, 3, rng=RNG(0)).to(np.float64)
    indices = np.array([[4, 0], [4, 4]])
    assert np.array_equal(layer(indices).numpy(), layer.weight.data[indices])
    function, values = as_function(layer, lambda: layer(indices))
    gradcheck(function, values)


def test_initial_weights_are_normal_and_named_by_the_seed():
    one, same, other = (Linear(300, 400, rng=RNG(seed), std=0.05) for seed in (7, 7, 8))
    weights = one.weight.data
    assert weights.dtype == np.float32
    # The mean of n draws is off by sd / sqrt(n), their deviation by sd / sqrt(2 n): 5 of these.
    assert abs(weights.mean()) < 5 * 0.05 / math.sqrt(weights.size)
    assert abs(weights.std() - 0.05) < 5 * 0.05 / math.sqrt(2 * weights.size)
    assert not one.bias.data.any()
    assert weights.tobytes() == same.weight.data.tobytes() != other.weight.data.tobytes()


# ------------------------------------------------------------ dropout


def dropped(x, state, p=0.25, layer=3):
    return Dropout(p, state=state, layer=layer)(Tensor(x)).numpy()


def test_dropout_zeroes_with_probability_p_and_scales_the_rest():
    x = np.full((8, 500), 2.0, np.float32)
    y = dropped(x, DropoutState(seed=5))
    assert set(np.unique(y)) == {0.0, np.float32(2.0 / 0.75)}
    share = (y == 0).mean()
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.size)


def test_dropout_is_nothing_in_evaluation_or_with_probability_0():
    x, state = Tensor(X), DropoutState()
    assert Dropout(0.5, state=state, layer=0).eval()(x) is x
    assert Dropout(0.0, state=state, layer=0)(x) is x


def test_bits_depend_on_seed_step_layer_and_sample():
    x = np.ones((2, 64), np.float32)
    state, other = DropoutState(seed=1), DropoutState(seed=2)
    first = dropped(x, state)
    assert np.array_equal(first, dropped(x, state))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, dropped(x, other))
    assert not np.array_equal(first, dropped(x, state, layer=4))
    state.set(step=1)
    assert not np.array_equal(first, dropped(x, state))
    state.set(step=0)
    assert np.array_equal(first, dropped(x, state))


@pytest.mark.parametrize("sizes", [(6,), (2, 2, 2), (1, 5), (3, 1, 2)])
def test_microbatches_meet_the_bits_of_the_whole_batch(sizes):
    x = RNG(0).standard_normal((6, 3, 5)).astype(np.float32)
    state = DropoutState(seed=9)
    state.set(step=4)
    whole = dropped(x, state)
    parts, first = [], 0
    for size in sizes:
        state.set(step=4, first_sample=first)
        parts.append(dropped(x[first : first + size], state))
        first += size
    assert np.array_equal(np.concatenate(parts), whole)


def test_the_gradient_of_dropout_meets_the_forward_s_bits_whatever_comes_between():
    state = DropoutState(seed=9)
    x = Tensor(np.ones((4, 33), np.float32), requires_grad=True)
    y = Dropout(0.5, state=state, layer=0)(x)
    state.set(step=7, first_sample=100)  # the next microbatch is prepared before our backward
    y.sum().backward()
    assert np.array_equal(x.grad.numpy(), y.numpy())


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_impossible_dropout_is_refused(p, refused):
    with refused("dropout probability", str(p)):
        Dropout(p, state=DropoutState(), layer=0)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_impossible_seed_is_refused(seed, refused):
    with refused("dropout seed", str(seed)):
        DropoutState(seed)
