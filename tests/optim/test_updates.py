"""SGD and AdamW against textbook loops in float64, number by number."""

import math

import numpy as np
import pytest

from baremetal.autograd import Device
from baremetal.kernels import optimizer as slots
from baremetal.optim import SGD, AdamW, Group

STEPS = 6
DECAY = 0.3


def textbook_adamw(parameters, gradients, rates, decays, beta1=0.9, beta2=0.95, eps=1e-8):
    """D. Kingma, J. Ba, 2015, algorithm 1, with decoupled decay; Python floats only."""
    for p, decay, history in zip(parameters, decays, zip(*gradients, strict=True), strict=True):
        flat = p.reshape(-1)
        for i in range(flat.size):
            m = v = 0.0
            x = float(flat[i])
            for t, (rate, g) in enumerate(zip(rates, history, strict=True), start=1):
                gi = float(g.reshape(-1)[i])
                m = beta1 * m + (1 - beta1) * gi
                v = beta2 * v + (1 - beta2) * gi * gi
                m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
                x = x - rate * decay * x - rate * m_hat / (math.sqrt(v_hat) + eps)
            flat[i] = x


def textbook_sgd(parameters, gradients, rates, decays, momentum=0.0, nesterov=False):
    """As PyTorch's documentation of SGD states it."""
    for p, decay, history in zip(parameters, decays, zip(*gradients, strict=True), strict=True):
        buffer = np.zeros_like(p)
        for rate, g in zip(rates, history, strict=True):
            g = g + decay * p
            buffer = momentum * buffer + g
            p -= rate * (g + momentum * buffer if nesterov else buffer)


CASES = {
    "adamw": (AdamW, textbook_adamw, {}),
    "adamw, other betas": (
        lambda g, **o: AdamW(g, betas=(0.5, 0.999), eps=1e-3, **o),
        textbook_adamw,
        {"beta1": 0.5, "beta2": 0.999, "eps": 1e-3},
    ),
    "sgd": (SGD, textbook_sgd, {}),
    "momentum": (lambda g, **o: SGD(g, momentum=0.9, **o), textbook_sgd, {"momentum": 0.9}),
    "nesterov": (
        lambda g, **o: SGD(g, momentum=0.9, nesterov=True, **o),
        textbook_sgd,
        {"momentum": 0.9, "nesterov": True},
    ),
}


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("case", CASES)
def test_an_update_is_the_textbook_s(case, dtype, rtol, kernels, make_parameters, give_gradients):
    make, textbook, options = CASES[case]
    device = Device("d", kernels=kernels)
    parameters = make_parameters(dtype, device=device)
    expected = [p.data.astype(np.float64) for p in parameters]
    groups = [Group(parameters[:1], DECAY), Group(parameters[1:], 0.0)]
    optimizer = make(groups, learning_rate=1.0, device=device)
    rates = [0.05 / (step + 1) for step in range(STEPS)]
    gradients = []
    for step, rate in enumerate(rates):
        optimizer.zero_grad()
        gradients.append(give_gradients(parameters, seed=step))
        optimizer.learning_rate = rate
        optimizer.step()
    textbook(expected, gradients, rates, [DECAY, 0.0, 0.0, 0.0], **options)
    assert optimizer.steps_taken == STEPS
    for parameter, wanted in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.data, wanted, rtol=rtol, atol=rtol)


def test_clipped_and_scaled_gradients_reach_the_update(make_parameters, give_gradients):
    parameters, twins = make_parameters(), make_parameters()
    plain, scaled = SGD(parameters, learning_rate=0.1), SGD(twins, learning_rate=0.1)
    scaled.loss_scale = 64.0
    gradients = give_gradients(parameters, seed=1)
    for twin, gradient in zip(twins, gradients, strict=True):
        twin.add_gradient(np.asarray(64.0 * gradient), shared=True)
    before = [p.data.copy() for p in parameters]
    for optimizer in (plain, scaled):
        optimizer.clip(0.5)
        optimizer.step()
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    assert scaled.gradient_norm == pytest.approx(norm, rel=1e-12)
    for p, twin, start, g in zip(parameters, twins, before, gradients, strict=True):
        expected = start - 0.1 * g * 0.5 / (norm + 1e-6)
        np.testing.assert_allclose(p.data, expected, rtol=1e-12)
        np.testing.assert_allclose(twin.data, expected, rtol=1e-12)


def test_a_rate_of_zero_moves_nothing_but_the_moments(make_parameters, give_gradients):
    parameters = make_parameters(np.float32)
    optimizer = AdamW([Group(parameters, 0.1)], learning_rate=0.0)
    before = [p.data.tobytes() for p in parameters]
    give_gradients(parameters, seed=0)
    optimizer.step()
    assert [p.data.tobytes() for p in parameters] == before
    assert optimizer.moments["first_moment"].any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: AdamW(p, betas=(0.9, 1.0)), ("betas (0.9, 1.0)",)),
        (lambda p: AdamW(p, betas=(-0.1, 0.9)), ("betas (-0.1, 0.9)",)),
        (lambda p: AdamW(p, eps=0.0), ("eps 0.0",)),
        (lambda p: SGD(p, momentum=1.0), ("momentum 1.0",)),
        (lambda p: SGD(p, momentum=-0.5), ("momentum -0.5",)),
        (lambda p: SGD(p, learning_rate=-1.0), ("learning rate -1.0",)),
        (lambda p: SGD(p, learning_rate=math.nan), ("learning rate nan",)),
        (lambda p: SGD([Group(p, -0.1)]), ("weight decay -0.1",)),
        (lambda p: SGD([Group(p, math.inf)]), ("weight decay inf",)),
        (lambda p: SGD([]), ("at least one parameter",)),
    ],
)
def test_impossible_numbers_are_refused(make, words, make_parameters, refused):
    with refused(*words):
        make(make_parameters())


def test_numbers_set_later_are_checked_too(make_parameters, refused):
    optimizer = SGD(make_parameters())
    for wrong in (-1e-3, math.nan, math.inf):
        with refused("learning rate", str(wrong)):
            optimizer.learning_rate = wrong
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with refused("loss scale", str(wrong)):
            optimizer.loss_scale = wrong
    for wrong in (-1.0, math.nan):
        with refused("gradient norm", str(wrong)):
            optimizer.clip(wrong)
    assert optimizer.learning_rate == 0.1
    assert optimizer.scalars[slots.LOSS_SCALE] == 1.0
