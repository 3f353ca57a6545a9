"""The roofline: how fast a kernel can be at most, and how near it comes.

A kernel that does F floating-point operations and moves B bytes on a machine that can do P FLOP/s
and move W B/s needs at least

    t >= max(F / P, B / W)

because arithmetic and traffic can at best overlap. Divide F by it: with the arithmetic intensity
I = F / B (in FLOP/B), the rate is at most min(P, I W). On logarithmic axes that is a roof with a
slope (limited by memory) and a flat (limited by arithmetic), which meet at the ridge, I = P / W.

S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model for
Multicore Architectures", Communications of the ACM 52(4), 2009,
https://doi.org/10.1145/1498765.1498785
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.trace import style
from baremetal.trace.labels import beside_points
from baremetal.trace.units import format_rate, format_si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_AIR_PX = 10.0  # between the name of a limit and that of a point


@dataclass(frozen=True)
class RooflinePoint:
    """A measured kernel: its arithmetic intensity in FLOP/B and its rate in FLOP/s."""

    label: str
    intensity: float
    flops_per_s: float

    @classmethod
    def measured(cls, label: str, flops: float, size_bytes: float, time_s: float) -> RooflinePoint:
        """From FLOP, bytes moved and seconds taken, all above zero."""
        if not (flops > 0 and size_bytes > 0 and time_s > 0):
            raise BaremetalError(
                f"roofline point {label!r}: flops {flops}, bytes {size_bytes}, time {time_s} s; "
                "expected all above zero (what does no arithmetic has no place on a roofline)"
            )
        return cls(label, flops / size_bytes, flops / time_s)


def ridge_intensity(peak_flops: float, bandwidth_Bps: float) -> float:
    """The intensity in FLOP/B from which on arithmetic, not memory, is the limit."""
    return peak_flops / bandwidth_Bps


def attainable_flops(intensity: float, peak_flops: float, bandwidth_Bps: float) -> float:
    """The roof over an intensity in FLOP/B, in FLOP/s."""
    return min(peak_flops, intensity * bandwidth_Bps)


def shortest_time_s(
    flops: float, size_bytes: float, peak_flops: float, bandwidth_Bps: float
) -> float:
    """The least time in seconds for `flops` FLOP and `size_bytes` B on this machine."""
    return max(flops / peak_flops, size_bytes / bandwidth_Bps)


def roofline_plot(
    points: Sequence[RooflinePoint],
    peak_flops: float,
    bandwidth_Bps: float,
    path: str | os.PathLike[str],
    title: str = "",
) -> Path:
    """Draw `roofline_figure(...)` to a .png, .svg or .pdf and return the path."""
    return style.save(roofline_figure(points, peak_flops, bandwidth_Bps, title), path)


def roofline_figure(
    points: Sequence[RooflinePoint], peak_flops: float, bandwidth_Bps: float, title: str = ""
) -> Figure:
    """The picture as a matplotlib Figure, not yet written.

    `peak_flops` is in FLOP/s and `bandwidth_Bps` in B/s. Raises BaremetalError if a limit, an
    intensity or a rate is not above zero and finite: a logarithmic axis has no place for it.
    """
    _check(points, peak_flops, bandwidth_Bps)
    figure, axes = style.new_figure(height_in=5.0)
    style.caption(axes, title, "arithmetic intensity in FLOP/B", "rate in FLOP/s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _frame(axes, points, peak_flops, bandwidth_Bps)
    taken = _draw_roof(axes, peak_flops, bandwidth_Bps)
    axes.scatter(
        [p.intensity for p in points],
        [p.flops_per_s for p in points],
        s=36, color=style.BLUE, edgecolor="white", linewidth=0.8, zorder=3,
    )  # fmt: skip
    if points:
        beside_points(
            axes,
            [(p.intensity, p.flops_per_s) for p in points],
            [p.label for p in points],
            avoid=taken,
            fontsize=style.SMALL_PT,
            color=style.INK,
            path_effects=style.halo(),
            zorder=4,
        )
    return figure


def _check(points: Sequence[RooflinePoint], peak_flops: float, bandwidth_Bps: float) -> None:
    figures = [("peak_flops", peak_flops), ("bandwidth_Bps", bandwidth_Bps)]
    for point in points:
        figures.append((f"{point.label}: intensity", point.intensity))
        figures.append((f"{point.label}: flops_per_s", point.flops_per_s))
    for what, value in figures:
        if not (value > 0 and math.isfinite(value)):
            raise BaremetalError(f"roofline: {what} is {value}, expected a finite number above 0")


def _frame(
    axes: Axes, points: Sequence[RooflinePoint], peak_flops: float, bandwidth_Bps: float
) -> None:
    """Limits that hold the ridge and every point, with room for names."""
    ridge = ridge_intensity(peak_flops, bandwidth_Bps)
    intensities = [ridge, *(p.intensity for p in points)]
    left, right = min(intensities) / 6, max(intensities) * 6
    lowest = min([attainable_flops(left, peak_flops, bandwidth_Bps)]
                 + [p.flops_per_s / 3 for p in points])  # fmt: skip
    highest = max([peak_flops, *(p.flops_per_s for p in points)])
    axes.set_xlim(left, right)
    axes.set_ylim(lowest, highest * 2.5)
    style.log_ticks(axes, "x")
    style.log_ticks(axes, "y")


def _draw_roof(axes: Axes, peak_flops: float, bandwidth_Bps: float) -> list[Bbox]:
    """The roof, its two limits written along it, and the ridge; returns the pixels they take."""
    ridge = ridge_intensity(peak_flops, bandwidth_Bps)
    left, right = axes.get_xlim()
    corners = [(i, attainable_flops(i, peak_flops, bandwidth_Bps)) for i in (left, ridge, right)]
    axes.plot(*zip(*corners, strict=True), color=style.VERMILION, linewidth=2.0, zorder=2)
    foot = (ridge, axes.get_ylim()[0])
    axes.plot(
        *zip(foot, corners[1], strict=True),
        color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1,
    )  # fmt: skip

    style.settle(axes)
    pixels = axes.transData.transform(corners)
    (x0, y0), (x1, y1) = pixels[0], pixels[1]
    incline = math.degrees(math.atan2(y1 - y0, x1 - x0))  # on paper, of a slope of 1 in the data
    red = style.as_ink(style.VERMILION)
    # The frame leaves its outer sixths free of points: there the limits can be written.
    texts = [
        _write(axes, f"memory {format_rate(bandwidth_Bps, 'B/s')}", corners[0], (8, 12), red,
               rotation=incline, rotation_mode="anchor"),
        _write(axes, f"peak {format_rate(peak_flops)}", corners[2], (-4, 5), red, ha="right"),
        _write(axes, f"ridge {format_si(ridge, 'FLOP/B')}", foot, (4, 4), style.MUTED),
    ]  # fmt: skip
    renderer = style.settle(axes)
    limits = [text.get_window_extent(renderer).padded(_AIR_PX) for text in texts]
    upright = axes.transData.transform([foot, corners[1]])
    return limits + _boxes_along(pixels) + _boxes_along(upright)


def _write(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset_pt: tuple[float, float],
    colour: str,
    **options: Any,
) -> Annotation:
    return axes.annotate(
        text, point, offset_pt, textcoords="offset points", color=colour,
        fontsize=style.SMALL_PT, zorder=4, va="bottom", **options,
    )  # fmt: skip


def _boxes_along(corners: np.ndarray, size: float = 6.0) -> list[Bbox]:
    """Small squares strung along a bent line, (n, 2) in pixels: what a label should not cover."""
    from matplotlib.transforms import Bbox

    boxes = []
    for start, end in pairwise(corners):
        count = max(2, int(np.hypot(*(end - start)) / size))
        for x, y in np.linspace(start, end, count):
            boxes.append(Bbox.from_bounds(x - size / 2, y - size / 2, size, size))
    return boxes
