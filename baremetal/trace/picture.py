"""A timeline as a picture: time to the right, one band per track, one colour per category.

Spans that nest or overlap go one row further down inside their track's band, as in a flame graph.
A bar wears its name where the name fits (or its argument `label`, such as a microbatch's number).
Flows are arrows; every counter gets a strip of its own below, on the same time axis.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.trace import style
from baremetal.trace.nesting import lanes
from baremetal.trace.recording import Trace
from baremetal.trace.spans import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNITS = (("s", 10**12), ("ms", 10**9), ("µs", 10**6), ("ns", 10**3), ("ps", 1))
_ROW_IN, _STRIP_IN, _REST_IN, _TALLEST_IN = 0.30, 1.1, 1.15, 14.0
_TRACK_GAP = 0.35  # of a row
_CROWD = 600  # bars; with more of them, rims and names would hide what they are about


def timeline_plot(
    trace: Trace, path: str | os.PathLike[str], title: str = "", **options: Any
) -> Path:
    """Draw `timeline_figure(trace, title, **options)` to a .png, .svg or .pdf; return the path."""
    return style.save(timeline_figure(trace, title, **options), path)


def timeline_figure(
    trace: Trace,
    title: str = "",
    *,
    tracks: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    window_ps: tuple[int, int] | None = None,
    names: bool = True,
    flows: bool = True,
    width_in: float = style.WIDTH_IN,
) -> Figure:
    """The picture as a matplotlib Figure, not yet written.

    `tracks` and `window_ps` choose what is drawn (default: everything). `categories` fixes the
    order in which colours are given out, so that several pictures agree (default: by first
    start). Raises BaremetalError if there is nothing to draw.
    """
    tracks = trace.tracks if tracks is None else list(tracks)
    spans = [span for span in trace.spans if span.track in set(tracks)]
    if not spans:
        raise BaremetalError(
            f"timeline: no spans to draw on the tracks {', '.join(tracks) or '(none)'}; this trace "
            f"has {len(trace.spans)} spans on {', '.join(trace.tracks) or 'no tracks'}"
        )
    places, band_tops, depth = _places(spans, tracks)
    strips = sorted({counter.name for counter in trace.counters if counter.track in set(tracks)})
    bands_in = min(_ROW_IN * depth, _TALLEST_IN)
    figure, axes = style.new_figure(bands_in + _REST_IN + _STRIP_IN * len(strips), width_in)
    if strips:
        figure, axes, strip_axes = _with_strips(bands_in, len(strips), width_in)
    else:
        strip_axes = []

    window = trace.window_ps if window_ps is None else window_ps
    unit, unit_ps = time_unit(window[1] - window[0])
    axes.set_xlim(window[0] / unit_ps, max(window[1], window[0] + 1) / unit_ps)
    axes.set_ylim(depth, -_TRACK_GAP)
    axes.set_yticks([(top + bottom) / 2 for top, bottom in band_tops.values()], list(band_tops))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    style.caption(axes, title, "" if strips else f"time in {unit}", "")

    colours = {c: i for i, c in enumerate(trace.ordered_categories(categories))}
    _draw_bars(axes, spans, places, colours, unit_ps)
    for strip, name in zip(strip_axes, strips, strict=True):
        _draw_strip(strip, trace, name, tracks, window, unit_ps)
        strip.set_xlabel(f"time in {unit}" if name == strips[-1] else "", fontsize=style.LABEL_PT)
    used = {span.category for span in spans}
    _legend(axes, {c: number for c, number in colours.items() if c in used})
    if flows:
        _draw_flows(axes, trace, places, unit_ps)
    if names and len(spans) <= _CROWD:
        _write_names(axes, spans, places, colours, unit_ps)
    return figure


def time_unit(length_ps: int) -> tuple[str, int]:
    """The unit in which a window of this length gives numbers of one to three digits."""
    for unit, unit_ps in _UNITS:
        if length_ps >= unit_ps:
            return unit, unit_ps
    return _UNITS[-1]


def _places(
    spans: Sequence[Span], tracks: Sequence[str]
) -> tuple[dict[int, float], dict[str, tuple[float, float]], float]:
    """The top of each span's bar (by id), top and bottom of each track's band, and of all.

    Heights are in rows, downwards from 0.
    """
    places: dict[int, float] = {}
    bands: dict[str, tuple[float, float]] = {}
    top = 0.0
    for track in tracks:
        own = [span for span in spans if span.track == track]
        rows = lanes(own, share=False)
        places.update((id(span), top + row) for span, row in zip(own, rows, strict=True))
        bottom = top + max(rows, default=0) + 1
        bands[track] = (top, bottom)
        top = bottom + _TRACK_GAP
    return places, bands, top


def _draw_bars(
    axes: Axes,
    spans: Sequence[Span],
    places: Mapping[int, float],
    colours: Mapping[str, int],
    unit_ps: int,
) -> None:
    """One collection of rectangles per category: a hundred thousand spans still draw quickly."""
    from matplotlib.collections import PolyCollection

    crowded = len(spans) > _CROWD
    for category, number in colours.items():
        mine = [span for span in spans if span.category == category]
        left = np.array([span.start_ps for span in mine]) / unit_ps
        right = np.array([span.end_ps for span in mine]) / unit_ps
        top = np.array([places[id(span)] for span in mine]) + 0.06
        bottom = top + 0.88
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        # (spans, 4 corners, x and y); kept as one array, which matplotlib draws quickest
        outlines: Any = np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
        bars = PolyCollection(
            outlines,
            facecolor=style.colour(number),
            # A white rim parts neighbours; among very many bars it would be all one sees.
            edgecolor="face" if crowded else "white",
            linewidth=0.2 if crowded else 0.6,
            hatch=style.hatch(number) or None,
            label=category or "(none)",
            zorder=2,
        )
        axes.add_collection(bars, autolim=False)


def _legend(axes: Axes, colours: Mapping[str, int]) -> None:
    if list(colours) == [""]:
        return
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=style.colour(n), hatch=style.hatch(n) or None, label=c or "(none)")
        for c, n in colours.items()
    ]
    # Outside the axes, where it can cover nothing.
    style.figure_of(axes).legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(len(patches), 6),
        frameon=False,
        fontsize=style.SMALL_PT,
        handlelength=1.2,
        columnspacing=1.4,
    )


def _draw_flows(axes: Axes, trace: Trace, places: Mapping[int, float], unit_ps: int) -> None:
    for flow in trace.flows:
        if id(flow.source) not in places or id(flow.target) not in places:
            continue  # one end is on a track that is not drawn
        top, goal = places[id(flow.source)], places[id(flow.target)]
        downwards = goal > top
        # From edge to edge: across the gap between two bars, not across what is written in them.
        axes.annotate(
            "",
            xy=(flow.arrival_ps / unit_ps, goal + (0.06 if downwards else 0.94)),
            xytext=(flow.source.end_ps / unit_ps, top + (0.94 if downwards else 0.06)),
            arrowprops={"arrowstyle": "-|>", "color": style.INK, "lw": 0.8, "shrinkA": 0,
                        "shrinkB": 0, "mutation_scale": 7},
            annotation_clip=True,
            zorder=4,
        )  # fmt: skip


def _write_names(
    axes: Axes,
    spans: Sequence[Span],
    places: Mapping[int, float],
    colours: Mapping[str, int],
    unit_ps: int,
) -> None:
    """Write each span's name into its bar, if the bar is wide enough for it."""
    renderer = style.settle(axes)
    low, high = axes.get_xlim()
    dots_per_unit = axes.bbox.width / (high - low)
    widths: dict[str, float] = {}  # in pixels, measured once per text
    for span in spans:
        text = str(span.arguments.get("label", span.name))
        left, right = max(span.start_ps / unit_ps, low), min(span.end_ps / unit_ps, high)
        background = style.colour(colours[span.category])
        note = axes.text(
            (left + right) / 2,
            places[id(span)] + 0.52,
            text,
            ha="center",
            va="center",
            fontsize=style.SMALL_PT - 1,
            color=style.ink_on(background),
            zorder=3,
        )
        if text not in widths:
            widths[text] = note.get_window_extent(renderer).width
        if widths[text] + 4 > (right - left) * dots_per_unit:
            note.remove()


def _with_strips(bands_in: float, count: int, width_in: float) -> tuple[Figure, Axes, list[Axes]]:
    figure, axes = style.new_figure(bands_in + _REST_IN + _STRIP_IN * count, width_in)
    axes.remove()
    grid = figure.add_gridspec(count + 1, 1, height_ratios=[bands_in + 0.3] + [_STRIP_IN] * count)
    top = figure.add_subplot(grid[0])
    strips = [figure.add_subplot(grid[i + 1], sharex=top) for i in range(count)]
    for axes in (top, *strips):
        style.dress(axes)
    for axes in (top, *strips[:-1]):
        axes.tick_params(labelbottom=False)
    return figure, top, strips


def _draw_strip(
    axes: Axes,
    trace: Trace,
    name: str,
    tracks: Sequence[str],
    window_ps: tuple[int, int],
    unit_ps: int,
) -> None:
    """A counter as steps: each value holds until the next sample, the last to the right edge."""
    axes.set_title(name, loc="left", fontsize=style.SMALL_PT, color=style.INK)
    users = [t for t in tracks if any(c.track == t and c.name == name for c in trace.counters)]
    for number, track in enumerate(users):
        samples = sorted(
            (c.time_ps, c.value) for c in trace.counters if c.track == track and c.name == name
        )
        times = [time_ps / unit_ps for time_ps, _ in samples] + [window_ps[1] / unit_ps]
        values = [value for _, value in samples] + [samples[-1][1]]
        axes.plot(times, values, drawstyle="steps-post", color=style.colour(number), label=track)
    if len(users) > 1:
        axes.legend(fontsize=style.SMALL_PT - 1, frameon=False, loc="upper left",
                    bbox_to_anchor=(1.0, 1.0))  # fmt: skip
