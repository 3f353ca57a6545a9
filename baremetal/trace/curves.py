"""Lines over a common axis: loss curves of several runs, speeds over sizes, scaling laws.

Every line carries its name at its right end, in its own colour, so that there is no legend to go
back and forth to; names that would lie on each other are pushed apart. A noisy line can be drawn
pale with its running mean on top.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.trace import style
from baremetal.trace.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELS = 12  # more names than this do not fit beside the axes; then there is a legend


@dataclass(frozen=True)
class Line:
    """One line: `x` and `y` of equal length; values that are not finite leave a gap.

    Lines with the same `group` share a colour (a run's training and validation loss); `dashed`
    tells them apart. `smooth` is the number of points in the running mean that is drawn over the
    pale line itself; 1 draws the line only.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    group: str | None = None
    dashed: bool = False
    smooth: int = 1
    markers: bool = False


Series = Sequence[Line] | Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_plot(
    series: Series, path: str | os.PathLike[str], title: str = "", **options: Any
) -> Path:
    """Draw `line_figure(series, title, **options)` to a .png, .svg or .pdf; return the path."""
    return style.save(line_figure(series, title, **options), path)


def line_figure(
    series: Series,
    title: str = "",
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    references: Mapping[str, float] | None = None,
    y_range: tuple[float, float] | None = None,
    height_in: float = 4.2,
) -> Figure:
    """The picture as a matplotlib Figure, not yet written.

    `series` is a list of `Line`, or a mapping from names to (x, y). `references` are levels to
    compare with (a limit, another system's result), drawn as thin grey lines across. On a
    logarithmic axis only positive values are drawn. Raises BaremetalError if x and y of a line
    differ in length, or if a line or the whole picture has no point to draw.
    """
    lines = _as_lines(series)
    figure, axes = style.new_figure(height_in)
    style.caption(axes, title, x_label, y_label)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    numbers = {group: i for i, group in enumerate(dict.fromkeys(map(_group, lines)))}
    ends = []
    for line in lines:
        x, y = _drawable(line, log_x, log_y)
        number = numbers[_group(line)]
        level = _draw_line(axes, line, x, y, number)
        ends.append((line.label, level, style.as_ink(style.colour(number))))
    for label, level in (references or {}).items():
        axes.axhline(level, color=style.MUTED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        ends.append((label, level, style.MUTED))
    axes.margins(x=0.01)
    if y_range is not None:
        axes.set_ylim(*y_range)
    for which, logarithmic in (("x", log_x), ("y", log_y)):
        if logarithmic:
            style.log_ticks(axes, which)
    name_lines(axes, ends)
    return figure


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Mean over (window - 1) // 2 points on either side of each point. y: (n,) -> (n,).

    Equally far both ways, or a falling curve would be drawn late. So the first point stands for
    itself, as it must where a loss falls steeply; at the end, where it is flat and one wants to
    read it, the window is cut off on the right only.
    """
    here = np.arange(len(y))
    reach = np.minimum(here, max(0, window - 1) // 2)
    first, last = here - reach, np.minimum(here + reach, len(y) - 1)
    sums = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    return (sums[last + 1] - sums[first]) / (last + 1 - first)


def _as_lines(series: Series) -> list[Line]:
    if isinstance(series, Mapping):
        lines = [Line(label, x, y) for label, (x, y) in series.items()]
    else:
        lines = list(series)
    if not lines:
        raise BaremetalError("line_plot: no lines given; expected at least one series of x and y")
    return lines


def _group(line: Line) -> str:
    return line.label if line.group is None else line.group


def _drawable(line: Line, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(line.x, dtype=np.float64), np.asarray(line.y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise BaremetalError(
            f"line_plot: line {line.label!r} has x of shape {x.shape} and y of shape {y.shape}; "
            "expected two sequences of one length"
        )
    good = np.isfinite(x) & np.isfinite(y)
    if log_x:
        good &= x > 0
    if log_y:
        good &= y > 0
    if not good.any():
        raise BaremetalError(
            f"line_plot: line {line.label!r} has no point that can be drawn ({len(x)} given; "
            f"finite{' and positive' if log_x or log_y else ''} ones are needed)"
        )
    return x, np.where(good, y, np.nan)  # NaN leaves a gap in the line


def _draw_line(axes: Axes, line: Line, x: np.ndarray, y: np.ndarray, number: int) -> float:
    """Draw one line in the number-th colour and return the height at which it ends."""
    colour = style.colour(number)
    dashes = "--" if line.dashed else style.stroke(number)
    marker = "o" if line.markers or len(x) == 1 else None
    good = np.isfinite(y)
    if line.smooth > 1:
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.25, linestyle=dashes)
        x, y = x[good], running_mean(y[good], line.smooth)
        good = np.isfinite(y)
    axes.plot(
        x, y, color=colour, linewidth=1.8, linestyle=dashes, marker=marker, markersize=4,
        label=line.label,
    )  # fmt: skip
    return float(y[good][-1])


def name_lines(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write every name right of the axes, level with its line's end as far as there is room.

    ends: (name, height of the line's end in data coordinates, colour) of each; with more than
    twelve there is a legend instead. The axes' limits must be final.
    """
    if len(ends) > _MOST_LABELS:
        style.figure_of(axes).legend(
            loc="outside right upper", fontsize=style.SMALL_PT - 1, frameon=False
        )
        return
    # An offset from the axes' edge in points: independent of how wide the axes turn out to be.
    notes = [
        axes.annotate(
            label,
            xy=(1.0, 0.5),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=style.SMALL_PT,
            va="center",
            annotation_clip=False,
        )
        for label, _, colour in ends
    ]
    renderer = style.settle(axes)
    height = axes.bbox.height
    gap = 1.15 * max(note.get_window_extent(renderer).height for note in notes) / height
    levels = axes.transData.transform([(axes.get_xlim()[1], level) for _, level, _ in ends])[:, 1]
    wanted = np.clip((levels - axes.bbox.y0) / height, 0.0, 1.0)
    for note, place in zip(notes, spread(wanted.tolist(), gap, 0.0, 1.0), strict=True):
        note.xy = (1.0, place)
