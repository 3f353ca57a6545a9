"""Loss scaling: the same update, whatever the scale; and a scale that finds its own size."""

import numpy as np
import pytest

from baremetal import capture
from baremetal.autograd import Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.optim import SGD, AdamW, LossScale


def fit(scale, steps=5, optimizer=AdamW, captured=False, **options):
    """A few steps of a linear regression; returns the weights, the norms and the scale."""
    rng = np.random.default_rng(0)
    weight = Parameter(rng.standard_normal((3, 4)).astype(np.float32))
    made = optimizer([weight], learning_rate=0.1)
    loss_scale = LossScale(made, scale, **options)

    def step(x, y):
        made.zero_grad()
        loss = ((Tensor(x) @ weight.T - Tensor(y)) ** 2).mean()
        loss.backward(loss_scale.cotangent)
        made.clip(0.5, loss)
        made.step()
        loss_scale.adjust()
        return loss

    do_step = capture(step) if captured else step
    norms = []
    for _ in range(steps):
        x, y = (rng.standard_normal((8, n)).astype(np.float32) for n in (4, 3))
        do_step(x, y)
        norms.append(made.gradient_norm)
    return weight.data.copy(), norms, loss_scale


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10])
def test_a_power_of_two_changes_no_bit(optimizer, scale):
    """Scaling by a power of two and dividing by it again are exact, short of over- and underflow.

    (The clip factor sees the norm, whose square root is computed of other numbers: 1e-6.)
    """
    weights, norms, _ = fit(1.0, optimizer=optimizer)
    scaled, scaled_norms, _ = fit(scale, optimizer=optimizer)
    np.testing.assert_allclose(scaled_norms, norms, rtol=1e-12)
    np.testing.assert_allclose(scaled, weights, rtol=1e-6)


def test_a_scale_of_one_costs_nothing():
    assert fit(1.0)[2].cotangent is None
    assert fit(2.0)[2].cotangent is not None
    assert fit(None, steps=0)[2].value == 2.0**16


@pytest.mark.parametrize("captured", [False, True])
def test_a_dynamic_scale_grows_and_a_captured_step_sees_it(captured):
    _, _, loss_scale = fit(None, steps=7, captured=captured, growth_interval=3)
    assert loss_scale.value == 2.0**18
    assert loss_scale.clean_steps.tolist() == [1.0]


def test_overflow_halves_the_scale_and_leaves_the_weights():
    weight = Parameter(np.ones((1, 2), np.float32))
    optimizer = SGD([weight], learning_rate=0.1, momentum=0.0)
    loss_scale = LossScale(optimizer, None)
    optimizer.loss_scale = 2.0**24
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        # Gradients of 2e32 and more: float32 ends at 3.4e38, so a scale of 2^20 fits, 2^21 not.
        loss = (weight * 2e32).sum()
        loss.backward(loss_scale.cotangent)
        optimizer.clip(1.0)
        optimizer.step()
        loss_scale.adjust()
        seen.append((loss_scale.value, optimizer.last_step_was_finite, weight.data[0, 0] == 1.0))
    assert [scale for scale, _, _ in seen] == [2.0**23, 2.0**22, 2.0**21, 2.0**20, 2.0**20]
    assert [finite for _, finite, _ in seen] == [False] * 4 + [True]
    assert [untouched for _, _, untouched in seen] == [True] * 4 + [False]
    assert optimizer.steps_taken == 1


def test_what_is_forgiven():
    dynamic, fixed = fit(None)[2], fit(8.0)[2]
    assert dynamic.forgives(3.0, 2.0)
    assert not dynamic.forgives(float("nan"), 2.0)  # no scale can mend a loss
    assert not dynamic.forgives(3.0, 1.0)  # nothing is left to lower
    assert not fixed.forgives(3.0, 8.0)


def test_state_goes_there_and_back():
    _, _, first = fit(None, steps=5, growth_interval=3)
    _, _, second = fit(None, steps=0)
    second.load_state_dict(first.state_dict())
    assert second.clean_steps.tolist() == first.clean_steps.tolist() == [2.0]
    fixed = fit(1.0)[2]
    fixed.load_state_dict(fixed.state_dict())
    with pytest.raises(BaremetalError, match=r"the loss scale is fixed, that of the state dynamic"):
        fixed.load_state_dict(first.state_dict())
    with pytest.raises(BaremetalError, match=r"the loss scale is dynamic, that of the state fixed"):
        first.load_state_dict({})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_no_scale_is_refused(scale):
    with pytest.raises(BaremetalError, match="loss scale"):
        fit(scale)


def test_no_interval_is_refused():
    with pytest.raises(BaremetalError, match="growth interval 0"):
        fit(None, growth_interval=0)
