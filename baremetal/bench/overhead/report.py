"""The overhead curve as tables."""

from typing import Any

from baremetal.bench.machine import machine_lines
from baremetal.bench.overhead import reading
from baremetal.bench.overhead.launches import launches_text
from baremetal.bench.step.report import SCAN_REMARK
from baremetal.trace.tables import Column, table
from baremetal.trace.units import format_rate, format_seconds


def curve_text(curve: dict[str, Any]) -> str:
    """Steps, speed-ups, shares, fixed costs, launches, and what they were measured on."""
    names = reading.contenders(curve)
    own = reading.OURS
    return "\n".join(
        [
            *_note(curve),
            f"median step of each contender, {curve['threads']} threads, interleaved",
            "",
            _by_model(curve, names, reading.step_s, format_seconds),
            "",
            f"how many times longer than {own}",
            "",
            _by_model(curve, names, lambda r, n: reading.speed_up(curve, r, n), _ratio),
            "",
            SCAN_REMARK,
            "",
            f"share of the rate of NumPy's matrix product, {_best_rate(curve)} at its best",
            "",
            _by_model(curve, names, lambda r, n: reading.share(curve, r, n), _percent),
            "",
            *_fits(curve),
            launches_text(curve["launches"]),
            "",
            *machine_lines(curve["machine"]),
            ", ".join(f"{name} {version}" for name, version in curve["versions"].items())
            + f"; {curve['date']}",
        ]
    )


def _note(curve: dict[str, Any]) -> list[str]:
    return [f"note: {curve['note']}", ""] if curve["note"] else []


def _best_rate(curve: dict[str, Any]) -> str:
    return format_rate(max(result["gemm_rate_flops"] for result in curve["models"]))


def _by_model(curve: dict[str, Any], names: list[str], value: Any, form: Any) -> str:
    """A row for each model, a column for each contender."""
    rows = [
        {"model": result["model"], **{name: value(result, name) for name in names}}
        for result in curve["models"]
    ]
    return table(rows, [Column("model"), *(Column(name, format=form, align=">") for name in names)])


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _fits(curve: dict[str, Any]) -> list[str]:
    """The fixed cost of each contender, and how well the model describes it."""
    sizes = [result["model"] for result in curve["models"]]
    rows = [
        {**fit, **dict.fromkeys(sizes), **dict(zip(fit["models"], fit["residuals"], strict=True))}
        for fit in reading.fits(curve)
    ]
    if not rows:
        return []
    columns = [
        Column("name", "contender"),
        Column("fixed_s", "fixed cost", format_seconds),
        Column("top_rate_flops", "top rate", format_rate, align=">"),
        Column("rise", "rise", ".2f"),
        *(Column(size, format=".2f", align=">") for size in sizes),
    ]
    return [
        "Amdahl: a step = fixed + FLOP / rate, where the rate rises to the top rate at the largest",
        "size as FLOP^rise; fitted to the logarithms of the medians; under each size, measured",
        "over fitted",
        "",
        table(rows, columns),
        "",
    ]
