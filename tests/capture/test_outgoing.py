"""Results that go out: the same bits, in memory that each run is given, and when they may not."""

from dataclasses import replace

import numpy as np
import pytest

from baremetal import Device, Tensor, ops
from baremetal.capture import capture_segments
from baremetal.capture.verify import verify_plan
from baremetal.nn import Linear

F, B = "forward", "backward"
X = np.zeros((4, 3), np.float32)


class Stage:
    """A layer, added to what came in, as in a block; a whole backward that writes gradients."""

    def __init__(self, last=lambda y: y):
        self.layer = Linear(3, 3, rng=np.random.default_rng(0))
        self.last = last

    def forward(self, x):
        self.x = Tensor(x, requires_grad=True)
        self.y = self.last(self.x + self.layer(self.x))
        return self.y

    def backward(self, dy):
        self.y.backward(dy)
        return self.x.grad

    def captured(self, outgoing, slots=2):
        return capture_segments(
            {F: self.forward, B: self.backward}, inputs={F: (X,), B: (X,)},
            parameters=self.layer.parameters(), slots=slots, outgoing=outgoing,
        )  # fmt: skip


def draw(seed):
    return np.random.default_rng(seed).standard_normal(X.shape, np.float32)


def test_a_result_that_goes_out_has_the_bits_of_one_that_stays():
    """In memory that differs from run to run; a first backward of a step and later ones."""
    found = []
    for outgoing in ({}, {F: X, B: X}):
        stage = Stage()
        plan = stage.captured(outgoing)
        assert [segment.goes_out for segment in plan] == [bool(outgoing)] * 2
        rings = np.zeros((2, 3, *X.shape), np.float32)  # of messages: 3 slots each
        bits = []
        for k in range(7):
            slot = k % 2
            y, dy = (rings[n, k % 3] if outgoing else None for n in range(2))
            results = plan[F].run(slot, draw(k), out=y), plan[B].run(slot, draw(-k % 99), out=dy)
            if outgoing:
                assert results[0] is y
                assert results[1] is dy
            else:
                results = [result.data for result in results]
            bits += [result.tobytes() for result in results]
        found.append((bits, stage.layer.weight.grad.numpy().tobytes()))
    assert found[0] == found[1]


def test_only_what_was_given_is_written():
    """What went out before, and the array's neighbours in the ring, stay as they are."""
    plan = Stage().captured({F: X}, slots=1)
    ring = np.full((5, *X.shape), 7.0, np.float32)
    plan[F].run(0, draw(0), out=ring[1])
    first = ring[1].copy()
    plan.release(0)
    plan[F].run(0, draw(1), out=ring[3])
    np.testing.assert_array_equal(ring[1], first)
    assert (ring[::2] == 7.0).all()
    assert (ring[3] != 7.0).all()


def test_it_has_no_memory_in_the_arena():
    """A forward's result would live to the end of the cycle: the slot shrinks by all of it."""
    there, here = (Stage().captured(outgoing) for outgoing in ({F: X}, {}))
    assert here.memory.slot_bytes - there.memory.slot_bytes == 64  # 48, in whole cache lines
    assert "out[4x3]" in there[F].text()
    assert "out[" not in there[B].text() + here.text()


def test_references_write_there_too():
    device = Device(kernels="reference")
    plan = capture_segments(
        {F: lambda x: ops.softmax(x * 2.0)},
        inputs={F: (Tensor(X, device=device),)}, slots=1, device=device, outgoing={F: X},
    )  # fmt: skip
    for k in range(2):
        out = np.zeros_like(X)
        plan[F].run(0, draw(k), out=out)
        np.testing.assert_allclose(out, ops.softmax(Tensor(draw(k) * 2)).numpy(), 1e-6)
        plan.release(0)


# ---------------------------------------------------------------- the rule


def test_what_the_backward_reads_again_stays():
    """tanh' = 1 - y^2: it needs y, and the message's slot has been given away by then."""
    plan = Stage(last=ops.tanh).captured({F: X, B: X})
    assert not plan[F].goes_out
    assert plan[B].goes_out


@pytest.mark.parametrize(
    ("what", "message", "function"),
    [
        ("one", X, lambda x: (Tensor(x) * 2.0, Tensor(x) * 3.0)),
        ("whole", X[:2], lambda x: (Tensor(x) * 2.0)[:2]),
        ("in order", X.T, lambda x: (Tensor(x) * 2.0).transpose()),
        ("shape as sent", X.reshape(2, 6), lambda x: Tensor(x) * 2.0),
        ("dtype as sent", X.astype(np.float64), lambda x: Tensor(x) * 2.0),
        ("own", X, lambda x: [Tensor(x) * 2.0, Tensor(x)][1]),
        ("an array at all", X, lambda x: [Tensor(x) * 2.0, 3][1]),
    ],
)
def test_what_is_not_the_message_itself_stays(what, message, function):
    plan = capture_segments({F: function}, inputs={F: (X,)}, slots=1, outgoing={F: message})
    assert not plan[F].goes_out


def test_what_two_segments_return_stays():
    held = []

    def forward(x):
        held[:] = [Tensor(x) * 2.0]
        return held[0]

    def again(x):
        return [held[0], Tensor(x) * 2.0][0]

    plan = capture_segments(
        {F: forward, "again": again}, inputs={F: (X,), "again": (X,)}, slots=1,
        outgoing={F: X, "again": X},
    )  # fmt: skip
    assert not any(segment.goes_out for segment in plan)


def test_a_view_of_all_of_it_in_its_order_is_the_message():
    message = X.reshape(2, 6)
    plan = capture_segments(
        {F: lambda x: (Tensor(x) * 2.0).reshape(2, 6)}, inputs={F: (X,)}, slots=1,
        outgoing={F: message},
    )  # fmt: skip
    out = np.zeros_like(message)
    plan[F].run(0, draw(5), out=out)
    np.testing.assert_array_equal(out, (2 * draw(5)).reshape(2, 6))


def test_a_plan_that_adds_to_what_lies_there_is_refused(refused):
    """What a slot of the ring holds is the last message, and no beginning."""
    plan = Stage().captured({F: X})[F].plan
    (buffer,) = plan.outgoing
    broken = [
        launch._replace(attributes={**launch.attributes, "beta": 1.0})
        if any(operand.buffer is buffer for operand in launch.written())
        else launch
        for launch in plan.launches
    ]
    verify_plan(plan)
    with refused("is read before any launch has written it"):
        verify_plan(replace(plan, launches=broken))


# ---------------------------------------------------------------- what is refused


def test_it_must_be_said_where_it_goes(refused):
    plan = Stage().captured({F: X}, slots=1)
    with refused("'forward' goes out", "(4, 3) float32", "got none"):
        plan[F].run(0, X)
    for wrong in (np.zeros((3, 4), np.float32), X.astype(np.float64)):
        with refused("'forward' goes out", str(wrong.shape), str(wrong.dtype)):
            plan[F].run(0, X, out=wrong)
    frozen = X.copy()
    frozen.flags.writeable = False
    for wrong in (np.zeros((3, 4), np.float32).T, frozen):
        with refused("not contiguous", "not writeable"):
            plan[F].run(0, X, out=wrong)
    plan[F].run(0, X, out=X.copy())  # nothing had begun


def test_what_stays_is_given_no_memory(refused):
    plan = Stage().captured({F: X}, slots=1)
    plan[F].run(0, X, out=X.copy())
    with refused("'backward' was given an array", "stays in the slot"):
        plan[B].run(0, X, out=X.copy())
    with refused("'forward' writes its result into the array that each run is given"):
        plan[F].outputs(0)
    assert plan[B].run(0, X) is plan[B].outputs(0)


def test_messages_are_those_of_functions_that_are_there(refused):
    with refused("inputs or a message for 'backwards'", "forward"):
        capture_segments(
            {F: lambda x: Tensor(x) * 2.0}, inputs={F: (X,)}, slots=1, outgoing={"backwards": X}
        )
