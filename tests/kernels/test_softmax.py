"""Softmax against SciPy, against its reference in float64, and against what must hold exactly."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import softmax as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import softmax as native
from baremetal.kernels.native.pool import POOL
from baremetal.kernels.softmax import (
    log_softmax,
    log_softmax_backward,
    masked_log_softmax,
    masked_log_softmax_backward,
    masked_softmax,
    softmax,
    softmax_backward,
)

DTYPES = [np.float32, np.float64]
FLUSHED = 1.2e-38  # float32 results below the smallest normal number may be 0


def unwritten(shape):
    """An output to be: NaN, so that an element that a kernel forgets is seen."""
    return np.full(shape, np.nan)


# How to call every kernel of the family: arrays from (rng, shape), the output last.
CASES = {
    "softmax": lambda rng, shape: (rng.normal(size=shape), unwritten(shape)),
    "softmax_backward": lambda rng, shape: (
        scipy.special.softmax(rng.normal(size=shape), axis=-1),
        rng.normal(size=shape),
        unwritten(shape),
    ),
    "log_softmax": lambda rng, shape: (rng.normal(size=shape), unwritten(shape)),
    "log_softmax_backward": lambda rng, shape: (
        scipy.special.log_softmax(rng.normal(size=shape), axis=-1),
        rng.normal(size=shape),
        unwritten(shape),
    ),
    "masked_softmax": lambda rng, shape: (
        rng.normal(size=shape),
        rng.random(shape) < 0.5,
        unwritten(shape),
    ),
    "masked_log_softmax": lambda rng, shape: (
        rng.normal(size=shape),
        rng.random(shape) < 0.5,
        unwritten(shape),
    ),
    "masked_log_softmax_backward": lambda rng, shape: (
        np.log(scipy.special.softmax(rng.normal(size=shape), axis=-1)),
        rng.random(shape) < 0.5,
        rng.normal(size=shape),
        unwritten(shape),
    ),
}


def cast(arrays, dtype):
    return [a.astype(dtype) if a.dtype == np.float64 else a for a in arrays]


def in_float64(kernel, *arrays, **attributes):
    """What the reference answers in double precision: the oracle for both dtypes."""
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        kernel.reference(*wide, **attributes)
    return wide[-1]


def assert_close(actual, expected, ulp, scale=1.0):
    """Within `ulp` units in the last place of numbers of size `scale`, or relatively."""
    eps = np.finfo(actual.dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=ulp * eps, atol=ulp * eps * scale + FLUSHED)


def test_every_kernel_has_a_native_version_a_cost_and_a_case_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == set(CASES)
    for name in names:
        arrays = cast(CASES[name](np.random.default_rng(0), (3, 5)), np.float32)
        kernel = registry()[name]
        assert getattr(native, name)(*arrays) is not None
        cost = kernel.cost(*arrays)
        assert cost.flops >= 15
        assert cost.size_bytes == sum(a.nbytes for a in arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
@given(
    shape=st.one_of(
        st.tuples(st.integers(0, 4), st.integers(1, 70)),
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)),
        st.tuples(st.integers(1, 130)),
    ),
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(["contiguous", "rows apart", "columns apart", "transposed"]),
)
def test_agrees_with_its_reference_in_float64(name, dtype, shape, seed, layout):
    arrays = cast(CASES[name](np.random.default_rng(seed), shape), dtype)
    arrays = [lay_out(a, layout) for a in arrays]
    expected = in_float64(registry()[name], *arrays)
    registry()[name].run(*arrays)
    assert_close(arrays[-1], expected, ulp=16 + shape[-1], scale=2.0)


def lay_out(array, layout):
    """The same values with other strides."""
    if layout == "rows apart":
        wider = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
        view = wider[..., 1:-2]
    elif layout == "columns apart":
        view = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    elif layout == "transposed":
        view = np.zeros(array.shape[::-1], array.dtype).T
    else:
        return array
    view[...] = array
    return view


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.integers(1, 4),
    width=st.integers(1, 300),
    scale=st.sampled_from([1e-30, 1.0, 20.0, 1e4, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_softmax_and_its_logarithm_agree_with_scipy(dtype, rows, width, scale, seed):
    x = (np.random.default_rng(seed).normal(size=(rows, width)) * scale).astype(dtype)
    y, log_y = np.empty_like(x), np.empty_like(x)
    softmax.run(x, y)
    log_softmax.run(x, log_y)
    wide = x.astype(np.float64)
    assert_close(y, scipy.special.softmax(wide, axis=-1), ulp=16 + width)
    assert_close(log_y, scipy.special.log_softmax(wide, axis=-1), ulp=16 + width)
    assert_close(y.sum(axis=-1), np.ones(rows), ulp=16 + width)


def test_a_constant_added_to_a_row_changes_no_bit():
    x = np.random.default_rng(1).integers(-8, 8, (5, 65)).astype(np.float32)  # exact sums
    plain, shifted = np.empty_like(x), np.empty_like(x)
    softmax.run(x, plain)
    softmax.run(x + 1000, shifted)
    assert plain.tobytes() == shifted.tobytes()


@pytest.mark.parametrize("width", [1, 5, 8, 33, 200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nan_pass_as_in_numpy(dtype, width):
    x = np.random.default_rng(2).normal(size=(7, width)).astype(dtype)
    x[0, width // 2] = np.nan
    x[1, width // 2] = -np.nan  # a NaN with its sign set sorts below everything
    x[2, width // 2] = np.inf
    x[3, width // 2] = -np.inf
    x[4] = -np.inf
    x[5] = np.finfo(dtype).max
    x[6] = np.finfo(dtype).tiny / 2
    for kernel in (softmax, log_softmax):
        out = np.empty_like(x)
        kernel.run(x, out)
        assert_close(out, in_float64(kernel, x, unwritten(x.shape)), ulp=64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_is_the_jacobian_s_transpose_times_the_cotangent(dtype):
    rng = np.random.default_rng(3)
    x, grad = rng.normal(size=9).astype(dtype), rng.normal(size=9).astype(dtype)
    y = scipy.special.softmax(x.astype(np.float64))
    out = np.empty_like(x)
    softmax_backward.run(y.astype(dtype), grad, out)
    assert_close(out, (np.diag(y) - np.outer(y, y)) @ grad, ulp=16)
    log_softmax_backward.run(np.log(y).astype(dtype), grad, out)
    assert_close(out, (np.eye(9) - np.outer(y, np.ones(9))) @ grad, ulp=32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "mask_shape", [(2, 3, 4, 5), (4, 5), (2, 1, 1, 5), (3, 1, 5), (5,), (2, 3, 4, 1), ()]
)
def test_masked_softmax_is_the_softmax_of_what_is_kept(dtype, mask_shape):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 3, 4, 5)).astype(dtype)
    mask = rng.random(mask_shape) < 0.5
    out, log_out = np.empty_like(x), np.empty_like(x)
    masked_softmax.run(x, mask, out)
    masked_log_softmax.run(x, mask, log_out)
    everywhere = np.broadcast_to(mask, x.shape)
    for row in np.ndindex(2, 3, 4):
        kept = everywhere[row]
        assert np.all(out[row][~kept] == 0)
        assert np.all(log_out[row][~kept] == -np.inf)
        if kept.any():
            wide = x[row][kept].astype(np.float64)
            assert_close(out[row][kept], scipy.special.softmax(wide), ulp=16)
            assert_close(log_out[row][kept], scipy.special.log_softmax(wide), ulp=16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_shape", [(3, 4, 5), (4, 5), (3, 1, 5), (5,), (3, 4, 1), ()])
def test_masked_backward_is_the_backward_of_what_is_kept(dtype, mask_shape):
    """And 0 at the others, whatever cotangent arrives there: NaN, even."""
    rng = np.random.default_rng(8)
    mask = rng.random(mask_shape) < 0.5
    everywhere = np.broadcast_to(mask, (3, 4, 5))
    y = np.empty((3, 4, 5), dtype)
    masked_log_softmax.run(rng.normal(size=y.shape).astype(dtype), mask, y)
    grad = np.where(everywhere, rng.normal(size=y.shape), np.nan).astype(dtype)
    out = np.empty_like(y)
    masked_log_softmax_backward.run(y, mask, grad, out)
    for row in np.ndindex(3, 4):
        kept = everywhere[row]
        g, p = grad[row][kept].astype(np.float64), np.exp(y[row][kept].astype(np.float64))
        assert np.all(out[row][~kept] == 0)
        assert_close(out[row][kept], g - p * g.sum(), ulp=32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_with_nothing_kept_is_zero_and_what_is_masked_has_no_influence(dtype):
    x = np.array([[np.nan, np.inf, 1, 2], [1, 2, 3, 4], [0, -np.inf, 0, 3]], dtype)
    mask = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
    out = np.full_like(x, 7)
    masked_softmax.run(x, mask, out)
    e = np.exp(1) / (1 + np.exp(1))
    expected = np.array([[0, 0, 1 - e, e], [0, 0, 0, 0], [0.5, 0, 0.5, 0]])
    assert_close(out, expected, ulp=4)
    masked_log_softmax.run(x, mask, out)
    with np.errstate(divide="ignore"):
        assert_close(out, np.log(expected), ulp=4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_one_thread_and_all_threads_give_the_same_bits(name, dtype):
    outputs = []
    threads = POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            arrays = cast(CASES[name](np.random.default_rng(5), (301, 77)), dtype)
            registry()[name].run(*arrays)
            outputs.append(arrays[-1].tobytes())
    finally:
        POOL.set_threads(threads)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(0, 5), (7, 1), (5, 65), (2, 3, 33)])
def test_nothing_beside_the_output_is_written_and_pieces_agree(name, dtype, shape, check):
    arrays = cast(CASES[name](np.random.default_rng(7), shape), dtype)
    eps = 128 * np.finfo(dtype).eps
    check(registry()[name], *arrays[:-1], out=(shape, dtype), rtol=eps, atol=eps)


@pytest.mark.parametrize("name", CASES)
def test_the_output_may_be_the_input(name):
    arrays = cast(CASES[name](np.random.default_rng(6), (4, 50)), np.float32)
    registry()[name].run(*arrays)
    registry()[name].run(*arrays[:-1], arrays[0])
    np.testing.assert_allclose(arrays[0], arrays[-1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("masked", [False, True])
def test_where_the_arrays_lie_changes_no_bit(masked):
    """Loops that store are vectorised only where arrays lie apart: no sum may be in one."""
    x = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    memory = np.zeros(1024, np.uint8)
    found = set()
    for apart in range(100, 400, 4):  # bytes from x to out; x itself takes 100
        moved = np.ndarray(x.shape, x.dtype, memory, 64)
        out = np.ndarray(x.shape, x.dtype, memory, 64 + apart)
        moved[...] = x
        if masked:
            masked_softmax.run(moved, np.ones(x.shape, np.bool_), out)
        else:
            softmax.run(moved, out)
        found.add(out.tobytes())
    assert len(found) == 1
