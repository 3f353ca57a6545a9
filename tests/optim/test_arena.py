"""The flat memory: views, gradients that land in it, and parameters that leave it."""

import numpy as np
import pytest

from baremetal.autograd import Parameter, Tensor
from baremetal.nn import GPT, GPTConfig
from baremetal.optim import SGD, AdamW, Group, ParameterArena, decay_groups


def tiny_gpt(**changes):
    sizes = {"vocab_size": 7, "context": 4, "layers": 1, "heads": 2, "width": 8}
    return GPT(GPTConfig(**{**sizes, **changes}), rng=np.random.default_rng(0))


def inside(array, flat):
    return np.shares_memory(array, flat)


def test_parameters_become_views_with_the_same_values(make_parameters):
    parameters = make_parameters(np.float32)
    before = [p.data.copy() for p in parameters]
    arena = ParameterArena(parameters)
    for place, old in zip(arena.places, before, strict=True):
        assert np.array_equal(place.parameter.data, old)
        assert place.start % 16 == 0
        assert inside(place.parameter.data, arena.data)
    parameters[0].data[...] = 5.0
    assert (arena.data[:15] == 5.0).all()
    covered = np.zeros(arena.size, bool)
    for place in arena.places:
        assert not covered[place.start : place.stop].any()  # nobody overlaps
        covered[place.start : place.stop] = True
    assert not arena.data[~covered].any()  # gaps stay zero
    assert arena.size == 16 + 16 + 16 + 1328  # 15, 7, 1 and 1320 numbers, in lines of 16


def test_gradients_land_in_the_flat_buffer():
    model = tiny_gpt()
    arena = ParameterArena(list(model.parameters()))
    tokens = np.arange(4)[None, :]
    expected = tiny_gpt()
    for each in (model, expected):
        each.loss(tokens, tokens).backward()
    for place, (_, twin) in zip(arena.places, expected.named_parameters(), strict=True):
        assert inside(place.parameter.grad.data, arena.grad)
        flat = arena.grad[place.start : place.stop].reshape(twin.shape)
        assert np.array_equal(flat, twin.grad.numpy())


def test_a_gradient_that_was_there_before_is_taken_along(make_parameters):
    (parameter,) = make_parameters(shapes=[(3,)])
    parameter.add_gradient(np.array([1.0, 2.0, 3.0]), shared=True)
    arena = ParameterArena([parameter])
    arena.collect_gradients()
    assert arena.grad[:3].tolist() == [1.0, 2.0, 3.0]


def test_missing_gradients_are_zero_not_those_of_the_last_step(make_parameters, give_gradients):
    parameters = make_parameters(shapes=[(3,), (4,)])
    optimizer = SGD(parameters, learning_rate=1.0)
    give_gradients(parameters, seed=0)
    optimizer.step()
    optimizer.zero_grad()
    before = parameters[1].data.copy()
    (parameters[0] * 2.0).sum().backward()
    optimizer.clip(0.0)
    assert optimizer.gradient_norm == pytest.approx(np.sqrt(3 * 4.0))
    optimizer.step()
    assert np.array_equal(parameters[1].data, before)


def test_a_gradient_set_by_hand_is_used(make_parameters):
    (parameter,) = make_parameters(shapes=[(3,)])
    optimizer = SGD([parameter], learning_rate=1.0)
    before = parameter.data.copy()
    parameter.grad = Tensor(np.array([1.0, 2.0, 3.0]))
    optimizer.step()
    np.testing.assert_allclose(parameter.data, before - [1.0, 2.0, 3.0])


def test_gradients_of_several_backwards_add_up(make_parameters):
    (parameter,) = make_parameters(shapes=[(3,)])
    arena = ParameterArena([parameter])
    for factor in (1.0, 10.0, 100.0):
        (parameter * factor).sum().backward()
    assert arena.grad[:3].tolist() == [111.0] * 3


def test_tied_parameters_are_in_it_once():
    tied, untied = tiny_gpt(), tiny_gpt(tied=False)
    for model, extra in ((tied, 0), (untied, 7 * 8)):
        optimizer = AdamW(decay_groups(model.parameters(), 0.1))
        listed = [p for place in optimizer.arena.places for p in [place.parameter]]
        assert len({id(p) for p in listed}) == len(listed)
        assert sum(p.size for p in listed) == model.num_parameters()
        assert model.num_parameters() == tiny_gpt().num_parameters() + extra
    tokens = np.array([[1, 2, 3, 4]])
    before = tied(tokens).numpy().copy()
    tied.loss(tokens, tokens).backward()
    SGD(tied.parameters()).step()
    after = tied(tokens).numpy()
    assert not np.array_equal(before, after)
    table = tied.token_embedding.weight
    assert tied.head is None
    assert inside(table.data, table.data.base)


def test_a_parameter_that_comes_twice_counts_once_or_is_refused(make_parameters, refused):
    one, two = make_parameters(shapes=[(2, 2), (3,)])
    groups = decay_groups([one, two, one], 0.1)
    assert [len(g.parameters) for g in groups] == [1, 1]
    assert len(SGD([one, two, one]).arena.places) == 2
    with refused("'p0' (2, 2)", "more than once", "one group"):
        SGD([Group([one], 0.1), Group([two, one], 0.0)])


def test_matrices_decay_and_vectors_do_not():
    model = tiny_gpt()
    matrices, vectors = decay_groups(model.parameters(), 0.1)
    assert (matrices.weight_decay, vectors.weight_decay) == (0.1, 0.0)
    assert {p.ndim for p in matrices.parameters} == {2}
    assert {p.ndim for p in vectors.parameters} == {1}
    assert len(matrices.parameters) + len(vectors.parameters) == len([*model.parameters()])
    optimizer = AdamW([matrices, vectors], learning_rate=0.5)
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    optimizer.step()  # no gradient at all: only decay moves anything
    for name, p in model.named_parameters():
        factor = np.float32(1 - 0.5 * 0.1) if p.ndim == 2 else np.float32(1)
        assert np.array_equal(p.data, before[name] * factor), name


# ------------------------------------------------------------ frozen parameters


@pytest.mark.parametrize("grouped", [True, False])
def test_frozen_parameters_are_left_alone(grouped):
    model = tiny_gpt()
    model.token_embedding.weight.requires_grad = False
    parameters = list(model.parameters())
    groups = [Group(parameters, 0.5)] if grouped else parameters
    optimizer = AdamW(groups, learning_rate=0.1)
    assert len(optimizer.arena.places) == len(parameters) - 1
    before = {name: p.data.tobytes() for name, p in model.named_parameters()}
    tokens = np.arange(4)[None, :]
    model.loss(tokens, tokens).backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if p.data.tobytes() != before[name]}
    assert changed == set(before) - {"token_embedding.weight"}


def test_freezing_later_is_refused(refused):
    model = tiny_gpt()
    optimizer = SGD(model.parameters())
    model.norm.weight.requires_grad = False
    with refused("'norm.weight'", "frozen", "new optimiser"):
        optimizer.step()


def test_an_optimizer_whose_parameters_another_took_is_refused(refused):
    model = tiny_gpt()
    first = SGD(model.parameters())
    second = SGD(model.parameters())
    second.step()
    with refused("another optimiser took it"):
        first.step()


def test_mixed_types_are_refused(refused):
    parameters = [Parameter(np.ones(2, np.float32)), Parameter(np.ones(2, np.float64))]
    with refused("float32, float64"):
        ParameterArena(parameters)
    with refused("found: none"):
        ParameterArena([])
