"""Where to put names in a picture so that none lies on another.

A line is named at its end and a point beside itself, because a reader should not have to carry
colours to a legend and back. Two small problems have to be solved for that:

- `spread`: names in one column. Given the heights y_1 <= ... <= y_n where they would like to stand
  and a least distance g, find z with z_{i+1} - z_i >= g that moves them least in sum of squares.
  Put w_i = z_i - i g: now w must only not decrease, which is isotonic regression, solved exactly
  by pooling adjacent violators (Ayer et al., Annals of Mathematical Statistics 26, 1955).
- `beside_points`: names around points. Finding the best arrangement is NP-hard, so each name
  takes, in turn, the place that costs least: eight directions, close to its point, or farther off
  with a thin line back to it. Then each may think again, now that the others stand.
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
_DISTANCES_PT = (5.0, 16.0, 30.0, 48.0)
_AIR_PX = 2.0  # kept free around every name
_NEAR_PT = 9.0  # a name that stands so near to another point might be taken for that one's
# What a place costs: per name's area that is covered, per step farther off, per name crossed, and
# per other point that the name might be taken for, and per point that it hides.
_ON_OTHERS, _ON_AVOIDED, _FARTHER, _CROSSING = 10.0, 3.0, 0.2, 0.5
_AMBIGUOUS, _HIDDEN = 0.3, 2.0


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
    if not points:
        return []
    pixels = axes.transData.transform(list(points))
    sizes = _text_sizes(axes, texts, font)
    places = _arrange(axes, pixels, sizes, _boxes([box.extents for box in avoid]))
    return [
        _write(axes, point, text, pixel, place, font)
        for point, text, pixel, place in zip(points, texts, pixels, places, strict=True)
    ]


def _arrange(
    axes: Axes, pixels: np.ndarray, sizes: Sequence[tuple[float, float]], avoid: np.ndarray
) -> list[_Place]:
    """A place for each name; pixels (n, 2) are the points, avoid (m, 4) boxes.

    One name after the other takes the place that costs least beside those that have one. Then
    each may move, now that the others stand: until none wants to, or three times in all.
    """
    px_per_pt = _pixels_per_pt(axes)
    frame = _boxes([axes.bbox.extents])
    radius = 3.0 * px_per_pt
    dots = np.hstack([pixels - radius, pixels + radius])
    offered = [
        [_Place.at(pixel, size, d, r, px_per_pt) for r in _DISTANCES_PT for d in _DIRECTIONS]
        for pixel, size in zip(pixels, sizes, strict=True)
    ]
    taken: dict[int, _Place] = {}
    for _ in range(3):
        before = dict(taken)
        for i, places in enumerate(offered):
            names = [place.boxes for j, place in taken.items() if j != i]
            others = np.vstack([*names, np.delete(dots, i, axis=0)])
            rivals = np.delete(pixels, i, axis=0)
            costs = [
                place.cost(others, avoid, frame)
                + _AMBIGUOUS * place.near(rivals, _NEAR_PT * px_per_pt)
                + _HIDDEN * place.near(rivals, radius)
                for place in places
            ]
            taken[i] = places[int(np.argmin(costs))]
        if taken == before:
            break
    return [taken[i] for i in range(len(pixels))]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where one name could stand. All in pixels, a box as (left, lower, right, upper).

    box (4,): of the name. leader (k, 4): small boxes along the line back to its point, or none.
    """

    box: np.ndarray
    leader: np.ndarray
    distance_pt: float

    @classmethod
    def at(
        cls,
        point: np.ndarray,
        size: tuple[float, float],
        direction: tuple[int, int],
        distance_pt: float,
        px_per_pt: float,
    ) -> _Place:
        toward = np.array(direction, dtype=float)
        # A place at a corner is as far away as one at a side.
        anchor = point + toward * distance_pt * px_per_pt / np.hypot(*toward)
        # The box hangs on its corner or side that faces the point.
        corner = anchor + (toward - 1) / 2 * np.array(size)
        box = np.hstack([corner - _AIR_PX, corner + size + _AIR_PX])
        leader = _boxes([])
        if distance_pt > _DISTANCES_PT[0]:
            steps = np.linspace(point, anchor, 12)[3:-1]
            leader = np.hstack([steps - 1, steps + 1])
        return cls(box, leader, distance_pt)

    @property
    def boxes(self) -> np.ndarray:
        """What it takes: the name and the line, (1 + k, 4)."""
        return np.vstack([self.box, self.leader])

    def near(self, points: np.ndarray, reach_px: float) -> int:
        """How many of the points, (n, 2), lie within reach of the name."""
        low, high = self.box[:2], self.box[2:]
        away = np.maximum(np.maximum(low - points, points - high), 0.0)  # 0 along a side it faces
        return int(np.sum(np.hypot(away[:, 0], away[:, 1]) < reach_px))

    def cost(self, others: np.ndarray, avoid: np.ndarray, frame: np.ndarray) -> float:
        """0 is a free place close by; the line back may cross what is in `avoid`, not `others`."""
        width, height = self.box[2:] - self.box[:2]
        area = float(width * height)
        covered = area - _shared(self.box, frame).sum()
        covered += _ON_OTHERS * _shared(self.box, others).sum()
        covered += _ON_AVOIDED * _shared(self.box, avoid).sum()
        crossed = sum(_shared(bit, others) > 0 for bit in self.leader)  # (n,): bits on each
        rings_out = _DISTANCES_PT.index(self.distance_pt)
        return float(covered / area + _FARTHER * rings_out + _CROSSING * np.count_nonzero(crossed))


def _boxes(boxes: Sequence[Any]) -> np.ndarray:
    """(n, 4), also if there are none."""
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that a box (4,) has in common with each of the others (n, 4), in square pixels."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.prod(np.maximum(sides, 0.0), axis=1)


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
    middle = (place.box[:2] + place.box[2:]) / 2
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    return axes.annotate(
        text,
        point,
        xytext=tuple((middle - pixel) / _pixels_per_pt(axes)),
        textcoords="offset points",
        ha="center",
        va="center",
        arrowprops=line if len(place.leader) else None,
        **font,
    )
