"""Placing names: an exact answer for columns, no overlap around points."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from baremetal.trace import style
from baremetal.trace.labels import beside_points, spread

heights = st.lists(st.integers(0, 100).map(float), min_size=1, max_size=8)


@given(heights, st.floats(0.1, 10))
def test_spread_keeps_distance_bounds_and_order(wanted, gap):
    placed = spread(wanted, gap, 0.0, 100.0)
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in placed)
    in_order = sorted(zip(wanted, placed, strict=True))
    assert all(b[1] - a[1] >= gap - 1e-9 for a, b in itertools.pairwise(in_order))


@given(heights, st.floats(0.1, 10), st.lists(st.floats(-5, 5), min_size=8, max_size=8))
def test_no_other_arrangement_moves_the_names_less(wanted, gap, nudges):
    placed = np.array(spread(wanted, gap, -1e6, 1e6))
    order = np.argsort(placed, kind="stable")
    other = placed + np.array(nudges[: len(wanted)])
    # Make the nudged arrangement a lawful one, then it must cost at least as much.
    for before, after in itertools.pairwise(order):
        other[after] = max(other[after], other[before] + gap)
    cost = np.sum((placed - wanted) ** 2)
    assert cost <= np.sum((other - wanted) ** 2) + 1e-6


def test_spread_by_hand():
    assert spread([5.0, 5.0], 2.0, 0.0, 10.0) == [4.0, 6.0]
    assert spread([9.5, 0.0, 9.5], 2.0, 0.0, 10.0) == [8.0, 0.0, 10.0]
    assert spread([1.0, 1.0, 1.0], 9.0, 0.0, 10.0) == [0.0, 5.0, 10.0]  # too many: evenly


def test_names_around_crowded_points_do_not_overlap():
    _, axes = style.new_figure()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = [(0.5 + 0.02 * i, 0.5 + 0.012 * i) for i in range(6)]
    notes = beside_points(axes, points, [f"kernel number {i}" for i in range(6)], fontsize=9)
    renderer = style.settle(axes)
    # The letters alone: the line back to a point may cross what it likes.
    boxes = [Text.get_window_extent(note, renderer) for note in notes]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1


@pytest.mark.parametrize("seed", [0, 2, 4, 6, 11, 20, 26])
def test_a_name_neither_hides_another_point_nor_could_be_taken_for_its_name(seed):
    _, axes = style.new_figure()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = np.random.default_rng(seed).random((8, 2)) * (0.3, 0.4) + 0.3
    notes = beside_points(axes, points.tolist(), ["layer_norm_backward"] * 8, fontsize=9)
    renderer = style.settle(axes)
    pixels = axes.transData.transform(points)
    for i, note in enumerate(notes):
        box = Text.get_window_extent(note, renderer)
        x, y = np.delete(pixels, i, axis=0).T
        sideways = np.maximum(np.maximum(box.x0 - x, x - box.x1), 0.0)
        upright = np.maximum(np.maximum(box.y0 - y, y - box.y1), 0.0)
        # 9 points, three times the radius of a dot. (Its own name stands 5 from a point.)
        assert np.hypot(sideways, upright).min() > 9 * axes.figure.dpi / 72


def test_a_lone_name_stands_up_and_right_of_its_point_without_a_line():
    _, axes = style.new_figure()
    (note,) = beside_points(axes, [(0.5, 0.5)], ["x"], fontsize=9)
    assert note.arrow_patch is None
    assert note.xyann[0] > 0
    assert note.xyann[1] > 0


@pytest.mark.parametrize("count", [0, 1])
def test_few_names(count):
    assert len(spread([3.0] * count, 1.0, 0.0, 10.0)) == count
