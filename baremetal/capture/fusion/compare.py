"""What each fusion buys: launches and bytes counted, time measured.

For each fusion two plans of the same recording are replayed in turn: one with all fusions, one with
all but this one. Both do the same arithmetic on the same parameters, so it does not matter whose
turn it is; what else the machine is doing meets both alike. The medians are compared. The last row
is all fusions against none.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from baremetal.capture.fusion.fuse import fuse_recording
from baremetal.capture.plan import Plan, make_plan
from baremetal.capture.recording import Recording
from baremetal.capture.replay import Replay
from baremetal.trace import format_bytes


class FusionRow(NamedTuple):
    """One fusion (or all of them), and the step with it and without it.

    Attributes:
        fusion: its name, or "all".
        launches: launches saved.
        size_bytes: memory traffic saved, by the kernels' costs.
        arena_bytes: arena without it less arena with it; negative if fusing costs memory.
        with_s, without_s: median duration of the step in seconds.
    """

    fusion: str
    launches: int
    size_bytes: int
    arena_bytes: int
    with_s: float
    without_s: float


def compare_fusions(recording: Recording, names: Sequence[str], rounds: int = 7) -> list[FusionRow]:
    """Do the step many times, really (weights move), with and without each of these fusions."""
    fused = make_plan(fuse_recording(recording, names)[0])
    replay = Replay(fused)
    rows = []
    for left_out in [*names, "all"]:
        rest = () if left_out == "all" else tuple(name for name in names if name != left_out)
        other = make_plan(fuse_recording(recording, rest)[0])
        with_s, without_s = _medians([replay.run, Replay(other).run], rounds)
        rows.append(FusionRow(left_out, *_saved(fused, other), with_s, without_s))
    return rows


def _saved(fused: Plan, other: Plan) -> tuple[int, int, int]:
    return (
        len(other.launches) - len(fused.launches),
        other.cost.size_bytes - fused.cost.size_bytes,
        other.memory.planned_bytes - fused.memory.planned_bytes,
    )


def _medians(steps: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Seconds each of these takes, run in turn; a first round is not counted."""
    times_s: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, mine in zip(steps, times_s, strict=True):
            start = time.perf_counter()
            step()
            if number:
                mine.append(time.perf_counter() - start)
    return [statistics.median(mine) for mine in times_s]


def fusion_table(rows: Sequence[FusionRow]) -> str:
    """What a person reads of it."""
    lines = [f"{'fusion':16s} {'launches':>9s} {'traffic':>9s} {'arena':>9s} {'with':>11s} without"]
    for row in rows:
        arena = ("-" if row.arena_bytes < 0 else "") + format_bytes(abs(row.arena_bytes))
        lines.append(
            f"{row.fusion:16s} {row.launches:9d} {format_bytes(row.size_bytes):>9s} {arena:>9s} "
            f"{row.with_s * 1e3:8.3f} ms {row.without_s * 1e3:8.3f} ms"
        )
    return "\n".join(lines)
