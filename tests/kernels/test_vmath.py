"""The vectorised exp, tanh, erf, sigmoid and log against NumPy and SciPy in float64.

The sweep goes through every 509th of all float32 bit patterns: all magnitudes, both signs, the
denormals, the infinities and NaNs. `BAREMETAL_ULP_STEP=1 pytest -s tests/kernels/test_vmath.py`
tries every one of the 2^32 and prints the largest errors (minutes).
"""

import os
import re

import numba
import numpy as np
import pytest
import scipy.special
from numba import types

from baremetal.kernels import elementwise
from baremetal.kernels.native import elementwise as native
from baremetal.kernels.native.abi import Launch, body, cast, pointer
from baremetal.kernels.native.vmath import exp

STEP = int(os.environ.get("BAREMETAL_ULP_STEP", "509"))
BATCH = 1 << 22  # values at a time
SMALLEST_NORMAL = 2.0**-126

# Name: (function in float64, largest error allowed in units in the last place)
FUNCTIONS = {
    "exp": (np.exp, 1.5),
    "tanh": (np.tanh, 3.0),
    "erf": (scipy.special.erf, 1.5),
    "sigmoid": (scipy.special.expit, 3.0),
    "log": (np.log, 1.0),
}


def batches():
    """All float32 bit patterns, STEP apart, some at a time."""
    for start in range(0, 1 << 32, STEP * BATCH):
        stop = min(start + STEP * BATCH, 1 << 32)
        yield np.arange(start, stop, STEP, dtype=np.uint64).astype(np.uint32).view(np.float32)


def error_in_ulp(result, expected):
    """Distance in units in the last place of a float32 of the expected size."""
    return np.abs(result - expected) / np.spacing(np.abs(expected).astype(np.float32))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_over_the_whole_range(name):
    function, allowed = FUNCTIONS[name]
    largest, where = 0.0, 0.0
    for x in batches():
        result = np.empty_like(x)
        getattr(elementwise, name).run(x, result)
        with np.errstate(all="ignore"):
            expected = function(x.astype(np.float64))
            rounded = expected.astype(np.float32)
        np.testing.assert_array_equal(np.isnan(result), np.isnan(rounded))
        np.testing.assert_array_equal(np.isinf(result), np.isinf(rounded))
        normal = np.isfinite(rounded) & (np.abs(expected) >= SMALLEST_NORMAL)
        tiny = np.abs(expected) < SMALLEST_NORMAL
        assert np.all(np.abs(result[tiny]) <= SMALLEST_NORMAL)  # flushed to 0, or not
        np.testing.assert_array_equal(np.signbit(result[normal]), np.signbit(rounded[normal]))
        error = error_in_ulp(result[normal].astype(np.float64), expected[normal])
        if error.size and error.max() > largest:
            largest, where = error.max(), x[normal][error.argmax()]
    print(f"{name}: at most {largest:.3f} ulp, at x = {where!r}")
    assert largest <= allowed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits(dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)
    expected = {
        "exp": [np.inf, 0, np.nan, 1, 1],
        "tanh": [1, -1, np.nan, 0.0, -0.0],
        "erf": [1, -1, np.nan, 0.0, -0.0],
        "sigmoid": [1, 0, np.nan, 0.5, 0.5],
        "log": [np.inf, np.nan, np.nan, -np.inf, -np.inf],
    }
    for name, values in expected.items():
        out = np.zeros_like(x)
        getattr(elementwise, name).run(x, out)
        np.testing.assert_array_equal(out, np.array(values, dtype))
        if name in ("tanh", "erf"):
            assert np.signbit(out[4])  # the sign of zero too


def test_results_that_would_be_denormal_are_flushed():
    """Documented: exp(x) is 0 below -87.3365, where e^x leaves the normal float32 numbers."""
    x = np.array([-87.33, -87.34, -90, -103, -104, -1e30], np.float32)
    out = np.empty_like(x)
    elementwise.exp.run(x, out)
    assert out[0] > SMALLEST_NORMAL
    assert np.all(out[1:] == 0)


@body(reassociate=True)
def sum_of_exp_body(lo, hi, args):
    """A sum that may be reordered must not reorder the arithmetic inside exp."""
    x, out = pointer(args, 0), pointer(args, 1)
    total = cast(args, 0)
    for i in range(lo, hi):
        total += exp(x[i])
    out[0] = total


def test_exp_survives_where_sums_may_be_reordered():
    x = np.linspace(-80, 10, 1000).astype(np.float32)
    out = np.empty(1, np.float32)
    Launch(sum_of_exp_body, x.dtype, (x, out), items=x.size).run()
    np.testing.assert_allclose(out[0], np.exp(x.astype(np.float64)).sum(), rtol=1e-6)


VECTORISED = [
    "add", "maximum", "relu", "sqrt", "exp", "log", "tanh", "erf", "sigmoid", "silu_backward",
    "gelu_backward", "gelu_tanh_backward", "less", "where",
]  # fmt: skip


@pytest.mark.parametrize("name", VECTORISED)
def test_the_loop_vectorises(name):
    """A constant in the wrong precision or a call left standing makes a kernel ten times slower."""
    kernel = getattr(native, name)
    bodies = [cell.cell_contents for cell in kernel.__closure__]
    source = next(b.function for b in bodies if hasattr(b, "function"))
    signature = types.void(types.int64, types.int64, types.CPointer(types.float32))
    options = {"error_model": "numpy", "fastmath": {"contract"}}
    code = numba.cfunc(signature, **options)(source).inspect_llvm()
    assert re.search(r"load <(4|8|16) x float>", code)
    assert re.search(r"store <(4|8|16) x (float|i8)>", code)
    assert not re.search(r"= f(add|mul|div|cmp)\S* .*double", code)
