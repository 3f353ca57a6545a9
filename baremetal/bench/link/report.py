"""The link benchmark's result as a table."""

from typing import Any

from baremetal.bench.machine import machine_lines
from baremetal.trace.tables import table
from baremetal.trace.units import format_bytes, format_percent, format_seconds, format_si


def link_table(result: dict[str, Any]) -> str:
    """The table, what was to be reached, and what it was measured on."""
    rows = [
        [
            name,
            format_seconds(row["latency_s"]),
            format_si(row["rate_Bps"], "B/s"),
            format_percent(row["share_of_memcpy"]),
        ]
        for name, row in result["contenders"].items()
    ]
    small, large = format_bytes(result["small_bytes"]), format_bytes(result["large_bytes"])
    ours = result["contenders"]["shared memory"]
    return "\n".join(
        [
            f"one way from process to process, {result['rounds']} rounds in turns, medians",
            "",
            table(rows, ["contender", small, large, "of memcpy"]),
            "",
            f"memcpy: {format_si(result['memcpy_Bps'], 'B/s')}",
            _target(
                f"{small}: at most {format_seconds(result['latency_target_s'])}",
                ours["latency_s"] <= result["latency_target_s"],
            ),
            _target(
                f"{large}: at least {format_percent(result['share_target'])} of memcpy",
                ours["share_of_memcpy"] >= result["share_target"],
            ),
            *machine_lines(result["machine"]),
        ]
    )


def _target(text: str, met: bool) -> str:
    return f"to reach: {text}: {'reached' if met else 'NOT reached'}"
