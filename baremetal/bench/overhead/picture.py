"""The overhead curve as a picture: times, ratios, and shares of the machine's rate.

All over the FLOP of one step, on logarithmic axes. Above, the median steps and what was fitted to
them: where a line is level, the fixed cost is all there is. In the middle the ratios to our step:
level where fixed costs meet fixed costs, falling where work takes over. Below, how much of the rate
of NumPy's matrix product each step reaches.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.bench.overhead import reading
from baremetal.bench.overhead.amdahl import step_time_s
from baremetal.trace import style
from baremetal.trace.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_IN = 11.0
Value = Callable[[dict[str, Any], str], float | None]  # of a size's result, of a contender


def draw_curve(curve: dict[str, Any], path: str | Path) -> Path:
    """Draw a measured curve to a .png, .svg or .pdf and return the path."""
    return style.save(curve_figure(curve), path)


def curve_figure(curve: dict[str, Any]) -> "Figure":
    """The picture as a matplotlib Figure, not yet written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size_in = (style.WIDTH_IN, HEIGHT_IN)
    figure = Figure(figsize=size_in, dpi=style.DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    times, ratios, shares = figure.subplots(3, 1, sharex=True)
    names, own = reading.contenders(curve), reading.OURS
    fitted = _draw_fits(times, curve, names)
    ends = [
        _draw_lines(times, curve, names, reading.step_s, without_line=fitted),
        _draw_lines(
            ratios, curve, [n for n in names if n != own],
            lambda result, name: reading.speed_up(curve, result, name),
        ),
        _draw_lines(
            shares, curve, names, lambda result, name: reading.share(curve, result, name)
        ),
    ]  # fmt: skip
    ratios.axhline(1.0, color=style.MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
    style.caption(times, "Median step (points), fitted fixed cost and work (lines)", "", "")
    style.caption(ratios, f"How many times longer than {own}", "", "")
    style.caption(
        shares, "Share of the rate of NumPy's matrix product", "model FLOP of one step", ""
    )
    for axes, form in ((times, _seconds), (ratios, "{x:g}x"), (shares, _percent)):
        axes.margins(x=0.04, y=0.1)
        style.log_ticks(axes, "y")
        axes.yaxis.set_major_formatter(form)
    style.log_ticks(shares, "x")
    _name_sizes(times, curve)
    for axes, named in zip((times, ratios, shares), ends, strict=True):
        _name_ends(axes, named, names)
    return figure


def _seconds(value: float, _: int) -> str:
    """A tick: 100 us, 1 ms, 10 s."""
    for below, times, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if value < 0.999 * below:
            return f"{value * times:.4g} {unit}"
    return f"{value:g} s"


def _percent(value: float, _: int) -> str:
    """A tick: 0.01 %, 100 %."""
    return f"{100 * value:.4g} %"


def _draw_lines(
    axes: "Axes",
    curve: dict[str, Any],
    names: list[str],
    value: Value,
    without_line: Sequence[str] = (),
) -> list[tuple[str, float, float]]:
    """A mark for each size, and a line through most; returns names and last points."""
    style.dress(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    for name in names:
        x, y = [], []
        for result in curve["models"]:
            found = value(result, name)
            if found is not None:
                x.append(result["flops_per_step"])
                y.append(found)
        number = reading.contenders(curve).index(name)
        dashes = "none" if name in without_line else "--" if name == "jax.scan" else "-"
        axes.plot(
            x, y, color=style.colour(number), linewidth=1.8, linestyle=dashes, markersize=5,
            marker=style.marker(number),
        )  # fmt: skip
        ends.append((name, x[-1], y[-1]))
    return ends


def _draw_fits(axes: "Axes", curve: dict[str, Any], names: list[str]) -> list[str]:
    """What was fitted, as lines; returns whose."""
    fits = reading.fits(curve)
    for fit in fits:
        work = [r["flops_per_step"] for r in curve["models"] if r["model"] in fit["models"]]
        x = np.geomspace(min(work), max(work), 100)
        numbers = [fit[key] for key in ("fixed_s", "top_rate_flops", "top_flops", "rise")]
        axes.plot(
            x, [step_time_s(flops, *numbers) for flops in x], linewidth=1.2,
            color=style.colour(names.index(fit["name"])),
            linestyle="--" if fit["name"] == "jax.scan" else "-",
        )  # fmt: skip
    return [fit["name"] for fit in fits]


def _name_ends(axes: "Axes", ends: list[tuple[str, float, float]], names: list[str]) -> None:
    """Names right of the axes, level with the last points as far as there is room."""
    renderer = style.settle(axes)
    notes = [
        axes.annotate(
            style.marked(name, names.index(name)),
            xy=(1.0, 0.5), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
            color=style.as_ink(style.colour(names.index(name))),
            fontsize=style.SMALL_PT, va="center", annotation_clip=False,
        )
        for name, _, _ in ends
    ]  # fmt: skip
    box = axes.bbox
    gap = 1.15 * max(note.get_window_extent(renderer).height for note in notes) / box.height
    pixels = axes.transData.transform([(x, y) for _, x, y in ends])[:, 1]
    wanted = ((pixels - box.y0) / box.height).tolist()
    for note, place in zip(notes, spread(wanted, gap, 0.0, 1.0), strict=True):
        note.xy = (1.0, place)


def _name_sizes(axes: "Axes", curve: dict[str, Any]) -> None:
    """The models' names along the lower edge."""
    for result in curve["models"]:
        axes.annotate(
            result["model"], (result["flops_per_step"], 0.0), (0, 4),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
            fontsize=style.SMALL_PT, color=style.MUTED, path_effects=style.halo(),
        )  # fmt: skip
