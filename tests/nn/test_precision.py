"""Recipes: which layers get which storage, and that nothing else changes."""

import numpy as np
import pytest

from baremetal.autograd import Tensor, ops
from baremetal.errors import BaremetalError
from baremetal.nn import MLP, PRECISIONS, Linear, find_precision, use_precision

NARROW = [name for name in PRECISIONS if name != "float32"]


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 11, (2, 8)), rng.integers(0, 11, (2, 8))


def formats(model):
    """(input, weight, gradient) format by the name of the linear layer."""
    return {
        name: None
        if layer.storage is None
        else tuple(s.format for s in vars(layer.storage).values())
        for name, layer in model.named_modules()
        if isinstance(layer, Linear)
    }


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_linear_layers_inside_the_blocks_are_narrow_and_no_others(tiny, kind):
    model = tiny(kind, tied=False)
    use_precision(model, "fp8")
    found = formats(model)
    inside = {name for name in found if name.startswith("blocks.")}
    assert len(inside) == 2 * 4
    assert {found[name] for name in inside} == {("float8_e4m3fn", "float8_e4m3fn", "float8_e5m2")}
    assert found["head"] is None
    use_precision(model, "float32")
    assert set(formats(model).values()) == {None}


def test_nvfp4_keeps_the_ends_in_bf16(tiny):
    model = tiny("gpt", layers=4)
    use_precision(model, "nvfp4")
    kinds = [set(formats(block).values()) for block in model.blocks]
    wide, narrow = {("bfloat16",) * 3}, {("float4_e2m1fn",) * 3}
    assert kinds == [wide, narrow, narrow, wide]


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_loss_is_near_that_of_float32_and_parameters_stay(tiny, spread, name):
    model = spread(tiny("gpt", layers=3), size=0.1)
    before = {k: v.copy() for k, v in model.state_dict().items()}
    full = model.loss(*batch()).item()
    use_precision(model, name)
    loss = model.loss(*batch())
    loss.backward()
    # Half a step of the format, relative, in each of a dozen matrices: 4 bits lose a tenth.
    assert loss.item() == pytest.approx(full, rel=0.05)
    assert (loss.item() == full) is (name == "float32")
    for key, array in model.state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[key])
    assert all(p.grad is not None and np.isfinite(p.grad.data).all() for p in model.parameters())


@pytest.mark.parametrize("name", NARROW)
def test_gradients_point_where_those_of_float32_point(tiny, spread, name):
    """The cosine between all gradients: 1 up to the rounding of 16 bits, less for fewer."""
    model = spread(tiny("llama", layers=3), size=0.2)
    directions = []
    for precision in ("float32", name):
        use_precision(model, precision)
        model.zero_grad()
        model.loss(*batch()).backward()
        grads = [p.grad.data.ravel().astype(np.float64) for p in model.parameters()]
        whole = np.concatenate(grads)
        directions.append(whole / np.linalg.norm(whole))
    # Found: 0.99987, 0.999997, 0.980, 0.955, 0.910. Twice that distance from 1 is allowed.
    least = {"bf16": 0.9997, "fp16": 0.99999, "fp8": 0.96, "fp8-block": 0.91, "nvfp4": 0.82}[name]
    assert least < directions[0] @ directions[1] < 1 - 1e-9


def test_an_unknown_recipe_and_models_without_one_are_refused(tiny):
    with pytest.raises(BaremetalError, match="unknown precision 'fp6': choose one of float32"):
        find_precision("fp6")
    with pytest.raises(BaremetalError, match="has no blocks"):
        use_precision(MLP(4, rng=np.random.default_rng(0)), "bf16")
    moe = tiny("grok")
    with pytest.raises(BaremetalError, match="experts, whose products have no narrow storage"):
        use_precision(moe, "bf16")
    assert set(formats(moe).values()) == {None}
    use_precision(moe, "float32")  # which asks for nothing


def test_a_layer_by_itself_takes_any_storage():
    layer = Linear(32, 5, rng=np.random.default_rng(0))
    layer.storage = find_precision("fp8").inside
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    expected = ops.stored_linear(Tensor(x), layer.weight, layer.bias, storage=layer.storage)
    np.testing.assert_array_equal(layer(Tensor(x)).numpy(), expected.numpy())
