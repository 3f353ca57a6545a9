"""Recomputation: the same bits in less memory, nothing computed in vain, and what is refused."""

from collections import Counter, namedtuple

import numpy as np
import pytest

from baremetal.autograd import (
    CPU,
    AutogradError,
    Device,
    Parameter,
    Tensor,
    backward,
    checkpoint,
    draw,
    grad_enabled,
    gradcheck,
    no_grad,
    ops,
)
from baremetal.autograd.mode import current_run

WIDTH = 6


def as_it_is(function):
    """The other side of every comparison."""
    return function


def leaf(*shape, seed=0, kind=Tensor):
    return kind(np.random.default_rng(seed).standard_normal(shape, np.float32), requires_grad=True)


def launches(function):
    """How often it launches which kernel."""
    names = []

    def note(run, kernel, arrays, attributes):
        names.append(kernel.name)
        run()

    with CPU.listen(note):
        function()
    return Counter(names)


class Net:
    """Some layers with weights, as functions of x (rows, WIDTH)."""

    def __init__(self):
        shapes = {"up": (9, WIDTH), "down": (WIDTH, 9), "gain": (WIDTH,), "shift": (9,)}
        self.weights = {
            name: leaf(*shape, seed=number, kind=Parameter)
            for number, (name, shape) in enumerate(shapes.items())
        }
        for name, weight in self.weights.items():
            weight.name = name

    def layer(self, x):
        w = self.weights
        hidden = ops.gelu(ops.linear(ops.rms_norm(x, w["gain"]), w["up"], w["shift"]))
        return x + ops.linear(hidden, w["down"])

    def gradients(self, x):
        return [x.grad, *(weight.grad for weight in self.weights.values())]


# ---------------------------------------------------------------- the same bits


def chain(net, wrap, x):
    for _ in range(3):
        x = wrap(net.layer)(x)
    return x


def used_beside(net, wrap, x):
    """x and the results have other uses, before and after: their gradients add up in order."""
    early = x * 3.0
    y = wrap(net.layer)(x)
    z = wrap(net.layer)(y)
    return (y * z + x) * early + y


def by_closure(net, wrap, x):
    """A tensor on the tape that the function finds around it instead of being given it."""
    scaled = x * 2.0
    return wrap(lambda y: ops.tanh(y) * scaled + net.layer(scaled))(x + 1.0)


def several_results(net, wrap, x):
    def parts(x, y):
        inner = net.layer(x) * y
        return {"a": inner, "b": [inner.sum(axis=0), ops.exp(-y), x], "twice": inner, "c": 7}

    given = wrap(parts)(x, ops.sigmoid(x))
    summed, small, same = given["b"]
    assert given["c"] == 7
    return given["a"] * summed + small * given["twice"] + same


def unused_result(net, wrap, x):
    first, _ = wrap(lambda x: (net.layer(x), ops.exp(x)))(x)
    return first


def nested(net, wrap, x):
    def two(x):
        return wrap(net.layer)(wrap(net.layer)(x) * 2.0)

    return wrap(lambda x: two(x) + wrap(two)(x))(x)


def views_of_weights(net, wrap, x):
    """A tied head and a layer read one matrix, once as it is and once through a view."""
    up = net.weights["up"]

    def through(x):
        return ops.linear(x, up) @ up + x @ (up.T @ up)

    y = wrap(through)(wrap(through)(x))
    return (ops.linear(y, up) @ up).tanh() + wrap(lambda: up.T)().sum(axis=1)


def view_made_first(net, wrap, x):
    """Deferred, the view's turn comes after the block's own weights and before the next block's."""
    up = net.weights["up"]

    def through(x):
        turned = up.T
        return ops.linear(x, up) @ up + (x @ turned).tanh() @ up

    return wrap(through)(wrap(through)(wrap(through)(x)))


def view_made_behind(net, wrap, x):
    """Checkpoints within one take numbers, too; the view's number comes after all of them."""
    up = net.weights["up"]

    def inner(x):
        return ops.linear(x, up) @ up

    y = wrap(lambda x: wrap(inner)(wrap(inner)(wrap(inner)(x))))(x)
    turned = up.T
    return ops.linear(y, up) @ up + (y @ turned) @ up


def gradient_shared_with_another(net, wrap, x):
    """+ hands one array to both sides: what x0 gets besides must not reach `other`."""
    other, x0 = x * 5.0, x * 1.0
    more = ops.linear(ops.linear(x0, net.weights["up"]), net.weights["down"])  # adds in place
    return (other + wrap(lambda y: y + 1.0)(x0)) + more


def untracked_parts(net, wrap, x):
    def function(x):
        with no_grad():
            scale = ops.exp(-(x * x)).sum()
        moved = x + 0.25
        chosen = (moved > 0.0).data  # an array: nobody sees who reads it
        return ops.where(chosen, net.layer(x) * scale, x * 0.5)

    return wrap(function)(x)


CASES = [chain, used_beside, by_closure, several_results, unused_result, nested,
         views_of_weights, view_made_first, view_made_behind, gradient_shared_with_another,
         untracked_parts]  # fmt: skip


def run(case, wrap, deferred=False, times=1):
    net, x = Net(), leaf(4, WIDTH, seed=9)
    x0 = x * 1.0
    loss = (case(net, wrap, x0) ** 2).sum()
    for number in range(times):
        owed = loss.backward(defer_weights=deferred, retain_tape=number < times - 1)
        if deferred:
            owed.pay()
    return loss, net.gradients(x)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_gradients_have_the_same_bits(case, deferred):
    loss, expected = run(case, as_it_is, deferred)
    again, found = run(case, checkpoint, deferred)
    assert again.item() == loss.item()
    for one, other in zip(expected, found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or one.numpy().tobytes() == other.numpy().tobytes()


def test_a_retained_tape_is_run_again_as_often_as_wanted():
    _, expected = run(nested, as_it_is, times=3)
    _, found = run(nested, checkpoint, times=3)
    for one, other in zip(expected, found, strict=True):
        assert one is None or one.numpy().tobytes() == other.numpy().tobytes()


def test_backward_may_be_called_where_nothing_is_recorded():
    found = []
    for wrap in (as_it_is, checkpoint):
        net, x = Net(), leaf(4, WIDTH)
        loss = nested(net, wrap, x).sum()
        with no_grad():
            loss.backward()
            assert not grad_enabled()
        found.append(x.grad.numpy().tobytes())
    assert found[0] == found[1]


def test_a_freed_tape_is_refused():
    x = leaf(3, WIDTH)
    loss = checkpoint(Net().layer)(x).sum()
    loss.backward()
    with pytest.raises(AutogradError, match="already freed"):
        loss.backward()
    y = checkpoint(Net().layer)(x)
    y.backward(np.ones(y.shape))
    with pytest.raises(AutogradError, match="checkpoint whose tape was already freed"):
        y.backward(np.ones(y.shape))


def test_it_passes_a_gradient_check():
    x = np.random.default_rng(0).standard_normal((3, 4))
    w = np.random.default_rng(1).standard_normal((4, 4))
    gradcheck(lambda x, w: checkpoint(lambda x: ops.gelu(x @ w) @ w.T)(x) * x, [x, w])


def test_the_references_recompute_too():
    device = Device(kernels="reference")
    x = Tensor([1.0, 2.0], requires_grad=True, device=device)
    checkpoint(lambda x: ops.tanh(x * x))(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy() / np.cosh(x.numpy() ** 2) ** 2, 1e-4)


def test_nothing_happens_where_nothing_is_recorded():
    calls = []

    def function(x):
        calls.append(grad_enabled())
        return x * 2.0

    x = leaf(2)
    with no_grad():
        assert not checkpoint(function)(x).requires_grad
    assert not checkpoint(function)(x.detach()).requires_grad
    assert calls == [False, True]
    assert checkpoint(function).__name__ == "function"


def test_named_tuples_keep_their_names():
    pair = namedtuple("pair", "double triple")
    found = checkpoint(lambda x: pair(x * 2.0, x * 3.0))(leaf(2))
    assert isinstance(found, pair)
    found.triple.sum().backward()


# ---------------------------------------------------------------- the same bits, by chance


def random_program(rng, depth=0):
    """A list of (operation, three indices of operands, program inside or None)."""
    program = []
    for _ in range(rng.integers(1, 6)):
        kind = rng.choice([*OPERATIONS, *(["inside"] * 3 if depth < 3 else [])])
        inside = random_program(rng, depth + 1) if kind == "inside" else None
        program.append((kind, rng.integers(0, 100, 3).tolist(), inside))
    return program


OPERATIONS = {
    "add": lambda a, b, w, state: a + b,
    "multiply": lambda a, b, w, state: a * b,
    "tanh": lambda a, b, w, state: ops.tanh(a),
    "gelu": lambda a, b, w, state: ops.gelu(a),
    "softmax": lambda a, b, w, state: ops.softmax(a),
    "linear": lambda a, b, w, state: ops.linear(a, w, w[0]),
    "turned": lambda a, b, w, state: a @ w.T,
    "norm": lambda a, b, w, state: ops.rms_norm(a, w[1]),
    "transpose": lambda a, b, w, state: a.T,
    "constant": lambda a, b, w, state: a * (b.detach() > 0.0),
    "dropout": lambda a, b, w, state: ops.dropout(a, state, p=0.3, layer=1),
}


def perform(program, wrap, given, weights, state, around=()):
    """Run a program on the values given, and on those that it finds around it."""
    values = list(given)
    for kind, (i, j, k), inside in program:
        seen = [*values, *around]
        a, b, w = seen[i % len(seen)], values[j % len(values)], weights[k % len(weights)]
        if inside is None:
            values.append(OPERATIONS[kind](a, b, w, state))
            continue

        def stretch(a, b, inside=inside, seen=tuple(seen)):
            return perform(inside, wrap, (a, b), weights, state, seen)

        values += wrap(stretch)(a, b)
    return tuple(values[-2:])


@pytest.mark.parametrize("seed", range(120))
def test_random_programs_have_the_same_bits(seed):
    """Checkpoints within checkpoints, values from anywhere, all of it deferred every other time.

    Matrices of 256 B: where one of less than 128 B lies right before its softmax, the compiled loop
    takes its slow path, which adds in another order, with or without checkpoints.
    """
    program = random_program(np.random.default_rng(seed))
    found = []
    for wrap in (as_it_is, checkpoint):
        weights = [leaf(8, 8, seed=n, kind=Parameter) for n in (1, 2)]
        x, state = leaf(8, 8, seed=3), np.array([1, 2, 0])
        results = perform(program, wrap, (x * 0.5, x.tanh()), weights, state)
        state[:] = 9  # of another step
        loss = sum((ops.tanh(y) for y in results), start=x * 0.0).sum()
        owed = loss.backward(defer_weights=bool(seed % 2))
        if owed is not None:
            owed.pay()
        gradients = [x.grad, *(w.grad for w in weights)]
        found.append(
            [loss.item(), *(None if g is None else g.numpy().tobytes() for g in gradients)]
        )
    assert found[0] == found[1]


# ---------------------------------------------------------------- less memory, little work


def test_between_forward_and_backward_only_the_input_is_kept():
    x = leaf(4000, WIDTH)
    one = CPU.memory.used_bytes

    def kept(wrap):
        net = Net()
        start = CPU.memory.used_bytes
        y = chain(net, wrap, x)
        used = CPU.memory.used_bytes - start
        assert y.requires_grad
        return used

    size = 4000 * WIDTH * 4 * 9 / 8  # the pool rounds sizes up, by an eighth at most
    assert kept(checkpoint) <= 3 * size
    assert kept(as_it_is) > 3 * kept(checkpoint)
    assert CPU.memory.used_bytes == one


def test_what_the_last_operations_compute_is_not_computed_again():
    """gelu(linear(norm(x))) is; the product and the addition behind it save nothing new."""
    backwards = []
    for wrap in (checkpoint, as_it_is):
        loss = wrap(Net().layer)(leaf(4, WIDTH)).sum()
        backwards.append(launches(loss.backward))
    assert backwards[0] - backwards[1] == Counter(["rms_norm", "linear", "gelu"])


def test_an_operation_that_saves_its_result_is_computed_again():
    x = leaf(5)
    loss = checkpoint(ops.exp)(x).sum()
    assert "exp" in launches(loss.backward)
    loss = checkpoint(lambda x: ops.exp(x) * 2.0)(x).sum()
    assert launches(loss.backward)["multiply"] == 2  # of the rules alone, not the forward's


@pytest.mark.parametrize(
    "look",
    [
        lambda y: y.numpy().max(),
        lambda y: y.sum().item(),
        lambda y: float(y.sum()),
        lambda y: np.asarray(y).max(),
    ],
)
def test_what_python_looks_at_is_computed_again(look):
    """Else it would see NaN the second time."""

    def function(x):
        return x * look(x + 1.0)

    x, again = leaf(3), leaf(3)
    function(x).sum().backward()
    checkpoint(function)(again).sum().backward()
    assert x.grad.tolist() == again.grad.tolist()


def test_a_change_in_place_of_what_is_made_inside_happens_again():
    def function(x):
        total = Tensor.zeros((3,))
        total += (x * 2.0).detach()
        return x * total

    x, again = leaf(3), leaf(3)
    function(x).sum().backward()
    checkpoint(function)(again).sum().backward()
    assert x.grad.tolist() == again.grad.tolist()

    def through_a_view(x):
        y = x * 2.0
        total = y.sum()
        view = y.detach()
        view += 1.0  # the function's own business: y was made here
        return x * view + total

    x, again = leaf(3), leaf(3)
    through_a_view(x).sum().backward()
    checkpoint(through_a_view)(again).sum().backward()
    assert x.grad.tolist() == again.grad.tolist()


# ---------------------------------------------------------------- dropout


def microbatches(wrap, interleaved):
    """Two microbatches through a dropout; all forwards may come before all backwards."""
    state = np.array([5, 2, 0])
    net, x = Net(), leaf(8, WIDTH)
    losses = []
    for first in (0, 4):
        state[2] = first
        part = x[first : first + 4]

        def layer(x):
            return ops.dropout(net.layer(ops.dropout(x, state, p=0.5, layer=0)), state, p=0.5,
                               layer=1)  # fmt: skip

        losses.append(wrap(layer)(part).square().sum())
        if not interleaved:
            losses[-1].backward()
    if interleaved:
        state[1] = 99  # and somebody has begun the next step
        for loss in losses:
            loss.backward()
    return [g.numpy().tobytes() for g in net.gradients(x)]


@pytest.mark.parametrize("wrap", [checkpoint, lambda f: checkpoint(checkpoint(f))])
def test_recomputed_dropout_meets_the_bits_of_its_forward(wrap):
    expected = microbatches(as_it_is, interleaved=False)
    assert microbatches(wrap, interleaved=False) == expected
    assert microbatches(wrap, interleaved=True) == expected


def test_a_loss_inside_keeps_its_targets_and_its_divisor():
    targets, total = np.array([1, 0, 2]), np.array([3.0])

    def loss(x):
        return ops.cross_entropy(x, targets, total=total)

    expected, x = leaf(3, 4), leaf(3, 4)
    loss(expected).backward()
    value = checkpoint(loss)(x)
    targets[:] = 3
    total[:] = 100.0
    value.backward()
    assert x.grad.tolist() == expected.grad.tolist()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["x", "up", "shift", "constant"])
def test_a_value_changed_between_forward_and_backward_is_refused(name):
    """Also the bias, which an ordinary tape would not miss, and a constant."""
    net, x = Net(), leaf(3, WIDTH)
    x.name = "x"
    constant = Tensor(np.ones(WIDTH, np.float32), name="constant")
    loss = checkpoint(lambda x: net.layer(x) + constant)(x).sum()
    with no_grad():
        changed = {**net.weights, "x": x, "constant": constant}[name]
        changed *= 2.0
    with pytest.raises(AutogradError, match=rf"'{name}', shape .* changed in place by '\*='"):
        loss.backward()


def test_a_value_that_the_function_itself_changes_is_refused():
    """Read before the change and after it: the second run would begin with what it is now."""
    constant = Tensor(np.ones(3, np.float32), name="constant")

    def function(x):
        y = x + constant  # saves nothing, so that the tape would not notice
        with no_grad():
            doubled = constant
            doubled *= 2.0
        return ops.exp(y + constant)

    y = checkpoint(function)(leaf(3)).sum()
    with pytest.raises(AutogradError, match=r"'constant', shape .* changed in place"):
        y.backward()


def test_a_function_that_takes_another_path_is_refused():
    calls = []

    def fickle(x):
        calls.append(1)
        return ops.exp(x) if len(calls) == 1 else ops.tanh(x)

    with pytest.raises(
        AutogradError, match=r"another path .* called tanh, where it had called exp"
    ):
        checkpoint(fickle)(leaf(2)).sum().backward()

    def longer(x):
        calls.append(1)
        return ops.exp(ops.exp(x)) if len(calls) % 2 else ops.exp(x)

    calls.clear()
    with pytest.raises(AutogradError, match="did not call exp"):
        checkpoint(longer)(leaf(2)).sum().backward()

    def shorter(x):
        calls.append(1)
        return ops.exp(x) if len(calls) % 2 else ops.exp(ops.exp(x))

    calls.clear()
    with pytest.raises(AutogradError, match="called exp, where it had called nothing"):
        checkpoint(shorter)(leaf(2)).sum().backward()

    def fewer(x):
        calls.append(1)
        y, z = ops.exp(x), ops.exp(x)
        return (y, z) if len(calls) % 2 else (y, y)

    calls.clear()
    with pytest.raises(AutogradError, match="returned 1 new values, where it had 2"):
        checkpoint(fewer)(leaf(2))[0].sum().backward()

    def narrower(x):
        calls.append(1)
        rows = 3 if len(calls) % 2 else 2
        return ops.cross_entropy(x[:rows], np.zeros(rows, np.int64))

    calls.clear()
    with pytest.raises(AutogradError, match=r"asked for a copy of shape \(2,\) that it had not"):
        checkpoint(narrower)(leaf(4, WIDTH)).backward()


def test_what_leaves_by_another_door_is_refused():
    kept = []

    def function(x):
        kept.append(ops.exp(x))
        return kept[-1] * 2.0

    y = checkpoint(function)(leaf(2))
    with pytest.raises(AutogradError, match="'exp' made inside a checkpointed function"):
        (y + kept[0]).sum().backward()


def test_backward_inside_is_refused():
    def function(x):
        y = ops.exp(x)
        y.sum().backward()
        return y

    with pytest.raises(AutogradError, match="inside a checkpointed function"):
        checkpoint(function)(leaf(2))


def test_two_devices_need_two_checkpoints():
    other = Device("other")

    def function(x):
        return ops.exp(x), ops.exp(leaf_there)

    leaf_there = Tensor([1.0], requires_grad=True, device=other)
    with pytest.raises(AutogradError, match="a checkpoint of its own"):
        checkpoint(function)(leaf(2))


def test_a_function_that_fails_leaves_everything_as_it_was():
    def fails(x):
        ops.exp(x)
        raise KeyError("mine")

    x = leaf(2)
    with pytest.raises(KeyError, match="mine"):
        checkpoint(fails)(x)
    ops.exp(x).sum().backward()
    assert x.grad is not None


def test_a_function_that_fails_the_second_time_leaves_everything_as_it_was():
    calls = []

    def fails_later(x):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("mine")
        return ops.exp(x)

    y = checkpoint(fails_later)(leaf(2))
    next_number = ops.exp(leaf(2)).node.sequence + 1
    with pytest.raises(KeyError, match="mine"):
        y.sum().backward()
    assert current_run() is None
    assert ops.exp(leaf(2)).node.sequence > next_number


def test_the_drawing_shows_one_operation_and_what_it_keeps():
    x = leaf(3, WIDTH)
    x.name = "x"
    y = checkpoint(Net().layer)(x * 2.0)
    rows = draw(y).text.splitlines()
    assert any(f"checkpoint (3, {WIDTH})  saves {3 * WIDTH * 4} B" in row for row in rows)
    assert "multiply" in draw(y).text
    backward(y.sum())
    assert "freed by backward" in draw(y).text.splitlines()[0]


def test_the_drawing_counts_copies_too():
    """Dropout's state is copied by the first run, for the second."""
    x, state = leaf(3, WIDTH), np.array([5, 2, 0])
    y = checkpoint(lambda x: ops.dropout(x, state, p=0.5, layer=0))(x * 2.0)
    saved = 3 * WIDTH * 4 + state.nbytes
    assert f"checkpoint (3, {WIDTH})  saves {saved} B" in draw(y).text
