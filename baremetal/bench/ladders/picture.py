"""The picture of a ladder: the roofline, and under it every version's name and rate.

All versions of a kernel have the same cost, so they stand above each other on one vertical line
(one more for a version that was tried at a smaller size), and the fast ones close together below
the roof. Their names go into a column beside the line, spread so that none covers another, each
with a thin line to its point.
"""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.trace import style
from baremetal.trace.labels import spread
from baremetal.trace.roofline import RooflinePoint, attainable_flops, roofline_figure
from baremetal.trace.units import format_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP_PX = 26  # from name to name
AWAY_PX = 30  # from point to name
CHARACTER_PX = 10.5  # width of one, on average, at the size used


def draw_ladder(result: dict[str, Any], path: str | Path) -> Path:
    """Draw what `climb` measured to a .png, .svg or .pdf and return the path."""
    return style.save(ladder_figure(result), path)


def ladder_figure(result: dict[str, Any]) -> "Figure":
    """The picture as a matplotlib Figure, not yet written."""
    rows = sorted(result["versions"], key=lambda row: row["flops"] / row["size_bytes"])
    points = [
        RooflinePoint.measured("", row["flops"], row["size_bytes"], row["best_s"]) for row in rows
    ]
    title = f"The {result['ladder']} ladder ({result['size_means']}: {result['size']})"
    limits = result["peak_flops"], result["bandwidth_Bps"]
    figure = roofline_figure(points, *limits, title)
    axes = figure.axes[0]
    for empty in [text for text in axes.texts if not text.get_text()]:
        empty.remove()  # names of our own follow
    columns = [
        (intensity, list(group))
        for intensity, group in groupby(zip(points, rows, strict=True), lambda p: p[0].intensity)
    ]
    across = [float(axes.transData.transform((intensity, 1.0))[0]) for intensity, _ in columns]
    for i, (_, group) in enumerate(columns):
        left = across[i - 1] if i > 0 else axes.bbox.x0
        right = across[i + 1] if i + 1 < len(columns) else axes.bbox.x1
        _name_column(axes, group, limits, room_px=(across[i] - left, right - across[i]))
    return figure


def check_picture(path: str) -> None:
    """Refuse a picture that could not be written, before minutes are spent on measuring.

    Raises:
        BaremetalError: no format known here, or no folder to write into.
    """
    suffix, folder = Path(path).suffix.lower(), Path(path).parent
    if path and suffix not in (".png", ".svg", ".pdf"):
        raise BaremetalError(f"cannot draw to {path}: end the name in .png, .svg or .pdf")
    if not folder.is_dir():
        raise BaremetalError(f"cannot draw to {path}: there is no folder {folder}")


def _name_column(
    axes: Any, group: list, limits: tuple[float, float], room_px: tuple[float, float]
) -> None:
    """Write the names of points that stand above each other, on the right if there is room."""
    pixels = axes.transData.transform([(p.intensity, p.flops_per_s) for p, _ in group])
    texts = [
        f"{row['version']}  {row['idea']}, {format_rate(row['flops_per_s'])}" for _, row in group
    ]
    needed_px = max(map(len, texts)) * CHARACTER_PX + AWAY_PX
    on_right = room_px[1] >= min(needed_px, room_px[0])
    intensity = group[0][0].intensity
    roof = axes.transData.transform((intensity, attainable_flops(intensity, *limits)))[1]
    low, high = axes.bbox.y0 + GAP_PX, max(roof, float(pixels[:, 1].max())) - GAP_PX
    # The picture counts upwards, and of two equally fast versions the later one stands higher.
    order = sorted(range(len(group)), key=lambda i: (pixels[i][1], group[i][1]["version"]))
    heights = spread([float(pixels[i][1]) for i in order], GAP_PX, low, high)
    scale = 72 / style.figure_of(axes).dpi
    for i, height in zip(order, heights, strict=True):
        shift = np.array([AWAY_PX if on_right else -AWAY_PX, height - pixels[i][1]]) * scale
        point = group[i][0]
        axes.annotate(
            texts[i], (point.intensity, point.flops_per_s), tuple(shift),
            textcoords="offset points", ha="left" if on_right else "right", va="center",
            fontsize=style.SMALL_PT, color=style.INK, path_effects=style.halo(), zorder=4,
            arrowprops={
                "arrowstyle": "-", "color": style.MUTED, "linewidth": 0.7, "shrinkA": 0,
                "shrinkB": 3, "relpos": (0 if on_right else 1, 0.5),
            },
        )  # fmt: skip
