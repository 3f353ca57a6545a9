"""Element-wise kernels against their NumPy references, computed in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.kernels import elementwise as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import elementwise as native
from baremetal.kernels.native.broadcast import merged_axes

few = settings(max_examples=12)  # for each of some forty kernels and two dtypes
DTYPES = [np.float32, np.float64]
ULP = {np.float32: 1.2e-7, np.float64: 2.3e-16}  # relative distance of neighbouring numbers
FLUSHED = {np.float32: 1.2e-38, np.float64: 2.3e-308}  # below, a result may be 0

# Name: error in units in the last place of the result, absolute error in the same units of 1.
# The latter is for formulas that cancel, as x Phi(x) does where Phi is nearly 0.
UNARY = {
    "negative": (0, 0), "absolute": (0, 0), "square": (1, 0), "reciprocal": (1, 0),
    "sqrt": (1, 0), "exp": (4, 0), "log": (4, 0), "sin": (2, 2), "cos": (2, 2), "erf": (4, 0),
    "tanh": (4, 0), "sigmoid": (6, 0), "relu": (0, 0), "gelu": (8, 4), "gelu_tanh": (32, 4),
    "silu": (8, 0),
}  # fmt: skip
BACKWARD = {
    "tanh_backward": (4, 8), "sigmoid_backward": (4, 8), "relu_backward": (0, 0),
    "gelu_backward": (32, 32), "gelu_tanh_backward": (64, 64), "silu_backward": (32, 16),
}  # fmt: skip
BINARY = {
    "add": (1, 0), "subtract": (1, 0), "multiply": (1, 0), "divide": (1, 0), "power": (8, 0),
    "maximum": (0, 0), "minimum": (0, 0),
}  # fmt: skip
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
MOVING = ["where", "copy", "fill"]


def test_every_kernel_has_a_compiled_version_a_cost_and_a_test():
    names = {name for name, k in registry().items() if k.__module__ == family.__name__}
    assert names == {*UNARY, *BACKWARD, *BINARY, *COMPARISONS, *MOVING}
    for name in names:
        assert callable(getattr(native, name))
    x = np.ones((3, 5), np.float32)
    for name in UNARY:
        cost = getattr(family, name).cost(x, x)
        assert cost.size_bytes == 2 * 60
        assert cost.flops > 0
    for name in [*BACKWARD, *BINARY]:
        cost = getattr(family, name).cost(x, x, x)
        assert (cost.size_bytes, cost.flops > 0) == (3 * 60, True)
    yes = np.ones((3, 5), bool)
    for name in COMPARISONS:
        assert getattr(family, name).cost(x, x, yes).size_bytes == 2 * 60 + 15
    assert family.where.cost(yes, x, x, x).size_bytes == 3 * 60 + 15
    assert family.copy.cost(x, x).size_bytes == 2 * 60
    assert family.fill.cost(x, value=0).size_bytes == 60


def tolerance(bounds, dtype):
    relative, absolute = bounds
    if relative == absolute == 0:
        return {}
    return {"rtol": relative * ULP[dtype], "atol": absolute * ULP[dtype] + FLUSHED[dtype]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
@few
@given(data=st.data())
def test_unary(name, dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    x = data.draw(arrays.strided(shape, dtype, special=True))
    check(getattr(family, name), x, out=(shape, dtype), **tolerance(UNARY[name], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
@few
@given(data=st.data())
def test_backward(name, dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    saved = data.draw(arrays.strided(shape, dtype))
    if name.startswith(("tanh", "sigmoid")):  # these are given results, which lie in -1..1
        saved = np.asarray(np.tanh(saved))
    grad = data.draw(arrays.broadcastable(shape, dtype))
    check(
        getattr(family, name), saved, grad, out=(shape, dtype), **tolerance(BACKWARD[name], dtype)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in BACKWARD if n not in ("tanh_backward",)])
def test_backward_at_extreme_values(name, dtype):
    """Far out, every activation is 0 or the identity: no NaN may come from inf * 0."""
    huge = 0.9 * np.finfo(dtype).max
    x = np.array([np.inf, -np.inf, huge, -huge, 1e4, -1e4, 100.0, -100.0, 1e-40, 0.0], dtype)
    if name == "sigmoid_backward":
        x = np.array([0, 1] * 5, dtype)
    steps = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0.5, 0.5])
    expected = {"relu_backward": [*steps[:8], x[8] > 0, 0], "sigmoid_backward": 0 * steps}
    for run in (getattr(family, name).run, getattr(family, name).reference):
        out = np.full_like(x, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            run(x, np.ones_like(x), out)
        np.testing.assert_allclose(out, expected.get(name, steps), atol=1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BINARY)
@few
@given(data=st.data())
def test_binary(name, dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    a = data.draw(arrays.broadcastable(shape, dtype, special=True))
    b = data.draw(arrays.broadcastable(shape, dtype, special=True))
    check(getattr(family, name), a, b, out=(shape, dtype), **tolerance(BINARY[name], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPARISONS)
@few
@given(data=st.data())
def test_comparison(name, dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    a = data.draw(arrays.broadcastable(shape, dtype, special=True))
    b = a if data.draw(st.booleans()) else data.draw(arrays.broadcastable(shape, dtype, True))
    result = check(getattr(family, name), a, b, out=(shape, bool))
    assert np.all(result.view(np.uint8) <= 1)  # NumPy relies on booleans being 0 or 1


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(data=st.data())
def test_where(dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    condition = np.asarray(data.draw(arrays.broadcastable(shape, dtype)) > 0)
    a = data.draw(arrays.broadcastable(shape, dtype, special=True))
    b = data.draw(arrays.broadcastable(shape, dtype, special=True))
    check(family.where, condition, a, b, out=(shape, dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, np.int64, np.int32])
@few
@given(data=st.data())
def test_copy_from_any_layout(dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    x = data.draw(arrays.broadcastable(shape, dtype))
    check(family.copy, x, out=(shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(data=st.data())
def test_copy_and_fill_into_any_layout(dtype, data, arrays):
    shape = data.draw(arrays.shapes())
    x = data.draw(arrays.strided(shape, dtype))
    out = data.draw(arrays.strided(shape, dtype))
    memory = np.asarray(out.base if out.base is not None else out)
    before = memory.copy()
    family.copy.run(x, out)
    np.testing.assert_array_equal(out, x)
    family.fill.run(out, value=7.5)
    assert np.all(out == 7.5)
    assert np.sum(memory == before) >= memory.size - out.size  # nothing else was written


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(16, 16), (37, 51), (8, 300), (1000, 3), (65, 64)])
def test_copy_of_transposes(dtype, shape, check):
    """Shapes on and off the tile size, alone and in a batch."""
    x = np.arange(6 * np.prod(shape)).reshape(3, *shape, 2).astype(dtype)
    flat = x.reshape(-1)[: np.prod(shape)].reshape(shape)
    for view in (flat.T, x[..., 0].transpose(0, 2, 1), x.transpose(3, 2, 0, 1)):
        check(family.copy, view, out=(view.shape, dtype))
        out = np.zeros(view.shape[::-1], dtype).T
        family.copy.run(np.ascontiguousarray(view), out)
        np.testing.assert_array_equal(out, view)


def test_copy_converts_dtypes():
    x = np.array([[1.5, -2.5, 3.0], [0.0, 1e30, 7.0]], np.float32)
    for dtype in (np.float64, np.float16):
        out = np.empty((2, 3), dtype)
        with np.errstate(over="ignore"):
            family.copy.run(x, out)
            np.testing.assert_array_equal(out, x.astype(dtype))


def test_fill_of_integers_and_booleans():
    counts, flags = np.empty((3, 4), np.int64), np.empty((3, 4), bool)
    family.fill.run(counts, value=-3)
    family.fill.run(flags, value=True)
    assert np.all(counts == -3)
    assert np.all(flags)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 5, 64, 1000, 40_000])
def test_result_may_be_an_input(dtype, size):
    """add(a, b, a), as gradients are accumulated; also through equal strided views."""
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((2, size)).astype(dtype)
    expected = a + b
    family.add.run(a, b, a)
    np.testing.assert_array_equal(a, expected)
    every_other = a[::2]
    expected = every_other * every_other
    family.multiply.run(every_other, every_other, every_other)
    np.testing.assert_array_equal(every_other, expected)
    expected = np.exp(b.astype(np.float64)).astype(dtype)
    family.exp.run(b, b)
    np.testing.assert_allclose(b, expected, rtol=5e-7)


def test_integers_are_left_to_numpy():
    a, b = np.arange(6), np.arange(6)[::-1]
    out = np.empty(6, np.int64)
    assert family.add.pack(a, b, out) is None
    family.add.run(a, b, out)
    np.testing.assert_array_equal(out, 5)
    family.maximum.run(a, b, out)
    np.testing.assert_array_equal(out, [5, 4, 3, 3, 4, 5])


def test_a_layout_without_whole_elements_is_left_to_numpy():
    """A field of a packed structured array: 4-byte numbers, 6 bytes apart."""
    records = np.zeros(5, np.dtype([("x", np.float32), ("flag", np.int16)]))
    records["x"] = np.arange(5)
    out = np.empty(5, np.float32)
    assert family.square.pack(records["x"], out) is None
    family.square.run(records["x"], out)
    np.testing.assert_array_equal(out, [0, 1, 4, 9, 16])


def test_many_axes():
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 3, 2, 3, 2, 3)).astype(np.float32)
    view = x.transpose(6, 1, 4, 3, 0, 5, 2, 7)
    out = np.empty(view.shape, np.float32)
    family.negative.run(view, out)
    np.testing.assert_array_equal(out, -view)


def test_arrays_of_equal_layout_are_one_long_row():
    """Fortran order, reversed order, a batch of slices: the fewest axes, the result's first."""
    x = np.zeros((4, 5, 6), np.float32)
    assert merged_axes((x.T, x.T)) == [(120, 1, 1)]
    assert merged_axes((x[:, :2], x[:, :2])) == [(4, 30, 30), (12, 1, 1)]
    assert merged_axes((x.transpose(0, 2, 1), x.transpose(0, 2, 1))) == [(120, 1, 1)]
    assert merged_axes((x[0, 0], x)) == [(20, 0, 6), (6, 1, 1)]
    assert merged_axes((x[:1, :1, :1], x[:1, :1, :1])) == [(1, 1, 1)]
    transposed = family.copy.pack(x[0].T, np.empty((6, 5), np.float32))
    assert transposed[0].body.name == "transpose_body"


CASTS = [(np.float32, np.float64), (np.float64, np.float32), (np.int64, np.float32),
         (np.int64, np.float64)]  # fmt: skip


@pytest.mark.parametrize(("source", "wanted"), CASTS)
@given(values=st.lists(st.one_of(st.floats(width=64), st.integers(-(2**63), 2**63 - 1))))
def test_compiled_conversions_are_numpys(source, wanted, values):
    """Rounded to the nearest, overflow to infinity; NaN, infinities and the widest integers too."""
    with np.errstate(over="ignore", invalid="ignore"):
        kept = [v for v in values if source is not np.int64 or isinstance(v, int)]
        x = np.array(kept, source)
        expected = x.astype(wanted)
    out = np.full(x.shape, 7, wanted)
    assert family.copy.pack(x, out) is not None
    family.copy.run(x, out)
    np.testing.assert_array_equal(out, expected)
    if x.size > 2:  # not contiguous: NumPy's
        assert family.copy.pack(x[::2], out[::2].copy()) is None
