"""A plan that is broken in one place is refused, with that place named."""

from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal import CPU, Parameter, Tensor, ops
from baremetal.capture import CaptureError, Lifetime, capture, plan_arena, verify_plan
from baremetal.capture.plan import MemoryReport, Plan
from baremetal.capture.recording import Buffer
from baremetal.capture.verify import _verify_sharing
from baremetal.kernels.matmul import matmul
from baremetal.nn import GPT, GPTConfig
from baremetal.optim import AdamW


@pytest.fixture
def plan():
    """x + 1 -> a; a * 2 -> b; b * 3 -> c; sum(c): three buffers of 100 float32."""

    def chain(x):
        b = (Tensor(x) + 1.0) * 2.0
        return (b * 3.0).sum()

    captured = capture(chain)
    captured(np.ones(100, np.float32))
    plan = captured.plan
    assert [launch.kernel.name for launch in plan.launches] == [
        "add",
        "multiply",
        "multiply",
        "sum",
    ]
    verify_plan(plan)
    return plan


def moved(plan, buffer, offset):
    return replace(plan, offsets={**plan.offsets, buffer: offset})


def with_operand(plan, number, position, **changes):
    """The plan with one operand of one launch changed."""
    launches = [*plan.launches]
    operands = [*launches[number].operands]
    operands[position] = operands[position]._replace(**changes)
    launches[number] = launches[number]._replace(operands=tuple(operands))
    return replace(plan, launches=launches)


def test_buffers_that_share_memory(plan):
    a, b, c = plan.transient
    assert plan.offsets[a] == plan.offsets[c]  # a is dead when c is born
    with pytest.raises(
        CaptureError, match=r"buffer 1 \(100,\) float32 .* shares memory with buf"
    ) as e:
        verify_plan(moved(plan, b, plan.offsets[a]))
    assert "(launch 1 by 'multiply')" in str(e.value)
    assert "buffer 0 (100,) float32" in str(e.value)
    with pytest.raises(CaptureError, match="shares memory"):
        verify_plan(moved(plan, b, plan.offsets[a] + 64))


def test_buffers_that_reach_into_one_above(plan):
    a, b, _ = plan.transient
    below = moved(moved(plan, a, 64), b, 0)
    with pytest.raises(CaptureError, match=r"buffer 1 .* 0 to 400 .* with buffer 0 .* 64 to 464"):
        verify_plan(below)


def test_buffers_outside_the_arena_or_askew(plan):
    a, _, _ = plan.transient
    with pytest.raises(CaptureError, match=r"buffer 0 .* begins at byte 4 .*, no multiple of 64"):
        verify_plan(moved(plan, a, 4))
    end = plan.memory.planned_bytes
    with pytest.raises(CaptureError, match=rf"buffer 0 .* from byte {end} to {end + 400}, outside"):
        verify_plan(moved(plan, a, end))
    with pytest.raises(CaptureError, match=r"buffer 0 .* from byte -64"):
        verify_plan(moved(plan, a, -64))
    nowhere = {buffer: at for buffer, at in plan.offsets.items() if buffer is not a}
    with pytest.raises(CaptureError, match=r"buffer 0 \(100,\) float32 has no place in the arena"):
        verify_plan(replace(plan, offsets=nowhere))


def test_a_buffer_used_after_its_lifetime(plan):
    """The error that the arena cannot see: its memory is another's by then."""
    a, _, _ = plan.transient
    late = with_operand(plan, 3, 0, buffer=a)
    with pytest.raises(CaptureError) as caught:
        verify_plan(late)
    message = str(caught.value)
    assert "buffer 0 (100,) float32 lives from launch 0 to 1, and is used outside it" in message
    assert "launch 3 by 'sum'" in message


def test_a_lifetime_that_is_none(plan):
    a, _, _ = plan.transient
    a.last = 9
    with pytest.raises(CaptureError, match=r"live from launch 0 to 9, .* a plan of 4 launches"):
        verify_plan(plan)


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"shape": (101,)}, 0, 404),
        ({"offset_bytes": 4}, 4, 404),
        ({"offset_bytes": -4}, -4, 396),
        ({"strides": (8,)}, 0, 796),
        ({"strides": (-4,)}, -396, 4),
        ({"dtype": np.dtype(np.float64)}, 0, 404),
    ],
)
def test_an_operand_that_reaches_out_of_its_buffer(plan, changes, low, high):
    with pytest.raises(CaptureError) as caught:
        verify_plan(with_operand(plan, 1, 0, **changes))
    message = str(caught.value)
    assert f"buffer 0 (100,) float32 has 400 bytes, and its bytes {low} to {high}" in message
    assert "launch 1 by 'multiply'" in message


def test_views_within_a_buffer_are_sound(plan):
    backwards = {"offset_bytes": 396, "strides": (-4,)}
    verify_plan(with_operand(plan, 1, 0, **backwards))
    verify_plan(with_operand(plan, 1, 0, shape=(0,), offset_bytes=400))


def test_a_buffer_of_another_plan(plan):
    stranger = Buffer(7, (100,), np.dtype(np.float32), 0)
    stranger.first, stranger.last = 0, 3
    with pytest.raises(CaptureError, match=r"buffer 7 \(100,\) float32 is no buffer of this plan"):
        verify_plan(with_operand(plan, 2, 0, buffer=stranger))


def test_reading_what_nobody_wrote(plan):
    """The first launch is another: a pass that removed one too many."""
    without = replace(plan, launches=[plan.launches[1], *plan.launches[1:]])
    plan.transient[1].first = 0
    with pytest.raises(CaptureError, match=r"buffer 0 \(100,\) float32 is read before") as caught:
        verify_plan(without)
    assert "launch 0 by 'multiply'" in str(caught.value)


def test_adding_to_what_nobody_wrote():
    """A product with beta = 1 reads what it writes."""

    def step(x):
        out = CPU.empty((2, 2), np.float32)
        CPU.launch(matmul, x, x, out)
        CPU.launch(matmul, x, x, out, beta=1.0)
        return Tensor(out).sum()

    captured = capture(step)
    captured(np.ones((2, 2), np.float32))
    plan = captured.plan
    adds = plan.launches[1]
    with pytest.raises(CaptureError, match=r"buffer 0 \(2, 2\) float32 is read before .*'matmul'"):
        verify_plan(replace(plan, launches=[adds, *plan.launches[1:]]))
    verify_plan(replace(plan, launches=[adds, *plan.launches[1:]], entering=plan.transient))


def test_memory_that_python_filled_is_refused_by_name():
    """A replay would find something else there: say so when it is captured."""

    def step(x):
        ones = CPU.empty((3,), np.float32)
        ones[...] = 1.0
        return (Tensor(x) + Tensor(ones)).sum()

    with pytest.raises(CaptureError, match=r"buffer 0 \(3,\) float32 is read before .*'add'"):
        capture(step)(np.ones(3, np.float32))


def test_a_step_of_a_model_is_sound_and_a_refused_plan_is_undone():
    model = GPT(
        GPTConfig(vocab_size=11, context=8, layers=2, heads=2, width=16),
        rng=np.random.default_rng(0),
    )
    optimizer = AdamW([*model.parameters()], learning_rate=0.01)

    def step(tokens, bad=False):
        optimizer.zero_grad()
        loss = model.loss(tokens, tokens)
        loss.backward()
        optimizer.step()
        if bad:
            return ops.exp(Tensor(CPU.empty((3,), np.float32))).sum()
        return loss

    before = {name: array.copy() for name, array in model.state_dict().items()}
    tokens = np.random.default_rng(1).integers(0, 11, (2, 8))
    with pytest.raises(CaptureError, match="is read before any launch"):
        capture(step)(tokens, True)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    captured = capture(step)
    captured(tokens)
    verify_plan(captured.plan)


# ---------------------------------------------------------------- the sweep, by brute force


@cache
def any_launch():
    captured = capture(lambda x: Tensor(x) + 1.0)
    captured(np.ones(1, np.float32))
    return captured.plan.launches[0]


def plan_of(drawn, offsets=None):
    """A plan of 7 launches with these buffers, at the drawn offsets or at others."""
    buffers = []
    for number, (size, first, last, _) in enumerate(drawn):
        buffer = Buffer(number, (size // 4,), np.dtype(np.float32), 0)
        buffer.first, buffer.last = first, last
        buffers.append(buffer)
    places = [offset for *_, offset in drawn] if offsets is None else offsets
    report = MemoryReport(len(buffers), 0, 0, 0, 0)
    return Plan(
        [any_launch()] * 7, [], buffers, [], dict(zip(buffers, places, strict=True)), report
    )


@st.composite
def placed(draw, moments=6):
    first = draw(st.integers(0, moments))
    size = draw(st.sampled_from([0, 4, 64, 100, 200]))
    return size, first, draw(st.integers(first, moments)), 64 * draw(st.integers(0, 6))


@given(st.lists(placed(), max_size=8))
def test_the_sweep_finds_what_comparing_all_pairs_finds(drawn):
    plan = plan_of(drawn)
    together = any(
        max(a.first, b.first) <= min(a.last, b.last)
        and plan.offsets[a] < plan.offsets[b] + b.size_bytes
        and plan.offsets[b] < plan.offsets[a] + a.size_bytes
        for a, b in combinations(plan.transient, 2)
        if a.size_bytes and b.size_bytes
    )
    with pytest.raises(CaptureError, match="shares memory") if together else nullcontext():
        _verify_sharing(plan)


@given(st.lists(placed(), max_size=12))
def test_what_the_arena_plans_is_sound(drawn):
    offsets, _ = plan_arena([Lifetime(size, first, last) for size, first, last, _ in drawn])
    _verify_sharing(plan_of(drawn, offsets))


def test_returned_parameters_are_no_business_of_the_plan():
    w = Parameter(np.ones(3, np.float32))
    captured = capture(lambda x: (w, Tensor(x) * w))
    captured(np.ones(3, np.float32))
    verify_plan(captured.plan)
