"""Dtypes of results: NumPy is the oracle, for every operation and every pair of dtypes."""

import operator

import numpy as np
import pytest

from baremetal.autograd import Tensor, ops, registry
from baremetal.errors import BaremetalError

DTYPES = [
    np.dtype(kind)
    for kind in (
        np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
        np.float16, np.float32, np.float64,
    )
]  # fmt: skip
NUMBERS = [True, 2, 2.0, 0.5]
# NumPy 1 looks at the value of a Python number; NEP 50, which we follow, came with NumPy 2.
NEP_50 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"

ELEMENTWISE = {
    name: op
    for name, op in registry().items()
    if op.__module__.rpartition(".")[2] in ("elementwise", "activation")
}
UFUNCS = {name for name in ELEMENTWISE if isinstance(getattr(np, name, None), np.ufunc)}
# What NumPy lacks, with a function that has the dtypes it should have.
COUNTERPARTS = {
    "erf": np.exp, "sigmoid": np.exp, "gelu": np.exp, "silu": np.exp,
    "swiglu": lambda x: np.exp(x[:1]),  # half as wide as its input
    "relu": np.square,  # whose booleans become int8
    "clone": np.copy,
}  # fmt: skip
APART = {"cast", "where"}  # a dtype is the one's argument; the other is tested below

# Operators with NumPy's functions. (Its own ** of booleans differs from np.power by version.)
OPERATORS = {
    "+": (operator.add, np.add), "-": (operator.sub, np.subtract),
    "*": (operator.mul, np.multiply), "/": (operator.truediv, np.divide),
    "**": (operator.pow, np.power), "==": (operator.eq, np.equal),
    "!=": (operator.ne, np.not_equal), "<": (operator.lt, np.less),
    "<=": (operator.le, np.less_equal), ">": (operator.gt, np.greater),
    ">=": (operator.ge, np.greater_equal),
}  # fmt: skip
UNARY_OPERATORS = {"-": operator.neg, "abs": operator.abs}


def outcome(function, *values):
    """What comes out, as an array, or "refused" (by tensors with an error that teaches)."""
    ours = any(isinstance(value, Tensor) for value in values)
    refusals = (BaremetalError,) if ours else (TypeError,)
    try:
        return np.asarray(function(*values))
    except refusals:
        return "refused"


def assert_same(ours, numpys, values=True):
    if isinstance(numpys, str) or isinstance(ours, str):
        assert isinstance(numpys, str) == isinstance(ours, str), (ours, numpys)
        return
    assert ours.dtype == numpys.dtype
    if values:
        # float16 through another formula or another rounding: a few units in the last place.
        rtol = 4 * float(np.finfo(ours.dtype).eps) if ours.dtype.kind == "f" else 0
        np.testing.assert_allclose(ours, numpys, rtol=rtol)


def sample(dtype):
    return np.array([1, 3, 2], dtype)


def other(dtype):
    return np.array([2, 1, 2], dtype)


def test_every_elementwise_operation_is_compared():
    assert set(ELEMENTWISE) == UFUNCS | set(COUNTERPARTS) | APART


@pytest.mark.parametrize("name", sorted(n for n in UFUNCS if getattr(np, n).nin == 2))
@pytest.mark.parametrize("first", DTYPES, ids=str)
def test_two_dtypes_give_what_numpy_gives(name, first):
    for second in DTYPES:
        a, b = sample(first), other(second)
        expected = outcome(getattr(np, name), a, b)
        assert_same(outcome(getattr(ops, name), Tensor(a), Tensor(b)), expected)
        assert_same(outcome(getattr(ops, name), Tensor(a), b), expected)
        assert_same(outcome(getattr(ops, name), a, Tensor(b)), expected)


@pytest.mark.parametrize("name", sorted(n for n in UFUNCS if getattr(np, n).nin == 1))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_of_one_give_what_numpy_gives(name, dtype):
    x = sample(dtype)
    assert_same(outcome(getattr(ops, name), Tensor(x)), outcome(getattr(np, name), x))


@pytest.mark.parametrize("name", COUNTERPARTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_that_numpy_lacks_have_the_dtypes_of_their_counterparts(name, dtype):
    x = sample(dtype)[:2]
    expected = outcome(COUNTERPARTS[name], x)
    assert_same(outcome(getattr(ops, name), Tensor(x)), expected, values=False)


@pytest.mark.skipif(not NEP_50, reason="NumPy 1 has other rules for Python numbers")
@pytest.mark.parametrize("symbol", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operators_with_plain_numbers_give_what_numpy_gives(symbol, dtype):
    (ours, numpys), x = OPERATORS[symbol], sample(dtype)
    for number in NUMBERS:
        assert_same(outcome(ours, Tensor(x), number), outcome(numpys, x, number))
        assert_same(outcome(ours, number, Tensor(x)), outcome(numpys, number, x))


@pytest.mark.parametrize("symbol", UNARY_OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unary_operators_give_what_numpy_gives(symbol, dtype):
    f, x = UNARY_OPERATORS[symbol], sample(dtype)
    assert_same(outcome(f, Tensor(x)), outcome(f, x))


@pytest.mark.parametrize("first", DTYPES, ids=str)
def test_where_gives_what_numpy_gives(first):
    mask = np.array([True, False, True])
    for second in DTYPES:
        a, b = sample(first), other(second)
        assert_same(outcome(ops.where, mask, Tensor(a), Tensor(b)), np.where(mask, a, b))
    if NEP_50:
        for number in NUMBERS:
            expected = np.where(mask, sample(first), number)
            assert_same(outcome(ops.where, mask, Tensor(sample(first)), number), expected)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var", "argmax"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_give_what_numpy_gives(name, dtype):
    x = sample(dtype)
    assert_same(outcome(getattr(Tensor, name), Tensor(x)), outcome(getattr(np, name), x))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_sums_exponentials_is_double_for_integers_as_a_mean_is(name, dtype):
    assert getattr(ops, name)(Tensor(sample(dtype))).dtype == np.mean(sample(dtype)).dtype


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64", "bool"])
def test_the_smallest_integer_is_exact_at_both_ends(dtype):
    limits = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for values in (limits, limits[::-1], limits[1:]):
        assert Tensor(np.array(values, dtype)).min().item() == min(values)


# ---------------------------------------------------------------- where we differ, on purpose


def test_a_python_integer_that_does_not_fit_is_refused_in_comparisons_too():
    x = Tensor(np.array([1], np.uint8))
    for f in (operator.add, operator.eq):
        with pytest.raises(BaremetalError, match="uint8 holds 0 to 255"):
            f(x, 300)


def test_int64_and_uint64_meet_in_float64_in_comparisons_too():
    signed, unsigned = np.array([2**53]), np.array([2**53 + 1], np.uint64)
    assert (Tensor(signed) + Tensor(unsigned)).dtype == np.float64
    assert (Tensor(signed) == Tensor(unsigned)).tolist() == [True]  # both round to 2^53


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, i: b - b, r"'subtract' of booleans.*astype.*!="),
        (lambda b, i: -b, "'negative' of booleans"),
        (lambda b, i: i**-1, r"int64 with the exponent -1.*astype\(np\.float64\)"),
        (lambda b, i: 2 ** (i - 3), "exponent -2"),
        (lambda b, i: i.__itruediv__(2), "'/=' on a int64 tensor.*x = x / y"),
        (lambda b, i: b.__isub__(True), "'-=' on a bool tensor"),
    ],
)  # fmt: skip
def test_what_numpy_refuses_is_refused_with_advice(call, message):
    with pytest.raises(BaremetalError, match=message):
        call(Tensor([True, False]), Tensor([1, 2]))
