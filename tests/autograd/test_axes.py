"""Axes and sizes: whatever is wrong with one, the message names function, shape, axis and range."""

import numpy as np
import pytest

from baremetal.autograd import Tensor, ops
from baremetal.autograd.ops.axes import checked_axes, checked_axis, checked_sizes
from baremetal.errors import BaremetalError

X = Tensor(np.arange(6.0).reshape(2, 1, 3))

# Every function that takes an axis: how to call it, and by which name the message calls it.
ALONG_SEVERAL = {
    "sum": X.sum, "mean": X.mean, "max": X.max, "min": X.min, "logsumexp": X.logsumexp,
    "squeeze": X.squeeze, "variance": X.var,
}  # fmt: skip
ALONG_ONE = {
    "argmax": X.argmax, "softmax": X.softmax, "log_softmax": X.log_softmax,
    "concatenate": lambda axis: ops.concatenate(X, X, axis=axis),
    "swapaxes": lambda axis: X.swapaxes(1, axis),
    "transpose": lambda axis: X.transpose(1, 0, axis),
}  # fmt: skip


@pytest.mark.parametrize("name", [*ALONG_SEVERAL, *ALONG_ONE])
@pytest.mark.parametrize("axis", [3, -4, 1.0, "x", np.int64(3), Tensor(5)], ids=repr)
def test_an_axis_that_is_not_there_is_explained(name, axis):
    function = (ALONG_SEVERAL | ALONG_ONE)[name]
    message = rf"^{name} along axis .* shape \(2, 1, 3\): expected an integer from -3 to 2"
    with pytest.raises(BaremetalError, match=message):
        function(axis=axis)


@pytest.mark.parametrize("name", ALONG_SEVERAL)
def test_several_axes_are_checked_one_by_one(name):
    with pytest.raises(BaremetalError, match=rf"^{name} along axis 3 of .*from -3 to 2"):
        ALONG_SEVERAL[name](axis=(1, 3))
    with pytest.raises(BaremetalError, match=rf"^{name} along axis \(1, -2\) .*distinct"):
        ALONG_SEVERAL[name](axis=(1, -2))


@pytest.mark.parametrize("name", ALONG_ONE)
def test_one_axis_is_not_a_tuple(name):
    with pytest.raises(BaremetalError, match=rf"^{name} along axis \(0, 1\)"):
        ALONG_ONE[name](axis=(0, 1))


@pytest.mark.parametrize("axis", [4, -5, "x", (0, 1), None])
def test_a_new_axis_has_one_place_more(axis):
    with pytest.raises(BaremetalError, match=r"unsqueeze along axis .* from -4 to 3"):
        X.unsqueeze(axis)
    assert X.unsqueeze(3).shape == (2, 1, 3, 1)
    assert X.unsqueeze(-4).shape == (1, 2, 1, 3)


@pytest.mark.parametrize("name", ["sum", "argmax", "softmax", "log_softmax", "squeeze"])
def test_a_single_number_has_no_axes(name):
    with pytest.raises(BaremetalError, match=rf"^{name} along axis 0 .*\(\): it has no axes"):
        getattr(Tensor(1.0), name)(axis=0)


def test_the_transpose_of_a_vector_is_explained():
    with pytest.raises(BaremetalError, match=r"mT of a tensor of shape \(3,\)"):
        _ = Tensor([1.0, 2.0, 3.0]).mT


@pytest.mark.parametrize("axis", [1, -1, np.int64(1), np.array(1), Tensor(1), (1,), [np.int64(-1)]])
def test_every_kind_of_integer_is_an_axis(axis):
    """Whatever was asked for before: a cache must not be what makes them work."""
    x = Tensor(np.arange(14.0).reshape(2, 7))
    np.testing.assert_array_equal(x.sum(axis=axis).numpy(), [21.0, 70.0])
    assert x.unsqueeze(0).squeeze([np.int64(0)]).shape == (2, 7)


@pytest.mark.parametrize("sizes", [(1.0, 6), ("a", 6), (None, 6), ([6], 1)])
@pytest.mark.parametrize("name", ["reshape", "expand", "broadcast_to", "view"])
def test_sizes_are_integers(name, sizes):
    asked = "reshape" if name == "view" else name
    with pytest.raises(BaremetalError, match=rf"^{asked} of .*\(2, 1, 3\) to .*integers"):
        getattr(X, name)(*sizes)


def test_expand_takes_no_axes_away():
    with pytest.raises(BaremetalError, match=r"shape \(2, 1, 3\) to \(3,\): expected at least 3"):
        X.expand(3)


def test_checked_values_are_plain_and_counted_from_the_front():
    assert checked_axis("f", (2, 3), -1) == 1
    assert checked_axis("f", (2, 3), -3, new=True) == 0
    assert checked_axes("f", (2, 3), None) == (0, 1)
    assert checked_axes("f", (2, 3), (-1, 0)) == (1, 0)
    assert type(checked_axes("f", (2, 3), np.int64(1))[0]) is int
    assert checked_sizes("f", (2, 3), [np.int64(3), -1]) == (3, -1)
