"""The tree of parameters: names, state in and out, conversion."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from baremetal.autograd import AutogradError, Device, Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.nn import GPT, GPTConfig, Linear, Module, StateError
from baremetal.optim import SGD


class Pair(Module):
    """Two linear layers of which the second borrows the first one's weight."""

    def __init__(self, rng):
        self.scale = Parameter(np.ones(1, np.float32))
        self.first = Linear(2, 2, rng=rng)
        self.rest = [Linear(2, 2, rng=rng, bias=False), Linear(2, 3, rng=rng)]
        self.extra = [Parameter(np.zeros(2, np.float32)), "no parameter"]
        self.rest[0].weight = self.first.weight


@pytest.fixture
def pair():
    return Pair(np.random.default_rng(0))


def contents(module):
    return {name: p.data.copy() for name, p in module.named_parameters()}


def test_names_are_paths_in_the_order_of_setting_and_tied_parameters_come_once(pair):
    assert [name for name, _ in pair.named_parameters()] == [
        "scale",
        "extra.0",
        "first.weight",
        "first.bias",
        "rest.1.weight",
        "rest.1.bias",
    ]
    assert pair.num_parameters() == 1 + 2 + (4 + 2) + (6 + 3)
    assert list(pair.state_dict()) == [name for name, _ in pair.named_parameters()]
    assert pair.state_dict()["first.weight"] is pair.rest[0].weight.data


def test_modes_reach_the_whole_tree_and_names_the_parameters(pair):
    assert pair.training
    assert pair.rest[1].training
    pair.eval()
    assert not any(module.training for _, module in pair.named_modules())
    assert [name for name, _ in pair.train().named_modules()] == ["", "first", "rest.0", "rest.1"]
    pair.name_parameters()
    assert pair.rest[1].bias.name == "rest.1.bias"


def test_zero_grad_forgets_every_gradient(pair):
    x = Tensor(np.ones((1, 2), np.float32))
    pair.rest[1](pair.first(x)).sum().backward()
    assert pair.first.weight.has_gradient
    pair.zero_grad()
    assert not any(p.has_gradient for p in pair.parameters())


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        Module()(1)


def test_repr_shows_the_tree_and_the_shapes(pair):
    assert repr(pair).splitlines() == [
        "Pair(scale (1,), extra.0 (2,)",
        "  (first): Linear(weight (2, 2), bias (2,))",
        "  (rest.0): Linear(weight (2, 2))",
        "  (rest.1): Linear(weight (3, 2), bias (3,))",
        ")",
    ]


@pytest.mark.parametrize("kind", ["gpt", "llama", "grok"])
def test_a_state_dict_goes_into_another_model_bit_for_bit(tiny, kind):
    ours, other = tiny(kind, seed=1), tiny(kind, seed=2)
    tokens = np.arange(8)[None, :]
    other.load_state_dict(ours.state_dict())
    for (name, a), (_, b) in zip(ours.named_parameters(), other.named_parameters(), strict=True):
        assert a.data.tobytes() == b.data.tobytes(), name
        assert not np.shares_memory(a.data, b.data)
    assert np.array_equal(ours.eval()(tokens).numpy(), other.eval()(tokens).numpy())


def test_every_misfit_is_named_and_nothing_is_changed(pair):
    before = contents(pair)
    state = {name: np.full_like(a, 7) for name, a in before.items()}
    del state["scale"], state["extra.0"]
    state |= {"first.weigth": np.zeros(2), "other": np.zeros(1)}
    state["first.bias"] = np.zeros((2, 1), np.float32)
    state["rest.1.weight"] = np.full((3, 2), "text")
    with pytest.raises(StateError) as caught:
        pair.load_state_dict(state)
    message = str(caught.value)
    for part in (
        "does not fit Pair",
        "missing 'scale'",
        "missing 'extra.0'",
        "unexpected 'first.weigth'",
        "unexpected 'other'",
        "'first.bias' has shape (2, 1), expected (2,)",
        "'rest.1.weight' has dtype <U4, expected float32",
    ):
        assert part in message
    for name, array in contents(pair).items():
        assert np.array_equal(array, before[name]), name


def test_not_strict_takes_what_is_there_but_no_wrong_shape(pair):
    before = contents(pair)
    pair.load_state_dict({"scale": Tensor([5.0]), "unknown": np.zeros(3)}, strict=False)
    assert pair.scale.data.tolist() == [5.0]
    assert np.array_equal(pair.first.weight.data, before["first.weight"])
    with pytest.raises(StateError, match=r"'scale' has shape \(2,\)"):
        pair.load_state_dict({"scale": np.zeros(2)}, strict=False)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int64])
def test_other_real_types_are_converted(pair, dtype):
    pair.load_state_dict({"scale": np.array([3], dtype)}, strict=False)
    assert pair.scale.dtype == np.float32
    assert pair.scale.data.tolist() == [3.0]


def test_loading_between_forward_and_backward_is_detected(pair):
    loss = pair.first(Tensor(np.ones((1, 2), np.float32), requires_grad=True)).sum()
    pair.load_state_dict(contents(pair))
    with pytest.raises(AutogradError, match="load_state_dict"):
        loss.backward()


def test_to_converts_in_place_and_keeps_ties(pair):
    before, weight, version = contents(pair), pair.first.weight, pair.first.weight.version.count
    assert pair.to(np.float64) is pair
    assert pair.first.weight is weight is pair.rest[0].weight
    assert weight.version.count == version + 1
    for name, parameter in pair.named_parameters():
        assert parameter.dtype == np.float64
        assert np.array_equal(parameter.data, before[name])  # float32 fits into float64 exactly
    x = Tensor(np.ones((1, 2)), dtype=np.float64)
    assert pair.first(x).dtype == np.float64


def test_to_moves_to_another_device(pair):
    device = Device("other", kernels="reference")
    pair.to(device=device)
    assert all(p.device is device and p.dtype == np.float32 for p in pair.parameters())
    assert pair.first(Tensor(np.ones((1, 2), np.float32), device=device)).device is device


def test_to_refuses_what_would_be_lost(pair, refused):
    with refused("int32", "float64"):
        pair.to(np.int32)
    SGD(pair.parameters())
    with refused("'scale'", "optimiser", "before training"):
        pair.to(np.float64)
    assert pair.first.weight.dtype == np.float32


@pytest.mark.parametrize("kind", ["gpt", "llama", "grok"])
def test_a_model_can_be_copied_after_training(tiny, kind):
    model = tiny(kind)
    tokens = np.arange(8)[None, :]
    model.loss(tokens, tokens).backward()
    twin = copy.deepcopy(model)
    twin.token_embedding.weight.data[...] = 0
    assert model.token_embedding.weight.data.any()
    if model.head is None:
        assert not twin(tokens).numpy().any()  # its head is its embedding still


def test_modules_and_parameters_in_dicts_and_nested_lists_are_found():
    rng = np.random.default_rng(0)
    tower = Module()
    tower.table = {"a": Linear(1, 1, rng=rng, bias=False), 2: {"deep": Parameter(np.zeros(1))}}
    tower.grid = [[Linear(1, 1, rng=rng, bias=False)], ({"x": Parameter(np.zeros(1))}, "text")]
    assert [name for name, _ in tower.named_parameters()] == [
        "table.2.deep",
        "grid.1.0.x",
        "table.a.weight",
        "grid.0.0.weight",
    ]
    assert not tower.eval().grid[0][0].training
    assert "(grid.0.0): Linear" in repr(tower)
    state = contents(tower)
    tower.load_state_dict({name: array + 1 for name, array in state.items()})
    assert tower.table[2]["deep"].tolist() == [1.0]


def test_two_parameters_of_one_name_are_refused():
    clash = Module()
    clash.table = {1: Parameter(np.zeros(1)), "1": Parameter(np.zeros(1))}
    with pytest.raises(BaremetalError, match=r"two parameters are called 'table\.1'"):
        list(clash.named_parameters())


def test_a_module_that_contains_itself_is_refused(pair):
    pair.rest[1].owner = [pair]
    for question in (pair.parameters, pair.named_modules, pair.state_dict, pair.eval):
        with pytest.raises(BaremetalError, match=r"'rest\.1\.owner\.0' \(a Pair\) contains itself"):
            list(question())
    assert "Pair" in repr(pair)


def test_a_state_is_loaded_as_a_whole_or_not_at_all(pair):
    before = contents(pair)
    state = {name: np.full_like(a, 7) for name, a in before.items()}
    read_only = pair.rest[1].bias
    read_only.data.flags.writeable = False
    with pytest.raises(StateError, match=r"'rest\.1\.bias' .*read-only"):
        pair.load_state_dict(state)
    read_only.data = read_only.data.copy()
    for large in (np.array([1e300]), np.array([-np.inf, 1e39])[1:]):
        with pytest.raises(StateError, match=r"'scale' .*too large for float32"):
            pair.load_state_dict(state | {"scale": large})
    assert all(np.array_equal(a, before[name]) for name, a in contents(pair).items())
    pair.load_state_dict(state | {"scale": np.array([np.inf])})  # it was infinite when saved
    assert pair.scale.tolist() == [np.inf]


def test_a_copied_or_pickled_model_goes_on_with_its_own_dropout():
    """Its state is its own; the device that the state lies on is the same."""
    model = GPT(GPTConfig(vocab_size=11, context=8, layers=1, heads=2, width=8, dropout=0.5),
                rng=np.random.default_rng(0))  # fmt: skip
    tokens = np.arange(8)[None]
    expected = model(tokens).numpy().copy()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin(tokens).numpy(), expected)
        twin.dropout_state.begin_microbatch(1)
        assert model.dropout_state.buffer[2] == 0
