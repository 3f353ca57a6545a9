"""Muon: the update's singular values against NumPy's SVD, its size, and who takes part."""

import math

import numpy as np
import pytest

from baremetal.autograd import CPU, Device, Parameter
from baremetal.optim import AdamW, Group, Muon
from baremetal.optim.muon import COEFFICIENTS, ROUNDS, STEP_SIZE, orthogonalise

SHAPES = [(8, 8), (5, 12), (12, 5), (1, 6), (6, 1), (1, 1), (48, 16)]


def with_singular_values(shape, values, rng):
    """A matrix with these singular values and random directions."""
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (u * values) @ vt


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_singular_values_come_into_the_band_and_directions_stay(shape, size, dtype):
    rng = np.random.default_rng(0)
    rank = min(shape)
    values = np.geomspace(1.0, 0.01, rank)  # relative to the norm none is below 0.002
    x = (size * with_singular_values(shape, values, rng)).astype(dtype)
    given = x.copy()
    y = orthogonalise(CPU, x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert y.flags.c_contiguous
    assert np.array_equal(x, given)
    found = np.linalg.svd(y.astype(np.float64), compute_uv=False)
    assert found.min() > 0.68
    assert found.max() < 1.21
    # The same directions: Uᵀ Y V is diagonal and positive.
    u, _, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    core = u.T @ y @ vt.T
    assert np.diag(core).min() > 0.6
    assert np.abs(core - np.diag(np.diag(core))).max() < (2e-3 if dtype == np.float32 else 1e-9)


def test_it_is_the_polynomial_of_the_singular_values():
    rng = np.random.default_rng(0)
    values = np.array([0.9, 0.3, 0.1, 0.02])
    values /= np.linalg.norm(values)
    x = with_singular_values((4, 9), values, rng)
    a, b, c = COEFFICIENTS
    expected = values.copy()
    for _ in range(ROUNDS):
        expected = a * expected + b * expected**3 + c * expected**5
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(orthogonalise(CPU, x), (u * expected) @ vt, atol=1e-10)


def test_the_band_of_the_docstring():
    s = np.concatenate([np.geomspace(0.002, 1, 20001), np.linspace(0.002, 1, 20001)])
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        s = a * s + b * s**3 + c * s**5
    assert 0.68 < s.min() < 0.69
    assert 1.20 < s.max() < 1.21


def test_zeros_stay_zeros():
    assert not orthogonalise(CPU, np.zeros((3, 4), np.float32)).any()


def test_native_and_reference_agree():
    x = np.random.default_rng(0).standard_normal((6, 4))
    other = orthogonalise(Device("other", kernels="reference"), x)
    np.testing.assert_allclose(orthogonalise(CPU, x), other, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------ the update


def by_numpy(p, gradients, rates, momentum, decay):
    """The whole recipe in NumPy: Nesterov's momentum, polynomial, size, decoupled decay."""
    m = np.zeros_like(p)
    a, b, c = COEFFICIENTS
    for g, rate in zip(gradients, rates, strict=True):
        m = momentum * m + g
        x = g + momentum * m
        x = x / np.linalg.norm(x)
        for _ in range(ROUNDS):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        p = p - rate * (STEP_SIZE * math.sqrt(max(p.shape)) * x + decay * p)
    return p


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_an_update_is_the_recipe(shape):
    rng = np.random.default_rng(0)
    matrix = Parameter(rng.standard_normal(shape), name="matrix")
    start = matrix.data.copy()
    optimizer = Muon([matrix], learning_rate=1.0, momentum=0.9, weight_decay=0.3)
    gradients = rng.standard_normal((3, *shape))
    rates = [0.1, 0.05, 1e-9]
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.zero_grad()
        matrix.add_gradient(gradient, shared=True)
        optimizer.learning_rate = rate
        optimizer.step()
    expected = by_numpy(start, gradients, rates, 0.9, 0.3)
    np.testing.assert_allclose(matrix.data, expected, rtol=1e-9, atol=1e-12)


def test_the_step_has_about_the_size_of_adamw_s(make_parameters, give_gradients):
    (matrix,) = make_parameters(np.float32, shapes=[(64, 48)])
    before = matrix.data.copy()
    optimizer = Muon([matrix], learning_rate=1.0)
    give_gradients([matrix], seed=0)
    optimizer.step()
    rms = math.sqrt(((matrix.data - before) ** 2).mean())
    # sqrt(rank) singular values of about 1 over 64 x 48 numbers, times 0.2 sqrt(64): about 0.2.
    assert 0.68 * STEP_SIZE < rms < 1.21 * STEP_SIZE


def test_the_step_does_not_depend_on_the_size_of_the_gradient_nor_on_clipping():
    steps = []
    for size, clip, scale in ((1.0, 0.0, 1.0), (1000.0, 0.0, 1.0), (1.0, 0.5, 1.0), (8.0, 0, 8.0)):
        matrix = Parameter(np.zeros((4, 6)))
        optimizer = Muon([matrix], learning_rate=0.1)
        optimizer.loss_scale = scale
        matrix.add_gradient(size * np.random.default_rng(0).standard_normal((4, 6)), shared=True)
        optimizer.clip(clip)
        optimizer.step()
        steps.append(matrix.data.copy())
    for step in steps[1:]:
        np.testing.assert_allclose(step, steps[0], rtol=1e-9, atol=1e-12)


def test_the_others_are_updated_by_adamw(make_parameters, give_gradients):
    parameters, twins = make_parameters(), make_parameters()
    muon = Muon(
        [parameters[0], parameters[3]],
        [Group([parameters[1]], 0.2), Group([parameters[2]], 0.0)],
        betas=(0.8, 0.9),
        learning_rate=0.1,
    )
    groups = [Group(twins[:1], 0.0), Group(twins[1:2], 0.2), Group(twins[2:], 0.0)]
    adamw = AdamW(groups, betas=(0.8, 0.9), learning_rate=0.1)
    for step in range(3):
        for optimizer, given in ((muon, parameters), (adamw, twins)):
            give_gradients(given, seed=step)
            optimizer.step()
    for index in (1, 2):
        assert np.array_equal(parameters[index].data, twins[index].data)
    for index in (0, 3):
        assert not np.allclose(parameters[index].data, twins[index].data)
    # A matrix has one moment, not two.
    state = muon.state_dict()
    assert not state["second_moment.p0"].any()
    assert state["first_moment.p0"].any()


def test_what_is_no_matrix_is_refused(make_parameters, refused):
    parameters = make_parameters()
    with refused("'p1'", "(7,)", "others"):
        Muon(parameters)
    with refused("no trainable matrices"):
        Muon([], [Group(parameters, 0.0)])
    with refused("momentum 1.0"):
        Muon(parameters[:1], momentum=1.0)
    parameters[0].requires_grad = False
    with refused("no trainable matrices"):
        Muon(parameters[:1])
