"""Our own matrix product: every edge of its tiles, blocks and panels, against float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.kernels.matmul import linear, matmul
from baremetal.kernels.native import matmul as native
from baremetal.kernels.native.gemm import BLOCK_ROWS, COLUMNS, DEPTH, ROWS, packed_matmul
from baremetal.kernels.native.pool import POOL

F32 = np.float32


def laid_out(rng, rows, columns, transposed):
    """A matrix within wider rows: itself as it lies in memory, and op of it."""
    height, width = (columns, rows) if transposed else (rows, columns)
    matrix = rng.standard_normal((height, width + 3), dtype=F32)[:, 1 : width + 1]
    return matrix, matrix.T if transposed else matrix


def run(a, b, out, transposed, bias=None, alpha=1.0, beta=0.0):
    """a and b as they lie in memory."""
    distances = tuple(x.strides[0] // 4 for x in (a, b, out))
    op_a, op_b = (x.T if t else x for x, t in zip((a, b), transposed, strict=True))
    for launch in packed_matmul(op_a, op_b, out, bias, (alpha, beta), distances, transposed):
        launch.run()


def assert_close(out, op_a, op_b, alpha, begin):
    """Within what rounding k + 2 times can cause (see test_matmul.py)."""
    wide_a, wide_b = op_a.astype(float), op_b.astype(float)
    exact = alpha * (wide_a @ wide_b) + begin
    size = abs(alpha) * (np.abs(wide_a) @ np.abs(wide_b)) + np.abs(begin)
    assert (np.abs(out - exact) <= (op_a.shape[1] + 4) * 2.0**-24 * size + 1e-30).all()


sizes = st.sampled_from([1, ROWS - 1, ROWS, ROWS + 1, COLUMNS, COLUMNS + 1, BLOCK_ROWS, 65, 150])
depths = st.sampled_from([1, 7, 8, 9, 31, DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH + 3])


@settings(max_examples=150)
@given(
    sizes, sizes, depths, st.booleans(), st.booleans(),
    st.sampled_from([(1.0, 0.0), (0.5, 1.0), (-2.0, 0.25)]), st.booleans(),
)  # fmt: skip
def test_every_edge(m, n, k, transposed_a, transposed_b, scales, with_bias):
    rng = np.random.default_rng(m * 1000 + n * 10 + k)
    a, op_a = laid_out(rng, m, k, transposed_a)
    b, op_b = laid_out(rng, k, n, transposed_b)
    memory = np.full((m + 2, n + 5), np.nan, F32)
    out = memory[1:-1, 2:-3]
    bias = rng.standard_normal(n, dtype=F32) if with_bias else None
    alpha, beta = (scales[0], 1.0) if with_bias else scales
    begin = np.zeros((m, n))
    if bias is not None:
        begin = begin + bias
    elif beta != 0.0:
        out[...] = rng.standard_normal((m, n), dtype=F32)
        begin = beta * out.astype(float)
    run(a, b, out, (transposed_a, transposed_b), bias, alpha, beta)
    assert_close(out, op_a, op_b, alpha, begin)
    assert np.isnan(memory).sum() == memory.size - out.size  # nothing beside it was touched


def test_the_bits_depend_neither_on_threads_nor_on_what_else_is_in_the_matrix():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((300, 400), dtype=F32), rng.standard_normal((400, 200), dtype=F32)
    results, before = [], POOL.threads
    try:
        for threads in {1, min(2, POOL.largest)}:
            POOL.set_threads(threads)
            out = np.empty((300, 200), F32)
            run(a, b, out, (False, False))
            results.append(out)
    finally:
        POOL.set_threads(before)
    np.testing.assert_array_equal(results[0], results[-1])
    part = np.empty((37, 51), F32)
    run(a[100:137], b[:, 64:115], part, (False, False))
    np.testing.assert_array_equal(part, results[0][100:137, 64:115])


def test_infinities_and_nan_stay_in_their_rows_and_columns():
    a, b = np.ones((65, 300), F32), np.ones((300, 33), F32)
    a[3, 299], b[0, 32] = np.inf, np.nan
    out = np.empty((65, 33), F32)
    run(a, b, out, (False, False))
    assert np.isnan(out[:, 32]).all()
    assert np.isinf(out[3, :32]).all()
    assert (np.delete(out, 3, axis=0)[:, :32] == 300).all()


@pytest.mark.parametrize("own", [False, True])
def test_it_is_taken_for_large_float32_products_where_vectors_are_long(own, monkeypatch):
    monkeypatch.setattr(native, "OWN_PRODUCT", own)
    x, weight = np.ones((64, 64), F32), np.ones((64, 64), F32)
    out, bias = np.empty((64, 64), F32), np.ones(64, F32)
    names = [launch.body.name for launch in linear.pack(x, weight, bias, out)]
    assert names == (["pack_columns_body", "packed_matmul_body"] if own else ["matmul_body"])
    few, double = x[:8], x.astype(np.float64)
    for call in ((few, weight, out[:8]), (double, double, double.copy()), (x[None], x, out[None])):
        names = [launch.body.name for launch in matmul.pack(*call)]
        assert "packed_matmul_body" not in names
