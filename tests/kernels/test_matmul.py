"""Matrix products against float64 products, within the error that rounding can cause.

The bound (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.5): a sum
of k products, in any order and with any use of fused multiply-adds, is off by at most

    |computed - exact|  <=  k u / (1 - k u) (|A| |B|),     u = half the distance from 1 to the next

so a wrong element, a wrong stride or a missing term shows, and honest rounding never does.
"""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.kernels import matmul as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.matmul import linear, matmul
from baremetal.kernels.native import matmul as native
from baremetal.kernels.native.pool import POOL

DTYPES = [np.float32, np.float64]
SIZES = [1, 2, 5, 15, 16, 17, 33, 65]
MARGIN = 7  # elements around a result that nobody may touch

some = settings(max_examples=60)


@pytest.fixture(scope="module", params=[False, True], ids=["BLAS", "ours"], autouse=True)
def own_product(request):
    """Every test here holds for products by BLAS and for our own, wherever it may run."""
    before, native.OWN_PRODUCT = native.OWN_PRODUCT, request.param
    yield request.param
    native.OWN_PRODUCT = before


def assert_is_product(out, a, b, alpha=1.0, beta=0.0, before=None):
    """out = alpha a b + beta before, up to rounding."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    exact = alpha * (wide_a @ wide_b)
    size = abs(alpha) * (np.abs(wide_a) @ np.abs(wide_b))
    if beta != 0.0:
        exact = exact + beta * before.astype(np.float64)
        size = size + np.abs(beta * before)
    unit = np.finfo(out.dtype).eps / 2 + np.finfo(np.float64).eps / 2  # ours, and the oracle's
    assert (np.abs(out - exact) <= (a.shape[-1] + 4) * unit * size).all()


def run_in_pieces(kernel, *arrays, pieces, **attributes):
    """Run as that many threads would divide it, one piece after the other."""
    for launch in kernel.pack(*arrays, **attributes):
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        body = kind(launch.address)
        for piece in range(pieces):
            lo, hi = launch.items * piece // pieces, launch.items * (piece + 1) // pieces
            if lo < hi:
                body(lo, hi, launch.block.ctypes.data)


@st.composite
def matrix(draw, rows, columns, dtype, batch=()):
    """A (batch of) matrices as BLAS can read it: plain, transposed, or a slice of wider rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["plain", "transposed", "slice", "transposed slice"]))
    height, width = (columns, rows) if kind.startswith("transposed") else (rows, columns)
    if kind.endswith("slice"):
        before, after = draw(st.integers(0, 5)), draw(st.integers(1, 5))
        whole = rng.standard_normal((*batch, height, before + width + after))
        array = whole.astype(dtype)[..., before : before + width]
    else:
        array = rng.standard_normal((*batch, height, width)).astype(dtype)
    return np.swapaxes(array, -1, -2) if kind.startswith("transposed") else array


@st.composite
def batches(draw):
    """Batch shapes (of a, of b, of the result) that broadcast."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3]), max_size=4)))
    parts = []
    for _ in range(2):
        part = tuple(1 if draw(st.integers(0, 2)) == 0 else n for n in shape)
        parts.append(part[draw(st.integers(0, len(part))) if part else 0 :])
    return *parts, np.broadcast_shapes(*parts)


def result_inside(shape, dtype, fill):
    """(the memory, a result of this shape somewhere inside it)."""
    memory = np.full((*shape[:-2], shape[-2] + 2, shape[-1] + 2 * MARGIN), fill, dtype)
    return memory, memory[..., 1:-1, MARGIN:-MARGIN]


def margins(memory):
    outside = memory.copy()
    outside[..., 1:-1, MARGIN:-MARGIN] = 0
    return outside


def test_every_kernel_has_a_compiled_version_a_cost_and_a_test():
    names = {name for name, k in registry().items() if k.__module__ == family.__name__}
    assert names == {"matmul", "linear"}
    x, weight, bias = np.ones((3, 5)), np.ones((2, 5)), np.ones(2)
    out = np.empty((3, 2))
    assert native.matmul(x, weight.T, out) is not None
    assert native.linear(x, weight, bias, out) is not None
    assert matmul.cost(x, weight.T, out).flops == 2 * 3 * 2 * 5
    assert matmul.cost(x, weight.T, out).size_bytes == 8 * (15 + 10 + 6)
    assert matmul.cost(x, weight.T, out, beta=1.0).size_bytes == 8 * (15 + 10 + 6 + 6)
    assert linear.cost(x, weight, bias, out).flops == 2 * 3 * 2 * 5 + 6


@pytest.mark.parametrize("dtype", DTYPES)
@some
@given(data=st.data())
def test_product_of_any_readable_layout(dtype, data):
    m, n, k = (data.draw(st.sampled_from(SIZES)) for _ in range(3))
    a, b = data.draw(matrix(m, k, dtype)), data.draw(matrix(k, n, dtype))
    alpha = data.draw(st.sampled_from([1.0, 1.0, 0.0, -0.5]))
    beta = data.draw(st.sampled_from([0.0, 0.0, 1.0, 0.25]))
    pieces = data.draw(st.sampled_from([1, 2, 3, 7]))
    # With beta = 0 the old content must not be read: NaN would show.
    memory, out = result_inside((m, n), dtype, np.nan if beta == 0.0 else 1.5)
    before, outside = out.copy(), margins(memory)
    run_in_pieces(matmul, a, b, out, alpha=alpha, beta=beta, pieces=pieces)
    assert_is_product(out, a, b, alpha, beta, before)
    np.testing.assert_array_equal(margins(memory), outside)


@pytest.mark.parametrize("dtype", DTYPES)
@some
@given(data=st.data())
def test_batches_broadcast(dtype, data):
    of_a, of_b, batch = data.draw(batches())
    m, n, k = (data.draw(st.sampled_from([1, 3, 17, 33])) for _ in range(3))
    a, b = data.draw(matrix(m, k, dtype, of_a)), data.draw(matrix(k, n, dtype, of_b))
    pieces = data.draw(st.sampled_from([1, 2, 7]))
    memory, out = result_inside((*batch, m, n), dtype, np.nan)
    run_in_pieces(matmul, a, b, out, pieces=pieces)
    assert_is_product(out, a, b)
    assert np.isnan(memory).sum() == memory.size - out.size
    matmul.run(a, b, out, beta=1.0)
    assert_is_product(out, a, b, 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@some
@given(data=st.data())
def test_linear(dtype, data):
    rows, n, k = (data.draw(st.sampled_from(SIZES)) for _ in range(3))
    x, weight = data.draw(matrix(rows, k, dtype)), data.draw(matrix(n, k, dtype))
    bias = np.random.default_rng(0).standard_normal(n).astype(dtype)
    memory, out = result_inside((rows, n), dtype, np.nan)
    run_in_pieces(linear, x, weight, bias, out, pieces=data.draw(st.sampled_from([1, 2, 7])))
    # A bias is one more column of the weights, with a column of ones to meet it.
    x1 = np.concatenate([x, np.ones((rows, 1), dtype)], axis=1)
    assert_is_product(out, x1, np.concatenate([weight, bias[:, None]], axis=1).T)
    assert np.isnan(memory).sum() == memory.size - out.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 65, 128), (1, 1200, 300), (300, 1, 65), (1, 1, 700), (768, 3, 5), (5, 700, 2),
     (48, 65, 700), (130, 129, 513)],
)  # fmt: skip
def test_shapes_of_sampling_and_of_training(dtype, m, n, k):
    rng = np.random.default_rng(0)
    a, weight = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype)
    out = np.full((m, n), np.nan, dtype)
    matmul.run(a, weight.T, out)
    assert_is_product(out, a, weight.T)
    matmul.run(np.asfortranarray(a), np.ascontiguousarray(weight.T), out, beta=1.0)
    assert_is_product(out, a, weight.T, 2.0)
    # One row whose elements lie far apart: a column of a transposed matrix.
    column = np.asfortranarray(np.repeat(a, 2, axis=0))[::2]
    matmul.run(column, weight.T, out)
    assert_is_product(out, a, weight.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 40), (40, 5), (48, 65)])
def test_weight_gradients_over_many_tokens_are_summed_in_halves(m, n, pieces, dtype, monkeypatch):
    """Into a result inside a larger one, from slices of rows; not where something is added."""
    monkeypatch.setattr(native, "OWN_PRODUCT", False)
    rng = np.random.default_rng(m)
    tokens = 1024
    grad, x = (rng.standard_normal((tokens, w + 3)).astype(dtype)[:, 1:-2] for w in (m, n))
    memory, out = result_inside((m, n), dtype, np.nan)
    assert len(matmul.pack(grad.T, x, out, alpha=0.5)) == 2
    run_in_pieces(matmul, grad.T, x, out, alpha=0.5, pieces=pieces)
    assert_is_product(out, grad.T, x, 0.5)
    assert np.isnan(memory).sum() == memory.size - out.size
    for kept in (grad[:1022], grad[:1023], grad):  # too short, odd, or added to what is there
        beta = 1.0 if kept is grad else 0.0
        assert len(matmul.pack(kept.T, x[: len(kept)], out, beta=beta)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_threads_same_bits(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((70, 300)).astype(dtype), rng.standard_normal((300, 130))
    b = b.astype(dtype)
    before = POOL.threads
    try:
        for threads in {1, min(2, POOL.largest)}:
            POOL.set_threads(threads)
            results = []
            for _ in range(3):
                out = np.full((70, 130), np.nan, dtype)
                matmul.run(a, b, out)
                results.append(out.tobytes())
            assert len(set(results)) == 1
            assert_is_product(out, a, b)  # with another thread count: equal up to rounding
    finally:
        POOL.set_threads(before)


LEFT_TO_NUMPY = {
    "empty sum": lambda x: (x[:, :0], x[:0], np.empty((6, 6))),
    "rows backwards": lambda x: (x[::-1], x, np.empty((6, 6))),
    "columns backwards": lambda x: (x, x[:, ::-1], np.empty((6, 6))),
    "every other column": lambda x: (x[:, ::2], x[:3], np.empty((6, 6))),
    "rows broadcast": lambda x: (np.broadcast_to(x[0], (6, 6)), x, np.empty((6, 6))),
    "columns broadcast": lambda x: (x, np.broadcast_to(x[:, :1], (6, 6)), np.empty((6, 6))),
    "result transposed": lambda x: (x, x[:, :5], np.empty((5, 6)).T),
    "result in steps": lambda x: (x, x, np.empty((6, 12))[:, ::2]),
    "mixed dtypes": lambda x: (x.astype(np.float32), x, np.empty((6, 6))),
    "integers": lambda x: (x.astype(int), x.astype(int), np.empty((6, 6), int)),
    "five batch axes": lambda x: (x[(None,) * 5], x, np.empty((1, 1, 1, 1, 1, 6, 6))),
}


@pytest.mark.parametrize("case", LEFT_TO_NUMPY)
def test_other_layouts_are_left_to_numpy(case):
    x = np.arange(36.0).reshape(6, 6) - 11  # small integers: products are exact
    a, b, out = LEFT_TO_NUMPY[case](x)
    out[...] = 3
    assert matmul.pack(a, b, out, beta=1.0) is None
    matmul.run(a, b, out, alpha=2.0, beta=1.0)
    np.testing.assert_array_equal(out, 2 * np.matmul(a, b) + 3)


def test_bytes_between_elements_are_left_to_numpy():
    records = np.zeros(12, np.dtype([("tag", "u1"), ("row", "f4", 3)]))
    a = records["row"]  # rows 13 bytes apart
    a[...] = np.arange(36).reshape(12, 3)
    for left, right in [(a, np.eye(3, dtype=np.float32)), (np.eye(3, dtype=np.float32), a.T)]:
        out = np.empty((left.shape[0], right.shape[1]), np.float32)
        assert matmul.pack(left, right, out) is None
        matmul.run(left, right, out)
        np.testing.assert_array_equal(out, left @ right)


def test_sizes_beyond_32_bits_are_left_to_numpy():
    wide = np.lib.stride_tricks.as_strided(np.zeros(1), (1, 2**31), (8, 8))  # never read
    assert matmul.pack(wide, wide.T, np.empty((1, 1))) is None
    far = np.lib.stride_tricks.as_strided(np.zeros(1), (2, 1), (2**40, 8))
    assert matmul.pack(far, np.ones((1, 3)), np.empty((2, 3))) is None


@pytest.mark.parametrize("shapes", [((0, 3), (3, 4)), ((3, 3), (3, 0)), ((0, 2, 3), (3, 4))])
def test_nothing_to_do(shapes):
    a, b = (np.ones(shape) for shape in shapes)
    out = np.empty((*a.shape[:-1], b.shape[-1]))
    matmul.run(a, b, out)
    linear.run(np.ones((0, 3)), np.ones((4, 3)), np.ones(4), np.empty((0, 4)))


def test_shapes_that_do_not_fit_never_reach_blas():
    a, b, out = np.ones((3, 4)), np.ones((5, 6)), np.empty((3, 6))
    with pytest.raises(ValueError, match="mismatch"):
        matmul.run(a, b, out)
    with pytest.raises(ValueError, match="broadcast"):
        matmul.run(a, np.ones((4, 6)), np.empty((3, 7)))
    with pytest.raises(ValueError, match="broadcast"):
        matmul.run(np.ones((2, 3, 4)), np.ones((3, 4, 6)), np.empty((2, 3, 6)))
    with pytest.raises(ValueError, match="broadcast"):
        linear.run(a, np.ones((6, 4)), np.ones(7), out)


def test_attributes_may_be_integers_or_numpy_scalars():
    x, out = np.eye(3), np.ones((3, 3))
    matmul.run(x, x, out, alpha=2, beta=np.float32(3))
    np.testing.assert_array_equal(out, 2 * np.eye(3) + 3)


def test_infinities_and_nan_are_passed_on():
    a, b = np.ones((40, 20), np.float32), np.ones((20, 30), np.float32)
    a[3, 4], a[7, 1], b[5, 6] = np.nan, np.inf, -np.inf
    out = np.empty((40, 30), np.float32)
    matmul.run(a, b, out)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out, a @ b)


def test_inputs_are_only_read():
    a, b = np.ones((5, 5)), np.ones((5, 5))
    a.flags.writeable = b.flags.writeable = False
    matmul.run(a, b, np.empty((5, 5)))
