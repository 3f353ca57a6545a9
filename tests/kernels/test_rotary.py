"""Rotary embedding against complex multiplication, and its defining properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import rotary as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import rotary as native
from baremetal.kernels.native.pool import POOL
from baremetal.kernels.rotary import rotary

DTYPES = [np.float32, np.float64]


def tables(T, half, dtype=np.float64):
    """cos and sin (T, half) of position times frequency."""
    angles = np.outer(np.arange(T), 10000.0 ** (-np.arange(half) / max(half, 1)))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def turned(x, cos, sin, rotated, inverse=False):
    """(a + ib)(cos + i sin) for the first heads, in NumPy's complex numbers."""
    half = x.shape[-1] // 2
    points = x[..., :half] + 1j * x[..., half:]
    factor = (cos + (-1j if inverse else 1j) * sin)[:, None, :]
    points[:, :, :rotated] *= factor
    return np.concatenate([points.real, points.imag], axis=-1)


def test_every_kernel_has_a_native_version_a_cost_and_a_test_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == {"rotary"}
    x, (cos, sin) = np.zeros((2, 3, 5, 8), np.float32), tables(3, 4, np.float32)
    arguments = (x, cos, sin, np.empty_like(x))
    assert native.rotary(*arguments, rotated=4, inverse=False) is not None
    cost = rotary.cost(*arguments, rotated=4, inverse=False)
    assert cost.flops == 6 * (2 * 3 * 4 * 4)  # 6 for each point of a turned head
    assert cost.size_bytes == 2 * x.nbytes + 2 * cos.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    sizes=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 40)),
    rotated=st.integers(0, 4),
    inverse=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_is_complex_multiplication(dtype, sizes, rotated, inverse, packed, seed):
    B, T, N, half = sizes
    rotated = min(rotated, N)
    x = np.random.default_rng(seed).normal(size=(B, T, N, 2 * half)).astype(dtype)
    if packed:  # a view into a longer row, as the heads of a packed projection are
        row = np.zeros((B, T, N + 2, 2 * half), dtype)
        row[:, :, 1:-1] = x
        x = row[:, :, 1:-1]
    cos, sin = tables(T, half, dtype)
    out = np.full((B, T, N, 2 * half), np.nan, dtype)
    rotary.run(x, cos, sin, out, rotated=rotated, inverse=inverse)
    expected = turned(x.astype(np.float64), cos.astype(float), sin.astype(float), rotated, inverse)
    np.testing.assert_allclose(out, expected, atol=8 * np.finfo(dtype).eps, rtol=1e-6)
    assert np.array_equal(out[:, :, rotated:], x[:, :, rotated:])
    rotary.run(x, cos, sin, x, rotated=rotated, inverse=inverse)  # in place
    np.testing.assert_allclose(x, out, atol=4 * np.finfo(dtype).eps)


def test_layouts_that_are_left_to_the_reference_agree_too():
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 6))
    cos, sin = tables(3, 3)
    expected = turned(x, cos, sin, 4)
    for strided in (np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2]):
        out = np.empty_like(x)
        assert native.rotary(strided, cos, sin, out, rotated=4, inverse=False) is None
        rotary.run(strided, cos, sin, out, rotated=4, inverse=False)
        np.testing.assert_allclose(out, expected, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_inverse_undoes_it_and_is_its_gradient(dtype):
    rng = np.random.default_rng(2)
    x, grad = (rng.normal(size=(2, 7, 3, 64)).astype(dtype) for _ in range(2))
    cos, sin = tables(7, 32, dtype)
    y, back, dx = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    rotary.run(x, cos, sin, y, rotated=3, inverse=False)
    rotary.run(y, cos, sin, back, rotated=3, inverse=True)
    np.testing.assert_allclose(back, x, atol=16 * np.finfo(dtype).eps)
    rotary.run(grad, cos, sin, dx, rotated=3, inverse=True)
    # For a linear map R the gradient is Rᵀ:  <g, R x> = <Rᵀ g, x>.
    assert np.vdot(grad, y) == pytest.approx(np.vdot(dx, x), rel=1e-4)


def test_scores_depend_on_the_distance_of_positions_alone():
    rng = np.random.default_rng(3)
    q, k = rng.normal(size=32), rng.normal(size=32)
    cos, sin = tables(20, 16)
    queries, keys = np.tile(q, (1, 20, 1, 1)), np.tile(k, (1, 20, 1, 1))
    rotary.run(queries, cos, sin, queries, rotated=1, inverse=False)
    rotary.run(keys, cos, sin, keys, rotated=1, inverse=False)
    scores = queries[0, :, 0] @ keys[0, :, 0].T
    for distance in range(-19, 20):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-12)
    assert abs(scores[0, 0] - scores[5, 0]) > 0.1  # and it does depend on it


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inverse", [False, True])
def test_nothing_beside_the_output_is_written_and_pieces_agree(dtype, inverse, check):
    x = np.random.default_rng(5).normal(size=(2, 5, 3, 34)).astype(dtype)
    cos, sin = tables(5, 17, dtype)
    eps = 8 * np.finfo(dtype).eps
    check(rotary, x, cos, sin, out=(x.shape, dtype), atol=eps, rotated=2, inverse=inverse)


def test_one_thread_and_all_threads_give_the_same_bits():
    x = np.random.default_rng(4).normal(size=(3, 61, 5, 34)).astype(np.float32)
    cos, sin = tables(61, 17, np.float32)
    results, threads = [], POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            out = np.empty_like(x)
            rotary.run(x, cos, sin, out, rotated=4, inverse=False)
            results.append(out.tobytes())
    finally:
        POOL.set_threads(threads)
    assert results[0] == results[1]
