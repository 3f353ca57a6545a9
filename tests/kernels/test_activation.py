"""SwiGLU against SciPy's sigmoid in float64, and its gradient against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from baremetal.kernels import activation as family
from baremetal.kernels.activation import swiglu, swiglu_backward
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import activation as native
from baremetal.kernels.native.pool import POOL

DTYPES = [np.float32, np.float64]
FLUSHED = 1.2e-38  # float32 results below the smallest normal number may be 0


def expected_forward(gate_up):
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    return gate * expit(gate) * up


def expected_backward(gate_up, grad):
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    slope = expit(gate) * (1 + gate * expit(-gate))  # silu'
    return np.concatenate([grad * up * slope, grad * gate * expit(gate)], axis=-1)


def test_every_kernel_has_a_native_version_a_cost_and_a_test_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == {"swiglu", "swiglu_backward"}
    gate_up, half = np.zeros((3, 10), np.float32), np.zeros((3, 5), np.float32)
    assert native.swiglu(gate_up, half) is not None
    assert native.swiglu_backward(gate_up, half, gate_up.copy()) is not None
    assert swiglu.cost(gate_up, half).size_bytes == 4 * (30 + 15)
    assert swiglu.cost(gate_up, half).flops == 14 * 15
    backward = swiglu_backward.cost(gate_up, half, gate_up)
    assert (backward.flops, backward.size_bytes) == (20 * 15, 4 * (30 + 15 + 30))


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.integers(0, 5),
    H=st.integers(0, 70),
    scale=st.sampled_from([1e-30, 1.0, 20.0, 200.0]),
    padding=st.sampled_from([0, 3]),
    transposed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_scipy(dtype, rows, H, scale, padding, transposed, seed):
    rng = np.random.default_rng(seed)
    gate_up = np.zeros((rows, 2 * H + padding), dtype)[:, : 2 * H]
    gate_up[...] = rng.normal(size=(rows, 2 * H)) * scale
    gate_up = np.asfortranarray(gate_up) if transposed else gate_up
    grad = rng.normal(size=(rows, H)).astype(dtype)
    out, dx = np.full((rows, H), np.nan, dtype), np.full((rows, 2 * H), np.nan, dtype)
    swiglu.run(gate_up, out)
    swiglu_backward.run(gate_up, grad, dx)
    eps = np.finfo(dtype).eps
    # 1 + z (1 - σ) cancels near z = -1.28, where silu' is 0: an error of |up| eps, not of 0.
    near_zero = 8 * eps * max(scale, scale * scale) + FLUSHED
    np.testing.assert_allclose(out, expected_forward(gate_up), rtol=16 * eps, atol=near_zero)
    np.testing.assert_allclose(dx, expected_backward(gate_up, grad), rtol=32 * eps, atol=near_zero)


def test_gradient_agrees_with_central_differences():
    rng = np.random.default_rng(1)
    gate_up, grad = rng.normal(size=(2, 6)), rng.normal(size=(2, 3))
    out, dx, h = np.empty((2, 3)), np.empty((2, 6)), 1e-6
    swiglu_backward.run(gate_up, grad, dx)
    for at in np.ndindex(gate_up.shape):
        losses = []
        for step in (h, -h):
            moved = gate_up.copy()
            moved[at] += step
            swiglu.run(moved, out)
            losses.append((out * grad).sum())
        assert dx[at] == pytest.approx((losses[0] - losses[1]) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_out_the_gate_is_shut_or_open(dtype):
    gate = np.array([-1e4, -100, 100, 1e4, np.nan, np.inf], dtype)
    gate_up = np.concatenate([gate, np.full(6, 2, dtype)])[None]
    out, dx = np.empty((1, 6), dtype), np.empty((1, 12), dtype)
    swiglu.run(gate_up, out)
    swiglu_backward.run(gate_up, np.ones((1, 6), dtype), dx)
    np.testing.assert_allclose(out[0], [0, 0, 200, 2e4, np.nan, np.inf], atol=1e-37)
    np.testing.assert_allclose(dx[0, :5], [0, 0, 2, 2, np.nan], atol=1e-37)
    np.testing.assert_allclose(dx[0, 6:11], [0, 0, 100, 1e4, np.nan], atol=1e-37)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_slope_of_an_infinite_gate_is_that_of_a_large_one(dtype):
    gate_up = np.array([[np.inf, -np.inf, 3, 2]], dtype)
    for run in (swiglu_backward.run, swiglu_backward.reference):
        dx = np.empty((1, 4), dtype)
        with np.errstate(invalid="ignore"):  # silu itself is -inf * 0 at -inf
            run(gate_up, np.ones((1, 2), dtype), dx)
        np.testing.assert_array_equal(dx[0, :3], [3, 0, np.inf])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beside_the_output_is_written_and_pieces_agree(dtype, check):
    rng = np.random.default_rng(4)
    gate_up, grad = (rng.normal(size=(9, n)).astype(dtype) for n in (82, 41))
    eps = 16 * np.finfo(dtype).eps
    check(swiglu, gate_up, out=(grad.shape, dtype), rtol=eps, atol=eps)
    check(swiglu_backward, gate_up, grad, out=(gate_up.shape, dtype), rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_thread_and_all_threads_give_the_same_bits(dtype):
    rng = np.random.default_rng(2)
    gate_up, grad = (rng.normal(size=(333, n)).astype(dtype) for n in (154, 77))
    results, threads = [], POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            out, dx = np.empty_like(grad), np.empty_like(gate_up)
            swiglu.run(gate_up, out)
            swiglu_backward.run(gate_up, grad, dx)
            results.append(out.tobytes() + dx.tobytes())
    finally:
        POOL.set_threads(threads)
    assert results[0] == results[1]


def test_the_gradient_may_be_written_over_the_input():
    rng = np.random.default_rng(3)
    gate_up, grad = (rng.normal(size=(4, n)).astype(np.float32) for n in (100, 50))
    dx = np.empty_like(gate_up)
    swiglu_backward.run(gate_up, grad, dx)
    swiglu_backward.run(gate_up, grad, gate_up)
    np.testing.assert_allclose(gate_up, dx, rtol=1e-5, atol=1e-6)
