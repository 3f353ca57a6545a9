"""Causal attention against its reference in float64, against differences, and against itself.

The oracle is the NumPy reference, which builds the whole matrix of weights, evaluated in double
precision; its own gradient is checked against central differences.
"""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.kernels import attention as family
from baremetal.kernels.attention import causal_attention, causal_attention_backward
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import attention as native
from baremetal.kernels.native.attention import KEYS, POOL, QUERIES, WIDEST

DTYPES = [np.float32, np.float64]
some = settings(max_examples=50)

# (samples, queries, positions, heads, key/value heads, width): one query, part of a tile, whole
# tiles, one more; positions ahead of the queries that fill part of a tile, and more than one.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 5, 5, 2, 2, 3),
    (1, QUERIES, QUERIES, 2, 1, 8),
    (1, QUERIES + 1, QUERIES + 1, 4, 2, 16),
    (1, 2 * KEYS, 2 * KEYS, 1, 1, 32),
    (1, 3 * KEYS + 7, 3 * KEYS + 7, 2, 2, 9),
    (2, 1, 77, 6, 2, 24),
    (1, 3, KEYS + 3, 3, 1, 7),
    (1, QUERIES + 3, 2 * QUERIES + 2, 2, 1, 40),
    (1, 70, 70, 2, 2, WIDEST),
]


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def inputs(shape, dtype, seed=0, packed=False):
    """q, k, v and the cotangent of out; packed: q, k, v are slices of wider rows."""
    samples, queries, positions, heads, kv_heads, width = shape
    rng = np.random.default_rng(seed)
    grad = normal(rng, (samples, queries, heads, width), dtype)
    if not packed:
        kv_shape = (samples, positions, kv_heads, width)
        return *(normal(rng, s, dtype) for s in (grad.shape, kv_shape, kv_shape)), grad
    slots = heads + 2 * kv_heads
    rows = normal(rng, (samples, positions, slots * width + 3), dtype)[..., 2:-1]
    by_head = rows.reshape(samples, positions, slots, width)  # a view
    q, k, v = by_head[:, :, :heads], by_head[:, :, heads:-kv_heads], by_head[:, :, -kv_heads:]
    return q[:, positions - queries :], k, v, grad


def outputs_like(q, k):
    """out, lse and the three gradients, all NaN."""
    samples, queries, heads, _ = q.shape
    shapes = q.shape, (samples, heads, queries), q.shape, k.shape, k.shape
    return [np.full(shape, np.nan, q.dtype) for shape in shapes]


def attend(q, k, v, grad, scale=0.3, run="run"):
    """Forward and backward: out, lse, grad_q, grad_k, grad_v."""
    out, lse, *grads = outputs_like(q, k)
    getattr(causal_attention, run)(q, k, v, out, lse, scale=scale)
    getattr(causal_attention_backward, run)(q, k, v, out, grad, lse, *grads, scale=scale)
    return out, lse, *grads


def oracle(q, k, v, grad, scale=0.3):
    return attend(*(x.astype(np.float64) for x in (q, k, v, grad)), scale, run="reference")


def assert_close(results, expected, units=64):
    """Within so many units in the last place of the largest number of each result."""
    for actual, exact in zip(results, expected, strict=True):
        largest = max(1.0, np.abs(exact).max(initial=0.0))
        atol = units * np.finfo(actual.dtype).eps * largest
        np.testing.assert_allclose(actual, exact, rtol=0, atol=atol)


def run_items(launch, lo, hi):
    """One call of the body, as a thread makes it."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    kind(launch.address)(lo, hi, launch.block.ctypes.data)


def run_in_pieces(launches, pieces):
    """Run as that many threads would divide it, one piece after the other."""
    for launch in launches:
        for piece in range(pieces):
            run_items(launch, launch.items * piece // pieces, launch.items * (piece + 1) // pieces)


def test_every_kernel_has_a_compiled_version_a_cost_and_a_test():
    names = {name for name, k in registry().items() if k.__module__ == family.__name__}
    assert names == {"causal_attention", "causal_attention_backward"}
    q, k, v, grad = inputs((2, 5, 8, 4, 2, 3), np.float64)
    out, lse, *grads = outputs_like(q, k)
    assert native.causal_attention(q, k, v, out, lse, scale=1.0) is not None
    backward = q, k, v, out, grad, lse, *grads
    assert native.causal_attention_backward(*backward, scale=1.0) is not None
    pairs = 2 * 4 * sum(j <= i + 3 for i in range(5) for j in range(8))
    cost = causal_attention.cost(q, k, v, out, lse, scale=1.0)
    assert cost.flops == pairs * (4 * 3 + 10)
    assert cost.size_bytes == sum(x.nbytes for x in (q, k, v, out, lse))
    cost = causal_attention_backward.cost(*backward, scale=1.0)
    assert cost.flops == pairs * (10 * 3 + 10) + 2 * out.size
    assert cost.size_bytes == sum(x.nbytes for x in backward)


@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_tile(shape, dtype, packed):
    arrays = inputs(shape, dtype, packed=packed)
    assert_close(attend(*arrays), oracle(*arrays))


@pytest.mark.parametrize("dtype", DTYPES)
@some
@given(
    samples=st.integers(1, 2),
    queries=st.integers(1, 2 * KEYS + 2),
    ahead=st.integers(0, KEYS + 2),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    width=st.integers(1, 34),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape(dtype, samples, queries, ahead, kv_heads, group, width, packed, seed):
    shape = samples, queries, queries + ahead, kv_heads * group, kv_heads, width
    arrays = inputs(shape, dtype, seed, packed)
    assert_close(attend(*arrays), oracle(*arrays))


def test_the_reference_is_softmax_attention():
    """The oracle itself, for one query: weights by the definition, no matrix notation."""
    q, k, v, grad = inputs((1, 3, 5, 2, 1, 4), np.float64)
    out, lse = oracle(q, k, v, grad, scale=0.7)[:2]
    for t in range(3):
        for h in range(2):
            scores = [0.7 * float(q[0, t, h] @ k[0, s, 0]) for s in range(t + 2 + 1)]
            total = sum(np.exp(scores))
            mixed = sum(np.exp(score) / total * v[0, s, 0] for s, score in enumerate(scores))
            np.testing.assert_allclose(out[0, t, h], mixed, rtol=1e-13)
            np.testing.assert_allclose(lse[0, h, t], np.log(total), rtol=1e-13)


@pytest.mark.parametrize("run", ["run", "reference"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 2, 2, 3), (1, 70, 75, 4, 2, 5)])
def test_gradients_by_central_differences(shape, run):
    arrays = inputs(shape, np.float64)
    grad = arrays[3]
    gradients = attend(*arrays, run=run)[2:]
    rng, step = np.random.default_rng(1), 1e-6
    for position in range(3):
        for _ in range(4):
            direction = rng.standard_normal(arrays[position].shape)
            sides = []
            for sign in (1, -1):
                moved = list(arrays)
                moved[position] = arrays[position] + sign * step * direction
                sides.append(float((attend(*moved, run=run)[0] * grad).sum()))
            slope = (sides[0] - sides[1]) / (2 * step)
            along = float((gradients[position] * direction).sum())
            assert along == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 70, 70, 3, 3, 8), (1, 150, 161, 4, 2, 5), (1, 9, 9, 1, 1, 4)]
)
def test_any_number_of_threads_gives_the_same_bits(shape, dtype, monkeypatch):
    q, k, v, grad = inputs(shape, dtype, packed=True)
    whole = attend(q, k, v, grad)
    monkeypatch.setattr(native, "PARALLEL_FROM", 0)  # divide heads even where it would not pay
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(POOL, "threads", threads)
        out, lse, *grads = outputs_like(q, k)
        run_in_pieces(causal_attention.pack(q, k, v, out, lse, scale=0.3), threads)
        launches = causal_attention_backward.pack(q, k, v, out, grad, lse, *grads, scale=0.3)
        run_in_pieces(launches, threads)
        for ours, theirs in zip((out, lse, *grads), whole, strict=True):
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_element_has_one_owner(threads, monkeypatch):
    """Items run alone: what they write never overlaps, and together it is everything."""
    monkeypatch.setattr(native, "PARALLEL_FROM", 0)
    monkeypatch.setattr(POOL, "threads", threads)
    q, k, v, grad = inputs((1, 200, 205, 4, 1, 3), np.float64)
    whole = attend(q, k, v, grad)
    forward, backward = slice(0, 2), slice(2, 5)
    for kernel, results in [(causal_attention, forward), (causal_attention_backward, backward)]:
        writers = [np.zeros(x.shape, int) for x in whole[results]]
        for item in range(1000):
            fresh = outputs_like(q, k)
            if kernel is causal_attention:
                arrays = q, k, v, *fresh[:2]
            else:
                arrays = q, k, v, whole[0], grad, whole[1], *fresh[2:]
            (launch,) = kernel.pack(*arrays, scale=0.3)
            if item == launch.items:
                break
            run_items(launch, item, item + 1)
            for count, array in zip(writers, fresh[results], strict=True):
                count += ~np.isnan(array)
        assert all((count == 1).all() for count in writers)


def test_heads_are_divided_where_there_are_fewer_than_threads(monkeypatch):
    q, k, v, grad = inputs((1, 300, 300, 2, 1, 16), np.float32)
    out, lse, *grads = outputs_like(q, k)
    for threads, items in [(1, 1), (2, 2), (4, 4), (64, 10)]:  # 10 tiles of queries
        monkeypatch.setattr(POOL, "threads", threads)
        (launch,) = causal_attention_backward.pack(q, k, v, out, grad, lse, *grads, scale=1.0)
        assert launch.items == items


def test_the_real_pool_gives_the_same_bits():
    arrays = inputs((2, 128, 128, 4, 4, 32), np.float32)
    before, results = POOL.threads, []
    try:
        for threads in range(1, min(POOL.largest, 4) + 1):
            POOL.set_threads(threads)
            results.append([x.tobytes() for x in attend(*arrays)])
    finally:
        POOL.set_threads(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_future_does_not_show(dtype):
    """Bits of out up to a query, whatever follows it."""
    q, k, v, grad = inputs((1, 100, 100, 2, 2, 8), dtype)
    out = attend(q, k, v, grad)[0]
    for t in (0, 31, 32, 50, 98):
        changed_k, changed_v = k.copy(), v.copy()
        changed_k[:, t + 1 :] += 5
        changed_v[:, t + 1 :] -= 7
        again = attend(q, changed_k, changed_v, grad)[0]
        assert again[:, : t + 1].tobytes() == out[:, : t + 1].tobytes()
        assert (again[:, t + 1 :] != out[:, t + 1 :]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [30.0, 1e4, 1e15, 1e30])
def test_huge_scores_do_not_overflow(dtype, size):
    """Scores up to 1e30: the softmax becomes a choice of the largest, in every tile order."""
    rng = np.random.default_rng(0)
    length = 2 * KEYS + 40
    k = np.zeros((1, length, 1, 4), dtype)
    k[0, :, 0, 0] = rng.permutation(length) + 1  # scores = size * permutation, all different
    q = np.zeros_like(k)
    q[..., 0] = size
    v = normal(rng, k.shape, dtype)
    out, lse, *grads = attend(q, k, v, normal(rng, k.shape, dtype), scale=1.0)
    for t in range(length):
        best = int(np.argmax(k[0, : t + 1, 0, 0]))
        np.testing.assert_allclose(out[0, t, 0], v[0, best, 0], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(lse[0, 0, t], size * k[0, best, 0, 0], rtol=1e-6)
    assert all(np.isfinite(x).all() for x in grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_very_low_scores_still_sum_to_one(dtype):
    lowest = float(np.finfo(dtype).min)
    q = np.ones((1, 80, 1, 1), dtype)
    k = np.full((1, 80, 1, 1), lowest / 2, dtype)
    v = normal(np.random.default_rng(0), k.shape, dtype)
    out, lse = attend(q, k, v, np.ones_like(q), scale=1.0)[:2]
    means = np.cumsum(v[0, :, 0, 0].astype(np.float64)) / np.arange(1, 81)
    np.testing.assert_allclose(out[0, :, 0, 0], means, rtol=1e-4, atol=1e-5)
    assert (lse == lowest / 2).all()  # log(80) is less than a unit of it


@pytest.mark.parametrize("run", ["run", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_minus_infinity_read_nothing(dtype, run):
    length = KEYS + 10
    q = np.ones((1, length, 1, 2), dtype)
    k, v = normal(np.random.default_rng(0), (2, 1, length, 1, 2), dtype)
    gone = [0, 1, 2, 40, length - 1]  # the first three queries see nothing at all
    k[0, gone] = -np.inf
    out, lse = (np.full(shape, np.nan, dtype) for shape in (q.shape, (1, 1, length)))
    getattr(causal_attention, run)(q, k, v, out, lse, scale=1.0)
    assert (out[0, :3] == 0).all()
    assert (lse[0, 0, :3] == -np.inf).all()
    # Everybody else reads as if those keys were not there.
    kept = np.delete(np.arange(length), gone)
    expected = oracle(q[:, kept], k[:, kept], v[:, kept], q[:, kept], scale=1.0)
    np.testing.assert_allclose(out[:, kept], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lse[:, :, kept], expected[1], rtol=1e-4)
    grads = [np.full(q.shape, np.nan, dtype) for _ in range(3)]
    grad = np.ones_like(q)
    with np.errstate(invalid="ignore"):  # 0 * -inf, in the gradient of q only
        getattr(causal_attention_backward, run)(q, k, v, out, grad, lse, *grads, scale=1.0)
    assert (grads[2][0, gone] == 0).all()
    assert np.isfinite(grads[1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_reaches_those_who_read_it(dtype):
    q, k, v, grad = inputs((1, 80, 80, 1, 1, 4), dtype)
    k[0, 64] = np.nan  # the first key of the second tile
    out, lse = attend(q, k, v, grad)[:2]
    assert np.isnan(out[0, 64:]).all()
    assert np.isnan(lse[0, 0, 64:]).all()
    assert np.isfinite(out[0, :64]).all()
    q[0, 3] = np.inf
    out = attend(q, k, v, grad)[0]
    assert np.isnan(out[0, 3]).all()


EXTREMES = [2.0**12, 2.0**60, -(2.0**60), 2.0**-140, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", DTYPES)
@some
@given(
    queries=st.integers(1, 2 * KEYS + 2),
    ahead=st.integers(0, KEYS + 2),
    group=st.integers(1, 3),
    width=st.integers(1, 9),
    extremes=st.lists(
        st.tuples(
            st.sampled_from(EXTREMES), st.sampled_from([0, 0.3, 0.9]), st.sampled_from([1, 99])
        ),
        max_size=4,
    ),
    positive=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_extreme_rows_of_any_shape(dtype, queries, ahead, group, width, extremes, positive, seed):
    """Rows of q and k that are huge, tiny, infinite or NaN: as the reference has it in float64.

    Small integers times powers of two, so that all scores are exact in any order of summation;
    where all are positive, a factor of -inf makes scores of -inf and not of NaN.
    The gradients' weights come from the log-sum-exp, which for huge scores has no digits left
    behind the point: of them we ask only that finite numbers stay finite.
    """
    rng = np.random.default_rng(seed)
    positions = queries + ahead
    q, grad = rng.integers(-2, 3, (2, 1, queries, group, width)).astype(dtype)
    k, v = rng.integers(-2, 3, (2, 1, positions, 1, width)).astype(dtype)
    if positive:
        q, k = np.abs(q) + 1, np.abs(k) + 1
    plain = q.copy(), k.copy()
    for factor, start, rows in extremes:
        which = rng.integers(2)
        x, first = (q, k)[which], int(start * (queries, positions)[which])
        chosen = (0, slice(first, first + rows))
        with np.errstate(invalid="ignore"):  # 0 * inf
            x[chosen] = plain[which][chosen] * dtype(factor)
    out, lse, *grads = outputs_like(q, k)
    causal_attention.run(q, k, v, out, lse, scale=0.5)
    expected = [np.empty_like(x, np.float64) for x in (out, lse)]
    with np.errstate(invalid="ignore"):
        causal_attention.reference(*(x.astype(np.float64) for x in (q, k, v)), *expected, scale=0.5)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(out, expected[0], rtol=64 * eps, atol=64 * eps)
    np.testing.assert_allclose(lse, expected[1], rtol=64 * eps, atol=64 * eps)
    causal_attention_backward.run(q, k, v, out, grad, lse, *grads, scale=0.5)
    if np.isfinite(q).all() and np.isfinite(k).all():
        assert all(np.isfinite(x).all() for x in grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_outside_and_inputs_are_only_read(dtype):
    shape = samples, queries, positions, heads, kv_heads, width = 2, 37, 41, 4, 2, 6
    arrays = inputs(shape, dtype)
    expected = attend(*arrays)
    for array in arrays:
        array.flags.writeable = False
    slots = heads + 2 * kv_heads
    memory = np.full((samples, positions + 2, slots * width + 10), np.nan, dtype)
    inside = memory[:, 1:-1, 5:-5].reshape(samples, positions, slots, width)  # a view
    views = (
        inside[:, positions - queries :, :heads],
        inside[:, :, heads:-kv_heads],
        inside[:, :, -kv_heads:],
    )
    out, lse = expected[:2]
    causal_attention_backward.run(*arrays[:3], out, arrays[3], lse, *views, scale=0.3)
    for view, gradient in zip(views, expected[2:], strict=True):
        np.testing.assert_array_equal(view, gradient)
    assert np.count_nonzero(~np.isnan(memory)) == sum(view.size for view in views)
    # `out` in the middle of wider rows as well.
    memory = np.full((samples, queries, heads * width + 8), np.nan, dtype)
    inside = memory[:, :, 4:-4].reshape(out.shape)
    causal_attention.run(*arrays[:3], inside, lse, scale=0.3)
    np.testing.assert_array_equal(inside, out)
    assert np.count_nonzero(~np.isnan(memory)) == out.size


def test_heads_before_positions_is_a_layout_too():
    """(B, H, T, D) in memory, as some checkpoints and other libraries keep it."""
    arrays = inputs((2, 40, 40, 3, 3, 8), np.float32)
    turned = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in arrays]
    assert causal_attention.pack(*turned[:3], *outputs_like(*arrays[:2])[:2], scale=0.3) is not None
    for ours, theirs in zip(attend(*turned), attend(*arrays), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_one_sample_for_all():
    """A key-value cache broadcast over samples: distance 0 between them."""
    q, k, v, grad = inputs((3, 4, 20, 2, 2, 8), np.float64)
    k, v = (np.broadcast_to(x[:1], x.shape) for x in (k, v))
    assert causal_attention.pack(q, k, v, *outputs_like(q, k)[:2], scale=0.3) is not None
    assert_close(attend(q, k, v, grad), oracle(q, k, v, grad))


LEFT_TO_NUMPY = {
    "wider than the stack": lambda q, k, v: (*inputs((1, 3, 4, 2, 1, WIDEST + 1), np.float64)[:3],),
    "width in steps": lambda q, k, v: (np.repeat(q, 2, axis=3)[..., ::2], k, v),
    "time backwards": lambda q, k, v: (q, k[:, ::-1], v),
    "one key for all": lambda q, k, v: (q, np.broadcast_to(k[:, :1], k.shape), v),
    "mixed dtypes": lambda q, k, v: (q, k, v.astype(np.float32)),
}


@pytest.mark.parametrize("case", LEFT_TO_NUMPY)
def test_the_rest_is_left_to_numpy(case):
    q, k, v = LEFT_TO_NUMPY[case](*inputs((2, 5, 8, 4, 2, 3), np.float64)[:3])
    out, lse = outputs_like(q, k)[:2]
    assert causal_attention.pack(q, k, v, out, lse, scale=0.3) is None
    grad = np.ones_like(q)
    assert_close(attend(q, k, v, grad), oracle(q, k, v, grad), units=2**32)


def test_an_lse_in_another_layout_is_left_to_numpy():
    q, k, v, grad = inputs((2, 5, 8, 4, 2, 3), np.float64)
    out = np.empty_like(q)
    turned = np.empty((2, 5, 4)).transpose(0, 2, 1)
    assert causal_attention.pack(q, k, v, out, turned, scale=0.3) is None
    causal_attention.run(q, k, v, out, turned, scale=0.3)
    np.testing.assert_allclose(turned, oracle(q, k, v, grad)[1], rtol=1e-13)


def test_half_precision_is_left_to_numpy():
    arrays = inputs((1, 3, 3, 1, 1, 4), np.float16)
    assert_close(attend(*arrays), oracle(*arrays))


@pytest.mark.parametrize(
    "shape", [(0, 3, 3, 1, 1, 2), (2, 0, 0, 1, 1, 2), (2, 0, 5, 2, 1, 3), (1, 3, 3, 0, 1, 4)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_read(shape, dtype):
    out, lse, grad_q, grad_k, grad_v = attend(*inputs(shape, dtype))
    assert out.size == lse.size == grad_q.size == 0
    assert (grad_k == 0).all()
    assert (grad_v == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": (2, 5, 2, 4)},  # another width than q
        {"v": (2, 6, 2, 3)},  # another length than k
        {"out": (2, 4, 4, 3)},
        {"lse": (2, 4, 4)},
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_never_reach_blas(wrong):
    q, k, v, _ = inputs((2, 5, 5, 4, 2, 3), np.float64)
    out, lse = outputs_like(q, k)[:2]
    arrays = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    arrays |= {name: np.zeros(shape) for name, shape in wrong.items()}
    assert causal_attention.pack(*arrays.values(), scale=1.0) is None
    with pytest.raises(ValueError, match=r"broadcast|einsum"):
        causal_attention.run(*arrays.values(), scale=1.0)
