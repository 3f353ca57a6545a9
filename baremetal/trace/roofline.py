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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baremetal.errors import BaremetalError
from baremetal.trace import style
from baremetal.trace.labels import beside_points
from baremetal.trace.units import format_rate, format_si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    written = _draw_roof(axes, peak_flops, bandwidth_Bps)
    axes.scatter(
        [p.intensity for p in points],
        [p.flops_per_s for p in points],
        s=36, color=style.BLUE, edgecolor="white", linewidth=0.8, zorder=3,
    )  # fmt: skip
    renderer = style.settle(axes)
    if points:
        beside_points(
            axes,
            [(p.intensity, p.flops_per_s) for p in points],
            [p.label for p in points],
            avoid=[text.get_window_extent(renderer) for text in written],
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
    axes.set_ylim(lowest, highest * 4)


def _draw_roof(axes: Axes, peak_flops: float, bandwidth_Bps: float) -> list:
    """The roof with its two limits written along it, and the ridge; returns the texts."""
    ridge = ridge_intensity(peak_flops, bandwidth_Bps)
    left, right = axes.get_xlim()
    roof = [attainable_flops(i, peak_flops, bandwidth_Bps) for i in (left, ridge, right)]
    axes.plot([left, ridge, right], roof, color=style.VERMILION, linewidth=2.0, zorder=2)
    axes.plot(
        [ridge, ridge], [axes.get_ylim()[0], peak_flops],
        color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1,
    )  # fmt: skip
    wording: dict[str, Any] = {
        "fontsize": style.SMALL_PT,
        "textcoords": "offset points",
        "zorder": 4,
    }
    flat = axes.annotate(
        f"peak {format_rate(peak_flops)}", (right, peak_flops), (-4, 5),
        ha="right", va="bottom", color=style.VERMILION, **wording,
    )  # fmt: skip
    middle = math.sqrt(left * ridge)
    slope = axes.annotate(
        f"memory {format_rate(bandwidth_Bps, 'B/s')}", (middle, middle * bandwidth_Bps), (-3, 3),
        ha="center", va="bottom", rotation=45, rotation_mode="anchor",
        transform_rotates_text=True, color=style.VERMILION, **wording,
    )  # fmt: skip
    foot = axes.annotate(
        f"ridge {format_si(ridge, 'FLOP/B')}", (ridge, axes.get_ylim()[0]), (4, 4),
        ha="left", va="bottom", color=style.MUTED, **wording,
    )  # fmt: skip
    return [flat, slope, foot]
