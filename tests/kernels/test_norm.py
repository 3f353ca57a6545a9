"""LayerNorm and RMSNorm: the formulas in float64, central differences, and what must be 0 or 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import norm as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import norm as native
from baremetal.kernels.native.pool import POOL
from baremetal.kernels.norm import (
    layer_norm,
    layer_norm_backward_input,
    layer_norm_backward_weight,
    rms_norm,
    rms_norm_backward_input,
    rms_norm_backward_weight,
)

DTYPES = [np.float32, np.float64]
EPS = 1e-5


def unwritten(*shape):
    """An output to be: NaN, so that an element that a kernel forgets is seen."""
    return np.full(shape, np.nan)


def case(name, rng, rows, width, dtype):
    """(inputs, outputs, attributes) of one call; the order of the arguments is inputs, outputs.

    (Every kernel here takes all it reads before all it writes.)
    """
    x, grad = rng.normal(size=(rows, width)) + 0.5, rng.normal(size=(rows, width))
    weight, bias = rng.normal(size=width), rng.normal(size=width)
    mean = x.mean(axis=-1)
    rstd = 1 / np.sqrt(x.var(axis=-1) + EPS)
    inputs, outputs, attributes = {
        "layer_norm": (
            [x, weight, bias],
            [unwritten(rows, width), unwritten(rows), unwritten(rows)],
            {"eps": EPS},
        ),
        "layer_norm_backward_input": (
            [x, weight, grad, mean, rstd],
            [unwritten(rows, width)],
            {},
        ),
        "layer_norm_backward_weight": (
            [x, grad, mean, rstd],
            [unwritten(width), unwritten(width)],
            {},
        ),
        "rms_norm": ([x, weight], [unwritten(rows, width), unwritten(rows)], {"eps": EPS}),
        "rms_norm_backward_input": ([x, weight, grad, rstd], [unwritten(rows, width)], {}),
        "rms_norm_backward_weight": ([x, grad, rstd], [unwritten(width)], {}),
    }[name]
    return [a.astype(dtype) for a in inputs], [a.astype(dtype) for a in outputs], attributes


NAMES = [
    "layer_norm",
    "layer_norm_backward_input",
    "layer_norm_backward_weight",
    "rms_norm",
    "rms_norm_backward_input",
    "rms_norm_backward_weight",
]


def test_every_kernel_has_a_native_version_a_cost_and_a_case_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == set(NAMES)
    for name in names:
        inputs, outputs, attributes = case(name, np.random.default_rng(0), 4, 6, np.float32)
        assert getattr(native, name)(*inputs, *outputs, **attributes) is not None
        cost = registry()[name].cost(*inputs, *outputs, **attributes)
        assert cost.size_bytes == sum(a.nbytes for a in inputs + outputs)
        assert 3 * 24 <= cost.flops <= 11 * 24


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@given(
    rows=st.integers(0, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    padding=st.sampled_from([0, 3]),
    transposed=st.booleans(),
)
def test_agrees_with_its_reference_in_float64(name, dtype, rows, width, seed, padding, transposed):
    rng = np.random.default_rng(seed)
    inputs, outputs, attributes = case(name, rng, rows, width, dtype)
    expected = [a.astype(np.float64) for a in outputs]
    registry()[name].reference(*[a.astype(np.float64) for a in inputs], *expected, **attributes)
    wider = np.zeros((rows, width + padding), dtype)[:, :width]  # rows further apart, or not
    wider[...] = inputs[0]
    inputs[0] = np.asfortranarray(wider) if transposed else wider
    registry()[name].run(*inputs, *outputs, **attributes)
    for actual, right in zip(outputs, expected, strict=True):
        # A width of 1 or 2 has variances near 0 and rstd near 300: errors grow with it.
        size = max(1.0, np.abs(right).max(initial=0)) * (300 if width < 8 else 8)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(actual, right, rtol=0, atol=eps * size * (4 + rows / 8))


def normalised(x, eps=EPS, dtype=np.float32):
    """LayerNorm without weights: (out, mean, rstd)."""
    width = x.shape[-1]
    ones, zeros = np.ones(width, dtype), np.zeros(width, dtype)
    out, mean, rstd = (unwritten(*s).astype(dtype) for s in (x.shape, x.shape[:1], x.shape[:1]))
    layer_norm.run(x.astype(dtype), ones, zeros, out, mean, rstd, eps=eps)
    return out, mean, rstd


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_mean_0_and_variance_1(dtype):
    x = np.random.default_rng(1).normal(3, 2, size=(20, 384))
    out, _, _ = normalised(x, eps=0, dtype=dtype)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(out.mean(axis=-1), 0, atol=8 * eps)
    np.testing.assert_allclose(out.astype(np.float64).var(axis=-1), 1, rtol=8 * eps)


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_large_mean_does_not_swallow_the_variance(kernels):
    """mean(x²) - mean(x)² in float32 would have no correct digit here: 1e6 against 0.01."""
    x = (1000 + 0.1 * np.random.default_rng(2).normal(size=(5, 256))).astype(np.float32)
    ones, out = np.ones(256, np.float32), np.empty_like(x)
    mean, rstd = np.empty(5, np.float32), np.empty(5, np.float32)
    run = layer_norm.run if kernels == "native" else layer_norm.reference
    run(x, ones, None, out, mean, rstd, eps=0.0)
    np.testing.assert_allclose(rstd, 1 / x.astype(np.float64).std(axis=-1), rtol=1e-5)


def test_rms_rows_have_length_root_width():
    x = np.random.default_rng(3).normal(3, 2, size=(20, 100))
    out, rstd = np.empty_like(x), np.empty(20)
    rms_norm.run(x, np.ones(100), out, rstd, eps=0.0)
    np.testing.assert_allclose((out**2).sum(axis=-1), 100, rtol=1e-13)
    np.testing.assert_allclose(rstd, 10 / np.linalg.norm(x, axis=-1), rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_row_gives_the_bias(dtype):
    x = np.full((2, 33), 7, dtype)
    weight, bias = np.full(33, 2, dtype), np.arange(33, dtype=dtype)
    out, mean, rstd = np.empty_like(x), np.empty(2, dtype), np.empty(2, dtype)
    layer_norm.run(x, weight, bias, out, mean, rstd, eps=EPS)
    assert np.array_equal(out, np.broadcast_to(bias, (2, 33)))
    assert np.all(mean == 7)
    np.testing.assert_allclose(rstd, EPS**-0.5, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_is_optional_forward_and_backward(dtype):
    inputs, outputs, _ = case("layer_norm", np.random.default_rng(4), 5, 20, dtype)
    x, weight, bias = inputs
    layer_norm.run(x, weight, np.zeros_like(bias), *outputs, eps=EPS)
    without = np.empty_like(x)
    layer_norm.run(x, weight, None, without, *outputs[1:], eps=EPS)
    np.testing.assert_allclose(without, outputs[0], rtol=1e-6)
    grad_weight, again, grad_bias = (np.empty(20, dtype) for _ in range(3))
    saved = outputs[1:]
    layer_norm_backward_weight.run(x, without, *saved, grad_weight, grad_bias)
    layer_norm_backward_weight.run(x, without, *saved, again, None)
    assert np.array_equal(grad_weight, again)
    cost = layer_norm.cost(x, weight, None, without, *saved, eps=EPS)
    assert cost.size_bytes == sum(a.nbytes for a in (x, weight, without, *saved))


def slopes(function, x, h=1e-5):
    """dL/dx by central differences, where function(x) is L."""
    out = np.empty_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += h
        down[at] -= h
        out[at] = (function(up) - function(down)) / (2 * h)
    return out


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_gradients_agree_with_central_differences(kind):
    rng = np.random.default_rng(5)
    x, weight, bias = rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=5)
    grad = rng.normal(size=(3, 5))
    mean, rstd, out = np.empty(3), np.empty(3), np.empty((3, 5))

    def loss(x=x, weight=weight, bias=bias):
        if kind == "layer":
            layer_norm.run(x, weight, bias, out, mean, rstd, eps=EPS)
        else:
            rms_norm.run(x, weight, out, rstd, eps=EPS)
        return (out * grad).sum()

    loss()
    dx, dw, db = np.empty((3, 5)), np.empty(5), np.empty(5)
    if kind == "layer":
        layer_norm_backward_input.run(x, weight, grad, mean, rstd, dx)
        layer_norm_backward_weight.run(x, grad, mean, rstd, dw, db)
        np.testing.assert_allclose(db, slopes(lambda b: loss(bias=b), bias), atol=1e-8)
    else:
        rms_norm_backward_input.run(x, weight, grad, rstd, dx)
        rms_norm_backward_weight.run(x, grad, rstd, dw)
    np.testing.assert_allclose(dx, slopes(lambda a: loss(x=a), x), atol=1e-8)
    np.testing.assert_allclose(dw, slopes(lambda w: loss(weight=w), weight), atol=1e-8)


def test_dx_lacks_what_normalising_removes():
    """dL/dx of LayerNorm is orthogonal to the vector of ones and (eps = 0) to x̂, row by row."""
    rng = np.random.default_rng(6)
    x, weight, grad = rng.normal(size=(8, 60)), rng.normal(size=60), rng.normal(size=(8, 60))
    x_hat, mean, rstd = normalised(x, eps=0, dtype=np.float64)
    dx = np.empty_like(x)
    layer_norm_backward_input.run(x, weight, grad, mean, rstd, dx)
    np.testing.assert_allclose(dx.sum(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose((dx * x_hat).sum(axis=-1), 0, atol=1e-12)


def test_sums_over_many_rows_stay_accurate():
    """100,000 rows of 1.1 added one after the other in float32 would be off by 1e-3."""
    rows = 100_000
    x, grad = np.zeros((rows, 3), np.float32), np.full((rows, 3), 1.1, np.float32)
    mean, rstd = np.full(rows, -1, np.float32), np.ones(rows, np.float32)  # x̂ = 1
    grad_weight, grad_bias = np.empty(3, np.float32), np.empty(3, np.float32)
    layer_norm_backward_weight.run(x, grad, mean, rstd, grad_weight, grad_bias)
    exact = rows * float(np.float32(1.1))
    np.testing.assert_allclose(grad_weight, exact, rtol=2e-5)
    np.testing.assert_allclose(grad_bias, exact, rtol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_spread_as_in_the_reference(name, dtype):
    inputs, outputs, attributes = case(name, np.random.default_rng(7), 6, 40, dtype)
    inputs[0][1, 3], inputs[0][2, 4], inputs[0][3, 5] = np.nan, np.inf, -np.inf
    expected = [a.copy() for a in outputs]
    with np.errstate(all="ignore"):
        registry()[name].reference(*inputs, *expected, **attributes)
    registry()[name].run(*inputs, *outputs, **attributes)
    for actual, right in zip(outputs, expected, strict=True):
        assert np.array_equal(np.isnan(actual), np.isnan(right))
        assert np.array_equal(np.isinf(actual), np.isinf(right))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1037, 96), (70, 777)])
def test_one_thread_and_all_threads_give_the_same_bits(name, dtype, shape):
    results, threads = [], POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            inputs, outputs, attributes = case(name, np.random.default_rng(8), *shape, dtype)
            registry()[name].run(*inputs, *outputs, **attributes)
            results.append(b"".join(a.tobytes() for a in outputs))
    finally:
        POOL.set_threads(threads)
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(9, 41), (130, 77)])
def test_nothing_beside_the_outputs_is_written_and_pieces_agree(name, dtype, shape, check):
    """Each output in turn is the one whose surroundings are guarded."""
    inputs, outputs, attributes = case(name, np.random.default_rng(10), *shape, dtype)
    eps = 64 * np.finfo(dtype).eps
    for i, output in enumerate(outputs):
        view = OutputLast(registry()[name], len(inputs), i)
        others = outputs[:i] + outputs[i + 1 :]
        check(view, *inputs, *others, out=(output.shape, dtype), rtol=eps, atol=eps, **attributes)


class OutputLast:
    """A kernel called with its i-th output behind all other arguments."""

    def __init__(self, kernel, inputs, i):
        self.kernel, self.at = kernel, inputs + i

    def in_order(self, arrays):
        return [*arrays[: self.at], arrays[-1], *arrays[self.at : -1]]

    def pack(self, *arrays, **attributes):
        return self.kernel.pack(*self.in_order(arrays), **attributes)

    def reference(self, *arrays, **attributes):
        self.kernel.reference(*self.in_order(arrays), **attributes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_may_be_an_input(dtype):
    inputs, outputs, _ = case("layer_norm", np.random.default_rng(9), 5, 50, dtype)
    x, weight, bias = inputs
    layer_norm.run(x, weight, bias, *outputs, eps=EPS)
    same = x.copy()
    layer_norm.run(same, weight, bias, same, *outputs[1:], eps=EPS)
    np.testing.assert_allclose(same, outputs[0], rtol=1e-5, atol=1e-6)
    grad = outputs[0]
    dx = np.empty_like(x)
    layer_norm_backward_input.run(x, weight, grad, *outputs[1:], dx)
    layer_norm_backward_input.run(x, weight, grad, *outputs[1:], grad)
    np.testing.assert_allclose(grad, dx, rtol=1e-5, atol=1e-5)
