"""Pictures: that they show what they should (artists, limits, texts) and are written whole."""

import itertools
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from baremetal.errors import BaremetalError
from baremetal.trace import (
    Line,
    RooflinePoint,
    Trace,
    attainable_flops,
    line_figure,
    line_plot,
    ridge_intensity,
    roofline_figure,
    roofline_plot,
    shortest_time_s,
    style,
    timeline_figure,
    timeline_plot,
)
from baremetal.trace.curves import running_mean
from baremetal.trace.picture import time_unit

US = 10**6


@pytest.fixture
def pipeline():
    trace = Trace()
    first = trace.add_span("stage 0", "F0", 0, 10 * US, "forward", {"label": "0"})
    second = trace.add_span("stage 1", "F0", 12 * US, 10 * US, "forward", {"label": "0"})
    trace.add_span("stage 1", "B0", 22 * US, 20 * US, "backward", {"label": "0"})
    trace.add_span("stage 1", "matmul", 24 * US, US // 100, "kernel")
    trace.add_flow(first, second, "activation")
    return trace


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


# The timeline ---------------------------------------------------------------------------------


def test_a_timeline_draws_every_span_in_its_place(pipeline):
    (axes,) = timeline_figure(pipeline, "A pipeline").axes
    bars = {bar.get_label(): bar.get_paths() for bar in axes.collections}
    assert {label: len(paths) for label, paths in bars.items()} == {
        "forward": 2, "backward": 1, "kernel": 1,
    }  # fmt: skip
    backward, kernel = bars["backward"][0].get_extents(), bars["kernel"][0].get_extents()
    assert (backward.x0, backward.x1) == (22.0, 42.0)  # microseconds
    assert kernel.y0 > backward.y1 - 1e-9  # the span inside lies one row further down
    assert axes.get_xlim() == (0.0, 42.0)
    assert axes.get_xlabel() == "time in µs"
    assert axes.get_title(loc="left") == "A pipeline"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0", "stage 1"]


def test_names_are_written_where_they_fit_and_flows_drawn(pipeline):
    (axes,) = timeline_figure(pipeline).axes
    assert texts(axes) == ["0", "0", "0"]  # "matmul" has no room
    arrows = [text for text in axes.texts if text.get_text() == ""]
    # From the lower edge of stage 0's bar to the upper edge of stage 1's.
    assert [arrow.xyann for arrow in arrows] == [(10.0, 0.94)]
    assert [arrow.xy for arrow in arrows] == [(12.0, pytest.approx(1.35 + 0.06))]
    (bare,) = timeline_figure(pipeline, names=False, flows=False).axes
    assert list(bare.texts) == []


def test_the_legend_names_each_category_once(pipeline):
    figure = timeline_figure(pipeline)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["forward", "backward", "kernel"]
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    assert len(set(colours)) == 3
    fixed = timeline_figure(pipeline, categories=["backward", "forward"]).legends[0]
    assert [t.get_text() for t in fixed.get_texts()] == ["backward", "forward", "kernel"]
    plain = Trace()
    plain.add_span("t", "a", 0, 1)
    assert timeline_figure(plain).legends == []


def test_tracks_and_window_choose_what_is_drawn(pipeline):
    (axes,) = timeline_figure(pipeline, tracks=["stage 0"], window_ps=(US, 5 * US)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0"]
    assert axes.get_xlim() == (1.0, 5.0)
    assert [text for text in axes.texts if text.get_text() == ""] == []  # the flow has lost an end
    with pytest.raises(BaremetalError, match=r"no spans to draw on the tracks none"):
        timeline_figure(pipeline, tracks=["none"])


def test_counters_are_steps_that_hold_their_last_value(pipeline):
    pipeline.add_counter("stage 0", "in flight", 20 * US, 1)
    pipeline.add_counter("stage 0", "in flight", 5 * US, 2)
    figure = timeline_figure(pipeline)
    top, strip = figure.axes
    (line,) = strip.get_lines()
    assert line.get_drawstyle() == "steps-post"
    assert list(line.get_xdata()) == [5.0, 20.0, 42.0]
    assert list(line.get_ydata()) == [2, 1, 1]
    assert strip.get_xlim() == top.get_xlim()
    assert (top.get_xlabel(), strip.get_xlabel()) == ("", "time in µs")


def test_time_units():
    assert time_unit(3 * 10**12) == ("s", 10**12)
    assert time_unit(10**12 - 1) == ("ms", 10**9)
    assert time_unit(999) == ("ps", 1)
    assert time_unit(0) == ("ps", 1)


# Lines ----------------------------------------------------------------------------------------


def test_every_line_is_drawn_and_named_beside_the_axes():
    figure = line_figure(
        {"run a": ([0, 1, 2], [3.0, 2.0, 1.0]), "run b": ([0, 1, 2], [3.0, 2.0, 1.01])},
        "Loss", x_label="step", y_label="nats", references={"goal": 1.0},
    )  # fmt: skip
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.get_lines()][:2] == ["run a", "run b"]
    assert list(axes.get_lines()[0].get_ydata()) == [3.0, 2.0, 1.0]
    assert list(axes.get_lines()[2].get_ydata()) == [1.0, 1.0]
    assert texts(axes) == ["run a", "run b", "goal"]
    renderer = style.settle(axes)
    boxes = [note.get_window_extent(renderer) for note in axes.texts]
    assert all(not one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= axes.bbox.x1 and box.x1 <= figure.bbox.x1 for box in boxes)
    # Names stand in the order of the lines' ends.
    assert boxes[1].y0 > boxes[0].y0


def test_groups_share_a_colour_and_smoothing_keeps_the_raw_line():
    lines = [
        Line("train", range(50), np.linspace(3, 1, 50), group="a", smooth=5),
        Line("validation", [0, 49], [3, 1.2], group="a", dashed=True, markers=True),
    ]
    (axes,) = line_figure(lines).axes
    raw, smooth, validation = axes.get_lines()
    assert {line.get_color() for line in (raw, smooth, validation)} == {style.BLUE}
    assert raw.get_alpha() < 1
    assert validation.get_linestyle() == "--"
    # A straight line is its own running mean, but for its end.
    assert np.allclose(smooth.get_ydata()[:-2], raw.get_ydata()[:-2])


def test_many_lines_get_a_legend_and_strokes_of_their_own():
    figure = line_figure({f"run {i}": ([0, 1], [i, i]) for i in range(13)})
    (axes,) = figure.axes
    assert len(figure.legends[0].get_texts()) == 13
    looks = {(line.get_color(), str(line.get_linestyle())) for line in axes.get_lines()}
    assert len(looks) == 13


def test_log_axes_leave_out_what_they_cannot_show():
    (axes,) = line_figure({"a": ([0, 1, 10], [1, -1, 100])}, log_x=True, log_y=True).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert np.isfinite(axes.get_lines()[0].get_ydata()).tolist() == [False, False, True]
    (gap,) = line_figure({"a": ([1, 2, 3], [1.0, None, 3.0])}).axes  # not evaluated at step 2
    assert np.isfinite(gap.get_lines()[0].get_ydata()).tolist() == [True, False, True]
    (one,) = line_figure({"a": ([5], [7])}, y_range=(0, 9)).axes
    assert one.get_ylim() == (0, 9)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({}, "no lines"),
        ({"a": ([1, 2], [1])}, r"'a' has x of shape \(2,\) and y of shape \(1,\)"),
        ({"a": ([1, 2], [np.nan, np.inf])}, "no point that can be drawn"),
        ({"a": ([], [])}, "no point that can be drawn"),
    ],
)
def test_lines_that_cannot_be_drawn_are_refused(series, message):
    with pytest.raises(BaremetalError, match=message):
        line_figure(series)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20), st.integers(1, 30))
def test_the_running_mean_by_hand(values, window):
    reach = (window - 1) // 2
    expected = []
    for i in range(len(values)):
        sideways = min(i, reach)
        piece = values[i - sideways : i + sideways + 1]
        expected.append(sum(piece) / len(piece))
    assert np.allclose(running_mean(np.array(values), window), expected)


# The roofline ---------------------------------------------------------------------------------

POINTS = [
    RooflinePoint("BLAS", 8.0, 95e9),
    RooflinePoint("naive", 8.0, 0.2e9),
    RooflinePoint("softmax", 0.6, 6e9),
]


def test_the_roof_has_its_ridge_where_the_limits_meet():
    (axes,) = roofline_figure(POINTS, 100e9, 10e9, "Roofline").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "arithmetic intensity in FLOP/B",
        "rate in FLOP/s",
    )
    roof, ridge = axes.get_lines()
    assert (roof.get_xdata()[1], roof.get_ydata()[1]) == (10.0, 100e9)
    assert roof.get_ydata()[0] == pytest.approx(roof.get_xdata()[0] * 10e9)
    assert roof.get_ydata()[2] == 100e9
    assert list(ridge.get_xdata()) == [10.0, 10.0]
    assert texts(axes) == [
        "memory 10.0 GB/s", "peak 100 GFLOP/s", "ridge 10.0 FLOP/B", "BLAS", "naive", "softmax",
    ]  # fmt: skip
    ((dots,)) = axes.collections
    assert dots.get_offsets().tolist() == [[p.intensity, p.flops_per_s] for p in POINTS]


def test_every_point_lies_inside_the_frame_also_above_the_roof():
    points = [RooflinePoint("cached", 0.01, 1e12), RooflinePoint("slow", 1e4, 1e3)]
    (axes,) = roofline_figure(points, 100e9, 10e9).axes
    for point in points:
        assert axes.get_xlim()[0] < point.intensity < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < point.flops_per_s < axes.get_ylim()[1]


@given(st.floats(1e-3, 1e4), st.floats(1e6, 1e15), st.floats(1e6, 1e13))
def test_the_roof_and_the_least_time_are_one_formula(intensity, peak_flops, bandwidth):
    size_bytes = 1e6
    flops = intensity * size_bytes
    least_s = shortest_time_s(flops, size_bytes, peak_flops, bandwidth)
    assert attainable_flops(intensity, peak_flops, bandwidth) == pytest.approx(flops / least_s)
    at_ridge = attainable_flops(ridge_intensity(peak_flops, bandwidth), peak_flops, bandwidth)
    assert at_ridge == pytest.approx(peak_flops)


def test_names_keep_off_the_ridge_and_away_from_the_names_of_the_limits():
    add = RooflinePoint("add two arrays", 1 / 12, 1.5e9)
    near_the_ridge = RooflinePoint("SiLU, not vectorised", 1.75, 4e9)
    product = RooflinePoint("product of 768 x 768 matrices", 128, 100e9)
    for figure in (
        roofline_figure([add, near_the_ridge, product], 320e9, 31e9),
        roofline_figure([add, product], 100e9, 20e9),  # on the roof, where the peak is written
    ):
        (axes,) = figure.axes
        renderer = style.settle(axes)
        limits, names = axes.texts[:3], axes.texts[3:]
        (ridge_px, _), _ = axes.transData.transform(axes.get_lines()[1].get_xydata())
        for name in names:
            box = Text.get_window_extent(name, renderer)
            assert not box.x0 <= ridge_px <= box.x1
            assert not any(box.padded(8).overlaps(t.get_window_extent(renderer)) for t in limits)


def test_roofline_refuses_what_a_logarithm_cannot_take():
    with pytest.raises(BaremetalError, match="peak_flops is 0"):
        roofline_figure([], 0, 1)
    with pytest.raises(BaremetalError, match="copy: flops_per_s is 0"):
        roofline_figure([RooflinePoint("copy", 1.0, 0.0)], 1, 1)
    with pytest.raises(BaremetalError, match="all above zero"):
        RooflinePoint.measured("copy", 0, 8, 1e-3)
    assert RooflinePoint.measured("k", 40, 10, 2.0) == RooflinePoint("k", 4.0, 20.0)


# Style and files ------------------------------------------------------------------------------


def test_all_three_pictures_are_written_and_repeatable(tmp_path, pipeline):
    written = [
        timeline_plot(pipeline, tmp_path / "timeline.png", "T"),
        line_plot({"a": ([0, 1], [1, 2])}, tmp_path / "lines.png", "L"),
        roofline_plot(POINTS, 100e9, 10e9, tmp_path / "roofline.png", "R"),
    ]
    assert [path.name for path in written] == ["timeline.png", "lines.png", "roofline.png"]
    assert [png_size(path)[0] for path in written] == [1200, 1200, 1200]
    assert png_size(tmp_path / "roofline.png")[1] == 750
    one = timeline_plot(pipeline, tmp_path / "one.svg", "T").read_bytes()
    again = timeline_plot(pipeline, tmp_path / "again.svg", "T").read_bytes()
    assert b"<svg" in one
    assert one == again


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path, pipeline):
    with pytest.raises(BaremetalError, match=r"\.bmp is no picture format.*\.png"):
        timeline_plot(pipeline, tmp_path / "x.bmp")
    with pytest.raises(BaremetalError, match="no suffix"):
        timeline_plot(pipeline, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_text_can_be_read_on_every_colour_of_the_palette():
    def contrast(one, other):
        low, high = sorted([style.luminance(one), style.luminance(other)])
        return (high + 0.05) / (low + 0.05)

    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)  # WCAG's own example
    for colour in style.PALETTE:
        assert contrast(style.ink_on(colour), colour) >= 4.5
        assert contrast(style.as_ink(colour), "#FFFFFF") >= 4.5
    assert style.as_ink(style.BLACK) == "#000000"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e9, "1 G"), (5e8, "500 M"), (1500, "1.5 k"), (0.01, "0.01"), (1, "1"), (1e-6, "1 µ")],
)
def test_ticks_are_short(value, text):
    assert style.tick_text(value) == text


def test_drawing_touches_no_global_state(pipeline, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    timeline_plot(pipeline, tmp_path / "x.svg")
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys\n"
        "from baremetal.trace import Trace, line_plot\n"
        "assert not {'matplotlib', 'scipy', 'numba'} & set(sys.modules), 'imported too early'\n"
        f"line_plot({{'a': ([0, 1], [1, 2])}}, {str(tmp_path / 'y.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "y.png").stat().st_size > 1000
