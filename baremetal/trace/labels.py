"""Where to put names in a picture so that none lies on another.

A line is named at its end and a point beside itself, because a reader should not have to carry
colours to a legend and back. Two small problems have to be solved for that:

- `spread`: names in one column. Given the heights y_1 <= ... <= y_n where they would like to stand
  and a least distance g, find z with z_{i+1} - z_i >= g that moves them least in sum of squares.
  Put w_i = z_i - i g: now w must only not decrease, which is isotonic regression, solved exactly
  by pooling adjacent violators (Ayer et al., Annals of Mathematical Statistics 26, 1955).
- `beside_points`: names around points. Finding the best arrangement is NP-hard, so each name
  takes, in turn, the place that costs least: eight directions, close to its point, or farther off
  with a thin line back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.trace.style import MUTED, figure_of, settle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# The directions in which a name may leave its point, best first, and how far it may go.
_DIRECTIONS = [(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)]
_DISTANCES_PT = (5.0, 16.0, 30.0)
_AIR_PX = 2.0  # kept free around every name
# What a place costs: per name's area that is covered, per step farther off, per name crossed.
_ON_OTHERS, _ON_AVOIDED, _FARTHER, _CROSSING = 10.0, 3.0, 0.2, 0.5


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, within [low, high], as near as possible to `wanted`.

    Returns them in the order of `wanted`. If they cannot all fit, they are spaced evenly.
    """
    count = len(wanted)
    gap = min(gap, (high - low) / max(1, count - 1))
    order = sorted(range(count), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []  # (mean, size) of runs that have been pushed together
    for rank, i in enumerate(order):
        mean, size = wanted[i] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            other_mean, other_size = pools.pop()
            mean = (mean * size + other_mean * other_size) / (size + other_size)
            size += other_size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    highest = high - (count - 1) * gap
    placed = [0.0] * count
    for rank, i in enumerate(order):
        placed[i] = min(max(flat[rank], low), highest) + rank * gap
    return placed


def beside_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    avoid: Sequence[Bbox] = (),
    **font: Any,
) -> list[Annotation]:
    """Write each text next to its point (in data coordinates), clear of texts, points, `avoid`.

    `avoid` is in pixels, and the axes' limits must be final, since overlap is a matter of pixels.
    """
    from matplotlib.transforms import Bbox

    sizes = _text_sizes(axes, texts, font)
    pixels = axes.transData.transform(list(points))
    radius = 3.0 * _pixels_per_pt(axes)
    dots = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in pixels]
    names: list[Bbox] = []
    notes = []
    for i, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        others = names + dots[:i] + dots[i + 1 :]
        places = [
            _Place.at(axes, pixels[i], size, d, r) for r in _DISTANCES_PT for d in _DIRECTIONS
        ]
        best = min(places, key=lambda place: place.cost(others, avoid, axes.bbox))
        names += [best.box, *best.leader]
        notes.append(_write(axes, points[i], text, pixels[i], best, font))
    return notes


@dataclass(frozen=True)
class _Place:
    """Where one name could stand: its box, and the boxes along the line back to its point."""

    box: Bbox
    leader: list[Bbox]
    distance_pt: float

    @classmethod
    def at(
        cls,
        axes: Axes,
        point: np.ndarray,
        size: tuple[float, float],
        direction: tuple[int, int],
        distance_pt: float,
    ) -> _Place:
        from matplotlib.transforms import Bbox

        toward = np.array(direction, dtype=float)
        # A place at a corner is as far away as one at a side.
        reach = distance_pt * _pixels_per_pt(axes) / np.hypot(*toward)
        anchor = point + toward * reach
        # The box hangs on its corner or side that faces the point.
        corner = anchor + (toward - 1) / 2 * np.array(size)
        box = Bbox([corner, corner + size]).padded(_AIR_PX)
        leader = []
        if distance_pt > _DISTANCES_PT[0]:
            steps = np.linspace(point, anchor, 12)[3:-1]
            leader = [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in steps]
        return cls(box, leader, distance_pt)

    def cost(self, others: Sequence[Bbox], avoid: Sequence[Bbox], frame: Bbox) -> float:
        """0 is a free place close by; the line back may cross what is in `avoid`, not `others`."""
        area = self.box.width * self.box.height
        covered = area - _shared(self.box, frame)
        covered += _ON_OTHERS * sum(_shared(self.box, other) for other in others)
        covered += _ON_AVOIDED * sum(_shared(self.box, other) for other in avoid)
        crossed = sum(any(_shared(bit, other) for bit in self.leader) for other in others)
        rings_out = _DISTANCES_PT.index(self.distance_pt)
        return covered / area + _FARTHER * rings_out + _CROSSING * crossed


def _shared(one: Bbox, other: Bbox) -> float:
    """The area two boxes have in common, in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _text_sizes(
    axes: Axes, texts: Sequence[str], font: dict[str, Any]
) -> list[tuple[float, float]]:
    """Width and height of each text in pixels, measured on one that is taken away again."""
    renderer = settle(axes)
    sizes = []
    for text in texts:
        probe = axes.text(0.5, 0.5, text, transform=axes.transAxes, **font)
        box = probe.get_window_extent(renderer)
        probe.remove()
        sizes.append((box.width, box.height))
    return sizes


def _pixels_per_pt(axes: Axes) -> float:
    return figure_of(axes).dpi / 72


def _write(
    axes: Axes,
    point: tuple[float, float],
    text: str,
    pixel: np.ndarray,
    place: _Place,
    font: dict[str, Any],
) -> Annotation:
    middle = ((place.box.x0 + place.box.x1) / 2, (place.box.y0 + place.box.y1) / 2)
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    return axes.annotate(
        text,
        point,
        xytext=tuple((np.array(middle) - pixel) / _pixels_per_pt(axes)),
        textcoords="offset points",
        ha="center",
        va="center",
        arrowprops=line if place.leader else None,
        **font,
    )
