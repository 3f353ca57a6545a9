"""The fused loss against SciPy's logsumexp in float64, and its gradient against differences."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import cross_entropy as family
from baremetal.kernels.cross_entropy import (
    count_targets,
    cross_entropy,
    cross_entropy_backward,
)
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import cross_entropy as native
from baremetal.kernels.native.pool import POOL

DTYPES = [np.float32, np.float64]
IGNORE = -100
FLUSHED = 1.2e-38  # float32 results below the smallest normal number may be 0


def batch(rng, rows, width, dtype, scale=1.0, ignored=0.2):
    """Logits and targets; about a fifth of the targets say "ignore"."""
    logits = (rng.normal(size=(rows, width)) * scale).astype(dtype)
    targets = rng.integers(0, width, rows)
    targets[rng.random(rows) < ignored] = IGNORE
    return logits, targets


def loss_and_lse(logits, targets):
    """The kernel's two outputs; they start as NaN, so that an element left out is seen."""
    losses, lse = (np.full(len(logits), np.nan, logits.dtype) for _ in range(2))
    cross_entropy.run(logits, targets, losses, lse, ignore_index=IGNORE)
    return losses, lse


def gradient(logits, targets, lse, grad):
    out = np.full_like(logits, np.nan)
    cross_entropy_backward.run(logits, targets, lse, grad, out, ignore_index=IGNORE)
    return out


def expected_loss_and_lse(logits, targets):
    """-log softmax and logsumexp by SciPy, in float64, 0 where ignored."""
    wide, kept = logits.astype(np.float64), targets != IGNORE
    lse = scipy.special.logsumexp(wide, axis=-1) if wide.size else np.zeros(len(wide))
    log_p = scipy.special.log_softmax(wide, axis=-1) if wide.size else wide
    chosen = log_p[np.arange(len(wide)), np.where(kept, targets, 0)] if wide.size else lse
    return np.where(kept, -chosen, 0), np.where(kept, lse, 0)


def assert_close(actual, expected, ulp):
    eps = np.finfo(actual.dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=ulp * eps, atol=ulp * eps + FLUSHED)


def test_every_kernel_has_a_native_version_a_cost_and_a_test_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == {"cross_entropy", "count_targets", "cross_entropy_backward"}
    logits, targets = batch(np.random.default_rng(0), 6, 7, np.float32)
    per_row = np.zeros(6, np.float32)
    forward = (logits, targets, per_row, per_row)
    backward = (logits, targets, per_row, per_row, logits.copy())
    assert native.cross_entropy(*forward, ignore_index=IGNORE) is not None
    assert native.cross_entropy_backward(*backward, ignore_index=IGNORE) is not None
    count = np.zeros((), np.float32)
    assert native.count_targets(targets, count, ignore_index=IGNORE) is not None
    assert count_targets.cost(targets, count, ignore_index=IGNORE).size_bytes == 8 * 6 + 4
    cost = cross_entropy.cost(*forward, ignore_index=IGNORE)
    assert (cost.flops, cost.size_bytes) == (13 * 42, 4 * 42 + 8 * 6 + 2 * 4 * 6)
    cost = cross_entropy_backward.cost(*backward, ignore_index=IGNORE)
    assert (cost.flops, cost.size_bytes) == (12 * 42, 2 * 4 * 42 + 8 * 6 + 2 * 4 * 6)


@pytest.mark.parametrize("dtype", DTYPES)
@given(targets=st.lists(st.sampled_from([IGNORE, 0, 5]), max_size=40))
def test_the_targets_that_count_are_counted(dtype, targets):
    """At least 1: a mean over nothing is 0 / 1."""
    out = np.full((), np.nan, dtype)
    count_targets.run(np.array(targets, np.int64), out, ignore_index=IGNORE)
    assert out == max(sum(target != IGNORE for target in targets), 1)
    reference = np.full((), np.nan, dtype)
    count_targets.reference(np.array(targets, np.int64), reference, ignore_index=IGNORE)
    assert out == reference


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.integers(0, 9),
    width=st.integers(1, 150),
    scale=st.sampled_from([1e-30, 1.0, 20.0, 1e4, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_loss_is_logsumexp_less_the_target_s_logit(dtype, rows, width, scale, seed):
    logits, targets = batch(np.random.default_rng(seed), rows, width, dtype, scale)
    losses, lse = loss_and_lse(logits, targets)
    expected_losses, expected_lse = expected_loss_and_lse(logits, targets)
    assert_close(losses, expected_losses, ulp=16 + width)
    assert_close(lse, expected_lse, ulp=16 + width)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.integers(0, 9),
    width=st.integers(1, 150),
    scale=st.sampled_from([1e-30, 1.0, 10.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradient_is_softmax_less_one_at_the_target(dtype, rows, width, scale, seed):
    rng = np.random.default_rng(seed)
    logits, targets = batch(rng, rows, width, dtype, scale)
    grad = rng.normal(size=rows).astype(dtype)
    _, lse = loss_and_lse(logits, targets)
    out = gradient(logits, targets, lse, grad)
    expected = scipy.special.softmax(logits.astype(np.float64), axis=-1) if rows else logits
    kept = np.flatnonzero(targets != IGNORE)
    expected[kept, targets[kept]] -= 1
    expected = np.where((targets != IGNORE)[:, None], expected * grad[:, None], 0)
    # lse, of size `scale`, is rounded before it is subtracted in the exponent.
    assert_close(out, expected, ulp=64 + 16 * scale)
    assert_close(out.sum(axis=-1), np.zeros(rows), ulp=64 + 16 * scale + width)


def test_gradient_agrees_with_central_differences():
    rng = np.random.default_rng(3)
    logits, targets = batch(rng, 3, 4, np.float64, ignored=0)
    targets[1] = IGNORE
    grad = rng.normal(size=3)
    out = gradient(logits, targets, loss_and_lse(logits, targets)[1], grad)
    h = 1e-6
    for at in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[at] += h
        down[at] -= h
        slope = (loss_and_lse(up, targets)[0] - loss_and_lse(down, targets)[0]) @ grad / (2 * h)
        assert out[at] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_small_loss_keeps_its_digits(kernels):
    """A token the model is sure of: lse - x_t would be 0 or one step of float32 at 1000."""
    logits = np.array([[1000.0, 990.0, 985.0]], np.float32)
    targets, losses, lse = np.array([0]), np.empty(1, np.float32), np.empty(1, np.float32)
    run = cross_entropy.run if kernels == "native" else cross_entropy.reference
    run(logits, targets, losses, lse, ignore_index=IGNORE)
    exact = np.log1p(np.exp(-10.0) + np.exp(-15.0))  # 4.57e-5
    assert losses[0] == pytest.approx(exact, abs=2.4e-7)  # two steps of float32 at 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_ignored_rows_are_zero_whatever_their_logits(dtype):
    logits = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 0], [1, 2, 3]], dtype)
    targets = np.array([IGNORE, IGNORE, 2])
    losses, lse = loss_and_lse(logits, targets)
    out = gradient(logits, targets, lse, np.array([np.nan, np.inf, 1], dtype))
    for result in (losses, lse, out):
        assert np.all(result[:2] == 0)
    assert losses[2] > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 40])
def test_infinities_and_nan_agree_with_the_reference(dtype, width):
    logits = np.random.default_rng(4).normal(size=(6, width)).astype(dtype)
    logits[0, 1] = np.nan
    logits[1, 1] = np.inf
    logits[2, 1] = -np.inf  # a forbidden word: loss and gradient of the others stay finite
    logits[3, 0] = -np.inf  # the true word is forbidden: an infinite loss
    logits[4] = -np.inf
    logits[5] = np.finfo(dtype).max
    targets = np.zeros(6, np.int64)
    losses, lse = loss_and_lse(logits, targets)
    grad = np.ones(6, dtype)
    out = gradient(logits, targets, lse, grad)
    r_losses, r_lse, r_out = np.empty(6, dtype), np.empty(6, dtype), np.empty_like(logits)
    with np.errstate(all="ignore"):
        cross_entropy.reference(logits, targets, r_losses, r_lse, ignore_index=IGNORE)
        cross_entropy_backward.reference(logits, targets, lse, grad, r_out, ignore_index=IGNORE)
    assert_close(losses, r_losses, ulp=64)
    assert_close(lse, r_lse, ulp=64)
    assert_close(out, r_out, ulp=64)
    assert np.isfinite(losses[2])
    assert losses[3] == np.inf


def test_strided_logits_and_the_gradient_in_their_place():
    """A padded vocabulary: rows further apart than they are wide. And out = logits."""
    padded, targets = batch(np.random.default_rng(5), 5, 72, np.float32)
    view, whole = padded[:, :65], padded[:, :65].copy()
    targets %= 65
    losses, lse = loss_and_lse(view, targets)
    expected = loss_and_lse(whole, targets)
    assert losses.tobytes() == expected[0].tobytes()
    expected = gradient(whole, targets, lse, losses)
    beyond = padded[:, 65:].copy()
    cross_entropy_backward.run(view, targets, lse, losses, view, ignore_index=IGNORE)
    np.testing.assert_allclose(view, expected, rtol=1e-6, atol=1e-7)
    assert np.array_equal(padded[:, 65:], beyond)
    # Neither rows nor columns contiguous: the reference does it.
    columns = np.asfortranarray(whole)
    np.testing.assert_allclose(loss_and_lse(columns, targets)[0], losses, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beside_the_outputs_is_written_and_pieces_agree(dtype, check):
    logits, targets = batch(np.random.default_rng(7), 9, 41, dtype)
    losses, lse = loss_and_lse(logits, targets)
    eps = 128 * np.finfo(dtype).eps
    check(
        cross_entropy_backward, logits, targets, lse, losses, out=((9, 41), dtype),
        rtol=eps, atol=eps, ignore_index=IGNORE,
    )  # fmt: skip
    guarded = np.full((2, 13), 7, dtype)
    for rows in (slice(0, 4), slice(4, 5), slice(5, 9)):
        outputs = guarded[0, 2:11][rows], guarded[1, 2:11][rows]
        cross_entropy.run(logits[rows], targets[rows], *outputs, ignore_index=IGNORE)
    assert guarded[:, 2:11].tobytes() == np.stack([losses, lse]).tobytes()
    assert np.all(guarded[:, :2] == 7)
    assert np.all(guarded[:, 11:] == 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_thread_and_all_threads_give_the_same_bits(dtype):
    logits, targets = batch(np.random.default_rng(6), 301, 97, dtype)
    results, threads = [], POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            losses, lse = loss_and_lse(logits, targets)
            out = gradient(logits, targets, lse, losses)
            results.append(losses.tobytes() + lse.tobytes() + out.tobytes())
    finally:
        POOL.set_threads(threads)
    assert results[0] == results[1]
