"""What no launch shows: gradients that Python knows of, changes by NumPy, moved memory, nesting."""

import functools

import numpy as np
import pytest

from baremetal import BaremetalError, Parameter, Tensor, no_grad
from baremetal.capture import CaptureError, capture, capture_segments
from baremetal.optim import SGD

X = np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3)


def weight(**options):
    return Parameter(np.ones((2, 3), np.float32), **options)


# ---------------------------------------------------------------- which gradients there are


def test_gradients_may_be_forgotten_outside():
    """`zero_grad()` launches nothing: after the replay Python must know the gradient again."""
    w = weight()
    optimizer = SGD([w], learning_rate=0.1)
    captured = capture(lambda x: (w * x).sum().backward())
    for number in range(1, 4):
        optimizer.zero_grad()
        captured(X)
        optimizer.step()
        np.testing.assert_allclose(w.numpy(), 1 - 0.1 * number * X, atol=1e-6)


def test_gradients_may_be_forgotten_outside_though_the_function_forgets_them_too():
    w = weight()
    optimizer = SGD([w], learning_rate=0.1)

    def gradients(x):
        optimizer.zero_grad()
        (w * x).sum().backward()

    captured = capture(gradients)
    captured(X)
    optimizer.zero_grad()
    captured(2 * X)
    np.testing.assert_array_equal(w.grad.numpy(), 2 * X)


def test_a_gradient_that_eager_execution_would_add_to_is_not_overwritten():
    w = weight(name="w")
    captured = capture(lambda x: (w * x).sum().backward())
    captured(X)
    with pytest.raises(CaptureError, match=r"parameter 'w' \(2, 3\) has a gradient, but had none"):
        captured(X)
    np.testing.assert_array_equal(w.grad.numpy(), X)
    w.zero_grad()
    captured(3 * X)
    np.testing.assert_array_equal(w.grad.numpy(), 3 * X)


def test_a_gradient_that_is_read_must_be_there_again():
    v, w = weight(), weight(name="w")
    optimizer = SGD([v, w], learning_rate=0.1)
    update = capture(optimizer.step)
    (w * X).sum().backward()
    update()
    optimizer.zero_grad()
    (v * X).sum().backward()
    with pytest.raises(CaptureError, match="a gradient, but had none"):  # of v, zero in the plan
        update()


def test_a_new_optimizer_is_noticed():
    w = weight(name="w")

    def train(optimizer, x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    captured = capture(functools.partial(train, SGD([w], learning_rate=0.1)))
    captured(X)
    SGD([w], learning_rate=0.1)
    with pytest.raises(CaptureError, match=r"'w' .* has moved to other memory since train"):
        captured(X)


def test_a_frozen_parameter_is_noticed():
    w = weight(name="w")

    def gradient(x):
        w.zero_grad()
        (w * x).sum().backward()

    captured = capture(gradient)
    captured(X)
    w.requires_grad = False
    with pytest.raises(CaptureError, match=r"'w' .* was frozen since gradient was captured"):
        captured(X)


def test_leaves_made_inside_are_new_in_each_call():
    kept = {}

    def function(x):
        kept["leaf"] = Tensor(x, requires_grad=True)
        (kept["leaf"] * kept["leaf"]).sum().backward()
        return kept["leaf"].grad

    captured = capture(function)
    for factor in (1.0, 2.0):
        np.testing.assert_array_equal(captured(factor * X).numpy(), 2 * factor * X)


def test_a_captured_clip_wants_a_captured_step():
    w = weight()
    optimizer = SGD([w], learning_rate=0.1)

    def gradients(x):
        optimizer.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        optimizer.clip(0.1, loss)

    capture(gradients)(X)
    with pytest.raises(BaremetalError, match="capture both, or call both outside"):
        optimizer.step()


# ---------------------------------------------------------------- what NumPy changes


def test_weights_changed_by_numpy_are_refused_and_put_back():
    w = weight()

    def by_hand(x):
        w.zero_grad()
        (w * x).sum().backward()
        w.data -= 0.1 * w.grad.data

    with pytest.raises(CaptureError, match=r"by_hand changed an array from NumPy's side \(shape"):
        capture(by_hand)(X)
    np.testing.assert_array_equal(w.numpy(), np.ones((2, 3)))


def test_weights_in_new_memory_are_refused():
    w = weight(name="w")

    def by_hand(x):
        w.zero_grad()
        (w * x).sum().backward()
        w.data = w.data - 0.1 * w.grad.data

    with pytest.raises(CaptureError, match=r"'w' .* was given other memory by the function"):
        capture(by_hand)(X)


def test_weights_changed_by_operations_are_not_refused():
    w, other = weight(), weight()

    def by_hand(w, x):
        w.zero_grad()
        (w * w * x).sum().backward()
        with no_grad():
            w -= 0.1 * w.grad

    captured = capture(lambda x: by_hand(w, x))
    for _ in range(3):
        captured(X)
        by_hand(other, X)
    np.testing.assert_array_equal(w.numpy(), other.numpy())


def test_inputs_changed_by_numpy_are_refused():
    def scaled(x):
        x /= 255
        return Tensor(x) * 2

    given = X.copy()
    with pytest.raises(CaptureError, match="scaled changed an array from NumPy's side"):
        capture(scaled)(given)
    np.testing.assert_array_equal(given, X)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("given", [{"x": X}, (X, 1), [[Tensor(X)]]], ids=["dict", "tuple", "list"])
def test_arrays_within_containers_are_refused(given):
    with pytest.raises(CaptureError, match=f"a {type(given).__name__} with arrays in it"):
        capture(lambda x: None)(given)


def test_containers_of_numbers_are_frozen_as_they_were():
    factors = [2.0, {"b": (1.0,)}]
    captured = capture(lambda x, factors: Tensor(x) * factors[0])
    captured(X, factors)
    captured(X, [2.0, {"b": (1.0,)}])
    factors[0] = 3.0
    with pytest.raises(CaptureError, match=r"input 1 of <lambda> is \[3.0, .*\[2.0, .* was frozen"):
        captured(X, factors)


def test_a_parameter_is_no_input():
    with pytest.raises(CaptureError, match=r"the parameter 'w' \(2, 3\)"):
        capture(lambda w: w * 2)(weight(name="w"))


@pytest.mark.parametrize("kind", [np.array, Tensor])
def test_results_that_are_inputs_may_be_passed_in_another_order(kind):
    captured = capture(lambda x, y: (x, y))
    x, y = captured(kind(X), kind(2 * X))
    captured(y, x)
    np.testing.assert_array_equal(np.asarray(x), 2 * X)
    np.testing.assert_array_equal(np.asarray(y), X)


def test_arrays_of_a_subclass_are_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    captured = capture(lambda x: Tensor(x) * 2)
    for factor in (1.0, 2.0):
        mapped[...] = factor * X
        np.testing.assert_array_equal(captured(mapped).numpy(), 2 * factor * X)
    with pytest.raises(CaptureError, match=r"shape \(1, 3\) float32, but was captured with"):
        captured(mapped[:1])


# ---------------------------------------------------------------- a capture within a capture


def test_a_captured_function_is_not_called_within_a_recording():
    inner = capture(lambda x: Tensor(x) * 2)
    outer = capture(lambda x: inner(x) + 1)
    for _ in range(2):  # recorded there for the first time; captured before
        with pytest.raises(CaptureError, match="called while a step is being recorded"):
            outer(X)
        inner(X)
    within = capture(lambda x: inner.function(x) + 1)
    for factor in (1.0, 2.0):
        np.testing.assert_array_equal(within(factor * X).numpy(), 2 * factor * X + 1)


def test_a_segment_is_not_run_within_a_recording():
    stage = capture_segments({"double": lambda x: Tensor(x) * 2}, inputs={"double": (X,)}, slots=1)
    with pytest.raises(CaptureError, match="'double', which is captured, was called while"):
        capture(lambda x: stage["double"].run(0, x))(X)


# ---------------------------------------------------------------- names in a compiled step


@pytest.mark.parametrize("name", ["in", "words_f32", '"""', "a\\x", "²", "a\nb", "größe"])
def test_any_name_will_do(name):
    w = weight()
    captured = capture(lambda x: (w * x).sum(), named=lambda: {name: w.data})
    captured(X)
    compile(captured.source, "source", "exec")


def test_a_callable_without_a_name_is_called_the_same_in_every_process():
    class Doubling:
        def __call__(self, x):
            return Tensor(x) * 2

    for function, name in [(Doubling(), "Doubling"), (functools.partial(Doubling()), "Doubling")]:
        captured = capture(function)
        captured(X)
        assert captured.source.startswith(f'"""The captured function `{name}`, written out')


def test_infinite_numbers_can_be_compiled():
    w = weight()
    optimizer = SGD([w], learning_rate=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        optimizer.clip(np.inf, loss)
        optimizer.step()

    captured = capture(step, level="native")
    for _ in range(2):
        captured(X)
    np.testing.assert_allclose(w.numpy(), 1 - 0.2 * X, atol=1e-6)
