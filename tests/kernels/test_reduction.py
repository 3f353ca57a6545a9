"""Reductions against their NumPy references in float64, over any axes of any layout."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.kernels import reduction as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import reduction as native
from baremetal.kernels.native.pool import POOL

DTYPES = [np.float32, np.float64]
ULP = {np.float32: 1.2e-7, np.float64: 2.3e-16}
KERNELS = ["sum", "mean", "max", "argmax", "logsumexp", "variance"]
few = settings(max_examples=25)


def test_every_kernel_has_a_compiled_version_a_cost_and_a_test():
    names = {name for name, k in registry().items() if k.__module__ == family.__name__}
    assert names == set(KERNELS)
    x, out = np.ones((3, 5), np.float32), np.ones(3, np.float32)
    for name in names:
        assert callable(getattr(native, name))
        cost = getattr(family, name).cost(x, out, axis=(1,))
        assert cost.size_bytes == 60 + 12
        assert cost.flops >= 15


def draw_axes(data, count: int) -> tuple[int, ...]:
    return tuple(sorted(data.draw(st.sets(st.integers(0, count - 1))))) if count else ()


def kept_shape(shape, axis):
    return tuple(n for i, n in enumerate(shape) if i not in axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sum", "mean", "max", "logsumexp", "variance"])
@few
@given(data=st.data())
def test_any_axes_of_any_layout(name, dtype, data, arrays, check):
    shape = data.draw(arrays.shapes().filter(lambda s: 0 not in s))
    axis = draw_axes(data, len(shape))
    x = data.draw(arrays.strided(shape, dtype))
    # Sums may cancel: the error is relative to the magnitudes, about 3 each here.
    count = max(1, math.prod(shape) // max(1, math.prod(kept_shape(shape, axis))))
    bounds = {"rtol": 4 * ULP[dtype], "atol": 16 * ULP[dtype] * (count if name == "sum" else 1)}
    if name == "max":
        bounds = {}
    check(getattr(family, name), x, out=(kept_shape(shape, axis), dtype), axis=axis, **bounds)


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(data=st.data())
def test_argmax_of_any_layout_takes_the_first_of_equals(dtype, data, arrays, check):
    shape = data.draw(arrays.shapes().filter(lambda s: s and 0 not in s))
    axis = (data.draw(st.integers(0, len(shape) - 1)),)
    x = np.round(data.draw(arrays.strided(shape, dtype)))  # rounding makes equals
    check(family.argmax, x, out=(kept_shape(shape, axis), np.int64), axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
@few
@given(data=st.data())
def test_infinities_and_nan(name, dtype, data, arrays, check):
    shape = data.draw(st.sampled_from([(5, 3), (70,), (3, 200), (200, 3), (2, 40, 3)]))
    axis = (data.draw(st.integers(0, len(shape) - 1)),)
    x = data.draw(arrays.strided(shape, dtype, special=True))
    x[np.abs(x) == dtype(1e30)] = 1  # cancellation is another test's business
    out = (kept_shape(shape, axis), np.int64 if name == "argmax" else dtype)
    exact = {} if name in ("max", "argmax") else {"rtol": 1e-5, "atol": 1e-4}
    check(getattr(family, name), x, out=out, axis=axis, **exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logsumexp_of_nothing_but_minus_infinity(dtype):
    out = np.empty(3, dtype)
    family.logsumexp.run(np.full((3, 70), -np.inf, dtype), out, axis=(1,))
    assert np.all(out == -np.inf)
    family.logsumexp.run(np.full((70, 3), 1000.0, dtype), out, axis=(0,))
    np.testing.assert_allclose(out, 1000 + math.log(70), rtol=1e-6)


@pytest.mark.parametrize("ddof", [0, 1, 2])
def test_variance_with_fewer_degrees_of_freedom(ddof, check):
    x = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32) + 1000
    check(family.variance, x, out=((4,), np.float32), axis=(1,), ddof=ddof, rtol=1e-6)


def test_variance_of_too_few_numbers_is_nan_or_infinite():
    x, out = np.array([[1.0], [2.0]]), np.empty(2)
    with np.errstate(all="ignore"):
        family.variance.run(x, out, axis=(1,), ddof=1)
    assert np.all(np.isnan(out))


@pytest.mark.parametrize("axis", [(0,), (1,), (0, 1)])
def test_float32_sums_stay_accurate(axis):
    """A million numbers of one sign, added one after the other, would lose four digits."""
    x = np.random.default_rng(1).random((1000, 1000)).astype(np.float32)
    out = np.empty(kept_shape(x.shape, axis), np.float32)
    family.sum.run(x, out, axis=axis)
    expected = x.sum(axis=axis, dtype=np.float64)
    np.testing.assert_allclose(out, expected, rtol=6e-8)  # half a unit in the last place
    naive = np.cumsum(x.reshape(-1), dtype=np.float32)[-1]
    assert abs(naive / x.sum(dtype=np.float64) - 1) > 1e-5  # the counter-example


@pytest.mark.parametrize("size", [32_767, 32_768, 32_769, 49_152, 100_001])
@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_over_everything_in_pieces(name, size, dtype, check):
    x = np.random.default_rng(size).random(size).astype(dtype)
    check(getattr(family, name), x, out=((), dtype), axis=(0,), rtol=2 * ULP[dtype])
    square = x[: 180 * 180].reshape(180, 180)
    check(getattr(family, name), square, out=((), dtype), axis=(0, 1), rtol=2 * ULP[dtype])


@pytest.mark.parametrize("size", [40_000, 65_536])
def test_the_pieces_of_a_sum_neither_overflow_nor_lose_digits(size):
    """The sums of the pieces stay in float64: only the result must fit float32."""
    out = np.empty((), np.float32)
    family.mean.run(np.full(size, 1e35, np.float32), out, axis=(0,))
    np.testing.assert_allclose(out, 1e35, rtol=ULP[np.float32])
    x = np.repeat(np.array([1e35, -1e35], np.float32), size // 2)
    family.sum.run(x, out, axis=(0,))
    assert out == 0.0
    x = np.random.default_rng(size).random(size).astype(np.float32) + 1
    x[size // 2 :] *= -1  # cancels: what is left shows the error of the pieces
    family.sum.run(x, out, axis=(0,))
    np.testing.assert_allclose(out, x.sum(dtype=np.float64), rtol=ULP[np.float32])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((256, 16), (0,)), ((257, 17), (0,)), ((3, 300, 40), (0, 1)), ((5, 64, 3, 7), (0, 1))],
)
def test_sums_of_whole_rows_go_by_bands(name, shape, axis, dtype, check):
    """Whatever the rows come to: an odd last band, several leading axes, any number of threads."""
    rng = np.random.default_rng(len(shape))
    x = rng.standard_normal(shape).astype(dtype)
    kernel = getattr(family, name)
    kept = kept_shape(shape, axis)
    packed = kernel.pack(x, np.empty(kept, dtype), axis=axis)
    assert [launch.body.name for launch in packed] == ["band_body", "bands_body"]
    count = x.size // math.prod(kept)  # sums may cancel: relative to the magnitudes, as above
    bounds = {"rtol": 4 * ULP[dtype], "atol": 16 * ULP[dtype] * (count if name == "sum" else 1)}
    check(kernel, x, out=(kept, dtype), axis=axis, **bounds)
    results = []
    for threads in (1, POOL.largest):
        POOL.set_threads(threads)
        results.append(np.empty(kept, dtype))
        kernel.run(x, results[-1], axis=axis)
    assert results[0].tobytes() == results[1].tobytes()


def test_the_bands_of_a_sum_neither_overflow_nor_lose_digits():
    out = np.empty(32, np.float32)
    x = np.full((1024, 32), 3e38, np.float32)
    x[512:] *= -1
    family.sum.run(x, out, axis=(0,))
    np.testing.assert_array_equal(out, 0.0)


def test_reducing_no_axes_and_axes_of_size_one():
    x = np.arange(6.0).reshape(2, 1, 3)
    for axis in ((), (1,)):
        out = np.empty(kept_shape(x.shape, axis))
        family.sum.run(x, out, axis=axis)
        np.testing.assert_array_equal(out, x.reshape(out.shape))


def test_nothing_to_reduce():
    out = np.empty(3, np.float32)
    family.sum.run(np.empty((3, 0), np.float32), out, axis=(1,))
    assert np.all(out == 0)
    with pytest.raises(ValueError, match="zero-size"):
        family.max.run(np.empty((3, 0), np.float32), out, axis=(1,))
    empty = np.empty((0,), np.float32)
    family.sum.run(np.empty((0, 4), np.float32), empty, axis=(1,))


def test_integers_are_left_to_numpy():
    x, out = np.arange(12).reshape(3, 4), np.empty(3, np.int64)
    assert family.sum.pack(x, out, axis=(1,)) is None
    family.sum.run(x, out, axis=(1,))
    np.testing.assert_array_equal(out, [6, 22, 38])


def test_result_in_a_strided_array():
    """The gradient of a bias that lies inside a larger array."""
    x = np.random.default_rng(0).standard_normal((20, 33)).astype(np.float32)
    memory = np.zeros((33, 2), np.float32)
    family.sum.run(x, memory[:, 1], axis=(0,))
    np.testing.assert_allclose(memory[:, 1], x.sum(0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert np.all(memory[:, 0] == 0)
