"""The tape and the engine: order, memory, deferral, and what backward refuses."""

import gc
import re

import numpy as np
import pytest

from baremetal.autograd import (
    AutogradError,
    Device,
    Parameter,
    Tensor,
    backward,
    grad_enabled,
    no_grad,
    ops,
)
from baremetal.autograd.op import Op
from baremetal.kernels import elementwise as kernels

RNG = np.random.default_rng(0)


def leaf(*shape, kind=Tensor):
    return kind(RNG.standard_normal(shape), requires_grad=True)


# ---------------------------------------------------------------- gradients flow and add up


def test_a_value_used_in_many_places_gets_the_sum():
    x = Tensor([2.0], requires_grad=True)
    y = x * x  # 2x
    z = y + x + y * x  # x² + x + x³
    z.backward()
    assert x.grad.item() == 2 * 2 + 1 + 3 * 4


def test_gradients_accumulate_until_zero_grad():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert x.grad.tolist() == [7.0, 7.0]
    x.zero_grad()
    assert x.grad is None
    (x * 5).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]


def test_a_diamond_of_a_thousand_steps_takes_linear_time_and_no_recursion():
    x = Tensor([1.0], requires_grad=True, dtype=np.float64)
    y = x
    for _ in range(3000):
        y = (y + y) * 0.5
    y.backward()
    assert x.grad.item() == 1.0


def test_the_same_tensor_on_both_sides():
    x = leaf(3, 3)
    (x @ x).sum().backward()
    ones = np.ones((3, 3))
    expected = ones @ x.numpy().T + x.numpy().T @ ones
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12)


def test_gradients_shared_by_two_inputs_are_not_added_into():
    """x + y hands one array to both; what x receives besides must not reach y."""
    x, y = leaf(3), leaf(3)
    a, b = x * 1.0, y * 1.0
    total = a + b
    (total + a * 2.0 + a * 3.0).backward(np.ones(3))
    assert x.grad.tolist() == [6.0] * 3
    assert y.grad.tolist() == [1.0] * 3


def test_gradients_passed_on_through_views_are_not_added_into_twice():
    x = leaf(2, 3)
    inner = x * 1.0
    flat = inner.reshape(6)
    turned = flat.reshape(3, 2)
    (turned.sum() + (flat * 2).sum() + (inner * 4).sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 7.0))


def both_ways_of_sharing():
    """Two ways in which one array becomes the gradient of two values, x0 and y0."""

    def by_view(x0, y0):
        return x0.reshape(9).reshape(3, 3) + y0  # + hands out its cotangent twice

    def by_rule(x0, y0):
        twin = Op(twice, False, None, (), True)
        twin.vjp("a", "b")(lambda ctx, grad: (grad + 0,) * 2)  # new memory, handed out twice
        return twin(x0, y0)

    return [by_view, by_rule]


@pytest.mark.parametrize("combine", both_ways_of_sharing())
def test_blas_does_not_add_into_what_another_value_still_needs(combine):
    x, y, weight = leaf(3, 3), leaf(3, 3), leaf(3, 3)
    x0, y0 = x * 1.0, y * 1.0
    late = ops.linear(x0, weight)  # its rule adds into x0's gradient, if that is x0's alone
    (late + combine(x0, y0)).backward(np.ones((3, 3)))
    np.testing.assert_array_equal(y.grad.numpy(), np.ones((3, 3)))
    np.testing.assert_allclose(x.grad.numpy(), 1 + np.tile(weight.numpy().sum(0), (3, 1)))


def test_leaves_do_not_share_the_memory_of_their_gradients():
    x, y = leaf(2), leaf(2)
    (x + y).sum().backward()
    (x * 2).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]
    assert y.grad.tolist() == [1.0, 1.0]


def test_saved_values_survive_a_rule_that_returns_them():
    """d(a·b)/da = b·g. A careless rule may return the saved b itself: it must not be added into."""
    careless = Op(lambda ctx, a, b: _product(ctx, a, b), False, None, (), True)
    careless.vjp("a")(lambda ctx, grad: ctx.saved[1])
    b = Tensor([3.0, 4.0])
    x = Tensor([1.0, 1.0], requires_grad=True)
    inner = x * 1.0
    (careless(inner, b) + inner * 5.0).backward(np.ones(2, np.float32))
    assert b.tolist() == [3.0, 4.0]
    assert x.grad.tolist() == [8.0, 9.0]
    inner = x * 1.0
    # This time its cotangent belongs to it alone, and the second gradient of inner is a view.
    (inner.reshape(2, 1).reshape(2) + careless(inner, b) * 1.0).backward(np.ones(2, np.float32))
    assert b.tolist() == [3.0, 4.0]


def _product(ctx, a, b):
    ctx.save(a, b)
    out = ctx.empty_like(a)
    ctx.launch(kernels.multiply, a, b, out)
    return out


def test_backward_from_a_leaf_and_with_a_cotangent():
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.backward([3.0, 4.0])
    assert x.grad.tolist() == [3.0, 4.0]
    cotangent = np.array([1.0, 10.0], np.float32)
    (x * 2).backward(Tensor(cotangent))
    assert x.grad.tolist() == [5.0, 24.0]
    assert cotangent.tolist() == [1.0, 10.0]  # the engine worked on a copy
    backward(x.sum())
    assert x.grad.tolist() == [6.0, 25.0]


def test_constants_get_no_gradient_and_no_tape():
    x, frozen = leaf(2), Parameter(np.ones(2), requires_grad=False)
    (x * frozen).sum().backward()
    assert frozen.grad is None
    assert (frozen * 2).node is None


def test_no_grad_and_detach():
    x = leaf(2)
    with no_grad():
        assert not grad_enabled()
        assert (x * 2).node is None
    assert grad_enabled()
    y = (x * 2).detach()
    assert y.node is None
    assert not y.requires_grad
    (x * y).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_no_grad_is_put_back_after_an_error_and_can_decorate():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert grad_enabled()

    @no_grad()
    def inner():
        return grad_enabled()

    assert not inner()
    assert grad_enabled()


# ---------------------------------------------------------------- buffers for gradients


def test_a_gradient_buffer_is_overwritten_by_the_first_and_added_to_by_the_next():
    weight, bias = leaf(2, 3, kind=Parameter), leaf(2, kind=Parameter)
    stale = {p: np.full(p.shape, np.nan) for p in (weight, bias)}
    for parameter, buffer in stale.items():
        parameter.use_grad_buffer(buffer)
    x = RNG.standard_normal((4, 3))
    for repetition in (1, 2):
        ops.linear(Tensor(x), weight, bias).sum().backward()
        np.testing.assert_allclose(stale[weight], repetition * np.tile(x.sum(0), (2, 1)))
        np.testing.assert_allclose(stale[bias], [4.0 * repetition] * 2)
        assert np.shares_memory(weight.grad.data, stale[weight])
    for parameter in stale:
        parameter.zero_grad()
    ops.linear(Tensor(x), weight, bias).sum().backward()  # stale again: overwritten
    np.testing.assert_allclose(stale[bias], [4.0, 4.0])


def test_one_parameter_as_two_inputs_of_one_rule():
    """layer_norm(x, w, w): the rule yields both gradients at once, for one piece of memory."""
    device = Device(kernels="reference")  # these overwrite; the compiled one adds as it goes
    x = Tensor(RNG.standard_normal((4, 3)), device=device)
    first, second, both = (Parameter(np.ones(3), device=device) for _ in range(3))
    ops.layer_norm(x, first, second).sum().backward()
    both.use_grad_buffer(np.full(3, np.nan))
    for times in (1, 2):
        ops.layer_norm(x, both, both).sum().backward()
        expected = times * (first.grad.numpy() + second.grad.numpy())
        np.testing.assert_allclose(both.grad.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_buffer_takes_over_the_gradient_that_was_there():
    x = leaf(2)
    (x * 2).sum().backward()
    buffer = np.zeros(2)
    x.use_grad_buffer(buffer)
    (x * 3).sum().backward()
    assert buffer.tolist() == [5.0, 5.0]
    with pytest.raises(AutogradError, match="must be equal"):
        x.use_grad_buffer(np.zeros(3))
    with pytest.raises(AutogradError, match="must be equal"):
        x.use_grad_buffer(np.zeros(2, np.float32))


def test_setting_a_gradient():
    x = leaf(2)
    x.grad = np.array([1.0, 2.0])
    (x * 3).sum().backward()
    assert x.grad.tolist() == [4.0, 5.0]
    x.grad = None
    assert not x.has_gradient
    with pytest.raises(AutogradError, match="shape"):
        x.grad = np.zeros(3)


def test_a_gradient_that_was_set_is_copied():
    """Into memory of the leaf's own: what was given is read once and never written."""
    read_only = np.zeros(4, np.float32)
    read_only.flags.writeable = False
    given = [
        read_only,
        np.zeros(4, np.float32),
        Tensor(np.broadcast_to(np.float32(0), (4,))),
        Tensor(np.zeros(4)),  # float64, for a leaf of float32
        np.zeros(8, np.float32)[::-2],
    ]
    for with_buffer in (False, True):
        for value in given:
            x = Tensor(np.ones(4, np.float32), requires_grad=True)
            buffer = np.full(4, np.nan, np.float32)
            if with_buffer:
                x.use_grad_buffer(buffer)
            x.grad = value
            (x * Tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
            assert x.grad.tolist() == [1.0, 2.0, 3.0, 4.0]
            assert x.grad.dtype == np.float32
            assert not np.any(np.asarray(value))
            assert np.shares_memory(x.grad.data, buffer) == with_buffer


def test_a_gradient_may_be_set_to_a_part_of_itself():
    x, square = leaf(300, 300), np.arange(90_000.0).reshape(300, 300)
    x.use_grad_buffer(np.zeros((300, 300)))
    x.grad = square
    x.grad = x.grad.T
    np.testing.assert_array_equal(x.grad.numpy(), square.T)


def test_a_gradient_buffer_that_cannot_hold_a_number_per_element_is_refused():
    read_only = np.zeros(4)
    read_only.flags.writeable = False
    for buffer in (read_only, np.broadcast_to(0.0, (4,)), np.zeros(8)[::2]):
        with pytest.raises(AutogradError, match="writeable and C-contiguous"):
            leaf(4).use_grad_buffer(buffer)


def changes_of_a_gradient():
    def more(x):
        (x * 5).sum().backward()

    def by_hand(x):
        x.grad[...] = 10.0

    def updated(x):
        g = x.grad
        g *= 10

    def anew(x):
        x.zero_grad()
        more(x)

    def assigned(x):
        x.grad = np.ones(2)

    def by_a_rule_that_adds(x):  # linear's bias: the rule writes into the gradient itself
        ops.linear(Tensor(np.ones((1, 1))), Tensor(np.ones((2, 1))), x).sum().backward()

    return [more, by_hand, updated, anew, assigned, by_a_rule_that_adds]


@pytest.mark.parametrize("change", changes_of_a_gradient(), ids=lambda f: f.__name__)
@pytest.mark.parametrize("with_buffer", [False, True])
def test_a_gradient_that_was_saved_and_changed_since_is_named(change, with_buffer):
    """x.grad counts its changes like any other memory; a new gradient elsewhere is none."""
    x, w = leaf(2), leaf(2)
    if with_buffer:
        x.use_grad_buffer(np.zeros(2))
    (x * 3).sum().backward()
    z = (x.grad * w).sum()
    change(x)
    if not with_buffer and change.__name__ in ("anew", "assigned"):
        z.backward()
        assert w.grad.tolist() == [3.0, 3.0]
    else:
        with pytest.raises(AutogradError, match="changed in place"):
            z.backward()


# ---------------------------------------------------------------- deferred weight gradients


def small_model(kind=Parameter):
    """A tied head by way of a transpose, a frozen layer, a norm, and an embedding."""
    rng = np.random.default_rng(5)

    def parameter(*shape):
        return kind(rng.standard_normal(shape).astype(np.float32), requires_grad=True)

    table, weight, bias = parameter(7, 4), parameter(4, 4), parameter(4)
    norm_weight, norm_bias = parameter(4), parameter(4)
    frozen = Parameter(rng.standard_normal((4, 4)).astype(np.float32), requires_grad=False)
    tokens = np.array([[0, 3, 3], [6, 1, 0]])

    def forward(x):
        h = ops.embedding(table, tokens) + x
        h = ops.layer_norm(ops.linear(h, weight, bias), norm_weight, norm_bias)
        h = ops.linear(h.tanh(), frozen) + h
        h = ops.linear(h, weight, None)  # the same weight a second time
        first = h @ table.T  # a view of the table
        second = ops.linear(h, table, None)
        return ops.cross_entropy(first + second, np.array([[1, 2, 3], [4, 5, 6]]))

    return forward, [table, weight, bias, norm_weight, norm_bias], frozen


def grads(parameters):
    return [p.grad.numpy().copy() for p in parameters]


@pytest.mark.parametrize("buffers", [False, True])
def test_deferred_weight_gradients_are_bit_identical(buffers):
    results = []
    for defer in (False, True):
        forward, parameters, frozen = small_model()
        if buffers:
            for parameter in parameters:
                parameter.use_grad_buffer(np.full(parameter.shape, np.nan, np.float32))
        x = Tensor(np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32), True)
        for _ in range(2):  # two microbatches add up
            owed = forward(x).backward(defer_weights=defer)
            if defer:
                assert len(owed) > 0
                owed.pay()
                assert len(owed) == 0
        assert frozen.grad is None
        results.append([*grads(parameters), x.grad.numpy()])
    for at_once, paid in zip(*results, strict=True):
        np.testing.assert_array_equal(at_once, paid)


def test_a_deferred_backward_computes_no_weight_gradient_before_it_is_paid():
    forward, parameters, _ = small_model()
    x = Tensor(np.zeros((2, 3, 4), np.float32), requires_grad=True)
    owed = forward(x).backward(defer_weights=True)
    assert x.has_gradient
    assert not any(p.has_gradient for p in parameters)
    owed.pay()
    assert all(p.has_gradient for p in parameters)
    with pytest.raises(AutogradError, match="paid before"):
        owed.pay()


def test_a_kernel_that_yields_both_kinds_keeps_the_weights_for_later():
    """Attention over a learned query: q is a weight, k and v are activations, one rule for all."""
    results = []
    for defer in (False, True):
        rng = np.random.default_rng(2)
        q = Parameter(rng.standard_normal((1, 3, 2, 2)))
        k, v = (Tensor(rng.standard_normal((1, 3, 2, 2)), True) for _ in range(2))
        out = ops.causal_attention(q, k, v) * q * q + q
        owed = out.backward(np.ones(q.shape), defer_weights=defer)
        if defer:
            assert k.has_gradient
            assert not q.has_gradient
            owed.pay()
        results.append(grads([q, k, v]))
    for at_once, paid in zip(*results, strict=True):
        np.testing.assert_array_equal(at_once, paid)


def test_a_norm_with_a_computed_bias_keeps_its_weight_for_later():
    """One rule yields the gradients of a parameter and of an activation."""
    results = []
    for defer in (False, True):
        rng = np.random.default_rng(2)
        weight, x = Parameter(rng.standard_normal(3)), Tensor(rng.standard_normal(3), True)
        weight.use_grad_buffer(np.full(3, np.nan))
        out = ops.layer_norm(rng.standard_normal((4, 3)), weight, x * 2) * weight
        owed = out.backward(rng.standard_normal((4, 3)), defer_weights=defer)
        if defer:
            assert not weight.has_gradient
            assert x.has_gradient
            owed.pay()
        results.append(grads([weight, x]))
    for at_once, paid in zip(*results, strict=True):
        np.testing.assert_array_equal(at_once, paid)


def test_the_product_for_a_transposed_weight_is_deferred_too():
    """A view of a parameter is a weight: its matrix product must wait, not only the transpose."""
    device = Device()
    weight = Parameter(np.ones((2, 3)), device=device)
    x = Tensor(np.ones((4, 3)), requires_grad=True, device=device)
    loss = (x @ weight.T).sum()
    names = []

    def listener(run, kernel, arrays, attributes):
        names.append(kernel.name)
        run()

    with device.listen(listener):
        owed = loss.backward(defer_weights=True)
        assert names.count("matmul") == 1
        owed.pay()
        assert names.count("matmul") == 2


def test_two_microbatches_can_be_owed_at_the_same_time():
    weight = leaf(3, 3, kind=Parameter)
    inputs = [RNG.standard_normal((2, 3)) for _ in range(2)]
    owed = [ops.linear(Tensor(x), weight).sum().backward(defer_weights=True) for x in inputs]
    for one in owed:
        one.pay()
    np.testing.assert_allclose(weight.grad.numpy()[0], sum(x.sum(0) for x in inputs))


def test_a_weight_changed_before_it_is_paid_is_noticed():
    weight = leaf(3, 3, kind=Parameter)
    owed = ops.linear(Tensor(np.ones((2, 3)), True), weight).sum().backward(defer_weights=True)
    with no_grad():
        weight += 1
    with pytest.raises(AutogradError, match=r"changed in place by '\+='"):
        owed.pay()


# ---------------------------------------------------------------- the tape's life


def test_second_backward_needs_the_tape_kept():
    x = leaf(2)
    y = (x * x).sum()
    y.backward(retain_tape=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 4 * x.numpy())
    with pytest.raises(AutogradError, match=r"already freed.*retain_tape=True"):
        y.backward()


def test_retained_tape_with_deferred_weights():
    weight = leaf(2, 2, kind=Parameter)
    x = leaf(3, 2)
    y = (x @ weight.T).sum()
    for _ in range(2):
        y.backward(defer_weights=True, retain_tape=True).pay()
    np.testing.assert_allclose(weight.grad.numpy(), 2 * np.tile(x.numpy().sum(0), (2, 1)))


def test_a_step_leaves_no_memory_behind_and_no_cycles():
    """Every array dies with its last reference: the collector must have nothing to do."""
    device = Device()
    weight = Parameter(np.ones((128, 128), np.float32), device=device)
    x = Tensor(np.ones((256, 128), np.float32), device=device)

    def step():
        loss = ops.gelu(ops.linear(x, weight).reshape(2, 128, 128)).sum()
        loss.backward()
        weight.zero_grad()
        return loss

    step()
    gc.collect()
    gc.disable()
    try:
        before = device.memory.used_bytes
        for _ in range(3):
            loss = step()
        assert loss.node.context is None
        del loss
        assert device.memory.used_bytes == before == 0
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_activations_are_freed_during_backward():
    """The peak of a deep chain's backward is that of its forward, not twice that."""
    device = Device()
    x = Tensor(np.ones((128, 128), np.float32), requires_grad=True, device=device)
    y = x
    for _ in range(20):
        y = y.tanh()
    forward_bytes = device.memory.used_bytes
    device.memory.reset_peak()
    y.sum().backward()
    assert device.memory.peak_bytes <= forward_bytes + 4 * x.data.nbytes


def test_dead_activations_are_not_kept():
    """x + 1 saves nothing: only the last sum's output stays."""
    device = Device()
    x = Tensor(np.ones((128, 128), np.float32), requires_grad=True, device=device)
    y = x
    for _ in range(10):
        y = y + 1.0
    assert device.memory.used_bytes <= 2 * x.data.nbytes


# ---------------------------------------------------------------- what is refused, and how


def test_backward_of_many_numbers_needs_a_cotangent():
    with pytest.raises(AutogradError, match=r"shape \(3,\) needs a cotangent.*\.sum\(\)"):
        (leaf(3) * 2).backward()
    with pytest.raises(AutogradError, match=r"cotangent has shape \(2,\).*shape \(3,\)"):
        (leaf(3) * 2).backward(np.ones(2))


def test_backward_without_a_tape():
    with pytest.raises(AutogradError, match="no tape leads to"):
        Tensor([1.0]).backward()
    with no_grad():
        y = leaf(1) * 2
    with pytest.raises(AutogradError, match="no_grad"):
        y.backward()


def test_gradients_of_gradients_are_refused():
    with pytest.raises(AutogradError, match="first derivatives only"):
        (leaf(1) * 2).backward(create_graph=True)


def test_a_gradient_that_requires_gradients_is_refused():
    """It would be taken for a constant, and what it was computed from would get nothing."""
    x, weight = leaf(2), leaf(2)
    for cotangent in (weight, weight * 2):
        for tensor in (x * 3, x):
            with pytest.raises(AutogradError, match=r"cotangent.*first derivatives.*detach\(\)"):
                tensor.backward(cotangent)
        with pytest.raises(AutogradError, match=r"the gradient.*first derivatives.*detach\(\)"):
            x.grad = cotangent
    assert not x.has_gradient
    (x * 3).backward(weight.detach())
    np.testing.assert_array_equal(x.grad.numpy(), 3 * weight.numpy())


def test_a_gradient_is_a_constant_off_the_tape():
    x = Tensor([3.0], requires_grad=True)
    (x * x).backward()
    with pytest.raises(AutogradError, match=r"itself a gradient.*first derivatives only"):
        x.grad.backward()
    penalty = x.grad * x  # 2x as a number, times x
    x.zero_grad()
    penalty.backward()
    assert x.grad.tolist() == [6.0]


def test_a_rule_may_run_a_backward_of_its_own():
    """Recomputation: the rule makes a tape, walks it, and leaves ours alone."""

    def cube(ctx, a):
        ctx.save(a)
        return a * a * a

    def rule(ctx, grad):
        inner = Tensor(ctx.saved[0], requires_grad=True)
        (inner * inner * inner).backward(grad)
        return inner.grad.data

    recomputed = make_op(cube)
    recomputed.vjp("a")(rule)
    x = Tensor([2.0], requires_grad=True)
    (recomputed(x * 1.0) + x * x).backward()
    assert x.grad.tolist() == [3 * 4.0 + 2 * 2.0]


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_integers_have_no_gradients(dtype):
    with pytest.raises(AutogradError, match="floating"):
        Tensor(np.ones(2, dtype), requires_grad=True)
    x = Tensor(np.ones(2, dtype))
    with pytest.raises(AutogradError, match="floating"):
        x.requires_grad = True


def test_requires_grad_can_be_switched_on_a_leaf_only():
    x = leaf(2)
    x.requires_grad = False
    assert (x * 2).node is None
    x.requires_grad = True
    with pytest.raises(AutogradError, match="detach"):
        (x * 2).requires_grad = False


def make_op(forward):
    """An operation that is not entered in the registry."""
    return Op(forward, False, None, (), True)


def twice(ctx, a, b):
    out = ctx.empty_like(a)
    ctx.launch(kernels.add, a, b, out)
    return out


def test_an_operation_without_a_rule_raises_when_reached():
    op = make_op(twice)
    op.vjp("a")(lambda ctx, grad: grad)
    a, b = leaf(2), leaf(2)
    op(a, b.detach()).sum().backward()  # not asked for: no complaint
    with pytest.raises(AutogradError, match=r"'twice' has no gradient rule.*'b'.*@twice\.vjp"):
        op(a, b).sum().backward()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda ctx, grad: grad[:1], r"returned shape \(1,\).*'a' has shape \(2,\)"),
        (lambda ctx, grad: grad.astype(np.float32), "float32.*float64"),
        (lambda ctx, grad: 0.0, "returned float, expected an array"),
        (lambda ctx, grad: None, "returned NoneType"),
    ],
)
def test_a_rule_that_returns_nonsense_is_named(rule, message):
    op = make_op(twice)
    op.vjp("a")(rule)
    with pytest.raises(AutogradError, match=message):
        op(leaf(2), np.ones(2)).sum().backward()


def test_tensors_of_two_devices_do_not_meet():
    with pytest.raises(ValueError, match="on one device"):
        Tensor([1.0]) + Tensor([1.0], device=Device("other"))


def test_two_operations_cannot_share_a_name():
    from baremetal.autograd import op

    with pytest.raises(ValueError, match="two operations are called 'add'"):

        @op
        def add(ctx, x):
            return x


# ---------------------------------------------------------------- changes in place


def test_in_place_changes_compute_what_they_say():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]))
    data = x.data
    x += 1
    x -= [1.0, 0.0]
    x *= Tensor([2.0, 1.0])
    x /= 2
    np.testing.assert_array_equal(x.numpy(), [[1.0, 1.5], [3.0, 2.5]])
    x[0] = 7
    x[:, 1] = [8.0, 9.0]
    x[x == 7] = 0.5
    x[[1], [0]] = -1
    np.testing.assert_array_equal(x.numpy(), [[0.5, 8.0], [-1.0, 9.0]])
    assert x.copy_([1, 2]).tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert x.fill_(3).sum().item() == 12.0
    assert x.zero_().sum().item() == 0.0
    assert x.data is data
    assert x.version.count == 11


def test_overlapping_operands_are_read_before_they_are_overwritten():
    x = Tensor(np.arange(9.0).reshape(3, 3))
    expected = x.numpy() + x.numpy().T
    x += x.T
    np.testing.assert_array_equal(x.numpy(), expected)
    y = Tensor(np.arange(5.0))
    y[1:] = y[:-1]
    assert y.tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    y += y
    assert y.tolist() == [0.0, 0.0, 2.0, 4.0, 6.0]


CHANGES = {
    "+=": lambda x: x.__iadd__(1.0),
    "-=": lambda x: x.__isub__(1.0),
    "*=": lambda x: x.__imul__(2.0),
    "/=": lambda x: x.__itruediv__(2.0),
    "x[...] = value": lambda x: x.__setitem__(0, 1.0),
    "fill_": lambda x: x.fill_(1.0),
    "zero_": lambda x: x.zero_(),
    "copy_": lambda x: x.copy_(np.ones(2)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("through_view", [False, True])
def test_a_changed_value_that_backward_needs_is_named(name, through_view):
    x, other = leaf(2), Tensor(np.ones(2))
    y = x * other  # saves `other`
    CHANGES[name](other[:] if through_view else other)
    with pytest.raises(
        AutogradError, match=f"'multiply' saved its input 'b'.*by '{re.escape(name)}'"
    ):
        y.sum().backward()


def test_a_changed_output_is_named_and_unneeded_values_may_change():
    x = leaf(2)
    y = x.exp()  # saves its output
    with no_grad():
        y += 1
    with pytest.raises(AutogradError, match="'exp' saved its output"):
        y.sum().backward()
    z = x + 1  # saves nothing
    with no_grad():
        z *= 5
        x += 1
    z.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_a_changed_value_that_was_saved_as_a_view_is_named():
    x = Tensor(np.ones((2, 3, 4)))
    y = ops.linear(x, leaf(5, 4))  # saves x as (6, 4)
    x += 1
    with pytest.raises(AutogradError, match=r"'linear' saved its input 'x' \(shape \(2, 3, 4\)\)"):
        y.sum().backward()


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x * w,
        lambda x, w: x @ w.T,
        lambda x, w: x @ w.reshape(2, 2).T[:],  # a view of a view of a view
    ],
)
def test_a_changed_parameter_is_named_as_people_call_it(use):
    weight = Parameter(np.ones((2, 2)), name="blocks.0.mlp.up.weight")
    y = use(leaf(2, 2), weight)
    with no_grad():
        weight += 1
    with pytest.raises(AutogradError, match=r"input 'b' \('blocks\.0\.mlp\.up\.weight', shape"):
        y.sum().backward()


def test_a_changed_constant_is_named_too_and_a_conversion_of_it_is_not():
    frozen = Parameter(np.ones(2), requires_grad=False, name="frozen")
    y = leaf(2) * frozen
    frozen += 1
    with pytest.raises(AutogradError, match=r"saved its input 'b' \('frozen', shape"):
        y.sum().backward()
    weight = Parameter(np.ones(2, np.float32), name="w")
    double = weight.astype(np.float64)  # other memory: it is not "w" that changes
    y = leaf(2) * double
    with no_grad():
        double += 1
    with pytest.raises(AutogradError, match=r"saved its input 'b' \(shape"):
        y.sum().backward()


def test_a_refused_change_names_the_parameter():
    weight = Parameter(np.ones(2), name="w")
    with pytest.raises(AutogradError, match=r"'\+=' on a tensor \('w'\) of shape \(2,\) while"):
        weight += 1


def test_writes_from_numpys_side_are_not_seen_as_documented():
    """A plain array has no version: `tape.py` and the map say so, and what to do instead."""
    x, factor = leaf(2), np.array([2.0, 3.0])
    unseen, copied = x * factor, x * factor.copy()
    watched = Tensor(factor)
    seen = x * watched
    watched[...] = 0.0
    unseen.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]  # of x * 0, though the value was that of x * factor
    x.zero_grad()
    copied.sum().backward()
    assert x.grad.tolist() == [2.0, 3.0]
    with pytest.raises(AutogradError, match="changed in place"):
        seen.sum().backward()
    inside = x * watched
    watched.data[...] = 1.0  # behind the tensor's back
    x.zero_grad()
    inside.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    one, other = Tensor(factor), Tensor(factor)  # one array, but two counts
    twice = x * one
    other[...] = 7.0
    x.zero_grad()
    twice.sum().backward()
    assert x.grad.tolist() == [7.0, 7.0]


def test_a_change_before_the_use_is_no_harm():
    x, other = leaf(2), Tensor(np.ones(2))
    other *= 3
    (x * other).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("name", CHANGES)
def test_changing_what_is_on_the_tape_is_refused_with_advice(name):
    for tensor in (leaf(2), leaf(2) * 2):
        before = tensor.tolist()
        with pytest.raises(AutogradError, match=f"'{re.escape(name)}'.*while recording.*no_grad"):
            CHANGES[name](tensor)
        assert tensor.tolist() == before
        with no_grad():
            CHANGES[name](tensor)
    with pytest.raises(AutogradError, match="the other side requires gradients"):
        Tensor(np.ones(2)).__iadd__(leaf(2))


def test_a_change_in_place_cannot_grow_or_lose():
    x = Tensor([1, 2])
    with pytest.raises(ValueError, match=r"\(2, 2\) does not broadcast to \(2,\)"):
        x += np.ones((2, 2), np.int64)
    with pytest.raises(ValueError, match=r"\(3,\) does not broadcast"):
        x[...] = [1, 2, 3]
    for fraction in (Tensor([0.5, 0.5]), np.array([0.5, 0.5]), 0.5):
        with pytest.raises(ValueError, match="astype"):
            x += fraction
    y = Tensor([1.0, 2.0])
    y += np.array([0.5, 0.25])  # float64 into float32: fewer digits, but no other number
    y *= Tensor([2, 4])
    assert y.dtype == np.float32
    assert y.tolist() == [3.0, 9.0]


def test_targets_that_are_overwritten_before_backward_are_not_seen():
    """The next batch in the same array: the gradient is that of the loss which was computed."""
    logits = Tensor(np.random.default_rng(0).standard_normal((5, 7)), requires_grad=True)
    targets = np.arange(5)
    loss = ops.cross_entropy(logits, targets)
    targets[:] = 10**10
    loss.backward()
    expected = Tensor(logits.numpy(), requires_grad=True)
    ops.cross_entropy(expected, np.arange(5)).backward()
    np.testing.assert_array_equal(logits.grad.numpy(), expected.grad.numpy())
