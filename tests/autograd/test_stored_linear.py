"""Linear layers whose operands are stored in few bits: what is rounded, and nothing else.

The oracle: the stored matrices are read back by `load` (whose bits tests/kernels checks against
ml_dtypes), and the three products of the layer are computed from them in float64.
"""

import functools
import operator

import ml_dtypes
import numpy as np
import pytest

from baremetal import capture
from baremetal.autograd import CPU, Device, Parameter, Tensor, ops
from baremetal.autograd.op import Context
from baremetal.autograd.storage import KEPT, LinearStorage, Storage, load, store
from baremetal.errors import BaremetalError

BF16, E4M3, E5M2 = (
    Storage("bfloat16"),
    Storage("float8_e4m3fn", "tensor"),
    Storage("float8_e5m2", "tensor"),
)
BLOCKS, SQUARES = (Storage("float8_e4m3fn", "block", tile) for tile in ((1, 128), (128, 128)))
FP4 = Storage("float4_e2m1fn", "two-level", (1, 16))
FP4_SQUARES = Storage("float4_e2m1fn", "two-level", (16, 16))

RECIPES = {
    "bf16": (BF16, BF16, BF16),
    "fp16": (Storage("float16"),) * 3,
    "fp8": (E4M3, E4M3, E5M2),
    "fp8 blocks": (BLOCKS, SQUARES, BLOCKS),
    "nvfp4": (FP4, FP4_SQUARES, FP4),
    "inputs only": (E4M3, KEPT, KEPT),
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES)


def rounded(matrix, storage, device=CPU):
    """A matrix through its storage and back."""
    ctx = Context(device, (), {})
    return load(ctx, store(ctx, matrix, storage), matrix.shape, storage)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(recipe):
    return {"storage": LinearStorage(*RECIPES[recipe])}


# ---------------------------------------------------------------- storage


def test_nvfp4_is_what_its_formula_says():
    """NVIDIA's two levels, written out with ml_dtypes one block at a time."""
    x = numbers(5, 70) * np.logspace(-3, 3, 70, dtype=np.float32)
    top = np.float32(np.abs(x).max() / np.float32(6) / np.float32(448))
    expected = np.empty_like(x)
    for row, start in np.ndindex(5, 5):
        block = x[row, 16 * start : 16 * start + 16]
        scale = (np.abs(block).max() / np.float32(6) / top).astype(ml_dtypes.float8_e4m3fn)
        scale = scale.astype(np.float32) * top
        codes = np.clip(block / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn)
        expected[row, 16 * start : 16 * start + 16] = codes.astype(np.float32) * scale
    np.testing.assert_array_equal(rounded(x, FP4), expected)


@pytest.mark.parametrize(
    ("storage", "size_bytes"),
    [
        (KEPT, 4 * 3 * 40), (BF16, 2 * 3 * 40), (E4M3, 3 * 40 + 4), (BLOCKS, 3 * 40 + 3 * 4),
        (FP4, 3 * 20 + 3 * 3 + 4), (FP4_SQUARES, 3 * 20 + 3 + 4),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_are_those_of_the_arrays(storage, size_bytes):
    stored = store(Context(CPU, (), {}), numbers(3, 40), storage)
    assert (
        storage.size_bytes((3, 40)) == size_bytes == sum(a.nbytes for a in stored if a is not None)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("storage", [BF16, E4M3, E5M2, BLOCKS, FP4, FP4_SQUARES], ids=str)
def test_what_is_not_finite_never_becomes_finite(storage, bad):
    """Or the gate in the step would not see it."""
    x = numbers(20, 40)
    x[3, 17] = bad
    assert not np.isfinite(rounded(x, storage)[3, 17])


def test_a_matrix_of_zeros_stays_one():
    for storage in (BF16, E4M3, BLOCKS, FP4):
        np.testing.assert_array_equal(rounded(np.zeros((4, 40), np.float32), storage), 0)


def test_an_unknown_format_and_a_cut_byte_are_refused():
    with pytest.raises(BaremetalError, match="unknown number format 'float8'"):
        Storage("float8")
    with pytest.raises(BaremetalError, match="two share a byte"):
        Storage("float4_e2m1fn", "block", (1, 15))


# ---------------------------------------------------------------- the layer


@every_recipe
@pytest.mark.parametrize("shape", [(2, 9, 40), (33, 40), (40,)])
def test_products_are_those_of_the_stored_matrices(recipe, shape):
    inputs, weights, gradients = RECIPES[recipe]
    x = Tensor(numbers(*shape), requires_grad=True)
    weight, bias = Parameter(numbers(24, 40, seed=1)), Parameter(numbers(24, seed=2))
    cotangent = numbers(*shape[:-1], 24, seed=3)
    y = ops.stored_linear(x, weight, bias, **layer(recipe))
    y.backward(cotangent)

    rows, g = x.numpy().reshape(-1, 40), cotangent.reshape(-1, 24)
    x_, w_, g_ = (
        rounded(m, s).astype(np.float64)
        for m, s in ((rows, inputs), (weight.numpy(), weights), (g, gradients))
    )
    close = {"rtol": 1e-5, "atol": 1e-4}  # float32 sums of 40 products of size about 1
    expected = (x_ @ w_.T + bias.numpy()).reshape(y.shape)
    np.testing.assert_allclose(y.numpy(), expected, **close)
    np.testing.assert_allclose(x.grad.numpy(), (g_ @ w_).reshape(shape), **close)
    np.testing.assert_allclose(weight.grad.numpy(), g_.T @ x_, **close)
    np.testing.assert_allclose(bias.grad.numpy(), g.sum(0), **close)
    # And they differ from those of the matrices as they were, or nothing was tested.
    apart = np.abs(y.numpy().reshape(-1, 24) - (rows @ weight.numpy().T + bias.numpy())).max()
    assert apart > 1e-3


def test_nothing_narrow_is_a_linear_layer_bit_for_bit():
    results = []
    for narrow in (False, True):
        x = Tensor(numbers(6, 40), requires_grad=True)
        weight = Parameter(numbers(24, 40, seed=1))
        kept = LinearStorage()
        y = ops.stored_linear(x, weight, storage=kept) if narrow else ops.linear(x, weight)
        y.backward(numbers(6, 24, seed=3))
        results.append([a.numpy().tobytes() for a in (y, x.grad, weight.grad)])
    assert results[0] == results[1]


@every_recipe
def test_gradients_deferred_lent_and_added_are_the_same(recipe):
    cotangent = numbers(6, 24, seed=3)

    def run(lend=False, times=1, **options):
        x, weight = Tensor(numbers(6, 40), requires_grad=True), Parameter(numbers(24, 40, seed=1))
        bias = Parameter(numbers(24, seed=2))
        if lend:
            weight.use_grad_buffer(np.full((24, 40), np.nan, np.float32))
            bias.use_grad_buffer(np.full(24, np.nan, np.float32))
        for _ in range(times):
            y = ops.stored_linear(x * 1.0, weight, bias, **layer(recipe))
            owed = y.backward(cotangent, **options)
            if owed is not None:
                owed.pay()
        return [each.grad.numpy().copy() for each in (x, weight, bias)]

    once = run()
    for other in (run(defer_weights=True), run(lend=True)):
        for a, b in zip(once, other, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(once, run(times=2), strict=True):
        np.testing.assert_allclose(2 * a, b, rtol=1e-6)


@every_recipe
def test_an_input_of_two_layers_gets_the_sum_of_their_gradients(recipe):
    cotangent, weights = numbers(6, 24, seed=3), [numbers(24, 40, seed=n) for n in (1, 2)]

    def gradient(*weights):
        x = Tensor(numbers(6, 40), requires_grad=True)
        h = x * 1.0
        ys = [ops.stored_linear(h, Parameter(weight), **layer(recipe)) for weight in weights]
        functools.reduce(operator.add, ys).backward(cotangent)
        return x.grad.numpy()

    expected = sum(gradient(weight) for weight in weights)
    np.testing.assert_allclose(gradient(*weights), expected, rtol=1e-5, atol=1e-5)


@every_recipe
def test_a_gradient_that_does_not_lie_row_by_row_is_added_to(recipe):
    """That of a transposition comes first, and is a view: the product goes into fresh memory."""
    weight, cotangent = numbers(24, 40, seed=1), numbers(6, 24, seed=3)

    def gradient(with_layer, with_view):
        x = Tensor(numbers(6, 40), requires_grad=True)
        h = x * 1.0
        terms = []
        if with_layer:
            y = ops.stored_linear(h, Tensor(weight), **layer(recipe))
            terms.append((y * Tensor(cotangent)).sum())
        if with_view:
            terms.append((h.T * Tensor(numbers(40, 6, seed=5))).sum())
        functools.reduce(operator.add, terms).backward()
        return x.grad.numpy()

    expected = gradient(True, False) + gradient(False, True)
    np.testing.assert_allclose(gradient(True, True), expected, rtol=1e-5, atol=1e-5)


@every_recipe
def test_native_and_reference_kernels_store_the_same_codes(recipe):
    reference = Device(kernels="reference")
    for storage in RECIPES[recipe]:
        x = numbers(37, 72)
        np.testing.assert_array_equal(rounded(x, storage), rounded(x, storage, reference))


@every_recipe
def test_a_captured_layer_has_the_bits_of_an_eager_one(recipe):
    weight = Parameter(numbers(24, 40, seed=1))

    def step(x):
        weight.zero_grad()
        loss = (ops.stored_linear(Tensor(x), weight, **layer(recipe)) ** 2).sum()
        loss.backward()
        return loss, weight.grad

    captured = capture(step)
    captured(numbers(6, 40))
    loss, grad = captured(numbers(6, 40, seed=9))
    expected_loss, expected = step(numbers(6, 40, seed=9))
    assert loss.item() == expected_loss.item()
    np.testing.assert_array_equal(grad.numpy(), expected.numpy())


def saved_bytes(y):
    """What the tape keeps for the weight's gradient."""
    return sum(a.nbytes for a in y.node.context.saved[1:] if a is not None)


def test_what_is_kept_for_the_backward_is_the_stored_input():
    x, weight = numbers(64, 256), Parameter(numbers(24, 256, seed=1))
    sizes = {
        recipe: saved_bytes(ops.stored_linear(Tensor(x), weight, **layer(recipe)))
        for recipe in ("bf16", "fp8", "fp8 blocks", "nvfp4")
    }
    full = x.nbytes
    assert sizes == {
        "bf16": full // 2, "fp8": full // 4 + 4, "fp8 blocks": full // 4 + 64 * 2 * 4,
        "nvfp4": full // 8 + 64 * 16 + 4,
    }  # fmt: skip


def test_a_weight_changed_before_backward_is_refused():
    weight = Parameter(numbers(24, 40, seed=1))
    y = ops.stored_linear(Tensor(numbers(6, 40), requires_grad=True), weight, **layer("fp8"))
    weight.data[...] = 0  # unseen; the next line is seen
    weight.version.bump("test")
    with pytest.raises(BaremetalError, match="changed"):
        y.sum().backward()


def test_one_narrow_matrix_makes_a_layer_narrow():
    assert not LinearStorage().is_narrow
    for role in ("inputs", "weights", "gradients"):
        storage = LinearStorage(**{role: BF16})
        assert storage.is_narrow
        with pytest.raises(BaremetalError, match="made from float32"):
            ops.stored_linear(Tensor(np.ones((2, 4))), Tensor(np.ones((3, 4))), storage=storage)


def test_float64_has_no_narrow_storage():
    with pytest.raises(BaremetalError, match="made from float32"):
        ops.stored_linear(Tensor(np.ones((2, 4))), Tensor(np.ones((3, 4))), **layer("bf16"))


@pytest.mark.parametrize("shape", [(0, 40), (2, 0, 40)])
@every_recipe
def test_nothing_gives_nothing(recipe, shape):
    x, weight = Tensor(numbers(*shape), requires_grad=True), Parameter(numbers(24, 40, seed=1))
    y = ops.stored_linear(x, weight, **layer(recipe))
    assert y.shape == (*shape[:-1], 24)
    y.sum().backward()
    assert x.grad.shape == shape
    np.testing.assert_array_equal(weight.grad.numpy(), 0)
