"""Segments recorded both ways: what both versions must have in common, and what they are given."""

import numpy as np
import pytest

from baremetal import Parameter, Tensor
from baremetal.capture import CaptureError, capture_segments

F = "forward"


def test_a_parameter_of_two_segments_has_a_gradient_when_the_second_begins():
    """There the first microbatch, too, adds to the one, and overwrites the other's."""
    a, b = (Parameter(np.array(numbers, np.float32)) for numbers in ([2.0, 3.0], [5.0, 7.0]))
    stage = capture_segments(
        {
            "one": lambda x: (Tensor(x) * a).sum().backward(),
            "two": lambda x: (Tensor(x) * a * b).sum().backward(),
        },
        inputs=dict.fromkeys(("one", "two"), (np.ones(2, np.float32),)),
        parameters=[a, b], slots=1,
    )  # fmt: skip
    for _ in range(2):
        stage.zero_grad()
        for times in (1, 2):
            for segment in stage:
                segment.run(0, np.full(2, 10, np.float32))
            np.testing.assert_array_equal(a.grad.numpy(), times * (10 + 10 * b.numpy()))
            np.testing.assert_array_equal(b.grad.numpy(), times * 10 * a.numpy())


def test_a_frozen_parameter_may_be_a_result():
    w = Parameter(np.array([2.0, 3.0], np.float32))
    w.requires_grad = False
    stage = capture_segments(
        {F: lambda x: (Tensor(x) * w, w)}, inputs={F: (np.ones(2, np.float32),)}, slots=1
    )
    y, same = stage[F].run(0, np.full(2, 10, np.float32))
    np.testing.assert_array_equal(y.numpy(), [20, 30])
    np.testing.assert_array_equal(same.numpy(), w.numpy())


def test_an_example_that_needs_a_gradient_stands_for_inputs_that_do():
    w = Parameter(np.array([2.0, 3.0], np.float32))

    def both_ways(x):
        (x * w).sum().backward()
        return x.grad

    example = Tensor(np.ones(2, np.float32), requires_grad=True)
    stage = capture_segments(
        {"all": both_ways}, inputs={"all": (example,)}, parameters=[w], slots=1
    )
    np.testing.assert_array_equal(stage["all"].run(0, np.full(2, 10, np.float32)).numpy(), [2, 3])


def test_inputs_without_names_are_called_by_their_numbers():
    one = np.ones(2, np.float32)
    stage = capture_segments(
        {F: lambda x, *others: Tensor(x) * others[0]}, inputs={F: (one, one)}, slots=1
    )
    with pytest.raises(CaptureError, match=r"input '1' of 'forward' has shape \(3,\)"):
        stage[F].run(0, one, np.ones(3, np.float32))
    with pytest.raises(CaptureError, match=r"2 inputs \(x, 1\), got 1"):
        stage[F].run(0, one)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (lambda y, z, w: y, lambda y, z, w: (y, z)),  # more of them
        (lambda y, z, w: y, lambda y, z, w: y.T),  # laid out in another way
        (lambda y, z, w: y, lambda y, z, w: y[:2]),
        (lambda y, z, w: w, lambda y, z, w: y.data),  # what was there before, what was made
        (lambda y, z, w: y.data, lambda y, z, w: w),
        (lambda y, z, w: (y, z), lambda y, z, w: (y, y)),  # two in one place
        (lambda y, z, w: (y, y), lambda y, z, w: (y, z)),
    ],
)
def test_results_that_lie_elsewhere_the_second_time_are_refused(first, then):
    """Both versions of a gradient segment leave its results in one place, or nobody finds them."""
    w = Parameter(np.ones((3, 3), np.float32))
    calls = []

    def backward(x):
        calls.append(0)
        y, z = Tensor(x) * 2.0, Tensor(x) * 3.0
        (y * w).sum().backward()
        return (first if len(calls) == 1 else then)(y, z, w.data)

    with pytest.raises(CaptureError, match="'backward' did not do the same"):
        capture_segments(
            {"backward": backward}, inputs={"backward": (np.ones((3, 3), np.float32),)},
            parameters=[w], slots=1,
        )  # fmt: skip
    assert w.grad is None
