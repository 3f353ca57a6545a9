"""`baremetal ladder step`: one training step on four rungs, and what each rung bought.

    1  baremetal.reference    NumPy kernels, through Python
    2  baremetal.eager        compiled kernels, through Python
    3  baremetal.replay       compiled kernels, the launches walked as a table
    4  baremetal              the whole step one compiled function

The rungs take turns in processes of their own, as the contenders of `baremetal bench step` do. They
are the same step, and their first losses must agree. The second and the third run the very same
kernels: there the losses must be equal to the last bit. (On the fourth, small sums may be added in
another order, see `capture/native.py`.)
"""

import json
from collections.abc import Callable
from typing import Any

from baremetal.bench.machine import machine_lines
from baremetal.bench.step.compare import TURN_S, Progress, compare_steps
from baremetal.bench.step.sizes import StepSize, find_size
from baremetal.trace.tables import Column, table
from baremetal.trace.units import format_percent, format_seconds

RUNGS = {
    "baremetal.reference": ("NumPy", "what each kernel is, to read"),
    "baremetal.eager": ("compiled kernels", "one pass over memory, vectorised, threaded"),
    "baremetal.replay": (
        "replay",
        "no tape, no packing, no allocation, no Python between launches",
    ),
    "baremetal": ("one function", "no table either: the compiler sees the whole step"),
}
EXACT = 2  # the rung, counted from 0, that has the bits of the one below


def climb_step(
    size: StepSize,
    *,
    rounds: int,
    threads: int,
    seconds: float = TURN_S,
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Measure all rungs; returns one JSON-able object.

    Args:
        size: the model.
        rounds: how often the rungs take turns.
        threads: for each.
        seconds: how long a turn lasts.
        progress: told what comes next.

    Returns:
        What `compare_steps` does, with `rungs`: for each its `name`, `idea`, `why`,
        `median_step_s`, `best_step_s`, `gain` (the rung below over this one), `in_all` (the lowest
        rung over this one), `saved_s` (seconds a step) and `same_bits` (whether its first losses
        are exactly those of the rung below).

    Raises:
        BaremetalError: as `compare_steps`; losses that differ are refused there.
    """
    others = [name for name in RUNGS if name != "baremetal"]
    result = compare_steps(
        size, others, rounds=rounds, seconds=seconds, threads=threads, progress=progress
    )
    by_name = {row["name"]: row for row in result["rows"]}
    rows = [by_name[name] for name in RUNGS]
    rungs = []
    for number, row in enumerate(rows):
        below = rows[max(0, number - 1)]
        idea, why = RUNGS[row["name"]]
        rungs.append(
            {
                "name": row["name"],
                "idea": idea,
                "why": why,
                "median_step_s": row["median_step_s"],
                "best_step_s": row["best_step_s"],
                "gain": below["median_step_s"] / row["median_step_s"],
                "in_all": rows[0]["median_step_s"] / row["median_step_s"],
                "saved_s": below["median_step_s"] - row["median_step_s"],
                "same_bits": row["first_losses"] == below["first_losses"],
                "gemm_share": row["gemm_share"],
            }
        )
    return {**result, "rungs": rungs, "all_right": rungs[EXACT]["same_bits"]}


def step_ladder_text(result: dict[str, Any]) -> str:
    """The object of `climb_step`, for people."""
    rows = [
        {
            **rung,
            "number": number,
            "gain": None if number == 1 else f"{rung['gain']:.2f}x",
            "saved_s": None if number == 1 else rung["saved_s"],
            "in_all": f"{rung['in_all']:.2f}x",
            "losses": _losses(number, rung["same_bits"]),
        }
        for number, rung in enumerate(result["rungs"], 1)
    ]
    columns = [
        Column("number", "", str, align=">"),
        Column("idea", "rung"),
        Column("median_step_s", "median step", format_seconds),
        Column("gain", "gain", align=">"),
        Column("saved_s", "saved", format_seconds, align=">"),
        Column("in_all", "in all", align=">"),
        Column("gemm_share", "of matrix rate", format_percent),
        Column("losses", "losses"),
        Column("why", "what it buys"),
    ]
    wrong = [] if result["all_right"] else [result["rungs"][EXACT]["name"]]
    return "\n".join(
        [
            f"one training step of '{result['model']}' ({result['dimensions']}) on its rungs, "
            f"{result['threads']} threads, interleaved",
            "",
            table(rows, columns),
            "",
            *machine_lines(result["machine"]),
            *([f"NOT OK: {', '.join(wrong)}: losses of other bits"] if wrong else []),
        ]
    )


def _losses(number: int, same_bits: bool) -> str:
    if number == 1:
        return "the reference"
    if same_bits:
        return "same bits"
    return "OTHER BITS" if number == EXACT + 1 else "agree"


def run_step_ladder(
    model: str,
    *,
    rounds: int,
    threads: int,
    progress: Progress,
    as_json: bool = False,
    show: Callable[[str], None] = print,
) -> int:
    """Climb and print; the exit status is 1 if replay has not the bits of eager execution.

    Raises:
        BaremetalError: an unknown model, or what cannot be measured.
    """
    result = climb_step(find_size(model), rounds=rounds, threads=threads, progress=progress)
    show(json.dumps(result, indent=2) if as_json else step_ladder_text(result))
    return 0 if result["all_right"] else 1
