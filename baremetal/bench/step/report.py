"""The step benchmark's result as a table."""

from typing import Any

from baremetal.bench.machine import machine_lines
from baremetal.trace.tables import table
from baremetal.trace.units import format_rate, format_seconds

SCAN_REMARK = (
    "ratios are against a step called in a loop, as training loops are written; jax.scan has all "
    "steps\nof a block inside one call: where dispatch was the whole difference, there it is gone"
)


def step_table(result: dict[str, Any]) -> str:
    """The table, and beneath it what it was measured on."""
    rows = [
        [
            row["name"],
            format_seconds(row["median_step_s"]),
            format_seconds(row["best_step_s"]),
            f"{row['tokens_per_s']:,.0f}",
            f"{row['ratio']:.2f}x",
        ]
        for row in result["rows"]
    ]
    columns = ["contender", "median step", "best step", "tokens/s", "median / ours"]
    flops = result["gemm_rate_flops"] * result["gemm_share"]
    scans = any(row["name"] == "jax.scan" for row in result["rows"])
    return "\n".join(
        [
            f"one training step of '{result['model']}' ({result['dimensions']}), "
            f"{result['threads']} threads, interleaved",
            "",
            table(rows, columns),
            "",
            *([SCAN_REMARK] if scans else []),
            f"ours: {format_rate(flops)} = {result['gemm_share']:.1%} of NumPy's matrix-product "
            f"rate here ({format_rate(result['gemm_rate_flops'])})",
            *machine_lines(result["machine"]),
        ]
    )
