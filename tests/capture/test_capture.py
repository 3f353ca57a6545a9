"""A captured step: the same bits as the eager one, refusals that name what is wrong."""

import gc
import sys
from collections import namedtuple

import numpy as np
import pytest

from baremetal import CPU, BaremetalError, Device, Parameter, Tensor, ops
from baremetal.autograd import AutogradError
from baremetal.capture import CaptureError, capture
from baremetal.nn import GPT, GPTConfig, Grok, GrokConfig, Llama, LlamaConfig
from baremetal.optim import SGD, AdamW, Muon, decay_groups

SIZES = {"vocab_size": 11, "context": 8, "layers": 2, "heads": 4, "width": 16}
STEPS = 6


def make_model(kind, **changes):
    rng = np.random.default_rng(0)
    if kind == "llama":
        return Llama(LlamaConfig(**SIZES, kv_heads=2), rng=rng)
    if kind == "grok":
        return Grok(GrokConfig(**SIZES), rng=rng)
    return GPT(GPTConfig(**SIZES, **changes), rng=rng, dropout_seed=3)


def make_optimizer(name, model):
    parameters = [*model.parameters()]
    if name == "sgd":
        return SGD(parameters, learning_rate=0.1, momentum=0.9)
    if name == "muon":
        matrices = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
        others = [p for p in parameters if not any(p is m for m in matrices)]
        return Muon(matrices, decay_groups(others, 0.1), learning_rate=0.01)
    return AdamW(decay_groups(parameters, 0.1), learning_rate=0.01)


def batches(count=STEPS, batch=3, parts=1):
    rng = np.random.default_rng(1)
    windows = rng.integers(0, SIZES["vocab_size"], (count, parts, batch, SIZES["context"] + 1))
    return [(w[..., :-1].copy(), w[..., 1:].copy()) for w in windows]


def training(kind, optimizer_name, parts=1, **changes):
    """A model, its optimiser, and one step of training it: (parts, B, T) tokens each."""
    model = make_model(kind, **changes)
    optimizer = make_optimizer(optimizer_name, model)
    total = np.zeros(1)

    def step(inputs, targets):
        optimizer.zero_grad()
        losses = []
        for part in range(parts):
            loss = model.loss(inputs[part], targets[part], total=total)
            loss.backward()
            losses.append(loss)
        optimizer.clip(0.5, losses[-1])
        optimizer.step()
        return losses

    return model, optimizer, step, total


def weights(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("parts", [1, 3])
def test_replayed_steps_are_the_eager_ones(kind, optimizer_name, parts):
    """With another learning rate, other tokens and another token count in every step."""
    eager = training(kind, optimizer_name, parts)
    replayed = training(kind, optimizer_name, parts)
    captured = capture(replayed[2])
    for number, (inputs, targets) in enumerate(batches(parts=parts)):
        targets[0, 0, : number % 3] = -100  # ignored
        losses = []
        for _, optimizer, _, total in (eager, replayed):
            optimizer.learning_rate = 0.01 * (number + 1)
            total[0] = (targets != -100).sum()
        for step in (eager[2], captured):
            losses.append([loss.item() for loss in step(inputs, targets)])
        assert losses[0] == losses[1]
        assert_equal_bits(weights(eager[0]), weights(replayed[0]))
    assert_equal_bits(eager[1].state_dict(), replayed[1].state_dict())
    assert captured.calls == STEPS


def test_dropout_draws_new_bits_in_every_replay():
    eager, replayed = (training("gpt", "adamw", dropout=0.5) for _ in range(2))
    captured = capture(replayed[2])
    seen = set()
    inputs, targets = batches(1)[0]
    for number in range(STEPS):
        for model, _, _, total in (eager, replayed):
            model.dropout_state.set(step=number)
            total[0] = targets.size
        first, second = (step(inputs, targets)[0].item() for step in (eager[2], captured))
        assert first == second
        seen.add(first)
    assert len(seen) == STEPS
    assert_equal_bits(weights(eager[0]), weights(replayed[0]))


def test_the_count_of_tokens_follows_the_targets():
    """Without a given total the mean's divisor is computed in the step, not frozen."""
    model = make_model("gpt")
    captured = capture(model.loss)
    inputs, targets = (array[0] for array in batches(1)[0])
    for ignored in (0, 5, 20):
        targets.reshape(-1)[:ignored] = -100
        assert captured(inputs, targets).item() == model.loss(inputs, targets).item()


def test_a_gate_that_closes_in_a_replay_protects_the_weights():
    model, optimizer, step, total = training("gpt", "adamw")
    captured = capture(step)
    (inputs, targets), *_ = batches(1)
    total[0] = targets.size
    captured(inputs, targets)
    before, steps_taken = weights(model), optimizer.steps_taken
    total[0] = 0.0  # a mean over nothing: infinite
    captured(inputs, targets)
    assert not optimizer.last_step_was_finite
    assert_equal_bits(before, weights(model))
    assert optimizer.steps_taken == steps_taken


def test_outputs_keep_their_memory_and_their_form():
    def both(x):
        y = Tensor(x) * 2.0
        return {"double": y, "parts": (y + 1.0, y.sum())}

    captured = capture(both)
    first = captured(np.ones(3, np.float32))
    assert first["parts"][1].item() == 6.0
    second = captured(np.full(3, 2.0, np.float32))
    assert second is first
    np.testing.assert_array_equal(second["double"].numpy(), [4, 4, 4])
    np.testing.assert_array_equal(second["parts"][0].numpy(), [5, 5, 5])
    assert second["parts"][1].item() == 12.0


def test_a_result_that_was_saved_and_overwritten_is_noticed():
    """The results of one call are overwritten by the next: a backward that needs them says so."""
    w = Parameter(np.ones(3, np.float32))
    captured = capture(lambda x: (Tensor(x) * 2.0, w))
    x = np.ones(3, np.float32)
    captured(x)
    for saved in (0, 1):
        factor = captured(x)[saved]
        loss = (factor * Parameter(np.ones(3, np.float32))).sum()
        captured(x)
        if saved == 0:
            with pytest.raises(AutogradError, match="changed in place by 'the next call of the"):
                loss.backward()
        else:
            loss.backward()  # a parameter that the step does not write is as it was


def test_a_result_counts_changes_of_its_own_too():
    """Made through another view of it, and named as what they are."""
    captured = capture(lambda x: (lambda y: (y, y.reshape(3)))(Tensor(x) * 2.0))
    result, view = captured(np.ones((1, 3), np.float32))
    loss = (result * Parameter(np.ones((1, 3), np.float32))).sum()
    view += 1.0
    with pytest.raises(AutogradError, match=r"changed in place by '\+= or the next call"):
        loss.backward()
    loss = (view * Parameter(np.ones(3, np.float32))).sum()
    view.zero_()
    with pytest.raises(AutogradError, match="changed in place by 'zero_ or"):
        loss.backward()
    (view * Parameter(np.ones(3, np.float32))).sum().backward()


def test_an_input_that_is_returned_is_overwritten_too():
    captured = capture(lambda x: x)
    loss = (captured(Tensor([1.0])) * Parameter([1.0])).sum()
    captured(Tensor([2.0]))
    with pytest.raises(AutogradError, match="changed in place by 'the next call of the"):
        loss.backward()


def test_named_tuples_keep_their_names():
    pair = namedtuple("pair", "sum mean")

    def both(x):
        return pair(Tensor(x).sum(), Tensor(x).mean())

    captured = capture(both)
    for value in (1.0, 3.0):
        found = captured(np.full(4, value, np.float32))
        assert (found.sum.item(), found.mean.item()) == (4 * value, value)


def test_gradients_without_an_arena_are_renewed():
    w = Parameter(np.array([1.0, 2.0]))

    def step(x):
        w.zero_grad()
        (Tensor(x) * w * w).sum().backward()

    captured = capture(step)
    for x in ([1.0, 1.0], [3.0, 5.0]):
        captured(np.array(x))
        np.testing.assert_array_equal(w.grad.numpy(), 2 * np.array(x) * w.numpy())


def test_tensors_as_inputs():
    captured = capture(lambda x: x * x)
    for value in (2.0, 3.0):
        assert captured(Tensor([value])).tolist() == [value * value]


def test_the_first_inputs_stay_the_caller_s():
    captured = capture(lambda x, y: Tensor(x) + y)
    first = np.ones(3, np.float32), Tensor(np.ones(3, np.float32))
    captured(*first)
    captured(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert [each.tolist() for each in first] == [[1, 1, 1]] * 2


def test_a_tensor_that_needs_a_gradient_gets_it_in_every_call():
    def step(x):
        (x * x).sum().backward()
        return x.grad

    captured = capture(step)
    for value in (2.0, 3.0):
        assert captured(Tensor([value], requires_grad=True)).tolist() == [2 * value]


def test_what_only_a_reference_cycle_holds_is_not_kept():
    def step(x):
        y = Tensor(x) * 2.0
        cycle = [y]
        cycle.append(cycle)
        return (y + 1.0).sum()

    gc.disable()  # or it might be collected by chance
    try:
        captured = capture(step)
        captured(np.ones(1000, np.float32))
    finally:
        gc.enable()
    assert [buffer.shape for buffer in captured.plan.kept] == [()]
    assert len(captured.plan.transient) == 2


def test_the_references_replay_too():
    device = Device(kernels="reference")
    captured = capture(lambda x: ops.softmax(Tensor(x, device=device)), device=device)
    for seed in range(2):
        x = np.random.default_rng(seed).standard_normal((2, 5), np.float32)
        np.testing.assert_allclose(captured(x).numpy(), ops.softmax(Tensor(x)).numpy(), rtol=1e-6)


def test_integers_of_another_size_are_converted_in_the_step():
    """int32 tokens: the conversion is a launch, or the first tokens would stay for ever."""
    model = make_model("gpt")
    captured = capture(model.loss)
    for inputs, targets in batches(3):
        narrow = inputs[0].astype(np.int32), targets[0].astype(np.int32)
        assert captured(*narrow).item() == model.loss(inputs[0], targets[0]).item()


def test_the_arena_reuses_memory_and_stays_near_the_bound():
    _, _, step, total = training("gpt", "adamw")
    total[0] = 24
    captured = capture(step)
    captured(*batches(1)[0])
    memory = captured.plan.memory
    assert memory.bound_bytes <= memory.planned_bytes <= 1.05 * memory.bound_bytes
    assert memory.planned_bytes < memory.total_bytes
    assert memory.kept_bytes == 64  # the loss
    assert len(captured.plan.text().splitlines()) == len(captured.plan.launches) + 2


def test_the_cost_is_that_of_the_launches():
    captured = capture(lambda a, b: Tensor(a) @ Tensor(b))
    captured(np.ones((2, 3), np.float32), np.ones((3, 4), np.float32))
    assert captured.plan.cost.flops == 2 * 2 * 3 * 4


# ---------------------------------------------------------------- refusals


def test_another_shape_or_dtype_is_refused_with_both_named():
    captured = capture(lambda x: Tensor(x) * 2.0)
    captured(np.ones((2, 3), np.float32))
    with pytest.raises(CaptureError, match=r"shape \(2, 4\) float32.*shape \(2, 3\) float32"):
        captured(np.ones((2, 4), np.float32))
    with pytest.raises(CaptureError, match=r"shape \(2, 3\) float64.*shape \(2, 3\) float32"):
        captured(np.ones((2, 3)))
    with pytest.raises(CaptureError, match="1 inputs, got 2"):
        captured(np.ones((2, 3), np.float32), 1)
    with pytest.raises(CaptureError, match="is a float, but was captured as an array"):
        captured(2.0)


def test_what_was_frozen_must_not_differ():
    captured = capture(lambda x, factor: Tensor(x) * factor)
    x = np.ones(2, np.float32)
    assert captured(x, 3.0).tolist() == [3.0, 3.0]
    assert captured(x, 3.0).tolist() == [3.0, 3.0]
    with pytest.raises(CaptureError, match=r"input 1 .* is 4\.0, but 3\.0 was frozen"):
        captured(x, 4.0)


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda y: y.item(), "item"),
        (lambda y: float(y), "item"),
        (lambda y: 1 if y > 0 else 2, "item"),
        (lambda y: y.tolist(), "tolist"),
        (lambda y: y.numpy(), "numpy"),
        (lambda y: np.asarray(y), "numpy"),
    ],
)
def test_reading_a_value_is_refused(read, name):
    captured = capture(lambda x: read(Tensor(x).sum()))
    with pytest.raises(AutogradError, match=rf"{name}\(\) reads a computed value"):
        captured(np.ones(2, np.float32))
    assert Tensor([1.0]).sum().item() == 1.0  # the device is free again


def test_a_mixture_of_experts_is_refused():
    """Its router chooses in Python."""
    model = make_model("grok")
    inputs, targets = (array[0] for array in batches(1)[0])
    with pytest.raises(AutogradError, match="router of a mixture of experts"):
        capture(model.loss)(inputs, targets)


def test_a_token_outside_the_vocabulary_is_refused_and_nothing_is_changed():
    model, optimizer, step, total = training("gpt", "adamw")
    captured = capture(step)
    (inputs, targets), (other, _) = batches(2)
    total[0] = targets.size
    captured(inputs, targets)
    before, state = weights(model), {k: v.copy() for k, v in optimizer.state_dict().items()}
    for wrong in (11, -1):
        bad = other.copy()
        bad[0, 0, 0] = wrong
        with pytest.raises(BaremetalError, match=f"{wrong} is not in 0..10"):
            captured(bad, targets)
        with pytest.raises(BaremetalError, match=f"{wrong} is not in 0..10"):
            captured(inputs, bad)
        for look in (captured.measure, captured.compare_fusions):  # on the inputs that lie there
            with pytest.raises(BaremetalError, match=f"{wrong} is not in 0..10"):
                look()
    assert_equal_bits(before, weights(model))
    assert_equal_bits(state, optimizer.state_dict())


def test_a_function_that_fails_while_recorded_leaves_the_device_free():
    def fails(x):
        raise KeyError("mine")

    captured = capture(fails)
    with pytest.raises(KeyError, match="mine"):
        captured(np.ones(1))
    assert CPU.empty((2,)).shape == (2,)
    with pytest.raises(CaptureError, match="call it once"):
        _ = captured.plan


def test_a_value_computed_in_the_step_cannot_be_checked_in_python():
    table = Parameter(np.ones((3, 2), np.float32))
    captured = capture(lambda x: ops.embedding(table, (Tensor(x) + 1).data))
    with pytest.raises(CaptureError, match="checked in Python"):
        captured(np.zeros(2, np.int64))


def test_gradients_cannot_leave():
    x = Parameter([1.0, 2.0]) * 2.0
    with pytest.raises(CaptureError, match="made by 'multiply'"):
        capture(lambda y: y * 2.0)(x)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_replayed_step_is_one_call_however_many_layers(layers, monkeypatch):
    """Python functions that are entered while the plan runs: the same few for any model."""
    monkeypatch.setitem(SIZES, "layers", layers)
    _, _, step, total = training("gpt", "adamw", dropout=0.1)
    total[0] = 24
    captured = capture(step)
    (inputs, targets), *_ = batches(1)
    captured(inputs, targets)
    captured(inputs, targets)  # the first replay compiles the loop
    entered = []
    sys.setprofile(lambda frame, event, _: entered.append(frame) if event == "call" else None)
    try:
        captured._replay.run()
    finally:
        sys.setprofile(None)
    names = [frame.f_code.co_name for frame in entered]
    assert names[:2] == ["run", "run_all"]
    assert names[2:] in (["_drive_all"], [])  # compiled; some versions of Python report it
