"""Where to put names in a picture so that none lies on another.

A line is named at its end and a point beside itself, because a reader should not have to carry
colours to a legend and back. Two small problems have to be solved for that:

- `spread`: names in one column. Given the heights y_1 <= ... <= y_n where they would like to stand
  and a least distance g, find z with z_{i+1} - z_i >= g that moves them least in sum of squares.
  Put w_i = z_i - i g: now w must only not decrease, which is isotonic regression, solved exactly
  by pooling adjacent violators (Ayer et al., Annals of Mathematical Statistics 26, 1955).
- `beside_points`: names around points. Finding the best arrangement is NP-hard, so each name
  takes, in turn, the first of eight places that is free, or else the least bad one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from baremetal.trace.style import figure_of, settle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Horizontal and vertical alignment of the text, by the direction in which it leaves its point.
_PLACES = [(1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)]
_HORIZONTAL = {1: "left", 0: "center", -1: "right"}
_VERTICAL = {1: "bottom", 0: "center", -1: "top"}
_DISTANCE_PT = 5.0


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
    **style: object,
) -> list[Annotation]:
    """Write each text next to its point (in data coordinates), clear of texts, points, `avoid`.

    The axes' limits must be final, since overlap is a matter of pixels.
    """
    from matplotlib.transforms import Bbox

    renderer = settle(axes)
    pixels = axes.transData.transform(list(points))
    radius = _DISTANCE_PT * figure_of(axes).dpi / 72
    dots = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in pixels]
    taken = list(avoid)
    written = []
    for i, (point, text) in enumerate(zip(points, texts, strict=True)):
        others = taken + dots[:i] + dots[i + 1 :]
        candidates = [_write(axes, point, text, place, style) for place in _PLACES]
        boxes = [note.get_window_extent(renderer) for note in candidates]
        costs = [_cost(box, others, axes.bbox) for box in boxes]
        best = min(range(len(costs)), key=lambda n: costs[n])
        for n, note in enumerate(candidates):
            if n != best:
                note.remove()
        taken.append(boxes[best])
        written.append(candidates[best])
    return written


def _write(
    axes: Axes, point: tuple[float, float], text: str, place: tuple[int, int], style: dict
) -> Annotation:
    sideways, upwards = place
    # A place at a corner is as far away as one at a side.
    reach = _DISTANCE_PT * (0.7 if sideways and upwards else 1.0)
    return axes.annotate(
        text,
        point,
        xytext=(sideways * reach, upwards * reach),
        textcoords="offset points",
        ha=_HORIZONTAL[sideways],
        va=_VERTICAL[upwards],
        **style,
    )


def _cost(box: Bbox, others: Sequence[Bbox], frame: Bbox) -> float:
    """Pixels of `box` that lie on others or outside the frame; 0 is a free place."""
    from matplotlib.transforms import Bbox

    area = box.width * box.height
    inside = Bbox.intersection(box, frame)
    cost = area - (inside.width * inside.height if inside else 0.0)
    for other in others:
        shared = Bbox.intersection(box, other)
        cost += shared.width * shared.height if shared else 0.0
    return cost
