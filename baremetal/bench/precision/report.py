"""The comparison of precisions as two tables and a picture."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.bench.machine import machine_lines
from baremetal.bench.precision.rates import BY_BITS, KINDS
from baremetal.trace import style
from baremetal.trace.curves import name_lines, running_mean
from baremetal.trace.tables import table
from baremetal.trace.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED_OVER = 25  # steps, in the picture


def precision_table(result: dict[str, Any]) -> str:
    """What was learnt, and what it would save; and that it saves no time here."""
    return "\n".join(
        [
            f"{result['parameters']:,} parameters, {result['steps']} steps of "
            f"{result['tokens_per_step']} tokens, the same weights and batches in each precision",
            "",
            _learnt(result["rows"]),
            "",
            "what the matrix products of one step would read and compute, if a chip took their "
            "operands as stored (from the kernels' costs):",
            "",
            _saved(result["rows"]),
            "",
            "product time: modelled, the products alone at a GB300's published dense rates "
            f"({_rates()}), relative to float32.",
            result["note"],
            *machine_lines(result["machine"]),
        ]
    )


def _learnt(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["precision"],
            f"{row['train_loss']:.4f}",
            f"{row['val_loss']:.4f}",
            f"{row['val_difference']:+.4f}",
            row["skipped_steps"],
            format_bytes(row["arena_bytes"]),
            format_seconds(row["best_step_s"]),
        ]
        for row in rows
    ]
    heads = [
        "precision", "train loss", "val loss", "to float32", "skipped", "arena", "best step here",
    ]  # fmt: skip
    return table(cells, heads)


def _saved(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        flops = {int(bits): value for bits, value in row["product_flops"].items()}
        total = sum(flops.values())
        cells.append(
            [
                row["precision"],
                *(format_bytes(size) for size in row["read_bytes"].values()),
                *(f"{flops.get(bits, 0) / total:.0%}" for bits in BY_BITS),
                f"{row['product_time']:.2f}x",
            ]
        )
    reads = [*rows[0]["read_bytes"]]
    shares = [f"FLOP in {KINDS[bits]}" for bits in BY_BITS]
    return table(cells, ["precision", *reads, *shares, "product time"])


def _rates() -> str:
    rates = ", ".join(f"{KINDS[bits]} {rate / 1e12:,.0f}" for bits, rate in BY_BITS.items())
    return f"{rates} TFLOP/s"


def precision_plot(result: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write `precision_figure` to a .png, .svg or .pdf; return the path."""
    return style.save(precision_figure(result["curves"]), path)


def precision_figure(curves: dict[str, list[float]]) -> "Figure":
    """The training losses, and beneath them how far each is from float32's: running means.

    curves: precision -> loss per step, float32 among them.
    """
    figure, losses = style.new_figure(6.4)
    losses.remove()
    losses, apart = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    full = np.asarray(curves["float32"])
    ends = []
    for number, (name, values) in enumerate(curves.items()):
        loss = np.asarray(values)
        steps = np.arange(1, len(loss) + 1)
        away = running_mean(loss - full, SMOOTHED_OVER)
        look: dict[str, Any] = {
            "color": style.colour(number), "lw": 1.6, "marker": style.marker(number), "ms": 5,
            "markevery": (number * len(loss) // 60, max(1, len(loss) // 8)),
        }  # fmt: skip
        losses.plot(steps, running_mean(loss, SMOOTHED_OVER), **look)
        apart.plot(steps, away, **look)
        ends.append((style.marked(name, number), float(away[-1]), style.as_ink(look["color"])))
    for axes in (losses, apart):
        style.dress(axes)
        axes.margins(x=0.01)
    style.caption(losses, "The same training in fewer bits", "", "loss (nats per token)")
    style.caption(
        apart, f"How far from float32 (means of {SMOOTHED_OVER} steps)", "step", "nats per token"
    )
    name_lines(apart, ends)
    return figure
