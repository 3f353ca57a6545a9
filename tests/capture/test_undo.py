"""A captured step that raises: weights as before, or the words that they are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal import CPU, BaremetalError, Device, Parameter, Tensor
from baremetal.capture import CaptureError, capture
from baremetal.capture.replay import Replay
from baremetal.capture.undo import Undo
from baremetal.kernels import elementwise as kernels
from baremetal.kernels.cost import Cost
from baremetal.kernels.kernel import Kernel
from baremetal.nn import GPT, GPTConfig
from baremetal.optim import AdamW, Muon, decay_groups

# ---------------------------------------------------------------- the bytes


@st.composite
def views(draw):
    """A strided view of 60 float32, as slices of one row of them."""
    start, stop = sorted(draw(st.tuples(st.integers(0, 60), st.integers(0, 60))))
    return slice(start, stop, draw(st.integers(1, 4))), draw(st.booleans())


@given(st.lists(views(), max_size=8))
def test_everything_that_was_touched_is_put_back(touched):
    """Views that overlap, touch, lie within each other, run backwards; each written at once."""
    memory = np.arange(60, dtype=np.float32)
    before = memory.copy()
    undo = Undo()
    extents = np.zeros(60, bool)
    for number, (part, backwards) in enumerate(touched):
        view = memory[part][::-1] if backwards else memory[part]
        undo.keep(view)
        view[...] = -number - 1
        if view.size:
            indices = np.arange(60)[part]
            extents[indices.min() : indices.max() + 1] = True
    assert undo.kept_bytes == 4 * extents.sum()  # each byte once
    undo.put_back()
    np.testing.assert_array_equal(memory, before)


def test_matrices_are_kept_whole_and_once():
    memory = np.arange(24.0).reshape(4, 6)
    undo = Undo()
    undo.keep(memory.T)
    assert undo.kept_bytes == memory.nbytes
    undo.keep(memory[1:3, 2])
    undo.keep(memory[::-1, ::-1])
    assert undo.kept_bytes == memory.nbytes
    memory[...] = 0
    undo.put_back()
    np.testing.assert_array_equal(memory, np.arange(24.0).reshape(4, 6))
    undo.forget()
    assert undo.kept_bytes == 0


def test_what_cannot_be_written_is_not_kept():
    """A mapped file that is open for reading could not be written back either."""
    constant = np.frombuffer(b"abcdefgh", np.uint8)
    undo = Undo()
    undo.keep(constant)
    undo.keep(np.empty((0, 3)))
    assert undo.kept_bytes == 0
    undo.put_back()


# ---------------------------------------------------------------- while it is recorded

CONFIG = GPTConfig(vocab_size=11, context=8, layers=2, heads=4, width=16, dropout=0.1)
PLACES = ["first", "after forward", "after backward", "after clip", "after step", "after all"]


def state_of(model, optimizer):
    arrays = {**model.state_dict(), **optimizer.state_dict(), "grad": optimizer.arena.grad}
    arrays["dropout"] = model.dropout_state.buffer
    return {name: array.copy() for name, array in arrays.items()}


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def failing_step(optimizer_name="adamw"):
    """A model, an optimiser and a step that raises where `fails[0]` says."""
    model = GPT(CONFIG, rng=np.random.default_rng(0), dropout_seed=3)
    parameters = [*model.parameters()]
    if optimizer_name == "adamw":
        optimizer = AdamW(decay_groups(parameters, 0.1), learning_rate=0.01)
    else:
        matrices = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
        others = [p for p in parameters if not any(p is m for m in matrices)]
        optimizer = Muon(matrices, decay_groups(others, 0.1), learning_rate=0.01)
    fails = [""]

    def reach(place):
        if fails[0] == place:
            raise ZeroDivisionError(place)

    def step(inputs, targets):
        reach("first")
        optimizer.zero_grad()
        for part in range(2):
            model.dropout_state.begin_microbatch(3 * part)
            loss = model.loss(inputs[part], targets[part])
            reach("after forward")
            loss.backward()
        reach("after backward")
        optimizer.clip(0.5, loss)
        reach("after clip")
        optimizer.step()
        reach("after step")
        (loss * 2.0).item() if fails[0] == "after all" else None  # refused while recording
        return loss.detach()

    return model, optimizer, step, fails


def batch(seed=0):
    windows = np.random.default_rng(seed).integers(0, 11, (2, 3, 9))
    return windows[..., :-1].copy(), windows[..., 1:].copy()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
def test_a_recording_that_fails_is_undone_and_can_be_made_again(place, optimizer_name):
    model, optimizer, step, fails = failing_step(optimizer_name)
    step(*batch())  # moments that are not all zero
    before = state_of(model, optimizer)
    captured = capture(step)
    fails[0] = place
    kind = BaremetalError if place == "after all" else ZeroDivisionError
    for _ in range(2):
        with pytest.raises(kind) as caught:
            captured(*batch(1))
        assert_equal_bits(before, state_of(model, optimizer))
        assert "was put back" in caught.value.__notes__[0]
    assert captured.calls == 0
    assert CPU.empty(2).shape == (2,)

    fails[0] = ""
    twin_model, twin_optimizer, twin_step, _ = failing_step(optimizer_name)
    twin_step(*batch())
    for seed in (1, 2):
        assert captured(*batch(seed)).item() == twin_step(*batch(seed)).item()
    assert_equal_bits(state_of(model, optimizer), state_of(twin_model, twin_optimizer))


def test_a_token_outside_the_vocabulary_in_the_second_microbatch_is_undone():
    """The first call's checks run one by one, after launches."""
    model, optimizer, step, _ = failing_step()
    before = state_of(model, optimizer)
    inputs, targets = batch()
    inputs[1, 0, 0] = 11
    with pytest.raises(BaremetalError, match=r"11 is not in 0\.\.10"):
        capture(step)(inputs, targets)
    assert_equal_bits(before, state_of(model, optimizer))


def test_an_interrupt_and_a_fault_after_the_function_are_undone_too(monkeypatch):
    model, optimizer, step, _ = failing_step()
    before = state_of(model, optimizer)
    captured = capture(step)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "__init__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            captured(*batch())
    assert_equal_bits(before, state_of(model, optimizer))
    captured(*batch())


def test_copies_are_those_of_what_lasts_and_dropped_afterwards(monkeypatch):
    """Weights, gradients and two moments, each once, whatever the number of launches."""
    _, optimizer, step, _ = failing_step()
    seen = []
    forget = Undo.forget
    monkeypatch.setattr(Undo, "forget", lambda self: (seen.append(self), forget(self)))
    kept = []
    monkeypatch.setattr(Undo, "put_back", lambda self: kept.append(self.kept_bytes))

    def measured(inputs, targets):
        step(inputs, targets)
        raise KeyError

    with pytest.raises(KeyError):
        capture(measured)(*batch())
    inputs, targets = batch()
    flat = 4 * optimizer.arena.size * 4
    small = inputs.nbytes + targets.nbytes + optimizer.scalars.nbytes + 4096
    assert flat <= kept[0] <= flat + small
    assert seen[0].kept_bytes == 0


# ---------------------------------------------------------------- in a replay


def double_if_positive(x, out):
    """out = 2 x; refuses negative numbers."""
    if x.min() < 0:
        raise ValueError("a negative number")
    out[...] = 2 * x


FRAIL = Kernel(double_if_positive)  # not in the registry, and without a native version
FRAIL.costs(lambda x, out: Cost(x.size, x.nbytes + out.nbytes))
FRAIL._native = lambda x, out: None


def frail(x):
    """A launch that is left to NumPy, where it may raise."""
    out = CPU.empty(x.shape, x.dtype)
    CPU.launch(FRAIL, x, out)
    return Tensor(out)


GOOD, BAD = np.array([1.0, 2.0, 3.0]), np.array([1.0, -2.0, 3.0])


def test_a_replay_that_stops_before_it_has_changed_anything_says_so():
    captured = capture(lambda x: frail((Tensor(x) + 1.0).data))
    captured(GOOD)
    with pytest.raises(CaptureError) as caught:
        captured(BAD)
    message = str(caught.value)
    assert "stopped at launch 1 of 2, 'double_if_positive' (ValueError: a negative num" in message
    assert "changed nothing outside its own memory: parameters are as before" in message
    assert isinstance(caught.value.__cause__, ValueError)
    assert captured(GOOD).tolist() == [4, 6, 8]


def test_a_replay_that_stops_after_an_update_says_what_that_means():
    w = Parameter(np.zeros((2, 2), np.float32))

    def step(x):
        CPU.launch(kernels.add, w.data, np.ones((2, 2), np.float32), w.data)
        return frail(x)

    captured = capture(step)
    captured(GOOD)
    with pytest.raises(CaptureError, match=r"stopped at launch 1 of 2.*ValueError") as caught:
        captured(BAD)
    message = str(caught.value)
    assert "1 writes had gone" in message
    assert "launch 0, 'add', into (2, 2) float32" in message
    assert "may be half updated" in message


def test_the_last_of_several_writes_is_named():
    weights = [Parameter(np.zeros(size, np.float32)) for size in (2, 3)]

    def step(x):
        for w in weights:
            CPU.launch(kernels.fill, w.data, value=1.0)
        return frail(x)

    captured = capture(step)
    captured(GOOD)
    with pytest.raises(CaptureError, match=r"2 writes had gone.*launch 1, 'fill', into \(3,\)"):
        captured(BAD)


def test_the_launch_that_stopped_counts_as_one_that_wrote():
    """It may have stopped anywhere, also after it had begun to write."""
    outside = np.zeros(3)
    captured = capture(lambda x: CPU.launch(FRAIL, x, outside))
    captured(GOOD)
    with pytest.raises(CaptureError, match=r"1 writes had gone.*, or were about to .*launch 0"):
        captured(BAD)


def test_what_comes_after_the_stop_is_not_counted():
    w = Parameter(np.zeros(2, np.float32))

    def step(x):
        y = frail(x)
        CPU.launch(kernels.fill, w.data, value=1.0)
        return y

    captured = capture(step)
    captured(GOOD)
    w.data[...] = 0
    with pytest.raises(CaptureError, match="changed nothing outside"):
        captured(BAD)
    assert w.tolist() == [0, 0]


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_an_interrupt_stays_one_and_says_where(interrupted):
    """Between two parts (native, NumPy, native): Ctrl-C is not turned into something else."""
    captured = capture(lambda x: frail((Tensor(x) + 1.0).data) * 2.0)
    captured(GOOD)
    parts = captured._replay._parts
    assert captured._replay._ends == [1, 2, 3]

    def interrupt():
        raise KeyboardInterrupt

    captured._replay._parts = [*parts[:interrupted], interrupt, *parts[interrupted + 1 :]]
    with pytest.raises(KeyboardInterrupt) as caught:
        captured(GOOD)
    assert f"launch {interrupted} of 3" in caught.value.__notes__[0]
    captured._replay._parts = parts
    assert captured(GOOD).tolist() == [8, 12, 16]


def test_an_interrupt_around_a_step_of_one_piece():
    """Native launches run in one go: before or after, never between them."""
    captured = capture(lambda x: Tensor(x) * 2.0 + 1.0)
    captured(GOOD)

    def interrupt():
        raise KeyboardInterrupt

    captured._replay._parts = [interrupt]
    with pytest.raises(KeyboardInterrupt) as caught:
        captured(GOOD)
    assert "before or after the launches 0 to 1 of 2, which run in one" in caught.value.__notes__[0]


def test_the_references_say_it_too():
    device = Device(kernels="reference")

    def step(x):
        out = device.empty(x.shape, x.dtype)
        device.launch(FRAIL, x, out)
        return out

    captured = capture(step, device=device)
    captured(GOOD)
    with pytest.raises(CaptureError, match="launch 0 of 1, 'double_if_positive'"):
        captured(BAD)
