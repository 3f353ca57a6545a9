"""The house style of every picture: colours, sizes, a bare frame, and how a picture is saved.

Pictures are drawn through `matplotlib.figure.Figure` itself. Nothing goes through pyplot, whose
list of open figures, current axes and backend are global state: our pictures can be drawn in any
thread, on a machine without a display, inside a notebook, and change nothing there.

The palette is Okabe and Ito's, eight colours chosen to differ also for colour-blind eyes
(M. Okabe, K. Ito, "Color Universal Design", 2002, https://jfly.uni-koeln.de/color/), ordered so
that the first few are dark enough for thin lines on white.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baremetal.errors import BaremetalError
from baremetal.trace.files import write_atomically
from baremetal.trace.units import SI_PREFIXES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
HATCHES = ("", "///", "...", "xxx")  # the second, third and fourth time round the palette
STROKES = ("-", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))  # the same for lines

# Marks tell lines apart where colours cannot; each with the letter that stands for it in a name.
MARKERS, GLYPHS = "osD^vP*X", "●■◆▲▼✚★✖"

INK, MUTED, FAINT = "#222222", "#666666", "#DDDDDD"
WIDTH_IN = 8.0  # at 150 dots per inch, 1200 pixels: sharp at the width of a page of the docs
DPI = 150
TITLE_PT, LABEL_PT, SMALL_PT = 12, 10, 9


def colour(number: int) -> str:
    """The palette's colour for the number-th thing, starting over after eight."""
    return PALETTE[number % len(PALETTE)]


def hatch(number: int) -> str:
    """A pattern that tells apart things whose colours had to be used twice."""
    return HATCHES[number // len(PALETTE) % len(HATCHES)]


def stroke(number: int) -> Any:
    """The same for lines: a matplotlib linestyle."""
    return STROKES[number // len(PALETTE) % len(STROKES)]


def marker(number: int) -> str:
    """A matplotlib marker for the number-th line, starting over after eight."""
    return MARKERS[number % len(MARKERS)]


def marked(name: str, number: int) -> str:
    """The number-th line's name, with its mark in front."""
    return f"{GLYPHS[number % len(GLYPHS)]} {name}"


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.1, the contrast standard of the web).

    https://www.w3.org/TR/WCAG21/#dfn-relative-luminance
    """
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(background: str) -> str:
    """Black or white, whichever has more contrast; they tie at a luminance of 0.179."""
    return "#000000" if luminance(background) > 0.179 else "#FFFFFF"


def as_ink(colour: str) -> str:
    """The colour, darkened until text in it can be read on white (contrast 4.5, WCAG's AA)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    while 1.05 / (luminance(f"#{red:02x}{green:02x}{blue:02x}") + 0.05) < 4.5:
        red, green, blue = (channel * 19 // 20 for channel in (red, green, blue))
    return f"#{red:02x}{green:02x}{blue:02x}"


def new_figure(height_in: float = 4.5, width_in: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """A white figure, laid out so that nothing is cut off, with one pair of dressed axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # measures text for us, needs no display
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def figure_of(axes: Axes) -> Figure:
    """The figure of axes made by `new_figure`."""
    from matplotlib.figure import Figure

    assert isinstance(axes.figure, Figure)
    return axes.figure


def settle(axes: Axes) -> Any:
    """Run the layout once, so that places in pixels are final; return the Agg renderer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = figure_of(axes)
    figure.draw_without_rendering()
    assert isinstance(figure.canvas, FigureCanvasAgg)
    return figure.canvas.get_renderer()


def halo() -> list[Any]:
    """A white rim around letters, for text that may cross a line."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def dress(axes: Axes) -> None:
    """Frame only left and below, a faint grid behind the data, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.grid(True, which="major", color=FAINT, linewidth=0.8)
    axes.tick_params(labelsize=SMALL_PT, color=MUTED, labelcolor=INK)


def log_ticks(axes: Axes, which: str) -> None:
    """Ticks of a logarithmic axis ("x" or "y") as 10 M, 100 M, 1 G; the more, the less it spans.

    To be called when the limits are final.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = math.log10(high / low)
    steps = (1.0,) if decades >= 2 else (1, 2, 5) if decades >= 1 else (1, 1.5, 2, 3, 4, 5, 7)
    axis.set_major_locator(LogLocator(base=10, subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.set_minor_formatter(NullFormatter())


def tick_text(value: float) -> str:
    """1000000 is "1 M", 1e-6 is "1 µ", 0.01 is "0.01": as short as the number allows."""
    if 1e-3 <= value < 1e3 or not 1e-12 <= value < 1e21:
        return f"{value:g}"
    power = math.floor(math.log10(value) + 1e-9) // 3
    prefix = SI_PREFIXES[power].replace("u", "µ")  # a picture has the letter, a terminal may not
    return f"{value / 1000.0**power:g} {prefix}"


def caption(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title flush left, as a headline; axis labels with their units."""
    axes.set_title(title, loc="left", fontsize=TITLE_PT, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, fontsize=LABEL_PT, color=INK)
    axes.set_ylabel(y_label, fontsize=LABEL_PT, color=INK)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure, whole or not at all, in the format its suffix names; return the path.

    The same figure gives the same bytes, so a picture in version control changes only when its
    data do. Raises BaremetalError for a suffix that is none of .png, .svg, .pdf.
    """
    import matplotlib

    path = Path(path)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in ("png", "svg", "pdf"):
        raise BaremetalError(
            f"cannot draw to {path}: {path.suffix or 'no suffix'} is no picture format known "
            "here; end the name in .png, .svg or .pdf"
        )
    undated: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    # The only way to make SVG's element names repeatable is this setting; it is put back at once.
    with matplotlib.rc_context({"svg.hashsalt": "baremetal"}):
        figure.savefig(buffer, format=file_format, metadata=undated[file_format])
    return write_atomically(path, buffer.getvalue())
