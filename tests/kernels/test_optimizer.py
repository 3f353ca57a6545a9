"""Optimisers against numbers that PyTorch printed and against Python floats; the gate; the norm."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import optimizer as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import optimizer as native
from baremetal.kernels.native.pool import POOL
from baremetal.kernels.optimizer import (
    CLIP_FACTOR,
    GATE,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS_SCALE,
    NONFINITE_COUNT,
    SCALARS,
    SQUARE_SUM_BLOCK,
    STEP,
    adamw,
    adjust_loss_scale,
    clip_factor,
    sgd_momentum,
    square_sum,
    square_sum_blocks,
)

DTYPES = [np.float32, np.float64]
KERNELS = ["native", "reference"]
ADAMW = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SGD = {"momentum_factor": 0.9, "weight_decay": 0.1, "nesterov": False}


def scalars(rate=0.01, step=1.0, clip=1.0, gate=1.0, scale=1.0):
    """The device buffer with these values in its slots."""
    buffer = np.zeros(SCALARS)
    buffer[[LEARNING_RATE, STEP, CLIP_FACTOR, GATE, LOSS_SCALE]] = rate, step, clip, gate, scale
    return buffer


def run(kernel, kernels, *arrays, **attributes):
    (kernel.run if kernels == "native" else kernel.reference)(*arrays, **attributes)


def test_every_kernel_has_a_native_version_a_cost_and_a_test_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == {"adamw", "sgd_momentum", "square_sum", "clip_factor", "adjust_loss_scale"}
    p, g, m, v = (np.zeros(10, np.float32) for _ in range(4))
    partial, one = np.zeros(1), np.zeros(1)
    tables = square_sum_blocks([(0, 10)])
    calls = {
        "adamw": ((p, g, m, v, scalars()), ADAMW, 7 * 40 + 56),
        "sgd_momentum": ((p, g, m, scalars()), SGD, 5 * 40 + 56),
        "square_sum": ((p, *tables, partial, one), {}, 40 + 16 + 8 + 8 + 8 + 8),
        "clip_factor": ((one, p[:1], scalars()), {"max_norm": 1.0}, 8 + 4 + 56 + 56),
        "adjust_loss_scale": (
            (scalars(), one),
            {"growth_interval": 3, "largest": 64.0},
            2 * (56 + 8),
        ),
    }
    for name, (arrays, attributes, size_bytes) in calls.items():
        assert getattr(native, name)(*arrays, **attributes) is not None
        cost = registry()[name].cost(*arrays, **attributes)
        assert cost.size_bytes == size_bytes
        assert cost.flops > 0


# ------------------------------------------------------------------ what PyTorch computes

# Parameters after three steps from (1, -2, 0.5) in float64 with gradients (0.1 (s+1), -0.3, 2 - s)
# for s = 0, 1, 2, printed by PyTorch 2.13.0: torch.optim.AdamW(lr=0.01, betas=(0.9, 0.95),
# eps=1e-8, weight_decay=0.1) and torch.optim.SGD(lr=0.01, momentum=0.9, weight_decay=0.1).
FROM_PYTORCH = {
    "adamw": [0.9680076136906267, -1.9640359889990002, 0.4717833079244152],
    "sgd": [0.984890598, -1.9719739950000001, 0.42408337949999997],
    "nesterov": [0.9774234122819999, -1.9598245057049999, 0.4003443733905],
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", FROM_PYTORCH)
def test_three_steps_give_pytorch_s_numbers(optimizer, dtype, kernels):
    p = np.array([1, -2, 0.5], dtype)
    m, v = np.zeros(3, dtype), np.zeros(3, dtype)
    for s in range(3):
        g = np.array([0.1 * (s + 1), -0.3, 2 - s], dtype)
        if optimizer == "adamw":
            run(adamw, kernels, p, g, m, v, scalars(step=s + 1.0), **ADAMW)
        else:
            attributes = {**SGD, "nesterov": optimizer == "nesterov"}
            run(sgd_momentum, kernels, p, g, m, scalars(), **attributes)
    np.testing.assert_allclose(p, FROM_PYTORCH[optimizer], rtol=8 * np.finfo(dtype).eps)


def adamw_by_hand(p, g, m, v, t, rate, beta1, beta2, eps, weight_decay):
    """One element, in Python floats, formula by formula."""
    p = p * (1 - rate * weight_decay)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    p = p - rate * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return p, m, v


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    shape=st.one_of(
        st.tuples(st.integers(0, 130)), st.tuples(st.integers(1, 9), st.integers(1, 9))
    ),
    step=st.sampled_from([1, 2, 1000, 10**6]),
    clip=st.sampled_from([1.0, 0.25]),
    scale=st.sampled_from([1.0, 1024.0]),
    beta2=st.sampled_from([0.95, 0.999]),
    seed=st.integers(0, 2**32 - 1),
)
def test_adamw_is_its_formula(dtype, shape, step, clip, scale, beta2, seed):
    rng = np.random.default_rng(seed)
    p, g, m, v = (rng.normal(size=shape).astype(dtype) for _ in range(4))
    v *= v
    attributes = {**ADAMW, "beta2": beta2}
    elements = zip(*(a.ravel().tolist() for a in (p, g, m, v)), strict=True)
    expected = [
        adamw_by_hand(p_i, g_i * clip / scale, m_i, v_i, step, 0.01, **attributes)
        for p_i, g_i, m_i, v_i in elements
    ]
    adamw.run(p, g, m, v, scalars(step=step, clip=clip, scale=scale), **attributes)
    actual = np.stack([p.ravel(), m.ravel(), v.ravel()], axis=-1)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(actual, np.reshape(expected, (-1, 3)), rtol=8 * eps, atol=4 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    size=st.integers(0, 130),
    factor=st.sampled_from([0.0, 0.9]),
    nesterov=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_sgd_is_its_formula(dtype, size, factor, nesterov, seed):
    rng = np.random.default_rng(seed)
    p, g, b = (rng.normal(size=size).astype(dtype) for _ in range(3))
    before = [a.astype(np.float64) for a in (p, g, b)]
    attributes = {"momentum_factor": factor, "weight_decay": 0.1, "nesterov": nesterov}
    sgd_momentum.run(p, g, b, scalars(rate=0.5, clip=0.25, scale=8.0), **attributes)
    g_total = before[1] * 0.25 / 8 + 0.1 * before[0]
    b_new = factor * before[2] + g_total
    p_new = before[0] - 0.5 * (g_total + factor * b_new if nesterov else b_new)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(b, b_new, rtol=8 * eps, atol=4 * eps)
    np.testing.assert_allclose(p, p_new, rtol=8 * eps, atol=4 * eps)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_bias_correction_is_made_in_double_precision(kernels):
    """In float32, 1 - 0.999 has an error of 1e-5, and so would the first step."""
    p, m, v = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    attributes = {"beta1": 0.9, "beta2": 0.999, "eps": 0.0, "weight_decay": 0.0}
    run(adamw, kernels, p, np.full(1, 3e-3, np.float32), m, v, scalars(rate=1.0), **attributes)
    assert p[0] == pytest.approx(-1, abs=3e-7)  # the first step of Adam has length lr


# ------------------------------------------------------------------ the gate


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [1.0, np.nan, np.inf])
def test_a_closed_gate_leaves_every_byte(poison, dtype, kernels):
    rng = np.random.default_rng(0)
    p, m, v = (np.abs(rng.normal(size=50)).astype(dtype) for _ in range(3))
    g = np.full(50, poison, dtype)
    before = p.tobytes(), m.tobytes(), v.tobytes()
    for gate in (0.0, np.nan):
        buffer = scalars(gate=gate, clip=poison)
        run(adamw, kernels, p, g, m, v, buffer, **ADAMW)
        run(sgd_momentum, kernels, p, g, m, buffer, **SGD)
    assert (p.tobytes(), m.tobytes(), v.tobytes()) == before
    run(adamw, kernels, p, np.ones(50, dtype), m, v, scalars(), **ADAMW)
    assert p.tobytes() != before[0]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("squares", "loss", "scale", "max_norm", "norm", "factor"),
    [
        ([9.0, 16.0], 2.0, 1.0, 1.0, 5.0, 1 / (5 + 1e-6)),
        ([9.0, 16.0], 2.0, 8.0, 1.0, 0.625, 1.0),  # already shorter than max_norm
        ([9.0, 16.0], 2.0, 2.0, 1.0, 2.5, 1 / (2.5 + 1e-6)),
        ([25.0], 2.0, 1.0, 0.0, 5.0, 1.0),  # 0 and below: no clipping
        ([25.0], 2.0, 1.0, -1.0, 5.0, 1.0),
        ([0.0], 2.0, 1.0, 1.0, 0.0, 1.0),
    ],
)
def test_norm_and_factor(squares, loss, scale, max_norm, norm, factor, dtype, kernels):
    buffer = scalars(clip=7.0, gate=7.0, scale=scale)
    run(clip_factor, kernels, np.array(squares), np.array(loss, dtype), buffer, max_norm=max_norm)
    assert buffer[GRADIENT_NORM] == pytest.approx(norm, rel=1e-15)
    assert buffer[CLIP_FACTOR] == pytest.approx(factor, rel=1e-15)
    assert buffer[GATE] == 1
    assert buffer[NONFINITE_COUNT] == 0
    assert buffer[LEARNING_RATE] == 0.01


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("square", "losses"),
    [(np.nan, [1.0]), (np.inf, [1.0]), (1.0, [np.nan]), (1.0, [np.inf]), (1.0, [1.0, -np.inf])],
)
def test_what_is_not_finite_closes_the_gate_and_is_counted(square, losses, dtype, kernels):
    buffer = scalars()
    for count in (1, 2):
        run(
            clip_factor, kernels, np.array([1.0, square]), np.array(losses, dtype), buffer,
            max_norm=1.0,
        )  # fmt: skip
        assert buffer[GATE] == 0
        assert buffer[NONFINITE_COUNT] == count
        assert buffer[CLIP_FACTOR] == 1
    run(clip_factor, kernels, np.array([1.0]), np.array([1.0], dtype), buffer, max_norm=1.0)
    assert buffer[GATE] == 1  # and the next step is a new chance
    assert buffer[NONFINITE_COUNT] == 2


# ------------------------------------------------------------------ the sum of squares


def squares_of(x, kernels="native"):
    (sum_of_all,) = squares_of_parts(x, [(0, x.size)], kernels)
    return sum_of_all


def squares_of_parts(x, parts, kernels="native"):
    blocks, ends = square_sum_blocks(parts)
    partial, out = np.full(len(blocks), np.nan), np.full(len(parts), np.nan)
    run(square_sum, kernels, x, blocks, ends, partial, out)
    return out


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(0,), (1,), (37,), (5, 7), *((SQUARE_SUM_BLOCK * n + d,) for n in (1, 3) for d in (-1, 0, 1))],
)
def test_square_sum_is_the_exact_sum_to_the_last_bits(shape, dtype, kernels):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    exact = math.fsum(value * value for value in x.astype(np.float64).ravel().tolist())
    assert squares_of(x, kernels) == pytest.approx(exact, rel=1e-14, abs=0)


@pytest.mark.parametrize("kernels", KERNELS)
def test_square_sum_of_large_and_bad_numbers(kernels):
    x = np.full(100, 1e30, np.float32)  # the square is beyond float32
    assert squares_of(x, kernels) == pytest.approx(1e62, rel=1e-6)
    for bad in (np.nan, np.inf):
        x[50] = bad
        assert not np.isfinite(squares_of(x, kernels))


def test_a_strided_array_is_summed_by_the_reference():
    x = np.random.default_rng(2).normal(size=(40, 30))
    tables = square_sum_blocks([(0, x.size)])
    assert native.square_sum(x.T, *tables, np.empty(1), np.empty(1)) is None
    assert squares_of(x.T) == pytest.approx((x * x).sum(), rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@given(edges=st.lists(st.integers(0, 3 * SQUARE_SUM_BLOCK), min_size=2, max_size=6), data=st.data())
def test_a_part_s_square_sum_depends_on_nothing_else(dtype, edges, data):
    """The same bits among others, in any order, with any neighbours, and alone in its memory."""
    x = np.random.default_rng(5).normal(size=3 * SQUARE_SUM_BLOCK).astype(dtype)
    parts = data.draw(st.permutations([*pairwise(sorted(edges))]))
    together = squares_of_parts(x, parts)
    for (start, stop), found in zip(parts, together.tolist(), strict=True):
        assert squares_of(x[start:stop].copy()) == found
    np.testing.assert_allclose(squares_of_parts(x, parts, "reference"), together, rtol=1e-14)


# ------------------------------------------------------------------ pieces and threads


@pytest.mark.parametrize("dtype", DTYPES)
def test_updating_in_pieces_gives_the_same_bits_and_touches_nothing_else(dtype):
    """Wherever a thread's piece begins and ends: in the middle of a vector, after one element."""
    rng = np.random.default_rng(4)
    p, g, m, v = (rng.normal(size=1000).astype(dtype) for _ in range(4))
    v *= v
    whole, parts = ([a.copy() for a in (p, g, m, v)] for _ in range(2))
    adamw.run(*whole, scalars(step=5.0), **ADAMW)
    sgd_momentum.run(*whole[:3], scalars(), **SGD)
    edges = [0, 1, 34, 35, 500, 777, 1000]
    for lo, hi in pairwise(edges):
        before = [a.tobytes() for array in parts for a in (array[:lo], array[hi:])]
        piece = [a[lo:hi] for a in parts]
        adamw.run(*piece, scalars(step=5.0), **ADAMW)
        sgd_momentum.run(*piece[:3], scalars(), **SGD)
        assert before == [a.tobytes() for array in parts for a in (array[:lo], array[hi:])]
    for a, b in zip(whole, parts, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_thread_and_all_threads_give_the_same_bits(dtype):
    results, threads = [], POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            rng = np.random.default_rng(3)
            p, g, m, v = (rng.normal(size=50_001).astype(dtype) for _ in range(4))
            v *= v
            adamw.run(p, g, m, v, scalars(step=3.0), **ADAMW)
            sgd_momentum.run(p, g, m, scalars(), **SGD)
            norm = np.array([squares_of(g)])
            results.append(b"".join(a.tobytes() for a in (p, m, v, norm)))
    finally:
        POOL.set_threads(threads)
    assert results[0] == results[1]


@pytest.mark.parametrize("kernels", KERNELS)
@given(gates=st.lists(st.booleans(), max_size=30), interval=st.integers(1, 4))
def test_the_loss_scale_follows_its_rule(kernels, gates, interval):
    """Halved by each closed gate, doubled after `interval` open ones in a row, from 1 to 64."""
    buffer, clean_steps = scalars(scale=16.0), np.zeros(1)
    scale, clean = 16.0, 0
    for is_open in gates:
        buffer[GATE] = 1.0 if is_open else 0.0
        attributes = {"growth_interval": interval, "largest": 64.0}
        run(adjust_loss_scale, kernels, buffer, clean_steps, **attributes)
        clean = clean + 1 if is_open else 0
        if not is_open:
            scale = max(scale / 2, 1.0)
        elif clean == interval:
            scale, clean = min(2 * scale, 64.0), 0
        assert (buffer[LOSS_SCALE], clean_steps[0]) == (scale, clean)
    untouched = scalars(gate=buffer[GATE])
    others = [i for i in range(SCALARS) if i != LOSS_SCALE]
    assert buffer[others].tolist() == untouched[others].tolist()
