"""Every operation: its value against NumPy, its gradient against central differences.

The same cases go through every way a gradient can travel: a rule that returns it, a rule that adds
it into memory it is given, a leaf with a buffer, a backward that defers weights, and the reference
kernels instead of the compiled ones.
"""

import importlib.util
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest

from baremetal.autograd import CPU, Device, Parameter, Tensor, gradcheck, ops, registry
from baremetal.errors import BaremetalError

_spec = importlib.util.spec_from_file_location(
    "autograd_cases", Path(__file__).with_name("cases.py")
)
_cases = importlib.util.module_from_spec(_spec)
sys.modules["autograd_cases"] = _cases  # dataclasses look their module up
_spec.loader.exec_module(_cases)
CASES, CONSTANT_CASES, TESTED_APART = _cases.CASES, _cases.CONSTANT_CASES, _cases.TESTED_APART

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def as_inputs(case, kind, dtype=np.float64, **options):
    """The case's inputs, those to be differentiated as tensors of this kind."""
    chosen = case.differentiated()
    return [
        kind(value.astype(dtype), requires_grad=True, **options) if i in chosen else value
        for i, value in enumerate(case.inputs)
    ]


def gradients(case, tensors, cotangent, **options):
    owed = case.call(*tensors).backward(cotangent, **options)
    if owed is not None:
        owed.pay()
    return [tensors[i].grad.numpy().copy() for i in case.differentiated()]


def cotangent_of(case):
    shape = np.shape(case.numpy(*case.inputs))
    return np.random.default_rng(3).standard_normal(shape)


def test_every_operation_has_a_case():
    for module in pkgutil.iter_modules(ops.__path__, ops.__name__ + "."):
        importlib.import_module(module.name)  # a file that nobody imports is to be found, too
    ours = {op for op in registry().values() if op.__module__.startswith(ops.__name__ + ".")}
    exported = {ops.__dict__[name] for name in ops.__all__}
    assert exported == ours
    tested = {case.op for case in CASES} | TESTED_APART
    differentiable = {op.name for op in exported if op.differentiable}
    assert differentiable == tested & set(ops.__all__)
    assert {op.name for op in exported if not op.differentiable} == {c.op for c in CONSTANT_CASES}


def test_every_differentiable_operation_has_a_rule_for_each_differentiated_input():
    for case in CASES:
        op = registry()[case.op]
        covered = {position for rule in op.rules for position in rule.inputs}
        wanted = {min(position, len(op.inputs) - 1) for position in case.differentiated()}
        assert wanted <= covered, case


@every_case
def test_value_is_numpys(case):
    result = case.call(*as_inputs(case, Tensor))
    expected = case.numpy(*case.inputs)
    assert result.shape == np.shape(expected)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-12)


@every_case
def test_gradient_is_that_of_central_differences(case):
    fixed = [i for i in range(len(case.inputs)) if i not in case.differentiated()]
    finite = np.isfinite(case.numpy(*case.inputs))

    def function(*values):
        values = list(values)
        for i in fixed:
            values[i] = case.inputs[i]
        result = case.call(*values)
        # The logarithm of a masked probability is -inf, which has no difference quotient.
        return result if finite.all() else result[finite]

    function.__name__ = str(case)
    placeholder = np.zeros((), np.int64)
    given = [placeholder if i in fixed else value for i, value in enumerate(case.inputs)]
    assert gradcheck(function, given)


@every_case
def test_gradients_of_two_uses_add_up(case):
    """In memory that a rule returned, that it was given, that a leaf owns, that a leaf lends."""
    cotangent = cotangent_of(case)
    single = gradients(case, as_inputs(case, Tensor), cotangent)

    leaves = as_inputs(case, Tensor)
    inner = [t * 1.0 if isinstance(t, Tensor) else t for t in leaves]  # not a leaf: a node
    (case.call(*inner) + case.call(*inner)).backward(cotangent)

    direct = as_inputs(case, Tensor)
    for _ in range(2):
        case.call(*direct).backward(cotangent)

    lent = as_inputs(case, Tensor)
    for position in case.differentiated():
        lent[position].use_grad_buffer(np.full(lent[position].shape, np.nan))
    for _ in range(2):
        case.call(*lent).backward(cotangent)

    for position, expected in zip(case.differentiated(), single, strict=True):
        for tensors in (leaves, direct, lent):
            grad = tensors[position].grad.numpy()
            np.testing.assert_allclose(grad, 2 * expected, rtol=1e-12, atol=1e-14)


@every_case
def test_deferred_gradients_are_the_same_bits(case):
    cotangent = cotangent_of(case)
    at_once = gradients(case, as_inputs(case, Parameter), cotangent)
    paid = gradients(case, as_inputs(case, Parameter), cotangent, defer_weights=True)
    for one, other in zip(at_once, paid, strict=True):
        np.testing.assert_array_equal(one, other)


@every_case
def test_inputs_that_need_no_gradient_get_none(case):
    """Each input alone, the others constant: a rule must not need what was not saved."""
    cotangent = cotangent_of(case)
    together = gradients(case, as_inputs(case, Tensor), cotangent)
    for position, expected in zip(case.differentiated(), together, strict=True):
        tensors = as_inputs(case, Tensor)
        for other in case.differentiated():
            tensors[other].requires_grad = other == position
        case.call(*tensors).backward(cotangent)
        np.testing.assert_allclose(tensors[position].grad.numpy(), expected, rtol=1e-12, atol=1e-14)
        assert all(tensors[o].grad is None for o in case.differentiated() if o != position)


@every_case
def test_native_and_reference_kernels_agree_in_float32(case):
    cotangent = cotangent_of(case).astype(np.float32)
    results = []
    for kernels in ("native", "reference"):
        tensors = as_inputs(case, Tensor, np.float32, device=Device(kernels=kernels))
        constants = [
            v.astype(np.float32) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
            for v in tensors
        ]
        results.append(gradients(case, constants, cotangent))
    for native, reference in zip(*results, strict=True):
        assert native.dtype == np.float32 or case.op == "cast"
        np.testing.assert_allclose(native, reference, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("case", CONSTANT_CASES, ids=str)
def test_operations_without_derivative_stay_off_the_tape(case):
    result = case.call(*as_inputs(case, Tensor))
    np.testing.assert_array_equal(result.numpy(), case.numpy(*case.inputs))
    assert not result.requires_grad


# ---------------------------------------------------------------- dropout


def test_dropout_keeps_the_expected_share_and_its_gradient_has_the_same_mask():
    state = np.array([5, 2, 0])
    x = Tensor(np.ones((64, 100)), requires_grad=True, dtype=np.float64)
    y = ops.dropout(x, state, p=0.25, layer=1)
    state[:] = (6, 9, 64)  # the next microbatch: must not change the mask of this one's backward
    y.backward(np.ones(y.shape))
    kept = y.numpy() != 0
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.75)
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    # 6400 draws: four standard deviations are 0.022
    assert abs(kept.mean() - 0.75) < 0.022


def test_dropout_of_two_halves_is_dropout_of_the_whole():
    x = Tensor(np.ones((4, 10), np.float32))
    whole = ops.dropout(x, np.array([5, 2, 0]), p=0.5, layer=1).numpy()
    halves = [
        ops.dropout(x[start : start + 2], np.array([5, 2, start]), p=0.5, layer=1).numpy()
        for start in (0, 2)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


# ---------------------------------------------------------------- corners of single operations


def test_ties_share_the_gradient():
    x = Tensor([1.0, 3.0, 3.0], requires_grad=True)
    x.max().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.5, 0.5])
    a = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    b = Tensor([2.0, 2.0, 2.0], requires_grad=True)
    ops.maximum(a, b).sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(b.grad.numpy(), [1.0, 0.5, 0.0])


def test_power_at_zero_has_finite_gradients():
    a = Tensor([0.0, 0.0, 2.0], requires_grad=True)
    b = Tensor([0.0, 2.0, 3.0], requires_grad=True)
    (a**b).sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), [0.0, 0.0, 12.0])
    np.testing.assert_allclose(b.grad.numpy(), [0.0, 0.0, 8 * np.log(2.0)], rtol=1e-6)


def test_relu_and_abs_at_zero():
    x = Tensor([0.0, -0.0], requires_grad=True)
    (x.relu() + abs(x)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.0])


def test_cross_entropy_of_parts_adds_up_to_the_whole():
    """With `total` the parts of a batch give the gradient of the whole, ignored tokens or not."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((6, 5)), np.array([0, 1, -100, -100, -100, 4])
    whole = Tensor(logits, requires_grad=True)
    loss = ops.cross_entropy(whole, targets)
    loss.backward()
    parts = Tensor(logits, requires_grad=True)
    total = CPU.numbers(3.0)
    losses = [
        ops.cross_entropy(parts[i : i + 2], targets[i : i + 2], total=total) for i in (0, 2, 4)
    ]
    for part in losses:
        part.backward()
    np.testing.assert_allclose(sum(p.item() for p in losses), loss.item(), rtol=1e-12)
    np.testing.assert_allclose(parts.grad.numpy(), whole.grad.numpy(), rtol=1e-12)


def test_cross_entropy_with_everything_ignored_is_zero_and_so_is_its_gradient():
    logits = Tensor(np.ones((2, 3)), requires_grad=True)
    loss = ops.cross_entropy(logits, np.array([-100, -100]))
    loss.backward()
    assert loss.item() == 0.0
    np.testing.assert_array_equal(logits.grad.numpy(), np.zeros((2, 3)))


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_what_a_mask_drops_gets_no_gradient_whatever_cotangent_arrives(kernels):
    mask = np.array([[True, False, True], [False, False, False]])
    x = Tensor(np.ones((2, 3)), requires_grad=True, device=Device(kernels=kernels))
    y = ops.log_softmax(x, mask)
    y.backward(np.array([[1.0, np.nan, 0.0], [np.nan, np.inf, 1.0]]))
    np.testing.assert_allclose(x.grad.numpy(), [[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]])


INTEGERS = np.array([[2, 0, 1, 3], [0, 1, 5, 1]])
STATE = np.array([5, 2, 0])
ON_INTEGERS = {
    "dropout": lambda x: ops.dropout(x, STATE, p=0.4, layer=0),
    "rotary": lambda x: ops.rotary(
        x.reshape(1, 2, 1, 4), np.full((2, 2), 0.6), np.full((2, 2), 0.8), rotated=1
    ),
    "cross_entropy": lambda x: ops.cross_entropy(x, np.array([2, 0])),
    "causal_attention": lambda x: ops.causal_attention(*[x.reshape(1, 2, 1, 4)] * 3),
    "causal_attention_packed": lambda x: ops.causal_attention_packed(
        ops.concatenate(x, x, x, axis=1).reshape(1, 2, 12), heads=1, kv_heads=1
    ),
}


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("name", ON_INTEGERS)
def test_integers_become_floating_where_fractions_arise(name, kernels):
    device = Device(kernels=kernels)
    result = ON_INTEGERS[name](Tensor(INTEGERS, device=device))
    expected = ON_INTEGERS[name](Tensor(INTEGERS.astype(np.float64), device=device))
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result.numpy(), expected.numpy())
    assert not np.array_equal(result.numpy(), np.round(result.numpy()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cross_entropy_of_many_tokens_in_sixteen_bits(dtype):
    """Neither their count nor the sum of their losses is a number of 16 bits."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = Tensor(np.zeros((70_000, 2), np.float32), requires_grad=True)
    loss = ops.cross_entropy(x.astype(dtype), np.zeros(70_000, np.int64))
    loss.backward()
    assert loss.dtype == dtype
    np.testing.assert_allclose(float(loss.item()), np.log(2), rtol=4e-3)
    # 0.5 / 70,000 is a subnormal number in float16, of 7 bits
    expected = np.tile([-0.5, 0.5], (70_000, 1)) / 70_000
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-2)


EMPTY = {
    "rows": ((3, 0), lambda x: x[np.array([0, 1])], np.empty((2, 0))),
    "rows of a cube": ((3, 0, 2), lambda x: x[np.array([0, 1])], np.empty((2, 0, 2))),
    "no rows": ((3, 2), lambda x: x[np.zeros(0, int)], np.empty((0, 2))),
    "columns": ((0, 2), lambda x: x[:, np.array([0, 1])], np.empty((0, 2))),
    "mean": ((3, 0), lambda x: x.mean(1), np.full(3, np.nan)),
    "mean of all": ((3, 0), lambda x: x.mean(), np.nan),
    "logsumexp": ((3, 0), lambda x: x.logsumexp(1), np.full(3, -np.inf)),  # log of a sum of none
    "logsumexp of all": ((3, 0), lambda x: x.logsumexp(), -np.inf),
    "embedding": ((3, 0), lambda x: ops.embedding(x, np.array([0, 1])), np.empty((2, 0))),
    "layer_norm": ((2, 0), lambda x: ops.layer_norm(x, np.ones(0)), np.empty((2, 0))),
    "rms_norm": ((2, 0), lambda x: ops.rms_norm(x, np.ones(0)), np.empty((2, 0))),
}


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("name", EMPTY)
def test_nothing_gives_nothing_and_so_does_its_gradient(name, kernels):
    shape, function, expected = EMPTY[name]
    x = Tensor(np.zeros(shape), requires_grad=True, device=Device(kernels=kernels))
    y = function(x)
    np.testing.assert_array_equal(y.numpy(), expected)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros(shape))


def test_one_index_alone_is_one_row():
    for index in (np.array(2), np.array(2, np.int8), 2):
        table = Tensor(np.arange(12.0).reshape(3, 2, 2), requires_grad=True)
        row = ops.embedding(table, index)
        assert row.shape == (2, 2)
        row.sum().backward()
        np.testing.assert_array_equal(table.grad.numpy().sum((1, 2)), [0, 0, 4])
        scattered = ops.scatter_rows(Tensor([1.0, 2.0]), index, rows=3)
        assert scattered.tolist() == [[0, 0], [0, 0], [1, 2]]


def test_empty_tensors_pass_through():
    x = Tensor(np.ones((0, 3)), requires_grad=True)
    loss = (ops.softmax(x.exp() * 2) @ np.ones((3, 2))).sum()
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("rotated", [-1, 3, 10**6, 1.5])
def test_rotary_refuses_to_turn_heads_that_are_not_there(rotated, kernels):
    x = Tensor(np.ones((1, 2, 2, 4), np.float32), device=Device(kernels=kernels))
    table = np.ones((2, 2), np.float32)
    with pytest.raises(BaremetalError, match=r"rotated=.*expected an integer from 0 to 2"):
        ops.rotary(x, table, table, rotated=rotated)
    for number in (0, np.int64(2)):
        assert ops.rotary(x, table, table, rotated=number).shape == x.shape
