"""The arena as a picture: address against time, one rectangle for each buffer.

Across is the number of the launch, up is the address. A rectangle reaches from the first launch
that touches the buffer to the last, and from its first byte to its last; its colour is the family
of the kernel that wrote it first. A training step makes a mountain: the forward pass stacks up
what the backward pass will need, and the backward pass takes it down again. The line is what is
alive during each launch: where it touches the top, no plan could do with less.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from baremetal.capture.plan import Plan
from baremetal.trace import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MB = 1e6


def arena_plot(plan: Plan, path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw `arena_figure(plan)` to a .png, .svg or .pdf and return the path."""
    return style.save(arena_figure(plan, title), path)


def arena_figure(plan: Plan, title: str = "") -> Figure:
    """The picture as a matplotlib Figure, not yet written."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    figure, axes = style.new_figure(height_in=5.0)
    style.caption(axes, title, "launch", "address in MB")
    by_family: dict[str, list[Rectangle]] = {}
    for buffer in plan.transient:
        kernel = plan.launches[buffer.first].kernel
        corner = (buffer.first - 0.5, plan.offsets[buffer] / MB)
        size = (buffer.last - buffer.first + 1, buffer.size_bytes / MB)
        family = kernel.__module__.rpartition(".")[2]
        by_family.setdefault(family, []).append(Rectangle(corner, *size))
    for number, (_, rectangles) in enumerate(by_family.items()):
        axes.add_collection(
            PatchCollection(
                rectangles, facecolor=style.colour(number), edgecolor="white", linewidth=0.3,
                hatch=style.hatch(number) or None,
            )
        )  # fmt: skip
    alive = [alive_bytes / MB for alive_bytes in plan.alive_bytes()]
    (line,) = axes.step(
        range(len(alive)),
        alive,
        where="mid",
        color=style.INK,
        linewidth=1.2,
        zorder=3,
        path_effects=style.halo(),
    )
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=style.colour(n), hatch=style.hatch(n) or None)
        for n in range(len(by_family))
    ]
    axes.legend(
        [*handles, line], [*by_family, "alive"], loc="upper center", fontsize=style.SMALL_PT,
        ncols=4, frameon=False, title="buffers, by the kernels that made them",
        title_fontsize=style.SMALL_PT,
    )  # fmt: skip
    axes.set_xlim(-0.5, len(plan.launches) - 0.5)
    # More on top: the names stand above the mountain, not on it.
    axes.set_ylim(0, max(plan.memory.planned_bytes / MB, 1e-9) * 1.3)
    return figure
