"""Numbers of 16 bits: their sums are kept in float64 and rounded once."""

import ml_dtypes
import numpy as np
import pytest
import scipy.special

from baremetal.kernels import attention, cross_entropy, indexing, norm, reduction, softmax
from baremetal.kernels.precision import row_mean, row_sum, sums_in, widened

SHORT = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
ROWS, WIDTH = 40, 600  # more than the 256 at which a sum of ones in bfloat16 stops

short = pytest.mark.parametrize("dtype", SHORT, ids=str)


def eps(dtype):
    """The distance from 1 to the next number."""
    return float(ml_dtypes.finfo(dtype).eps)


def numbers(dtype, seed=0):
    """(ROWS, WIDTH) of this dtype, mean 1 and standard deviation 1, and the same in float64."""
    x = np.random.default_rng(seed).normal(1.0, 1.0, (ROWS, WIDTH)).astype(dtype)
    return x, x.astype(np.float64)


def test_only_short_floats_are_widened():
    assert sums_in(np.dtype(np.float16)) == sums_in(np.dtype(ml_dtypes.float8_e4m3fn)) == np.float64
    for dtype in (np.float32, np.float64, np.int8, np.int16, np.bool_):
        x = np.ones((2, 3), dtype)
        assert widened(x) is x
        assert row_sum(x).dtype == np.sum(x).dtype
        assert row_mean(x).dtype == np.mean(x).dtype


@short
@pytest.mark.parametrize("axis", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(
    ("kernel", "oracle"),
    [(reduction.sum, np.sum), (reduction.mean, np.mean), (reduction.variance, np.var)],
)
def test_reductions_round_once(dtype, axis, kernel, oracle):
    x, wide = numbers(dtype)
    expected = oracle(wide, axis=axis).astype(dtype)
    out = np.zeros(expected.shape, dtype)
    kernel.run(x, out, axis=axis)
    np.testing.assert_array_equal(out, expected)


@short
def test_logsumexp_of_many(dtype):
    x, wide = numbers(dtype)
    out = np.zeros(ROWS, dtype)
    reduction.logsumexp.run(x, out, axis=(1,))
    # Each exponential is rounded, which averages out; the result is once more.
    np.testing.assert_allclose(out.astype(float), scipy.special.logsumexp(wide, 1), rtol=eps(dtype))


@short
def test_softmax_and_its_logarithm_over_many(dtype):
    x, wide = numbers(dtype)
    everything = np.ones((ROWS, WIDTH), bool)
    results = [np.zeros((ROWS, WIDTH), dtype) for _ in range(4)]
    softmax.softmax.run(x, results[0])
    softmax.masked_softmax.run(x, everything, results[1])
    softmax.log_softmax.run(x, results[2])
    softmax.masked_log_softmax.run(x, everything, results[3])
    p, log_p = scipy.special.softmax(wide, axis=1), scipy.special.log_softmax(wide, axis=1)
    for out, expected in zip(results, (p, p, log_p, log_p), strict=True):
        # x - max is rounded to its own precision first: an absolute error of a few eps.
        np.testing.assert_allclose(out.astype(float), expected, rtol=8 * eps(dtype))


@short
def test_equal_scores_share_evenly(dtype):
    x, mask, out = np.zeros(WIDTH, dtype), np.ones(WIDTH, bool), np.zeros(WIDTH, dtype)
    for kernel, arrays in ((softmax.log_softmax, (x,)), (softmax.masked_log_softmax, (x, mask))):
        kernel.run(*arrays, out)
        np.testing.assert_allclose(out.astype(float), -np.log(WIDTH), rtol=eps(dtype))


@short
def test_backward_of_softmax_over_many(dtype):
    """Of a constant cotangent the gradient is 0, if the sums are right."""
    x, _ = numbers(dtype)
    y, log_y, out = (np.zeros((ROWS, WIDTH), dtype) for _ in range(3))
    grad, everything = np.ones((ROWS, WIDTH), dtype), np.ones((ROWS, WIDTH), bool)
    softmax.softmax.run(x, y)
    softmax.softmax_backward.run(y, grad, out)
    assert np.abs(out.astype(float)).max() < eps(dtype) * y.max()
    softmax.log_softmax.run(x, log_y)
    expected = 1 - WIDTH * np.exp(log_y.astype(float))
    for arrays in ((log_y, grad), (log_y, everything, grad)):
        kernel = "log_softmax_backward" if len(arrays) == 2 else "masked_log_softmax_backward"
        getattr(softmax, kernel).run(*arrays, out)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(out.astype(float), expected, atol=2 * eps(dtype) * largest)


@short
def test_norms_of_wide_rows(dtype):
    x, wide = numbers(dtype)
    weight, zeros = np.ones(WIDTH, dtype), np.zeros(WIDTH, dtype)
    out, mean, rstd = np.zeros_like(x), np.zeros(ROWS, dtype), np.zeros(ROWS, dtype)
    norm.layer_norm.run(x, weight, zeros, out, mean, rstd, eps=1e-5)
    near = {"rtol": 4 * eps(dtype), "atol": 4 * eps(dtype)}
    np.testing.assert_allclose(mean.astype(float), wide.mean(1), rtol=eps(dtype))
    np.testing.assert_allclose(rstd.astype(float), 1 / wide.std(1), rtol=2 * eps(dtype))
    centred = (wide - wide.mean(1, keepdims=True)) / wide.std(1, keepdims=True)
    np.testing.assert_allclose(out.astype(float), centred, **near)
    # A norm does not change if x is shifted or scaled: such a cotangent moves nothing.
    slope = np.zeros_like(x)
    norm.layer_norm_backward_input.run(x, weight, out, mean, rstd, slope)  # nor does x̂ itself
    assert np.abs(slope.astype(float)).max() < 16 * eps(dtype)
    norm.layer_norm_backward_input.run(x, weight, np.ones_like(x), mean, rstd, slope)
    assert np.abs(slope.astype(float)).max() < 8 * eps(dtype)
    norm.rms_norm.run(x, weight, out, rstd, eps=1e-5)
    np.testing.assert_allclose(rstd.astype(float), (wide**2).mean(1) ** -0.5, rtol=2 * eps(dtype))
    norm.rms_norm_backward_input.run(x, weight, out, rstd, slope)
    assert np.abs(slope.astype(float)).max() < 16 * eps(dtype)


@short
def test_gradients_of_norm_weights_over_many_rows(dtype):
    x, ones = np.ones((WIDTH, 2), dtype), np.ones(WIDTH, dtype)
    weight, bias = np.zeros(2, dtype), np.zeros(2, dtype)
    norm.layer_norm_backward_weight.run(x, x, 0 * ones, ones, weight, bias)
    assert weight.tolist() == bias.tolist() == [WIDTH, WIDTH]
    norm.rms_norm_backward_weight.run(x, x, ones, weight)
    assert weight.tolist() == [WIDTH, WIDTH]


@short
def test_cross_entropy_over_many_classes(dtype):
    losses, lse = np.zeros(1, dtype), np.zeros(1, dtype)
    logits, targets = np.zeros((1, WIDTH), dtype), np.zeros(1, np.int64)
    cross_entropy.cross_entropy.run(logits, targets, losses, lse, ignore_index=-100)
    np.testing.assert_allclose(losses.astype(float), np.log(WIDTH), rtol=eps(dtype))


@short
def test_rows_chosen_often_are_added_up(dtype):
    out = np.zeros((1, 1), dtype)
    indexing.scatter_add_rows.run(np.ones((WIDTH, 1), dtype), np.zeros(WIDTH, np.int64), out)
    assert out.tolist() == [[WIDTH]]


@short
def test_attention_over_many_keys(dtype):
    """Equal scores: the last query gives the mean of all values, whose gradients are 1/T each."""
    q, v = np.zeros((1, WIDTH, 1, 2), dtype), np.ones((1, WIDTH, 1, 2), dtype)
    out, lse = np.zeros_like(q), np.zeros((1, 1, WIDTH), dtype)
    attention.causal_attention.run(q, q, v, out, lse, scale=1.0)
    np.testing.assert_allclose(out.astype(float), 1.0, rtol=eps(dtype))
    gradients = [np.zeros_like(q) for _ in range(3)]
    attention.causal_attention_backward.run(q, q, v, out, v, lse, *gradients, scale=1.0)
    # dv of the first value: Σ 1/t. The saved lse is rounded, at about 6: an error of 4 eps.
    harmonic = (1 / np.arange(1, WIDTH + 1)).sum()
    np.testing.assert_allclose(gradients[2][0, 0, 0].astype(float), harmonic, rtol=4 * eps(dtype))
