"""A mixture of experts against a loop over its tokens; capacity, balance, and who is left out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.autograd import Tensor, gradcheck
from baremetal.nn import Experts
from baremetal.nn.experts import seat, top


def build(experts=4, active=2, seed=0, **options):
    layer = Experts(
        6, 5, experts=experts, active=active, rng=np.random.default_rng(seed), **options
    ).to(np.float64)
    rng = np.random.default_rng(seed + 1)
    for parameter in layer.parameters():
        parameter.data += 0.5 * rng.standard_normal(parameter.shape)
    return layer


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def expert(layer, number, x):
    """One expert on one token, x (width,)."""
    gate, up = np.split(x @ layer.gate_up.data[number], 2)
    return (gate / (1 + np.exp(-gate)) * up) @ layer.down.data[number]


def dense(layer, x, places=math.inf):
    """Token by token, first choices before second ones; returns outputs and how many found none."""
    tokens = x.reshape(-1, x.shape[-1])
    p = softmax(tokens @ layer.router.weight.data.T)
    chosen = np.argsort(-p, axis=-1)[:, : layer.active]
    visitors, dropped, out = np.zeros(layer.experts, int), 0, np.zeros_like(tokens)
    for choice in range(layer.active):
        for t, token in enumerate(tokens):
            e = chosen[t, choice]
            visitors[e] += 1
            if visitors[e] > places:
                dropped += 1
                continue
            out[t] += p[t, e] / p[t, chosen[t]].sum() * expert(layer, e, token)
    return out.reshape(x.shape), dropped


X = np.random.default_rng(3).standard_normal((3, 5, 6))


@pytest.mark.parametrize(("experts", "active"), [(1, 1), (4, 1), (4, 2), (4, 4), (7, 3)])
def test_with_room_for_all_it_is_a_loop_over_tokens(experts, active):
    layer = build(experts, active, capacity_factor=float(experts))  # N k places each
    expected, _ = dense(layer, X)
    y = layer(Tensor(X))
    assert layer.dropped == 0
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.8, 1.0])
def test_full_experts_turn_visitors_away(factor):
    layer = build(capacity_factor=factor)
    places = layer.capacity(15)
    assert places == math.ceil(factor * 15 * 2 / 4)
    expected, dropped = dense(layer, X, places)
    y = layer(Tensor(X))
    assert layer.dropped == dropped > 0
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_evaluation_turns_nobody_away_and_does_not_look_at_the_neighbours():
    layer = build(capacity_factor=0.1)
    y = layer.eval()(Tensor(X)).numpy()
    assert layer.dropped == 0
    np.testing.assert_allclose(y, dense(layer, X)[0], rtol=1e-10, atol=1e-12)
    alone = layer(Tensor(X[1:2, 2:3])).numpy()
    np.testing.assert_allclose(alone, y[1:2, 2:3], rtol=1e-12)
    assert layer.train()(Tensor(X)).shape == X.shape
    assert layer.dropped > 0


@given(
    tokens=st.integers(1, 12), experts=st.integers(1, 6), data=st.data(), places=st.integers(1, 6)
)
def test_seats_are_given_out_in_order_of_choice_then_of_token(tokens, experts, data, places):
    k = data.draw(st.integers(1, experts))
    order = [data.draw(st.permutations(range(experts)))[:k] for _ in range(tokens)]
    chosen = np.array(order)
    for capacity in (places, None):
        expected, taken, dropped = [], np.zeros(experts, int), 0
        for choice in range(k):
            for t in range(tokens):
                e = chosen[t, choice]
                if capacity is not None and taken[e] == capacity:
                    dropped += 1
                    continue
                expected.append((t, e, taken[e]))
                taken[e] += 1
        seating = seat(chosen, experts, capacity)
        triples = zip(seating.token, seating.expert, seating.place, strict=True)
        assert [tuple(map(int, triple)) for triple in triples] == expected
        assert seating.dropped == dropped
        assert seating.capacity == (taken.max() if capacity is None else capacity)


def test_the_likeliest_come_first_and_ties_go_to_the_lower_number():
    values = np.array([[0.1, 0.4, 0.4, 0.1], [0.2, 0.2, 0.2, 0.4]])
    assert top(values, 3).tolist() == [[1, 2, 0], [3, 0, 1]]


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_central_differences(training, as_function):
    layer = build(experts=3, capacity_factor=0.7).train(training)
    x = X[:1]

    def call(x):
        return layer(x), layer.take_balance_loss()

    gradcheck(call, [x])
    assert (layer.dropped > 0) == training
    constant = Tensor(x)
    function, values = as_function(layer, lambda: call(constant))
    gradcheck(function, values)


# ------------------------------------------------------------ balance


def balance_of(layer, x):
    layer(Tensor(x))
    return layer.balance_loss.item()


@pytest.mark.parametrize(("experts", "active"), [(4, 1), (4, 2), (6, 3)])
def test_balance_is_1_when_all_are_asked_equally(experts, active):
    # Token t prefers expert t mod E, then the next ones, each a little less.
    layer = build(experts, active)
    layer.router.weight.data[...] = 0
    layer.router.weight.data[:, :] = np.eye(experts, 6)
    preferences = np.maximum(active - np.arange(experts), 0) * 1.0
    x = np.zeros((1, experts, 6))
    for t in range(experts):
        x[0, t, :experts] = np.roll(preferences, t)
    assert balance_of(layer, x) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(("experts", "active"), [(4, 1), (4, 2), (6, 3), (5, 5)])
def test_balance_is_e_over_k_when_all_are_sure_of_the_same_k(experts, active):
    layer = build(experts, active)
    layer.router.weight.data[...] = 0
    layer.router.weight.data[:active, 0] = 800.0
    assert balance_of(layer, np.ones((1, 9, 6))) == pytest.approx(experts / active, rel=1e-12)


def test_balance_is_its_formula():
    layer = build()
    tokens = X.reshape(-1, 6)
    p = softmax(tokens @ layer.router.weight.data.T)
    chosen = np.argsort(-p, axis=-1)[:, :2]
    f = np.bincount(chosen.ravel(), minlength=4) / 30
    assert balance_of(layer, X) == pytest.approx(4 * (f * p.mean(axis=0)).sum(), rel=1e-12)


def test_the_balance_loss_is_taken_once_and_leaves_its_value(refused):
    layer = build()
    with refused("no balance loss yet"):
        layer.take_balance_loss()
    layer(Tensor(X))
    taken = layer.take_balance_loss()
    assert taken.requires_grad
    assert not layer.balance_loss.requires_grad
    assert layer.balance_loss.item() == taken.item()


def test_descending_the_balance_loss_balances():
    layer = build(experts=4, active=1, seed=5)
    layer.router.weight.data[0] += 1.0  # everybody's favourite
    x = np.abs(X)
    before = balance_of(layer, x)
    for _ in range(60):
        layer(Tensor(x))
        layer.zero_grad()
        layer.take_balance_loss().backward()
        layer.router.weight.data -= 1.0 * layer.router.weight.grad.numpy()
    assert before > 3
    assert balance_of(layer, x) < 1.5


# ------------------------------------------------------------ impossible ones


@pytest.mark.parametrize("active", [0, 5, -1])
def test_impossible_numbers_of_active_experts_are_refused(active, refused):
    with refused(f"{active} active of 4 experts", "1 to 4"):
        build(4, active)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_impossible_capacities_are_refused(factor, refused):
    with refused("capacity factor", str(factor)):
        build(capacity_factor=factor)
