"""A plan looked at: what is alive when, the launches timed one by one, and the picture."""

from xml.etree import ElementTree

import numpy as np
import pytest

from baremetal import CPU, Tensor
from baremetal.capture import CaptureError, arena_figure, arena_plot, capture
from baremetal.kernels.elementwise import add


def chain(x):
    """Three buffers of 1,000 float32: each is dead once the next is there."""
    y = Tensor(x) + 1.0
    z = y * 2.0
    del y
    return (z * 3.0).sum()


@pytest.fixture
def captured():
    step = capture(chain)
    step(np.ones(1000, np.float32))
    return step


def test_what_is_alive_is_counted_at_each_launch(captured):
    plan = captured.plan
    alive = plan.alive_bytes()
    assert len(alive) == len(plan.launches) == 4
    assert alive == [4032, 8064, 8064, 4032]  # 4,000 bytes in whole cache lines
    assert max(alive) == plan.memory.bound_bytes


def test_launches_are_timed_one_by_one_and_do_what_a_replay_does(captured):
    trace = captured.measure(repeats=2)
    assert [span.name for span in trace.spans] == ["add", "multiply", "multiply", "sum"]
    assert [span.arguments["flops"] for span in trace.spans[:3]] == [1000] * 3
    assert [counter.value for counter in trace.counters] == captured.plan.alive_bytes()
    trace.validate()
    assert captured._returned.item() == 1000 * 12.0
    captured(np.zeros(1000, np.float32))
    captured.measure()
    assert captured._returned.item() == 1000 * 6.0


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_step_is_done_as_often_as_asked_for(repeats):
    """Really: the last one is shown, those before it warm up."""
    count = np.zeros(1, np.float32)
    captured = capture(lambda one: CPU.launch(add, count, one, count))
    captured(np.ones(1, np.float32))
    count[0] = 0
    trace = captured.measure(repeats)
    assert count[0] == repeats
    assert len(trace.spans) == 1


def test_measuring_needs_a_plan():
    with pytest.raises(CaptureError, match="call it once"):
        capture(chain).measure()


def test_the_picture_has_a_rectangle_for_each_buffer(captured, tmp_path):
    figure = arena_figure(captured.plan, "a chain")
    (axes,) = figure.axes
    boxes = [path for collection in axes.collections for path in collection.get_paths()]
    assert len(boxes) == len(captured.plan.transient) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["elementwise", "alive"]
    assert "kernels that made them" in axes.get_legend().get_title().get_text()
    path = arena_plot(captured.plan, tmp_path / "arena.svg")
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
