"""Small stages: whose turn it is in which slot, which gradients are there, what is refused."""

import numpy as np
import pytest

from baremetal import CPU, Parameter, Tensor, no_grad
from baremetal.autograd import AutogradError
from baremetal.capture import CaptureError, capture_segments
from baremetal.kernels import elementwise as kernels
from baremetal.nn import Linear
from baremetal.optim import AdamW

F, I, W = "forward", "input_gradient", "weight_gradient"


@pytest.fixture
def line():
    """A linear stage with two slots, captured."""
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    layer.name_parameters()

    class Stage:
        def forward(self, x):
            self.x = Tensor(x, requires_grad=True)
            self.y = layer(self.x)
            return self.y

        def input_gradient(self, dy):
            self.owed = self.y.backward(dy, defer_weights=True)
            return self.x.grad

        def weight_gradient(self):
            self.owed.pay()

    stage = Stage()
    return layer, capture_segments(
        {F: stage.forward, I: stage.input_gradient, W: stage.weight_gradient},
        inputs={F: (X,), I: (DY,)}, parameters=layer.parameters(), slots=2,
    )  # fmt: skip


X, DY = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)


def test_a_segment_waits_for_the_one_before_it(line):
    _, stage = line
    with pytest.raises(CaptureError, match="'input_gradient' of slot 1: no segment has run in it"):
        stage[I].run(1, DY)
    stage[F].run(0, X)
    with pytest.raises(
        CaptureError, match="'weight_gradient' of slot 0: 'forward' has run; run 'i"
    ):
        stage[W].run(0)


def test_a_segment_runs_once_per_microbatch(line):
    layer, stage = line
    stage[F].run(0, X)
    stage[I].run(0, DY)
    stage[W].run(0)
    once = layer.weight.grad.numpy().copy()
    with pytest.raises(CaptureError, match=r"'weight_gradient' of slot 0: .*once per microbatch"):
        stage[W].run(0)
    with pytest.raises(CaptureError, match=r"'input_gradient' of slot 0: .*once per microbatch"):
        stage[I].run(0, DY)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), once)
    assert stage.free_slots == [0, 1]
    stage[F].run(0, X)  # the next microbatch
    stage[I].run(0, DY)
    assert stage.free_slots == [1]  # its weight gradient is still to come


def test_a_slot_in_flight_is_not_begun_again(line):
    _, stage = line
    stage[F].run(1, X)
    assert stage.free_slots == [0]
    with pytest.raises(CaptureError, match=r"'forward' of slot 1: .*still in flight: run 'input_g"):
        stage[F].run(1, X)
    stage.release(1)
    assert stage.free_slots == [0, 1]
    stage[F].run(1, X)


def test_results_are_read_while_they_are_there(line):
    _, stage = line
    with pytest.raises(CaptureError, match="slot 0 holds no results of 'forward'"):
        stage[F].outputs(0)
    y = stage[F].run(0, X)
    assert stage[F].outputs(0) is y
    stage[I].run(0, DY)
    stage[W].run(0)
    assert stage[F].outputs(0) is y  # until the next microbatch begins
    assert stage[I].outputs(0).shape == (4, 3)
    stage[F].run(0, X)
    with pytest.raises(CaptureError, match="slot 0 holds no results of 'input_gradient'"):
        stage[I].outputs(0)
    stage.release(0)
    with pytest.raises(CaptureError, match=r"no results of 'forward'.*or the slot is released"):
        stage[F].outputs(0)


def test_a_result_that_was_saved_and_overwritten_is_noticed(line):
    """By the count of changes: the next microbatch in the slot changed what a backward needs."""
    _, stage = line
    y = stage[F].run(0, X)
    w = Parameter(np.ones((4, 2), np.float32))
    loss = (y * w).sum()
    stage[F].run(1, X)  # another slot: harmless
    stage.release(0)
    stage[F].run(0, X)
    with pytest.raises(AutogradError, match="changed in place by 'the next microbatch in slot 0'"):
        loss.backward()


def test_an_input_may_be_there_before_it_is_used():
    """`late` is first touched when `kept` is dead, but it is there before: it lies beside it."""
    kept = []

    def forward(x):
        kept.append(Tensor(x) * np.full(64, 2.0, np.float32))

    def backward(late):
        y = kept.pop() * 3.0
        return y + late + 1.0

    x, late = np.ones(1, np.float32), np.full(64, 10.0, np.float32)
    stage = capture_segments(
        {F: forward, "backward": backward}, inputs={F: (x,), "backward": (late,)}, slots=1
    )
    stage[F].run(0, x)
    assert stage["backward"].run(0, late).tolist() == [17.0] * 64


def test_an_optimiser_that_has_measured_too_early_measures_again():
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    optimizer = AdamW([*layer.parameters()], learning_rate=0.1)
    stage = capture_segments(
        {"all": lambda x: layer(Tensor(x)).sum().backward()},
        inputs={"all": (X,)}, parameters=layer.parameters(), slots=1,
    )  # fmt: skip
    optimizer.clip(0.0)
    stage["all"].run(0, X)
    optimizer.step()
    flat = np.concatenate([p.grad.numpy().ravel() for p in layer.parameters()])
    assert optimizer.gradient_norm == pytest.approx(np.linalg.norm(flat))


def test_slots_that_are_not_there(line):
    _, stage = line
    for slot in (2, -1):
        for call in (
            lambda s=slot: stage[F].run(s, X),
            lambda s=slot: stage[F].inputs(s),
            lambda s=slot: stage[F].outputs(s),
            lambda s=slot: stage.release(s),
        ):
            with pytest.raises(CaptureError, match=rf"slot {slot}: there are 2"):
                call()
    with pytest.raises(CaptureError, match="no segment 'backward': there are forward, input_"):
        stage["backward"]


def test_other_inputs_are_refused_by_name_and_nothing_is_lost(line):
    _, stage = line
    y = stage[F].run(0, X)
    with pytest.raises(CaptureError, match=r"'x' of 'forward' has shape \(5, 3\).*\(4, 3\)"):
        stage[F].run(1, np.ones((5, 3), np.float32))
    with pytest.raises(CaptureError, match=r"'dy' of 'input_gradient' has .* float64, .* float32"):
        stage[I].run(0, DY.astype(np.float64))
    with pytest.raises(CaptureError, match=r"1 inputs \(dy\), got 0"):
        stage[I].run(0)
    with pytest.raises(CaptureError, match=r"1 inputs \(x\), got 2"):
        stage[F].run(1, X, X)
    with pytest.raises(CaptureError, match="'dy' of 'input_gradient' is a float"):
        stage[I].run(0, 1.0)
    assert stage[F].outputs(0) is y
    stage[I].run(0, DY)


def test_inputs_that_lie_where_they_are_expected_are_not_copied(line):
    _, stage = line
    (own,) = stage[F].inputs(0)
    own[...] = X
    own.flags.writeable = False  # a copy would raise
    y = stage[F].run(0, own).numpy().copy()
    own.flags.writeable = True
    np.testing.assert_array_equal(y, stage[F].run(1, X).numpy())


def test_some_gradients_and_no_others_are_refused(line):
    """Neither version of the segment would do what eager execution does."""
    layer, stage = line
    stage[F].run(0, X)
    stage[I].run(0, DY)
    layer.weight.grad = np.zeros((2, 3), np.float32)
    with pytest.raises(CaptureError, match=r"'weight' \(2, 3\), which has one: begin .* zero_grad"):
        stage[W].run(0)
    layer.weight.zero_grad()
    stage[W].run(0)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), DY.T @ X)
    stage[F].run(0, X)
    stage[I].run(0, DY)
    layer.bias.zero_grad()
    with pytest.raises(CaptureError, match=r"'(weight|bias)' .*, which has (one|none)"):
        stage[W].run(0)


def test_gradients_that_are_absent_stay_absent():
    """An optimiser does not find zeros where eager execution would have left nothing."""
    used, unused = (Parameter(np.ones(3, np.float32)) for _ in range(2))
    stage = capture_segments(
        {"all": lambda x: (Tensor(x) * used).sum().backward()},
        inputs={"all": (np.ones(3, np.float32),)}, parameters=[used, unused], slots=1,
    )  # fmt: skip
    assert used.grad is None
    stage["all"].run(0, np.ones(3, np.float32))
    assert used.grad.tolist() == [1.0] * 3
    assert unused.grad is None


def test_a_first_gradient_moves_less_than_one_that_is_added(line):
    _, stage = line
    assert stage[W].first_plan.cost.size_bytes < stage[W].cost.size_bytes
    for name in (F, I):
        assert stage[name].first_plan is stage[name].plan


def test_a_segment_that_does_something_else_the_second_time():
    seen = []

    def forward(x):
        seen.append(x)
        y = Tensor(x) * 2.0
        return y if len(seen) == 1 else y + 1.0

    with pytest.raises(CaptureError, match="'forward' did not do the same when it was"):
        capture_segments({F: forward}, inputs={F: (X,)}, slots=1)

    def wider(x):
        seen.append(x)
        y = CPU.empty(x.shape, np.float32 if len(seen) == 1 else np.float64)
        CPU.launch(kernels.fill, y, value=1.0)
        return y

    seen.clear()
    with pytest.raises(CaptureError, match="'forward' did not do the same when it was"):
        capture_segments({F: wider}, inputs={F: (X,)}, slots=1)


def test_a_gradient_segment_that_returns_something_else_the_second_time():
    w = Parameter(np.ones(3, np.float32))
    held, calls = [], []

    def forward(x):
        held[:] = [Tensor(x) * 2.0, Tensor(x) * 3.0]

    def backward():
        calls.append(0)
        (held[0].detach() * w).sum().backward()
        return held[len(calls) % 2]

    x = np.ones(3, np.float32)
    with pytest.raises(CaptureError, match="'backward' did not do the same"):
        capture_segments(
            {F: forward, "backward": backward}, inputs={F: (x,)}, parameters=[w], slots=1
        )


def test_what_a_gradient_segment_makes_is_not_handed_on():
    """Its two versions would leave it in two places."""
    w = Parameter(np.ones(3, np.float32))
    held = []

    def backward(x):
        y = Tensor(x, requires_grad=True)
        (y * w).sum().backward()
        held[:] = [y.grad]

    with pytest.raises(CaptureError, match="'after' uses memory that 'all' makes, which"):
        capture_segments(
            {"all": backward, "after": lambda: held[0] * 2.0},
            inputs={"all": (np.ones(3, np.float32),)}, parameters=[w], slots=1,
        )  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2])
def test_a_backward_in_one_piece_returns_its_gradient_from_both_versions(steps):
    w = Parameter(np.array([1.0, 2.0, 3.0], np.float32))
    held = []

    def forward(x):
        held[:] = [Tensor(x, requires_grad=True)]
        held.append(held[0] * w * w)
        return held[1]

    def backward(dy):
        held[1].backward(dy)
        return {"dx": held[0].grad}

    x = np.ones(3, np.float32)
    stage = capture_segments(
        {F: forward, "backward": backward}, inputs={F: (x,), "backward": (x,)},
        parameters=[w], slots=2,
    )  # fmt: skip
    for _ in range(steps):
        w.zero_grad()
        for slot in (0, 1):
            stage[F].run(slot, x * (slot + 1))
        for slot in (1, 0):
            dx = stage["backward"].run(slot, x * 10)["dx"]
            np.testing.assert_array_equal(dx.numpy(), 10 * w.numpy() ** 2)
            assert stage["backward"].outputs(slot)["dx"] is dx
        np.testing.assert_array_equal(w.grad.numpy(), 2 * w.numpy() * 10 * 3)


def test_parameters_that_moved_are_noticed(line):
    layer, stage = line
    AdamW([*layer.parameters()], learning_rate=0.1)
    with pytest.raises(CaptureError, match=r"parameter '\w+' .* has moved to other memory"):
        stage[F].run(0, X)


def test_every_parameter_must_be_given():
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    layer.name_parameters()
    with pytest.raises(CaptureError, match=r"'forward' uses the parameter 'bias' \(2,\)"):
        capture_segments(
            {F: lambda x: layer(Tensor(x))}, inputs={F: (X,)}, parameters=[layer.weight], slots=1
        )
    layer.bias.requires_grad = False
    capture_segments(
        {F: lambda x: layer(Tensor(x))}, inputs={F: (X,)}, parameters=[layer.weight], slots=1
    )


def test_a_run_that_stops_half_way_breaks_its_slot_only():
    """A part in NumPy can raise; here the first part is made to."""

    def forward(x):
        return Tensor(x) * 2.0 + 1.0

    stage = capture_segments(
        {F: forward, I: lambda: None}, inputs={F: (np.ones(3, np.float32),)}, slots=2
    )
    bound = stage[F]._bound[0]
    parts = bound.replay._parts
    bound.replay._parts = [lambda: 1 / 0]
    with pytest.raises(CaptureError, match=r"stopped before or after the launches 0 to 1.*ZeroD"):
        stage[F].run(0, np.ones(3, np.float32))
    bound.replay._parts = parts
    with pytest.raises(CaptureError, match=r"slot 0: a segment stopped half-way.*release\(0\)"):
        stage[F].run(0, np.ones(3, np.float32))
    stage[F].run(1, np.ones(3, np.float32))
    stage.release(0)
    stage[F].run(0, np.ones(3, np.float32))


def test_what_cannot_be_captured_is_refused():
    x = np.ones(2, np.float32)
    with pytest.raises(CaptureError, match="0 functions, 2 slots"):
        capture_segments({}, inputs={}, slots=2)
    with pytest.raises(CaptureError, match="1 functions, 0 slots"):
        capture_segments({F: lambda x: Tensor(x) * 2.0}, inputs={F: (x,)}, slots=0)
    with pytest.raises(
        CaptureError, match="a message for 'backward', but the functions are forward"
    ):
        capture_segments({F: lambda: None}, inputs={"backward": (x,)}, slots=1)
    with pytest.raises(CaptureError, match="forward launched nothing"):
        capture_segments({F: lambda x: x}, inputs={F: (x,)}, slots=1)
    with pytest.raises(CaptureError, match=r"input 1 of 'forward' is 2\.0"):
        capture_segments({F: lambda x, y: Tensor(x) * y}, inputs={F: (x, 2.0)}, slots=1)
    with pytest.raises(AutogradError, match=r"item\(\) reads a computed value"):
        capture_segments({F: lambda x: Tensor(x).sum().item()}, inputs={F: (x,)}, slots=1)
    assert Tensor([1.0]).sum().item() == 1.0  # the device is free again


@pytest.mark.parametrize("grad", [None, [3.0, 4.0]])
def test_a_failed_capture_puts_everything_back(grad):
    w = Parameter(np.array([1.0, 2.0], np.float32))
    w.grad = None if grad is None else np.array(grad, np.float32)

    def forward(x):
        with no_grad():
            CPU.launch(kernels.fill, w.data, value=7.0)
        (Tensor(x) * w).sum().backward()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        capture_segments(
            {F: forward}, inputs={F: (np.ones(2, np.float32),)}, parameters=[w], slots=1
        )
    assert w.tolist() == [1.0, 2.0]
    assert (None if w.grad is None else w.grad.tolist()) == grad
