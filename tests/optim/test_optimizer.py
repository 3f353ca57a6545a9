"""Clipping, the gate that keeps what is not finite away, and states that come back."""

import math

import numpy as np
import pytest

from baremetal.autograd import Device, Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.nn import GPT, GPTConfig
from baremetal.optim import SGD, AdamW, Group, Muon, Optimizer, decay_groups

MAKERS = {
    "sgd": lambda p: SGD([Group(p, 0.1)], learning_rate=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: AdamW([Group(p, 0.1)], learning_rate=0.1),
    "muon": lambda p: Muon(
        [q for q in p if q.ndim == 2],
        [Group([q for q in p if q.ndim != 2], 0.1)],
        learning_rate=0.1,
        weight_decay=0.1,
    ),
}


def everything(optimizer):
    """The bytes of all parameters and moments."""
    arrays = [optimizer.arena.data, *optimizer.moments.values()]
    return [array.tobytes() for array in arrays]


# ------------------------------------------------------------ clipping


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 1e6])
def test_clipping_scales_the_global_norm_down(dtype, max_norm, make_parameters, give_gradients):
    parameters = make_parameters(dtype)
    optimizer = SGD(parameters, learning_rate=1.0)
    before = [p.data.astype(np.float64) for p in parameters]
    gradients = give_gradients(parameters, seed=3)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    optimizer.clip(max_norm)
    assert optimizer.gradient_norm == pytest.approx(norm, rel=1e-12)
    optimizer.step()
    moved = [b - p.data for b, p in zip(before, parameters, strict=True)]
    factor = min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0
    for step, g in zip(moved, gradients, strict=True):
        np.testing.assert_allclose(step, factor * g, rtol=1e-5, atol=1e-6)
    total = math.sqrt(sum(float((m**2).sum()) for m in moved))
    assert total == pytest.approx(min(norm, max_norm) if max_norm else norm, rel=1e-4)


def test_a_step_without_clip_measures_by_itself_and_forgets_an_old_factor(
    make_parameters, give_gradients
):
    parameters = make_parameters()
    optimizer = SGD(parameters, learning_rate=1.0)
    give_gradients(parameters, seed=0)
    optimizer.clip(1e-6)
    optimizer.step()
    before = [p.data.copy() for p in parameters]
    gradients = give_gradients(parameters, seed=1)
    optimizer.step()
    for p, b, g in zip(parameters, before, gradients, strict=True):
        np.testing.assert_allclose(p.data, b - g, rtol=1e-12)


# ------------------------------------------------------------ the gate


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_moves_not_one_byte(kind, bad, dtype, make_parameters, give_gradients):
    parameters = make_parameters(dtype)
    optimizer = MAKERS[kind](parameters)
    give_gradients(parameters, seed=0)
    optimizer.clip(1.0, np.array([1.0]))
    optimizer.step()  # moments that are not zero
    before = everything(optimizer)

    give_gradients(parameters, seed=1)
    for loss in (Tensor(np.array(bad, dtype)), np.array([1.0, bad]), bad):
        optimizer.clip(1.0, loss)
        assert not optimizer.last_step_was_finite
        optimizer.step()
        assert everything(optimizer) == before

    parameters[3].grad.data[1, 2] = bad
    optimizer.clip(1.0, np.array([1.0]))
    assert not optimizer.last_step_was_finite
    optimizer.step()
    optimizer.step()  # and without clip
    assert everything(optimizer) == before
    assert optimizer.steps_taken == 1

    give_gradients(parameters, seed=2)
    optimizer.step()
    assert optimizer.last_step_was_finite
    assert everything(optimizer) != before
    assert optimizer.steps_taken == 2


@pytest.mark.parametrize("kind", MAKERS)
def test_a_gated_step_is_as_if_it_had_never_been(kind, make_parameters, give_gradients):
    runs = []
    for gated in (False, True):
        parameters = make_parameters()
        optimizer = MAKERS[kind](parameters)
        for step in range(4):
            if gated and step == 2:
                give_gradients(parameters, seed=99)
                optimizer.clip(1.0, math.nan)
                optimizer.step()
            give_gradients(parameters, seed=step)
            optimizer.clip(1.0, 0.5)
            optimizer.step()
        runs.append(everything(optimizer))
    assert runs[0] == runs[1]


def test_what_was_clipped_is_what_is_stepped():
    """A gate and a factor hold for the gradients they have seen, and for no others."""
    parameter = Parameter(np.ones(4))
    optimizer = SGD([parameter], learning_rate=1.0)
    (parameter * 2.0).sum().backward()
    optimizer.clip(1.0)
    optimizer.zero_grad()
    (parameter * math.nan).sum().backward()
    optimizer.step()  # the gate that the first gradient opened is no gate for this one
    np.testing.assert_array_equal(parameter.numpy(), 1.0)
    optimizer.zero_grad()
    (parameter * 0.25).sum().backward()
    optimizer.step()  # nor is the closed one for a good gradient that follows
    np.testing.assert_array_equal(parameter.numpy(), 0.75)


@pytest.mark.parametrize("defers", [False, True])
def test_gradients_after_clip_are_clipped_too(defers):
    parameter = Parameter(np.zeros(4))
    optimizer = SGD([parameter], learning_rate=1.0)
    optimizer.zero_grad()
    owed = (parameter * 100.0).sum().backward(defer_weights=defers)
    optimizer.clip(1.0)
    if defers:
        owed.pay()
    (parameter * 900.0).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(parameter.numpy(), -0.5)  # (1000,) * 4 has norm 2000
    assert optimizer.gradient_norm == 2000.0


def test_a_gradient_that_is_set_after_clip_is_clipped_too():
    parameter = Parameter(np.zeros(4))
    optimizer = SGD([parameter], learning_rate=1.0)
    (parameter * 0.1).sum().backward()
    optimizer.clip(1.0)
    parameter.grad = np.full(4, 1000.0)
    optimizer.step()
    np.testing.assert_allclose(parameter.numpy(), -0.5)  # (1000,) * 4 has norm 2000


def test_parameters_of_another_device_are_refused():
    elsewhere = Device("elsewhere")
    parameter = Parameter(np.ones(2), device=elsewhere, name="w")
    with pytest.raises(BaremetalError, match=r"'w' .* lives on .*elsewhere.*device="):
        SGD([Parameter(np.ones(2)), parameter])
    SGD([parameter], device=elsewhere)


def test_a_norm_that_overflows_closes_the_gate(make_parameters):
    (parameter,) = make_parameters(np.float64, shapes=[(3,)])
    optimizer = SGD([parameter])
    parameter.add_gradient(np.full(3, 1e200), shared=True)
    optimizer.clip(1.0)
    assert not optimizer.last_step_was_finite


def test_steps_are_seen_by_the_tape(make_parameters, give_gradients):
    (parameter,) = make_parameters(shapes=[(3,)])
    optimizer = SGD([parameter])
    loss = (parameter * parameter).sum()
    give_gradients([parameter], seed=0)
    optimizer.step()
    with pytest.raises(Exception, match=r"SGD\.step"):
        loss.backward()


def test_a_gradient_that_a_step_overwrites_by_zeros_is_seen_too():
    parameter, w = Parameter(np.ones(3)), Parameter(np.ones(3))
    optimizer = SGD([parameter])
    (parameter * 2.0).sum().backward()
    loss = (parameter.grad * w).sum()
    optimizer.zero_grad()
    optimizer.step()  # no gradient since: the arena's memory must hold zeros
    with pytest.raises(Exception, match="changed in place by 'step'"):
        loss.backward()


def test_an_optimizer_without_an_update_says_so(make_parameters):
    with pytest.raises(NotImplementedError, match="Optimizer must launch"):
        Optimizer(make_parameters(), learning_rate=0.1).step()


# ------------------------------------------------------------ state


def tiny_gpt(seed=0):
    config = GPTConfig(vocab_size=7, context=4, layers=1, heads=2, width=8)
    return GPT(config, rng=np.random.default_rng(seed))


def named_optimizer(kind, model):
    if kind == "muon":
        inside = [p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
        chosen = {id(p) for p in inside}
        others = decay_groups([p for p in model.parameters() if id(p) not in chosen], 0.1)
        return Muon(inside, others, learning_rate=0.02, weight_decay=0.1)
    groups = decay_groups(model.parameters(), 0.1)
    return AdamW(groups) if kind == "adamw" else SGD(groups, momentum=0.9)


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        tokens = np.random.default_rng(step).integers(0, 7, (2, 5))
        optimizer.zero_grad()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.clip(1.0, loss)
        optimizer.step()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_run_that_is_resumed_goes_on_bit_for_bit(kind):
    model = tiny_gpt()
    optimizer = named_optimizer(kind, model)
    train(model, optimizer, 3)
    weights = {n: a.copy() for n, a in model.state_dict().items()}
    state = {n: a.copy() for n, a in optimizer.state_dict().items()}
    train(model, optimizer, 3, first=3)

    twin = tiny_gpt(seed=5)
    resumed = named_optimizer(kind, twin)
    train(twin, resumed, 1)  # another past, which must not shine through
    twin.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert resumed.steps_taken == 3
    train(twin, resumed, 3, first=3)
    for name, array in model.state_dict().items():
        assert array.tobytes() == twin.state_dict()[name].tobytes(), name
    for name, array in optimizer.state_dict().items():
        assert array.tobytes() == resumed.state_dict()[name].tobytes(), name


def test_a_state_is_by_parameter_wherever_it_lies_in_the_arena():
    model, twin = tiny_gpt(), tiny_gpt()
    grouped = AdamW(decay_groups(model.parameters(), 0.0))
    flat = AdamW(twin.parameters())
    train(model, grouped, 2)
    flat.load_state_dict(grouped.state_dict())
    state = grouped.state_dict()
    assert state["first_moment.blocks.0.mlp.up.weight"].shape == (32, 8)
    for name, array in flat.state_dict().items():
        assert np.array_equal(array, state[name]), name
    assert set(state) == {"scalars"} | {
        f"{moment}.{name}"
        for moment in ("first_moment", "second_moment")
        for name, _ in model.named_parameters()
    }


def test_parameters_without_names_are_numbered(make_parameters):
    parameters = make_parameters()
    parameters[2].name = ""
    assert set(SGD(parameters).state_dict()) == {"scalars", *(f"momentum.{i}" for i in range(4))}


def test_every_misfit_of_a_state_is_named_and_nothing_is_changed(make_parameters, refused):
    optimizer = AdamW(make_parameters(np.float32))
    before = everything(optimizer)
    state = {name: np.ones_like(array) for name, array in optimizer.state_dict().items()}
    del state["first_moment.p0"]
    state["momentum.p0"] = np.zeros(3)
    state["second_moment.p1"] = np.zeros(8, np.float32)
    state["second_moment.p2"] = np.zeros((), np.float64)
    with refused(
        "does not fit AdamW",
        "missing 'first_moment.p0'",
        "unexpected 'momentum.p0'",
        "'second_moment.p1' is float32 (8,), expected float32 (7,)",
        "'second_moment.p2' is float64 (), expected float32 ()",
    ):
        optimizer.load_state_dict(state)
    assert everything(optimizer) == before
