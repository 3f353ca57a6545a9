"""A played schedule in its three forms: text, picture, trace."""

import pytest
from matplotlib.colors import to_hex

from baremetal.machine import Link
from baremetal.schedules import Action, Kind, Overlap, Schedule, make_schedule
from baremetal.schedules.picture import comparison_figure, draw_picture, paler, schedule_figure
from baremetal.schedules.simulate import simulate
from baremetal.schedules.terminal import COLOURS, draw_text
from baremetal.schedules.times import Times
from baremetal.schedules.tracks import to_trace
from baremetal.trace import read_perfetto, style, write_perfetto

UNIT = 10**9


def played(name="1f1b", p=2, m=2, **setting):
    return simulate(make_schedule(name, p, m), Times.uniform(p, UNIT, UNIT, UNIT), **setting)


def folded():
    """Two stages as two chunks of one rank, with I, W and an overlapped pair."""
    act = Action
    F, I, W, B = Kind
    steps = (
        act(F, 0, 0), act(F, 1, 0), act(I, 1, 0), act(W, 1, 0),
        Overlap(act(F, 0, 1), act(B, 0, 0)), act(F, 1, 1), act(B, 1, 1), act(B, 0, 1),
    )  # fmt: skip
    schedule = Schedule("folded", 2, (steps,), ((0, 1),))
    return simulate(schedule, Times.uniform(2, UNIT, UNIT, UNIT))


# ---------------------------------------------------------------- text


def test_text_of_1f1b():
    """9 units of time in 45 characters: 5 for an F, 10 for a B."""
    assert draw_text(played(), width=8 + 45).splitlines()[:2] == [
        "rank 0  F0---F1---..........B0========.....B1========",
        "rank 1  .....F0---B0========F1---B1========..........",
    ]


def test_steps_that_last_as_long_are_drawn_as_long():
    """9 units of time have room for 44 characters: 36 of them are used, 4 for each."""
    lines = draw_text(played(), width=8 + 44).splitlines()
    assert lines[0] == "rank 0  F0--F1--........B0======....B1======"
    assert lines[2] == "        0" + "9.00 ms".rjust(35)


def test_text_says_both_bubbles_and_the_peak():
    last = " ".join(draw_text(played(), width=60).splitlines()[-2:])
    assert "33.3 % of the largest span" in last
    assert "33.3 % of the makespan" in last
    assert last.endswith("most microbatches held on a rank: 2")


@pytest.mark.parametrize("width", [24, 60, 100])
def test_no_line_is_wider_than_asked_for(width):
    schedule = make_schedule("dualpipe", 4, 8)  # all letters that there are
    text = draw_text(simulate(schedule, Times.uniform(schedule.stages, 5, 5, 5)), width=width)
    longest = "lower case: every second chunk of a rank"  # is not broken in two
    assert max(len(line) for line in text.splitlines()) <= max(width, len(longest))


def test_chunks_and_pairs_in_text():
    line = draw_text(folded(), width=8 + 12 * 6).splitlines()[0]
    assert line == (
        "rank 0  F0----f0----i0====w0~~~~F1&B0#############f1----b1==========B1=========="
    )


def test_every_second_chunk_is_in_lower_case():
    steps = [Action(Kind.F, stage, 0) for stage in range(3)]
    steps += [Action(Kind.B, stage, 0) for stage in (2, 1, 0)]
    schedule = Schedule("three", 1, (tuple(steps),), ((0, 1, 2),))
    line = draw_text(simulate(schedule, Times.uniform(3, 1, 1, 0)), width=8 + 18).splitlines()[0]
    assert line == "rank 0  F0-f0-F0-B0=b0=B0="


def test_a_step_too_narrow_for_its_name_keeps_its_letter():
    lines = draw_text(played(p=4, m=16), width=40).splitlines()
    assert {len(line) for line in lines[:5]} == {40}
    assert "B" in lines[0]


def test_a_line_too_short_is_refused(refused):
    with refused("width of 12", "give 18 or more"):
        draw_text(played(), width=12)


def test_colours_only_where_wanted():
    assert "\x1b" not in draw_text(played(), width=60)
    coloured = draw_text(played(), width=60, colour=True)
    assert coloured.count("\x1b[0m") == 8  # one for each step


# ---------------------------------------------------------------- picture


def test_kinds_differ_in_colour_and_in_pattern():
    """What a print in grey keeps is the pattern, one for each kind, and the number."""
    (axes,) = schedule_figure(folded()).axes
    bars = axes.collections
    seen = {(tuple(bar.get_facecolor()[0]), bar.get_hatch()) for bar in bars}
    assert len(seen) == len(bars) == 6  # F and B on both chunks, I and W on the second
    assert {bar.get_hatch() for bar in bars} == {None, "///", "...", "\\\\\\"}
    numbers = [text.get_text() for text in axes.texts]
    assert sorted(numbers) == ["0"] * 5 + ["1"] * 4


def test_a_higher_chunk_is_paler():
    for chunks in (2, 3, 4, 8):
        faces = [paler(COLOURS["F"], chunk, chunks) for chunk in range(chunks)]
        shades = [style.luminance(face) for face in faces]
        assert faces[0] == COLOURS["F"].lower()
        assert shades == sorted(set(shades))
        assert shades[-1] < 0.7  # and still no white, which would be a bubble


def test_a_pale_box_has_a_dark_rim_and_pattern():
    """White ones would not be seen on it."""
    schedule = make_schedule("interleaved", 2, 4, 4)
    (axes,) = schedule_figure(simulate(schedule, Times.uniform(8, 9, 9, 9))).axes
    contrasts = []
    for bar in axes.collections:
        face, rim = (to_hex(each[0]) for each in (bar.get_facecolor(), bar.get_edgecolor()))
        high, low = sorted([style.luminance(face), style.luminance(rim)], reverse=True)
        contrasts.append((high + 0.05) / (low + 0.05))
    assert len(contrasts) == 8  # F and B on four chunks
    assert min(contrasts) > 2


def test_the_legend_has_a_column_for_each_kind():
    legend = schedule_figure(folded()).legends[0]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["F forward, chunk 0", "F forward, chunk 1"]  # filled column by column
    assert legend._ncols == len(texts) / 2 == 4
    assert texts.count("") == 2  # I and W on one chunk only


def test_of_many_chunks_the_legend_names_the_first_and_the_last():
    schedule = make_schedule("interleaved", 2, 2, 8)
    legend = schedule_figure(simulate(schedule, Times.uniform(16, 9, 9, 9))).legends[0]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [f"{word}, chunk {k}" for word in ("F forward", "B full backward")
                     for k in (0, 7)]  # fmt: skip


def test_boxes_stand_where_the_steps_are():
    (axes,) = schedule_figure(played()).axes
    forward = axes.collections[1]  # B before F, by letter
    left = [path.vertices[0].tolist() for path in forward.get_paths()]
    assert [x for x, _ in left] == [0, 1, 1, 4]
    assert [int(y) for _, y in left] == [0, 0, 1, 1]
    assert axes.get_xlim() == (0, 9)
    assert "33.3 % of the largest span" in axes.get_xlabel()


def test_arrows_on_request():
    plain, arrows = schedule_figure(played()), schedule_figure(played(), arrows=True)
    count = [sum(hasattr(t, "arrow_patch") for t in f.axes[0].texts) for f in (plain, arrows)]
    assert count == [0, 4]
    ends = {(arrow.xyann, arrow.xy) for arrow in arrows.axes[0].texts if hasattr(arrow, "xyann")}
    assert ((1, 0.92), (1, 1.08)) in ends  # 0F0's activations, from rank 0 down to rank 1
    assert ((4, 1.08), (4, 0.92)) in ends  # 1B0's gradient, up again


def test_pictures_are_written_whole(tmp_path, refused):
    png = draw_picture(played(), tmp_path / "a.png")
    svg = draw_picture(played(), tmp_path / "a.svg", arrows=True)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text(encoding="utf-8")
    with refused("no picture format"):
        draw_picture(played(), tmp_path / "a.gif")


def test_a_comparison_has_one_axis_of_time():
    figure = comparison_figure([played("gpipe", 2, 4), played("1f1b", 2, 4), folded()])
    limits = {axes.get_xlim() for axes in figure.axes}
    assert limits == {(0, 15)}
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == [
        "gpipe", "1f1b", "folded",
    ]  # fmt: skip


# ---------------------------------------------------------------- trace


@pytest.fixture
def trace():
    return to_trace(played(link=Link("l", 8 * 10**12, 5), size_bytes=7))


def test_trace_has_steps_messages_and_memory(trace):
    assert [span.name for span in trace.on_track("rank 1/compute")] == ["1F0", "1B0", "1F1", "1B1"]
    sends = trace.on_track("rank 0/to rank 1")
    assert [(span.name, span.start_ps, span.duration_ps) for span in sends] == [
        ("activations of 0F0", UNIT, 7), ("activations of 0F1", 2 * UNIT, 7),
    ]  # fmt: skip
    assert sends[0].arguments["arrives_ps"] == UNIT + 7 + 5
    assert [flow.name for flow in trace.flows] == [
        "activations of 0F0", "activations of 0F1", "gradient of 1B0", "gradient of 1B1",
    ]  # fmt: skip
    held = [c.value for c in trace.counters if c.track == "rank 0/activations"]
    assert held == [1, 1, 2, 2, 2, 1, 1, 0]


def test_perfetto_file_comes_back(trace, tmp_path):
    again = read_perfetto(write_perfetto(trace, tmp_path / "t.json"))
    assert sorted(again.spans, key=str) == sorted(trace.spans, key=str)
    assert len(again.flows) == 4
