"""The overhead curve as a picture: speed-up above, share of the machine's rate below.

Both over the FLOP of one step, on logarithmic axes: where a fixed cost is all there is, speed-up is
a level line at the ratio of the fixed costs; where work takes over, it falls towards 1.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from baremetal.bench.overhead import reading
from baremetal.trace import style
from baremetal.trace.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_IN = 8.0
MARKERS = "osD^vP*X"


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
    upper, lower = figure.subplots(2, 1, sharex=True)
    names, own = reading.contenders(curve), reading.ours(curve)
    colours = {name: style.colour(i) for i, name in enumerate(names)}
    _panel(upper, curve, [n for n in names if n != own], colours, reading_of="speed_up")
    _panel(lower, curve, names, colours, reading_of="share")
    upper.axhline(1.0, color=style.MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
    style.caption(upper, f"How many times longer a step takes than with {own}", "", "ratio")
    style.caption(
        lower, "Share of the rate of NumPy's matrix product", "model FLOP of one step",
        "model FLOP/s over that rate",
    )  # fmt: skip
    _name_sizes(upper, curve)
    for axes in (upper, lower):
        style.log_ticks(axes, "y")
    style.log_ticks(lower, "x")
    return figure


def _panel(
    axes: "Axes", curve: dict[str, Any], names: list[str], colours: dict[str, str], reading_of: str
) -> None:
    """One line for each contender, named at its right end."""
    style.dress(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    for i, name in enumerate(names):
        points = []
        for result in curve["models"]:
            value = (
                reading.speed_up(curve, result, name)
                if reading_of == "speed_up"
                else reading.share(result, name)
            )
            if value is not None:
                points.append((result["flops_per_step"], value))
        x, y = zip(*points, strict=True)
        axes.plot(
            x, y, color=colours[name], linewidth=1.8, marker=MARKERS[i % len(MARKERS)],
            markersize=5, linestyle="--" if name == "jax.scan" else "-",
        )  # fmt: skip
        ends.append((name, x[-1], y[-1]))
    axes.margins(x=0.05, y=0.1)
    _name_ends(axes, ends, colours)


def _name_ends(axes: "Axes", ends: list[tuple[str, float, float]], colours: dict[str, str]) -> None:
    """Names right of the axes, level with the last points as far as there is room."""
    renderer = style.settle(axes)
    notes = [
        axes.annotate(
            name, xy=(1.0, 0.5), xycoords="axes fraction", xytext=(6, 0),
            textcoords="offset points", color=style.as_ink(colours[name]),
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
    """The models' names along the lower edge of the upper panel."""
    for result in curve["models"]:
        axes.annotate(
            result["model"], (result["flops_per_step"], 0.0), (0, 4),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
            fontsize=style.SMALL_PT, color=style.MUTED, path_effects=style.halo(),
        )  # fmt: skip
