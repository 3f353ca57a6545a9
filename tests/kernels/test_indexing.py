"""Gather, scatter, concatenate, pad and transpose against NumPy: no arithmetic may differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.kernels import indexing as family
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import indexing as native

DTYPES = [np.float32, np.float64]
few = settings(max_examples=25)


def test_every_kernel_has_a_compiled_version_a_cost_and_a_test():
    names = {name for name, k in registry().items() if k.__module__ == family.__name__}
    assert names == {"gather_rows", "scatter_add_rows", "concatenate", "pad", "transpose"}
    for name in names:
        assert callable(getattr(native, name))
    table, some, indices = np.ones((9, 4)), np.ones((3, 4)), np.zeros(3, np.int64)
    rows, ids = 3 * 4 * 8, 3 * 8
    assert family.gather_rows.cost(table, indices, some).size_bytes == 2 * rows + ids
    scatter = family.scatter_add_rows.cost(some, indices, table)
    assert (scatter.flops, scatter.size_bytes) == (12, 3 * rows + ids)
    assert family.concatenate.cost(some, some, np.ones((6, 4)), axis=0).size_bytes == 4 * rows
    padded = family.pad.cost(some, np.ones((5, 4)), widths=((1, 1), (0, 0)), value=0.0)
    assert padded.size_bytes == rows + 5 * 4 * 8
    assert family.transpose.cost(some, some.T, axes=(1, 0)).size_bytes == 2 * rows


@st.composite
def tables(draw, dtype):
    """(table, indices): indices repeat, and there may be none."""
    rows = draw(st.integers(1, 9))
    width = draw(st.sampled_from([(), (1,), (5,), (16,), (33,), (128,), (3, 7)]))
    shape = draw(st.sampled_from([(), (0,), (1,), (12,), (4, 6)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = rng.standard_normal((rows, *width)).astype(dtype)
    return table, np.asarray(rng.integers(0, rows, shape))


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(data=st.data())
def test_gather_rows(dtype, data, check):
    table, indices = data.draw(tables(dtype))
    check(family.gather_rows, table, indices, out=((*indices.shape, *table.shape[1:]), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(data=st.data())
def test_scatter_add_rows_in_the_order_of_the_indices(dtype, data, check):
    """Bit for bit what a plain loop gives: order is part of the promise."""
    table, indices = data.draw(tables(dtype))
    rng = np.random.default_rng(0)
    grad = rng.standard_normal((*indices.shape, *table.shape[1:])).astype(dtype)
    result = check(
        family.scatter_add_rows, grad, indices, out=(table.shape, dtype), start=table,
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    expected = table.copy()
    for index, row in zip(indices.reshape(-1), grad.reshape(-1, *table.shape[1:]), strict=True):
        expected[index] += row
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_wider_array(dtype):
    memory = np.arange(60.0).reshape(6, 10).astype(dtype)
    table, indices = memory[:, 2:7], np.array([5, 0, 5])
    out = np.empty((3, 5), dtype)
    assert family.gather_rows.pack(table, indices, out) is not None
    family.gather_rows.run(table, indices, out)
    np.testing.assert_array_equal(out, table[indices])
    before = memory.copy()
    family.scatter_add_rows.run(np.ones((3, 5), dtype), indices, table)
    before[5, 2:7] += 2
    before[0, 2:7] += 1
    np.testing.assert_array_equal(memory, before)


@pytest.mark.parametrize("wrong", [-1, 4, 2**62, -(2**62)])
def test_an_index_outside_the_table_touches_no_foreign_memory(wrong):
    table = np.ones((4, 5), np.float32)
    indices, out = np.array([1, wrong, 3]), np.zeros((3, 5), np.float32)
    for launch in family.gather_rows.pack(table, indices, out):
        launch.run()
    assert np.all(np.isnan(out[1]))
    assert np.all(out[[0, 2]] == 1)
    for launch in family.scatter_add_rows.pack(np.ones((3, 5), np.float32), indices, table):
        launch.run()
    np.testing.assert_array_equal(table, np.repeat([[1], [2], [1], [2]], 5, axis=1))


def test_other_index_types_are_left_to_numpy():
    table, out = np.arange(12.0).reshape(4, 3), np.empty((2, 3))
    for indices in (np.array([3, 1], np.int32), np.array([3, 9, 1])[::2], np.array([3, 1], ">i8")):
        assert family.gather_rows.pack(table, indices, out) is None
        family.gather_rows.run(table, indices, out)
        np.testing.assert_array_equal(out, table[[3, 1]])


@pytest.mark.parametrize("dtype", [*DTYPES, np.int64])
@few
@given(data=st.data())
def test_concatenate(dtype, data, arrays, check):
    shape = data.draw(arrays.shapes().filter(len))
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = []
    for _ in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.integers(0, 20))
        part_shape = (*shape[:axis], size, *shape[axis + 1 :])
        parts.append(data.draw(arrays.strided(part_shape, dtype)))
    total = sum(part.shape[axis] for part in parts)
    out_shape = (*shape[:axis], total, *shape[axis + 1 :])
    for named in (axis, axis - len(shape)):
        check(family.concatenate, *parts, out=(out_shape, dtype), axis=named)


@pytest.mark.parametrize("dtype", [*DTYPES, np.int32])
@few
@given(data=st.data())
def test_pad(dtype, data, arrays, check):
    shape = data.draw(arrays.shapes(max_axes=3))
    x = data.draw(arrays.strided(shape, dtype))
    widths = tuple(data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in shape)
    out = tuple(before + n + after for (before, after), n in zip(widths, shape, strict=True))
    check(family.pad, x, out=(out, dtype), widths=widths, value=-7)


@pytest.mark.parametrize("dtype", [*DTYPES, np.int64])
@few
@given(data=st.data())
def test_transpose(dtype, data, arrays, check):
    shape = data.draw(arrays.shapes())
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    x = data.draw(arrays.strided(shape, dtype))
    check(family.transpose, x, out=(tuple(shape[a] for a in axes), dtype), axes=axes)


def test_booleans_are_left_to_numpy():
    x, out = np.array([[True, False], [True, True]]), np.empty((2, 2), bool)
    family.transpose.run(x, out, axes=(1, 0))
    np.testing.assert_array_equal(out, x.T)
    wide = np.empty((2, 4), bool)
    family.concatenate.run(x, x, wide, axis=1)
    np.testing.assert_array_equal(wide, np.concatenate([x, x], axis=1))
    family.pad.run(x, wide, widths=((0, 0), (1, 1)), value=False)
    np.testing.assert_array_equal(wide, np.pad(x, ((0, 0), (1, 1))))
