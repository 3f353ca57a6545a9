"""A played schedule as a picture: time across, ranks down, a box for every step.

Colour says what is done, and so does the box's edge: a pattern of its own for each kind, and the
microbatch's number inside, so that a print in grey can be read, too. The paler a box, the higher
the chunk of its rank (the second half of a V, mirrored copies); a pale one has rim and pattern in
a dark shade of its colour, for white ones would be lost on it. An overlapped pair stands as two
half boxes, the forward above.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from baremetal.schedules.action import Step
from baremetal.schedules.flat import chunk_numbers
from baremetal.schedules.report import PS_PER_UNIT, SECONDS, UNITS
from baremetal.schedules.terminal import COLOURS, WORDS, caption
from baremetal.schedules.timeline import Timeline
from baremetal.trace import style
from baremetal.trace.picture import time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = {"F": "", "I": "///", "W": "...", "B": "\\\\\\"}
GAP = 0.08  # between ranks, on either side, of a rank's height
PALER, PALEST = 0.45, 0.75  # how much of the way to white the second chunk goes, the last at most
PALE = 0.5  # luminance from which on a white rim would hardly be seen
CROWD = 2500  # boxes; with more of them, rims and numbers would hide what they are about
ROW_IN, REST_IN, TALLEST_IN = 0.34, 1.35, 14.0
MOST_CHUNKS = 4  # that the legend names; of more only the first and the last
SMALL_ROW_IN, PAIR_ROW_IN = 0.16, 0.24  # of a comparison; of one with two boxes above each other


def draw_picture(
    timeline: Timeline, path: str | os.PathLike[str], title: str = "", **options: Any
) -> Path:
    """Draw `schedule_figure` to a .png, .svg or .pdf, whole or not at all; return the path.

    Raises:
        BaremetalError: another suffix, or the file cannot be written.
    """
    return style.save(schedule_figure(timeline, title, **options), path)


def schedule_figure(
    timeline: Timeline, title: str = "", *, arrows: bool = False, unit: str = SECONDS
) -> "Figure":
    """The picture as a matplotlib Figure, not yet written.

    Args:
        timeline: what to draw.
        title: its headline; the schedule's name unless given.
        arrows: whether to draw every message, from where it departs to where it arrives.
        unit: whether the axis is in seconds (and their parts) or in units.
    """
    ranks = len(timeline.schedule.ranks)
    height_in = min(ROW_IN * ranks, TALLEST_IN) + REST_IN
    figure, axes = style.new_figure(height_in, width_in=11.0)
    name, axis_ps = _axis_unit(timeline.makespan_ps, unit)
    _draw_axes(axes, timeline, timeline.makespan_ps, axis_ps)
    if arrows:
        _draw_messages(axes, timeline, axis_ps)
    schedule = timeline.schedule
    headline = title or f"{schedule.name}: {ranks} ranks, {schedule.microbatches} microbatches"
    axes.set_title(headline, loc="left", fontsize=style.TITLE_PT, fontweight="bold")
    axes.set_xlabel(f"time in {name}\n{caption(timeline)}", fontsize=style.LABEL_PT)
    _legend(figure, [timeline])
    _write_numbers([axes], [timeline], axis_ps)
    return figure


def comparison_figure(timelines: Sequence[Timeline], unit: str = SECONDS) -> "Figure":
    """Several schedules above each other, on one axis of time."""
    rows = [len(timeline.schedule.ranks) for timeline in timelines]
    paired = any(len(step.parts) > 1 for each in timelines for step in _steps(each))
    row_in = PAIR_ROW_IN if paired else SMALL_ROW_IN
    height_in = min(row_in * sum(rows) + 0.5 * len(rows) + 0.9, 40.0)
    figure, first = style.new_figure(height_in, width_in=11.0)
    first.remove()
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    whole = max(timeline.makespan_ps for timeline in timelines)
    name, axis_ps = _axis_unit(whole, unit)
    for axes, timeline in zip(panels, timelines, strict=True):
        style.dress(axes)
        _draw_axes(axes, timeline, whole, axis_ps)
        axes.set_title(
            f"{timeline.schedule.name}: {caption(timeline)}", loc="left", fontsize=style.SMALL_PT
        )
    panels[-1].set_xlabel(f"time in {name}", fontsize=style.LABEL_PT)
    _legend(figure, timelines)
    _write_numbers(list(panels), timelines, axis_ps)
    return figure


class _Box(NamedTuple):
    """A step, or half of an overlapped one, as it is drawn; heights in ranks, downwards."""

    letter: str
    chunk: int
    chunks: int
    left_ps: int
    right_ps: int
    top: float
    bottom: float
    text: str

    @property
    def face(self) -> str:
        """Its colour."""
        return paler(COLOURS[self.letter], self.chunk, self.chunks)


def _draw_axes(axes: "Axes", timeline: Timeline, whole_ps: int, axis_ps: int) -> None:
    """Draw a timeline into axes that show the time from 0 to `whole_ps`."""
    ranks = len(timeline.schedule.ranks)
    axes.set_xlim(0, max(whole_ps, 1) / axis_ps)
    axes.set_ylim(ranks, 0)
    axes.set_yticks(np.arange(ranks) + 0.5, [f"rank {rank}" for rank in range(ranks)])
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    _draw_boxes(axes, _boxes(timeline), axis_ps)


def _axis_unit(whole_ps: int, unit: str) -> tuple[str, int]:
    """The unit of the axis, and how many ps it is."""
    return ("units", PS_PER_UNIT) if unit == UNITS else time_unit(whole_ps)


def _steps(timeline: Timeline) -> list[Step]:
    return [step for steps in timeline.schedule.ranks for step in steps]


def _boxes(timeline: Timeline) -> list[_Box]:
    chunk = chunk_numbers(timeline.schedule)
    chunks = max(chunk, default=0) + 1
    starts, ends = timeline.start_ps.tolist(), timeline.end_ps.tolist()
    boxes: list[_Box] = []
    number = 0
    for rank, steps in enumerate(timeline.schedule.ranks):
        for step in steps:
            height = (1 - 2 * GAP) / len(step.parts)
            for half, part in enumerate(step.parts):
                top = rank + GAP + half * height
                boxes.append(
                    _Box(part.kind.name, chunk[part.stage], chunks, starts[number], ends[number],
                         top, top + height, str(part.microbatch))
                )  # fmt: skip
            number += 1
    return boxes


def _draw_boxes(axes: "Axes", boxes: Sequence[_Box], unit_ps: int) -> None:
    """One collection per kind and chunk: a hundred thousand boxes still draw quickly."""
    from matplotlib.collections import PolyCollection

    crowded = len(boxes) > CROWD
    for letter, chunk in sorted({(box.letter, box.chunk) for box in boxes}):
        mine = [box for box in boxes if (box.letter, box.chunk) == (letter, chunk)]
        outlines: Any = [  # (boxes, 4 corners, x and y)
            [(x / unit_ps, y) for x, y in (
                (box.left_ps, box.top), (box.right_ps, box.top),
                (box.right_ps, box.bottom), (box.left_ps, box.bottom),
            )]
            for box in mine
        ]  # fmt: skip
        face = mine[0].face
        axes.add_collection(
            PolyCollection(
                outlines,
                facecolor=face,
                edgecolor=face if crowded else _rim(face, letter),
                linewidth=0.2 if crowded else 0.8,
                hatch=None if crowded else HATCHES[letter] or None,
                zorder=2,
            ),
            autolim=False,
        )


def paler(colour: str, chunk: int, chunks: int = 2) -> str:
    """The colour, the further on its way to white the higher the chunk (0 of `chunks`: itself)."""
    step = min(PALER, PALEST / max(chunks - 1, 1))
    left = 1 - step * chunk
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    red, green, blue = (round(255 - (255 - channel) * left) for channel in channels)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _rim(face: str, letter: str) -> str:
    """The colour of a box's rim and pattern."""
    return style.as_ink(COLOURS[letter]) if style.luminance(face) > PALE else "white"


def _write_numbers(panels: Sequence["Axes"], timelines: Sequence[Timeline], axis_ps: int) -> None:
    """Each box's microbatch, where the box is wide enough for its digits."""
    drawn = [_boxes(timeline) for timeline in timelines]
    if sum(map(len, drawn)) > CROWD:
        return
    style.settle(panels[0])  # from now on places in pixels are final
    for axes, boxes in zip(panels, drawn, strict=True):
        low, high = axes.get_xlim()
        points_per_ps = axes.bbox.width / style.DPI * 72 / (high - low) / axis_ps
        row_points = axes.bbox.height / style.DPI * 72 / abs(np.diff(axes.get_ylim())[0])
        for box in boxes:
            size = min(style.SMALL_PT - 1, 0.65 * row_points * (box.bottom - box.top))
            digits_points = 0.64 * size * len(box.text)  # of DejaVu Sans, matplotlib's font
            spare_points = (box.right_ps - box.left_ps) * points_per_ps - digits_points
            if spare_points >= 2:
                _write_number(axes, box, size, min(0.6, spare_points / 2 - 0.8), axis_ps)


def _write_number(axes: "Axes", box: _Box, size: float, pad_points: float, axis_ps: int) -> None:
    note = axes.text(
        (box.left_ps + box.right_ps) / 2 / axis_ps,
        (box.top + box.bottom) / 2,
        box.text,
        ha="center",
        va="center_baseline",
        fontsize=size,
        color=style.ink_on(box.face),
        # No pattern behind it, and its box's rim in front of it.
        bbox={"facecolor": box.face, "edgecolor": "none", "pad": pad_points},
        zorder=3,
    )
    note.set_in_layout(False)  # it is inside its box: the layout need not look at thousands


def _draw_messages(axes: "Axes", timeline: Timeline, axis_ps: int) -> None:
    """A thin arrow for each message, from where it departs to where it arrives."""
    ranks = timeline.wiring.flat.ranks()
    senders, takers = ranks[timeline.wiring.sender], ranks[timeline.wiring.taker]
    for depart_ps, arrive_ps, source, target in zip(
        timeline.depart_ps.tolist(), timeline.arrive_ps.tolist(), senders, takers, strict=True
    ):
        down = target > source
        arrow = axes.annotate(
            "",
            xy=(arrive_ps / axis_ps, target + (GAP if down else 1 - GAP)),
            xytext=(depart_ps / axis_ps, source + (1 - GAP if down else GAP)),
            arrowprops={"arrowstyle": "->", "color": style.INK, "lw": 0.5, "shrinkA": 0,
                        "shrinkB": 0, "mutation_scale": 5},
            zorder=4,
        )  # fmt: skip
        arrow.set_in_layout(False)


def _legend(figure: "Figure", timelines: Sequence[Timeline]) -> None:
    """What is drawn, by kind and chunk: a column for each kind, or a row if chunks are more."""
    from matplotlib.patches import Patch

    shown = {(box.letter, box.chunk): box for each in timelines for box in _boxes(each)}
    letters = [letter for letter in "FIWB" if any(letter == found for found, _ in shown)]
    chunks = sorted({chunk for _, chunk in shown})
    named = chunks if len(chunks) <= MOST_CHUNKS else [chunks[0], chunks[-1]]

    def patch(letter: str, chunk: int) -> "Patch":
        if (letter, chunk) not in shown:
            return Patch(facecolor="none", edgecolor="none", label="")
        face = shown[letter, chunk].face
        label = WORDS[letter] + (f", chunk {chunk}" if len(chunks) > 1 else "")
        rim, pattern = _rim(face, letter), HATCHES[letter] or None
        return Patch(facecolor=face, edgecolor=rim, hatch=pattern, label=label)

    wide = len(named) <= len(letters)  # matplotlib fills a legend column by column
    pairs = [(letter, chunk) for letter in letters for chunk in named]
    if not wide:
        pairs = [(letter, chunk) for chunk in named for letter in letters]
    figure.legend(
        handles=[patch(*pair) for pair in pairs],
        loc="outside lower center",
        ncols=len(letters) if wide else len(named),
        frameon=False,
        fontsize=style.SMALL_PT,
    )
