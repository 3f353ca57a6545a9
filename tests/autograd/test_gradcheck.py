"""gradcheck must pass what is right, and name what is wrong."""

import numpy as np
import pytest

from baremetal.autograd import AutogradError, Tensor, gradcheck, ops
from baremetal.autograd.op import Op
from baremetal.kernels import elementwise as kernels

RNG = np.random.default_rng(0)


def wrong_square(slope):
    """x² whose rule multiplies the gradient by `slope(x)` instead of 2x."""

    def forward(ctx, x):
        ctx.save(x)
        out = ctx.empty_like(x)
        ctx.launch(kernels.square, x, out)
        return out

    op = Op(forward, False, None, (), True)
    op.vjp("x")(lambda ctx, grad: grad * slope(ctx.saved[0]))

    def my_square(x):
        return op(x)

    return my_square


def test_right_gradients_pass():
    assert gradcheck(wrong_square(lambda x: 2 * x), [RNG.standard_normal(3)])
    assert gradcheck(lambda a, b: a @ b, [np.ones((2, 3), np.float32), Tensor(np.ones((3, 2)))])
    assert gradcheck(lambda x: [x.exp(), x.sum()], [RNG.standard_normal(3)])  # several outputs


@pytest.mark.parametrize(
    "slope", [lambda x: -2 * x, lambda x: x, lambda x: 0 * x, lambda x: x * np.nan]
)
def test_wrong_gradients_are_named(slope):
    x = np.array([[1.0, 2.0, 3.0]])
    with pytest.raises(AutogradError, match=r"gradcheck of my_square: 3 of 3 elements of input 0"):
        gradcheck(wrong_square(slope), [x])


def test_one_wrong_element_is_found_and_shown():
    def slope(x):
        right = 2 * x
        right[1, 2] += 0.001
        return right

    x = np.arange(6.0).reshape(2, 3) + 1
    with pytest.raises(AutogradError) as error:
        gradcheck(wrong_square(slope), [x], rng=np.random.default_rng(1))
    message = str(error.value)
    assert "1 of 6 elements" in message
    assert "element (1, 2), where the input is 6" in message
    assert "the rules say" in message
    assert "central differences" in message


def test_a_wrong_gradient_that_sums_to_zero_is_found():
    """With a cotangent of ones a softmax's gradient is 0 whatever its rule: hence a random one."""

    def forward(ctx, x):
        return np.exp(x) / np.exp(x).sum()

    op = Op(forward, False, None, (), True)
    op.vjp("x")(lambda ctx, grad: np.zeros_like(grad))
    with pytest.raises(AutogradError, match="wrong gradient"):
        gradcheck(lambda x: op(x), [np.arange(3.0)])


def test_the_second_input_is_checked_too_and_integers_are_passed_on():
    def function(table, indices, scale):
        return ops.embedding(table, indices) * scale.detach()

    inputs = [RNG.standard_normal((3, 2)), np.array([0, 2, 2]), np.array(2.0)]
    with pytest.raises(AutogradError, match=r"input 2 \(shape \(\)\)"):
        gradcheck(function, inputs)
    assert gradcheck(lambda t, i, s: ops.embedding(t, i) * s, inputs)


def test_inputs_are_left_as_they_were():
    x = np.array([1.0, 2.0])
    before = x.copy()
    gradcheck(lambda x: x.exp(), [x])
    np.testing.assert_array_equal(x, before)


def test_what_is_no_function_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(AutogradError, match="two calls"):
        gradcheck(lambda x: x * rng.standard_normal(), [np.ones(2)])
    with pytest.raises(AutogradError, match="expected tensors"):
        gradcheck(lambda x: x.numpy(), [np.ones(2)])
    with pytest.raises(AutogradError, match="tape"):
        gradcheck(lambda x: x.detach(), [np.ones(2)])
