"""The tensor's surface. NumPy is the oracle: the same expression on arrays."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from baremetal.autograd import AutogradError, Parameter, Tensor, no_grad, ops
from baremetal.errors import BaremetalError

RNG = np.random.default_rng(0)
A = RNG.standard_normal((2, 3)).astype(np.float32)
B = RNG.standard_normal((2, 3)).astype(np.float32) + 2


def same(result, expected, rtol=1e-6):
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result.numpy(), expected, rtol=rtol, atol=1e-7)


# ---------------------------------------------------------------- making tensors


def test_plain_numbers_become_float32_and_arrays_keep_their_dtype():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(1.5).shape == ()
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor(np.ones(2)).dtype == np.float64
    assert Tensor([True]).dtype == np.bool_
    assert Tensor([1, 2], dtype=np.float64).dtype == np.float64


def test_creation_functions():
    same(Tensor.zeros((2, 3)), np.zeros((2, 3), np.float32))
    same(Tensor.ones(3, dtype=np.float64), np.ones(3))
    same(Tensor.full((2,), 7), np.full(2, 7, np.float32))
    same(Tensor.arange(5), np.arange(5))
    same(Tensor.arange(1, 2, 0.25), np.arange(1, 2, 0.25, dtype=np.float32))
    drawn = Tensor.randn((4, 5), np.random.default_rng(3))
    same(drawn, np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32))


def test_a_tensor_shares_the_memory_it_is_given():
    array = np.zeros(3, np.float32)
    tensor = Tensor(array)
    again = Tensor(tensor)
    assert np.shares_memory(again.data, array)
    with no_grad():
        again += 1
    assert tensor.version.count == 1  # one memory, one count of changes
    assert Tensor(tensor, dtype=np.float64).version.count == 0


@pytest.mark.parametrize("nonsense", ["text", [[1], [1, 2]], None, {"a": 1}, [object()]])
def test_what_holds_no_numbers_is_refused(nonsense):
    with pytest.raises(BaremetalError, match=r"numbers|cannot make an array"):
        Tensor(nonsense)


# ---------------------------------------------------------------- operators

BINARY = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b, "**": lambda a, b: abs(a) ** b, "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_operators_between_tensors_arrays_and_numbers(name):
    f = BINARY[name]
    same(f(Tensor(A), Tensor(B)), f(A, B))
    same(f(Tensor(A), B), f(A, B))
    same(f(A, Tensor(B)), f(A, B))
    same(f(Tensor(A), 2.0), f(A, 2.0))
    same(f(Tensor(A), [1.0, 2.0, 3.0]), f(A, np.array([1.0, 2.0, 3.0])))
    if name != "**":
        same(f(2.0, Tensor(B)), f(2.0, B))
    same(f(Tensor(A), Tensor(A)), f(A, A))


def test_reflected_power_and_matmul():
    same(2.0 ** Tensor(A), 2.0**A)
    same(A @ Tensor(B.T.copy()), A @ B.T)
    same(Tensor(A) @ B.T, A @ B.T)
    assert isinstance(A @ Tensor(B.T.copy()), Tensor)


def test_unary_operators():
    same(-Tensor(A), -A)
    same(+Tensor(A), A)
    same(abs(Tensor(A)), abs(A))


def test_equality_with_none_is_a_plain_answer_and_hash_is_identity():
    x = Tensor(A)
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert {x: 1}[x] == 1
    assert hash(Tensor(A)) != hash(Tensor(A)) or Tensor(A) is not Tensor(A)


def test_comparisons_are_off_the_tape():
    assert not (Tensor(A, requires_grad=True) > 0).requires_grad


# ---------------------------------------------------------------- methods

METHODS = {
    "exp": np.exp, "square": np.square, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "abs": np.abs, "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "silu": lambda a: a / (1 + np.exp(-a)),
    "flatten": np.ravel, "argmax": np.argmax, "sum": np.sum, "mean": np.mean, "max": np.max,
    "min": np.min, "var": np.var, "std": np.std, "numel": np.size,
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_without_arguments(name):
    result = getattr(Tensor(A), name)()
    expected = METHODS[name](A)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-5)


def test_methods_with_arguments():
    x, positive = Tensor(A), Tensor(np.abs(A) + 1)
    same(positive.log(), np.log(np.abs(A) + 1))
    same(positive.sqrt(), np.sqrt(np.abs(A) + 1))
    same(x.std(axis=1, ddof=1), A.std(axis=1, ddof=1), rtol=1e-5)
    same(x.min(axis=0, keepdims=True), A.min(axis=0, keepdims=True))
    same(x.argmax(axis=1, keepdims=True), A.argmax(axis=1, keepdims=True))
    same(x.clip(-0.5, 0.5), A.clip(-0.5, 0.5))
    same(x.clip(low=0.1), A.clip(0.1))
    same(x.maximum(B), np.maximum(A, B))
    same(x.minimum(0.3), np.minimum(A, np.float32(0.3)))
    same(x.astype(np.float64), A.astype(np.float64))
    same(x.masked_fill(A > 0, -1.0), np.where(A > 0, np.float32(-1), A))
    same(x.pad([(0, 1), (2, 0)], value=1.5), np.pad(A, [(0, 1), (2, 0)], constant_values=1.5))
    weights = np.exp(A) / np.exp(A).sum(0)
    same(x.softmax(axis=0), weights, rtol=1e-5)
    same(x.log_softmax(axis=0), np.log(weights), rtol=1e-5)
    same(x.logsumexp(axis=1), np.log(np.exp(A).sum(1)), rtol=1e-5)


def test_shapes():
    x, array = Tensor(np.arange(24.0).reshape(2, 1, 3, 4)), np.arange(24.0).reshape(2, 1, 3, 4)
    same(x.reshape(6, -1), array.reshape(6, -1))
    same(x.reshape((4, 6)), array.reshape(4, 6))
    same(x.view(24), array.reshape(24))
    same(x.T, array.T)
    same(x.mT, array.swapaxes(-1, -2))
    same(x.transpose(3, 0, 1, 2), array.transpose(3, 0, 1, 2))
    same(x.permute((3, 0, 1, 2)), array.transpose(3, 0, 1, 2))
    same(x.swapaxes(0, 2), array.swapaxes(0, 2))
    same(x.squeeze(), array.squeeze())
    same(x.squeeze(1), array.squeeze(1))
    same(x.unsqueeze(0), array[None])
    same(x.unsqueeze(-1), array[..., None])
    same(x.expand(2, 5, 3, 4), np.broadcast_to(array, (2, 5, 3, 4)))
    same(x.expand(3, -1, -1, 3, 4), np.broadcast_to(array, (3, 2, 1, 3, 4)))
    same(x.broadcast_to(2, 2, 3, 4), np.broadcast_to(array, (2, 2, 3, 4)))


def test_views_share_memory_and_copies_do_not():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    for view in (
        x.T,
        x[0],
        x[:, ::-1],
        x.reshape(3, 2),
        x.unsqueeze(0),
        x.detach(),
        x.expand(2, 3),
    ):
        assert np.shares_memory(view.data, x.data)
        assert view.version is x.version
    for other in (x.T.reshape(-1), x[[0, 1]], x.clone(), x[x > 1], x + 0):
        assert not np.shares_memory(other.data, x.data)
        assert other.version is not x.version


def test_view_refuses_to_copy():
    with pytest.raises(BaremetalError, match="use reshape"):
        Tensor(A).T.view(6)


# ---------------------------------------------------------------- looking inside


def test_conversions():
    x = Tensor([[1.5, 2.0]])
    assert x.tolist() == [[1.5, 2.0]]
    assert Tensor(3.0).item() == 3.0
    assert isinstance(Tensor(3).item(), int)
    assert float(Tensor([2.5])) == 2.5
    assert int(Tensor([2])) == 2
    assert [10, 20, 30][Tensor(1)] == 20
    assert bool(Tensor(1.0))
    assert not Tensor([0])
    assert len(x) == 1
    assert [row.tolist() for row in x] == [[1.5, 2.0]]
    assert (x.ndim, x.size, x.shape) == (2, 2, (1, 2))


def test_numpy_is_a_read_only_view():
    x = Tensor(A.copy())
    view = x.numpy()
    assert np.shares_memory(view, x.data)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    assert not np.asarray(x).flags.writeable
    assert np.array(x).flags.writeable
    assert np.asarray(x, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda x: x.item(), "6 elements"),
        (bool, "ambiguous"),
        (float, "6 elements"),
    ],
)
def test_many_elements_are_no_number(ask, message):
    with pytest.raises(AutogradError, match=message):
        ask(Tensor(A))


def test_length_of_a_scalar_and_float_index():
    with pytest.raises(TypeError, match="length"):
        len(Tensor(1.0))
    with pytest.raises(TypeError, match="index"):
        [1, 2][Tensor(1.0)]


def test_repr_says_what_is_not_default():
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.])"
    assert repr(Tensor([1, 2])) == "Tensor([1, 2], dtype=int64)"
    assert "requires_grad=True" in repr(Tensor([1.0], requires_grad=True))
    assert "made by multiply" in repr(Tensor([1.0], requires_grad=True) * 2)
    assert repr(Parameter([1.0], name="w")) == "Parameter([1.], name='w')"
    assert "frozen" in repr(Parameter([1.0], requires_grad=False))
    assert "shape=(0, 3)" in repr(Tensor.zeros((0, 3)))
    assert "..." in repr(Tensor.zeros((100, 100)))


# ---------------------------------------------------------------- copying


def test_deepcopy_makes_a_leaf_of_its_own_on_the_same_device():
    shared = Parameter(A.copy(), name="w")
    first, second = copy.deepcopy([shared, shared])
    assert first is second  # what was one tensor stays one
    assert type(first) is Parameter
    assert first.device is shared.device
    assert first.name == "w"
    assert not np.shares_memory(first.data, shared.data)
    with pytest.raises(AutogradError, match="no tape"):
        copy.deepcopy(shared * 2)


def test_pickling_keeps_values_and_kind():
    frozen = Parameter(A, requires_grad=False, name="w")
    again = pickle.loads(pickle.dumps(frozen))
    assert type(again) is Parameter
    assert not again.requires_grad
    assert again.name == "w"
    np.testing.assert_array_equal(again.numpy(), A)


# ---------------------------------------------------------------- dtypes, by NumPy's rules

NUMBERS = [np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_, np.float16]


@pytest.mark.parametrize("first", NUMBERS)
@pytest.mark.parametrize("second", NUMBERS)
def test_two_dtypes_meet_where_numpy_says(first, second):
    a, b = np.ones(2, first), np.ones(2, second)
    assert (Tensor(a) * Tensor(b)).dtype == (a * b).dtype
    assert (Tensor(a) + b).dtype == (a + b).dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.float16])
@pytest.mark.parametrize("number", [2, 2.5, True])
def test_plain_numbers_are_weak(dtype, number):
    """NEP 50. (NumPy 1 differs for some; the expected dtypes are therefore written down.)"""
    expected = np.float64 if dtype == np.int64 and isinstance(number, float) else dtype
    x = Tensor(np.ones(2, dtype))
    assert (x * number).dtype == expected
    assert (number - x).dtype == expected


def test_numpy_scalars_are_strong():
    assert (Tensor([1.0]) * np.float64(2)).dtype == np.float64


def test_integers_become_floating_where_they_must():
    x = Tensor([1, 2, 4])
    same(x.mean(), np.float64(7 / 3))
    same(x / 2, np.array([0.5, 1.0, 2.0]))
    same(x.exp(), np.exp(np.array([1.0, 2.0, 4.0])))
    assert Tensor(np.ones(2, np.int8)).exp().dtype == np.float16
    assert Tensor([True, True]).sum().item() == 2


def test_gradients_come_back_in_each_inputs_own_dtype():
    single = Tensor(A, requires_grad=True)
    double = Tensor(B.astype(np.float64), requires_grad=True)
    product = single * double
    assert product.dtype == np.float64
    product.sum().backward()
    same(single.grad, B)
    same(double.grad, A.astype(np.float64))


def test_a_cast_to_integers_leaves_the_tape():
    x = Tensor([1.7], requires_grad=True)
    assert not x.astype(np.int64).requires_grad
    assert x.astype(np.float32).version is x.version  # nothing to convert: the same memory


def test_bfloat16_is_a_storage_type_one_can_differentiate_through():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = Tensor([1.0, 1.001], requires_grad=True)
    rounded = x.astype(ml_dtypes.bfloat16)
    assert rounded.dtype == ml_dtypes.bfloat16
    (rounded.astype(np.float32) * 3).sum().backward()
    same(x.grad, np.array([3, 3], np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_sixteen_bit_numbers_do_not_stop_growing(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    x, bias = Tensor(np.ones((1000, 3), kind)), Tensor(np.ones(3, kind))
    for axis in (0, None):
        result = x.sum(axis=axis)
        assert result.dtype == kind  # as in NumPy: wide while it grows, then rounded
        np.testing.assert_array_equal(
            result.numpy(), np.array(3000 if axis is None else 1000, kind)
        )
        np.testing.assert_array_equal(x.mean(axis=axis).numpy(), np.array(1, kind))
    assert (x * bias).min().dtype == kind
    if dtype == "float16":  # a bias that was broadcast along the rows: its gradient is a sum
        bias.requires_grad = True
        (x + bias).sum().backward()
        assert bias.grad.tolist() == [1000.0] * 3


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(BaremetalError):
        Tensor([1.0]) + "a"
    with pytest.raises(BaremetalError, match="no tensor"):
        ops.add(1.0, 2.0)
    with pytest.raises(BaremetalError):
        Tensor(np.array([1], np.uint8)) + 300


# ---------------------------------------------------------------- broadcasting and indexing

shapes = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4, min_side=0)


@given(shapes, st.sampled_from(["add", "multiply", "subtract"]))
def test_broadcasting_and_its_gradient(shapes, name):
    """Σ f(a, b) g: the gradient of a repeated element is the sum over its repetitions."""
    (a_shape, b_shape), result_shape = shapes.input_shapes, shapes.result_shape
    rng = np.random.default_rng(1)
    a = Tensor(rng.standard_normal(a_shape), requires_grad=True)
    b = Tensor(rng.standard_normal(b_shape), requires_grad=True)
    grad = rng.standard_normal(result_shape)
    result = getattr(ops, name)(a, b)
    same(result, getattr(np, name)(a.numpy(), b.numpy()))
    result.backward(grad)
    slope_a = {"add": 1, "subtract": 1, "multiply": b.numpy()}[name] * grad
    slope_b = {"add": 1, "subtract": -1, "multiply": a.numpy()}[name] * grad
    np.testing.assert_allclose(a.grad.numpy(), summed(slope_a, a_shape), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(b.grad.numpy(), summed(slope_b, b_shape), rtol=1e-9, atol=1e-12)


def summed(array, shape):
    """Sum the axes along which `shape` was repeated, the slow way."""
    array = array.sum(axis=tuple(range(array.ndim - len(shape))))
    for axis, size in enumerate(shape):
        if size == 1 and array.shape[axis] != 1:
            array = array.sum(axis=axis, keepdims=True)
    return array


@st.composite
def arrays_and_keys(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    basic = hnp.basic_indices(shape, allow_newaxis=True)
    integers = hnp.integer_array_indices(shape)
    booleans = hnp.arrays(bool, shape)
    rows = hnp.arrays(np.int64, st.integers(0, 3), elements=st.integers(-shape[0], shape[0] - 1))
    return shape, draw(st.one_of(basic, integers, booleans, rows))


@given(arrays_and_keys())
def test_indexing_and_its_gradient(case):
    shape, key = case
    array = np.random.default_rng(2).standard_normal(shape)
    x = Tensor(array, requires_grad=True)
    result = x[key]
    expected = array[key]
    same(result, expected)
    grad = np.random.default_rng(3).standard_normal(np.shape(expected))
    result.backward(grad)
    wanted = np.zeros(shape)
    np.add.at(wanted, key, grad)
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_indexing_with_tensors_and_lists():
    x = Tensor(A)
    same(x[Tensor([1, 0])], A[[1, 0]])
    same(x[x > 0], A[A > 0])
    same(x[[1, 1], :2], A[[1, 1], :2])
    same(x[[]], A[[]])
    same(x[np.array(1), 2], A[1, 2])


@pytest.mark.parametrize("key", [2, (0, 3), -3, [0, 5], 1.5, "a", (0, 0, 0), [1.5]])
def test_bad_keys_raise_index_errors(key):
    with pytest.raises(IndexError):
        Tensor(A)[key]


# ---------------------------------------------------------------- messages of single operations


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tensor(A) + np.ones(4), r"\(2, 3\) and \(4,\).*axis -1 has 3 and 4"),
        (lambda: Tensor(A) @ Tensor(A), "last dimension of the first"),
        (lambda: Tensor(A) @ 2.0, r"multiply by a number with \*"),
        (lambda: Tensor(A).reshape(4, 2), "multiply to 6"),
        (lambda: Tensor(A).reshape(-1, -1), "one of them may be -1"),
        (lambda: Tensor(A).sum(axis=2), "axis 2"),
        (lambda: Tensor(A).sum(axis=(0, 0)), "distinct"),
        (lambda: Tensor(A).transpose(0, 0), "named once"),
        (lambda: Tensor(A).squeeze(0), "not 1"),
        (lambda: Tensor(A).expand(2, 6), "broadcast"),
        (lambda: Tensor(A).pad([(1, 1)]), "one \\(before, after\\) per axis"),
        (lambda: Tensor(A).pad(3), "one \\(before, after\\) per axis"),
        (lambda: Tensor(A).pad([(1, 1), (0.5, 0)]), "one \\(before, after\\) per axis"),
        (lambda: Tensor.zeros((0,)).max(), "no element"),
        (lambda: Tensor.zeros((0,)).argmax(), "no element"),
        (lambda: Tensor([1.0]).var(ddof=1), "at least 2"),
        (lambda: Tensor([1.0, 2.0]).var(ddof=0.5), "ddof=0.5: expected an integer"),
        (lambda: Tensor(A).argmax(axis=(0, 1)), r"argmax along axis \(0, 1\).*an integer from"),
        (lambda: Tensor(A).pad([(1, 1), (0, 0)]).astype(int).pad([(0, 1)] * 2, 0.5), "0.5 .*int64"),
        (lambda: Tensor([1, 2]).pad([(1, 1)], np.nan), "nan .*int64"),
        (lambda: Tensor([1, 2]).fill_(1.7), "fill_.*float64 into a int64.*astype"),
        (lambda: Tensor([1, 2]).fill_(np.nan), "fill_.*astype"),
        (lambda: Tensor([1, 2]).__setitem__(0, 1.7), r"x\[...\] = value.*float64 into a int64"),
        (lambda: Tensor([1, 2]).__setitem__([0], np.nan), r"x\[...\] = value.*astype"),
        (lambda: Tensor([1, 2]).__setitem__(slice(2), Tensor([0.5, 1])), "astype"),
        (lambda: Tensor([1.0, 2.0]).__setitem__(slice(2), np.ones((2, 2))), "does not broadcast"),
        (lambda: ops.softmax(Tensor(1.0)), "last axis"),
        (lambda: ops.softmax(Tensor(A), np.ones((2, 3))), "booleans"),
        (lambda: ops.softmax(Tensor(A), np.ones((5, 2, 3), bool)), "larger than the scores"),
        (lambda: ops.log_softmax(Tensor(A), np.ones((2, 3))), "log_softmax: the mask.*booleans"),
        (lambda: ops.log_softmax(Tensor(A), np.ones((5, 2, 3), bool)), "larger than the scores"),
        (lambda: ops.where(A, Tensor(A), 0.0), "booleans"),
        (lambda: ops.concatenate(Tensor(A), Tensor(A[:1]), axis=1), "differ elsewhere"),
        (lambda: ops.embedding(Tensor(A), np.array([0, 2])), "index 2 is not in 0..1"),
        (lambda: ops.embedding(Tensor(A), np.array([-1])), "index -1 is not in 0..1"),
        (lambda: ops.embedding(Tensor(A), np.array([0.5])), "integers"),
        (lambda: ops.cross_entropy(Tensor(A), np.array([0, 3])), "target 3 is not in 0..2.* 3"),
        (lambda: ops.cross_entropy(Tensor(A), np.array([0, -7])), "target -7"),
        (lambda: ops.cross_entropy(Tensor(A), np.array([0])), "one target per row"),
        (lambda: ops.cross_entropy(Tensor(A), np.array([0, 1]), reduction="avg"), "reduction"),
        (lambda: ops.linear(Tensor(A), Tensor(np.ones((4, 2)))), "equal k"),
        (lambda: ops.linear(Tensor(A), Tensor(B), Tensor(np.ones(3))), "one number per row"),
        (lambda: ops.layer_norm(Tensor(A), Tensor(np.ones(2))), "last axis"),
        (lambda: ops.rotary(Tensor(A), A, A, rotated=1), r"tables \(T, D/2\)"),
        (lambda: ops.swiglu(Tensor(A)), "even"),
        (lambda: ops.swiglu(Tensor(1.0)), "even"),
        (lambda: ops.embedding(Tensor(1.0), np.array([0])), r"expected \(rows, ...\)"),
        (lambda: ops.dropout(Tensor(A), np.zeros(3, np.int64), p=1.0, layer=0), "p < 1"),
        (lambda: ops.dropout(Tensor(A), np.zeros(2), p=0.5, layer=0), "3 int64"),
        (lambda: ops.causal_attention(Tensor(A), Tensor(A), Tensor(A)), "multiple of K"),
        (lambda: ops.causal_attention(*[Tensor(np.ones((1, 2, 1, 0)))] * 3), "D >= 1"),
        (
            lambda: ops.causal_attention_packed(Tensor(np.ones((1, 2, 0))), heads=1, kv_heads=1),
            "width a positive multiple of 3",
        ),
        (
            lambda: ops.causal_attention_packed(Tensor(np.ones((1, 2, 7))), heads=2, kv_heads=1),
            "multiple of 4",
        ),
        (lambda: ops.gelu(Tensor(A), approximate="erf"), "'none' or 'tanh'"),
        (lambda: ops.sum(Tensor(A), 0), r"'sum' takes the inputs \(x\), got 2.*by name"),
        (lambda: ops.add(Tensor(A)), r"'add' takes the inputs \(a, b\), got 1"),
        (lambda: ops.linear(Tensor(A)), r"\(x, weight, bias\), got 1"),
    ],
)  # fmt: skip
def test_messages_say_what_was_given_and_what_was_expected(call, message):
    with pytest.raises(BaremetalError, match=message):
        call()


def test_read_only_memory_is_never_written(tmp_path):
    """A kernel writes through an address: without the check a mapped file ends the process."""
    np.zeros(3, np.float32).tofile(tmp_path / "z.bin")
    mapped = Tensor(np.memmap(tmp_path / "z.bin", np.float32, mode="r"))
    x = Tensor([1.0, 2.0])
    seen = Tensor(x.numpy())
    repeated = Tensor(np.zeros((1, 3), np.float32)).broadcast_to(2, 3)
    for tensor in (mapped, seen, repeated):
        with pytest.raises(AutogradError, match=r"read-only.*clone"):
            tensor += 1
        with pytest.raises(AutogradError, match="read-only"):
            tensor.zero_()
        with pytest.raises(AutogradError, match="read-only"):
            tensor[0] = 1.0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "bool"])
def test_small_integers_neither_wrap_nor_turn(dtype):
    values = np.array([0, 1, 200, 200]).astype(dtype)
    assert Tensor(values).sum().item() == values.sum()
    assert Tensor(values).min().item() == values.min()


def test_assignment_broadcasts_as_in_numpy():
    x, array = Tensor(np.zeros((2, 3))), np.zeros((2, 3))
    for key, value in [
        (0, np.ones((1, 3))),
        (slice(2), np.full((1, 1, 1, 3), 2.0)),
        ((0, 0), np.array(3.0)),
        ([1], np.full((1, 1, 3), 4.0)),
        (slice(None), 5),
    ]:
        x[key] = value
        array[key] = value
        np.testing.assert_array_equal(x.numpy(), array)
    booleans = Tensor([True, False])
    booleans[1] = True
    assert booleans.tolist() == [True, True]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint8])
def test_indices_of_few_bits_reach_far(dtype):
    x = np.arange(70_000.0)
    same(Tensor(x)[np.array([1, 100], dtype)], x[[1, 100]])
    if dtype != np.uint8:
        same(Tensor(x)[np.array([1, -1], dtype)], x[[1, -1]])


def test_variance_takes_integers_of_every_kind():
    x = np.array([1.0, 2.0, 6.0])
    for ddof in (-1, 0, np.int64(1), True):
        given = Tensor(x, requires_grad=True)
        given.var(ddof=ddof).backward()
        np.testing.assert_allclose(given.var(ddof=ddof).item(), np.var(x, ddof=int(ddof)))
        np.testing.assert_allclose(given.grad.numpy(), 2 * (x - 3) / (3 - int(ddof)))


def test_where_of_plain_numbers_alone():
    """No dtype to take: the one that a tensor of these numbers would have."""
    condition = Tensor([True, False])
    for a, b, dtype in [(1.0, 2.0, "float32"), (1, 2.5, "float32"), (1, 2, "int64")]:
        result = ops.where(condition, a, b)
        assert result.dtype == dtype
        assert result.tolist() == [a, b]
    assert ops.where(condition, True, False).dtype == np.bool_
