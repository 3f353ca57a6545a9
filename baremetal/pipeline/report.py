"""What a step on the modelled machine came to: one JSON object, and the text made from it.

A step was *executed*: its ranks computed, sent and waited, each with a clock of its own. The same
step can be *simulated* from its durations and links alone, and *worked out* on paper for ideal
ones (`closed_form.py`). Side by side they say three things. Executed and simulated time are equal
to the last picosecond, or one of them has a fault. What lies between simulation and paper is what
unequal stages, links and host cost. And what ranks wait for messages (`exposed_transfer`) is the
part of it that a faster link could win back.

Modelled and real speed are two numbers: the modelled machine's tokens per second come from the
makespan of a step (optimiser apart), this computer's from a clock on the wall.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from baremetal.pipeline.closed_form import closed_form
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.job import Job
from baremetal.pipeline.memory import StageMemory
from baremetal.schedules import Kind
from baremetal.schedules.flat import NONE
from baremetal.schedules.forward_only import SLOTS
from baremetal.schedules.report import SECONDS, figures, rank_table
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import Times
from baremetal.trace import (
    Column,
    format_bytes,
    format_count,
    format_percent,
    format_seconds,
    table,
)

PS_PER_S = 10**12


def report(
    job: Job,
    executed: Timeline,
    simulated: Timeline,
    times: Times | None,
    memory: Mapping[int, StageMemory],
) -> dict[str, Any]:
    """All figures of a step: those of `schedules.report.figures`, and what is known beside them.

    Args:
        job: of the run.
        executed: what its ranks did.
        simulated: what the simulator makes of the same durations and links.
        times: that its actions were charged; None: what was measured.
        memory: by stage.
    """
    transfer_ps = 0 if job.link is None else job.link.transfer_ps(job.message_bytes)
    times = mean_times(executed) if times is None else times
    forms = closed_form(job.schedule, times, transfer_ps)
    exposed_ps = sum(executed.exposed_ps)
    return figures(executed, SECONDS) | {
        "clock": job.clock,
        "charge": job.charge,
        "message_bytes": job.message_bytes,
        "transfer": transfer_ps / PS_PER_S,
        "exposed_share": exposed_ps / (executed.makespan_ps * job.ranks),
        "closed_form": None if forms is None else forms.figures(),
        "simulator": _simulator(executed, simulated),
        "memory": _memory(job, memory),
        "memory_by_rank": _memory_by_rank(job, memory),
        "chip_memory_bytes": None if job.chip is None else job.chip.usable_memory_bytes,
    }


def speed(
    job: Job, makespan_ps: int, tokens: int, flops: int, wall_s: float | None
) -> dict[str, Any]:
    """Tokens a second on the modelled machine and on this one.

    On a clock on the wall there is no modelled machine: ranks compute as fast as this computer
    does, and share its cores.

    Args:
        job: of the run.
        makespan_ps: of a step.
        tokens: of a step.
        flops: that the model needs for a step, whoever computes it (not what is computed again).
        wall_s: that a step took here, all of it; None: not known.
    """
    modelled_s = makespan_ps / PS_PER_S
    found: dict[str, Any] = {
        "tokens_per_s_modelled": None,
        "tokens_per_s_wall": None if wall_s is None else tokens / wall_s,
        "mfu_modelled": None,
    }
    if job.clock == "wall" or not modelled_s:
        return found
    found["tokens_per_s_modelled"] = tokens / modelled_s
    if job.charge == "roofline" and job.chip is not None:
        peak = job.chip.peak(job.precision) * job.ranks
        found["mfu_modelled"] = flops / modelled_s / peak
    return found


def mean_times(timeline: Timeline) -> Times:
    """What each kind of action took on each stage, on average, where durations were measured.

    Overlapped pairs are left out: nobody can say which half took how long.
    """
    flat = timeline.wiring.flat
    alone = (flat.forward_stage == NONE) | (flat.backward_stage == NONE)

    def of(kind: Kind) -> tuple[int, ...]:
        stages = flat.forward_stage if kind is Kind.F else flat.backward_stage
        chosen = alone & (stages != NONE)
        if kind is not Kind.F:
            chosen &= flat.backward_kind == kind
        found = [timeline.duration_ps[chosen & (stages == s)] for s in range(flat.schedule.stages)]
        return tuple(int(each.mean()) if len(each) else 0 for each in found)

    return Times(*(of(kind) for kind in (Kind.F, Kind.I, Kind.W, Kind.B)))


def _simulator(executed: Timeline, simulated: Timeline) -> dict[str, Any]:
    difference = first_difference(executed, simulated)
    return {
        "equal": difference is None,
        "first_difference": difference,
        "makespan": simulated.makespan_ps / PS_PER_S,
        "bubble_span": simulated.bubble_span,
        "bubble_makespan": simulated.bubble_makespan,
    }


def _memory(job: Job, memory: Mapping[int, StageMemory]) -> list[dict[str, Any]]:
    """By stage: where it is, what it holds, and how many bytes of what."""
    return [
        {
            "stage": stage,
            "rank": job.schedule.rank_of[stage],
            "holds": str(job.parts[stage]),
            **held._asdict(),
            "activations_bytes": held.activations_bytes if held.slots else None,
            "total_bytes": held.total_bytes if held.slots else None,
        }
        for stage, held in sorted(memory.items())
    ]


def _memory_by_rank(job: Job, memory: Mapping[int, StageMemory]) -> list[int]:
    """Bytes of all stages of each rank, and of the slots in which messages reach it.

    An evaluation has slots of its own. (Its activations, which nothing keeps, are not counted.)
    """
    total = [0] * job.ranks
    for stage, held in memory.items():
        total[job.schedule.rank_of[stage]] += held.total_bytes
    lanes = [*zip(job.wiring.lanes, job.lane_slots, strict=True)]
    lanes += [(lane, SLOTS) for lane in job.evaluation.lanes]
    for lane, slots in lanes:
        total[job.schedule.rank_of[lane.target]] += slots * job.message_bytes
    return total


# ---------------------------------------------------------------- for people


def report_text(found: Mapping[str, Any]) -> str:
    """The same as text."""
    lines = [
        rank_table(dict(found)),
        "",
        bubble_table(found),
        "",
        simulator_line(found),
        *closed_form_lines(found),
        "",
        memory_text(found["memory"]),
        rank_memory_line(found),
    ]
    return "\n".join([*lines, *speed_lines(found)])


def bubble_table(found: Mapping[str, Any]) -> str:
    """The bubble as executed, as simulated and by formula."""
    ways = {"executed": found, "simulated": found["simulator"], "closed form": found["closed_form"]}
    rows = [{"way": way, **figures} for way, figures in ways.items() if figures is not None]
    columns = [
        Column("way", "bubble", align="<"),
        Column("bubble_span", "of the largest span", format_percent, ">"),
        Column("bubble_makespan", "of the makespan", format_percent, ">"),
        Column("makespan", "makespan", format_seconds, ">"),
    ]
    return table(rows, columns)


def closed_form_lines(found: Mapping[str, Any]) -> list[str]:
    """What the formulas assume, and what they say beside the bubble."""
    forms = found["closed_form"]
    if forms is None:
        return [f"closed form: none is known for {found['schedule']}"]
    lines = [f"closed form: for {forms['assumes']}"]
    if forms["with_equal_F_I_W"]:
        lines.append("             and F = I = W (none is known for other times)")
    if forms["makespan_with_transfer"] is not None and found["transfer"]:
        lines.append(
            f"             makespan {format_seconds(forms['makespan_with_transfer'])} with "
            f"{format_seconds(found['transfer'])} of transfer for every hop, if none queues"
        )
    held, expected = found["per_stage"]["peak_activations"], forms["peak_activations"]
    is_so = "as the formula says" if held == expected else f"by formula {_list(expected)}"
    return [*lines, f"microbatches held at most, by rank: {_list(held)}, {is_so}"]


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def simulator_line(found: Mapping[str, Any]) -> str:
    """Whether executed and simulated time agree."""
    simulator = found["simulator"]
    if simulator["equal"]:
        return (
            f"simulator:   equal to the picosecond, in all {found['steps']} steps and "
            f"{found['messages']} messages"
        )
    if found["clock"] == "wall":
        return "simulator:   the ranks waited on a clock on the wall, with all its noise"
    return f"simulator:   DIFFERENT, first in {simulator['first_difference']}"


def memory_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The bytes of each stage, as a table."""
    size = partial(Column, format=format_bytes, align=">")
    columns: list[Column | str] = [
        "stage", "rank", Column("holds", align="<"), size("weights_bytes", "weights"),
        size("gradients_bytes", "gradients"), size("optimizer_bytes", "optimiser"),
        Column("slots", "slots"), size("slot_bytes", "a slot"), size("scratch_bytes", "scratch"),
        size("total_bytes", "together"),
    ]  # fmt: skip
    text = table(rows, columns)
    if any(row["total_bytes"] is None for row in rows):
        text += "\n(activations of stages that run through Python are not planned, so not counted)"
    return text


def rank_memory_line(found: Mapping[str, Any]) -> str:
    """The bytes of each rank, beside the modelled chip's memory."""
    each = ", ".join(format_bytes(size_bytes) for size_bytes in found["memory_by_rank"])
    room = found["chip_memory_bytes"]
    chip = "" if room is None else f"; the modelled chip has room for {format_bytes(room)}"
    return f"by rank, with slots for messages: {each}{chip}"


def speed_lines(found: Mapping[str, Any]) -> list[str]:
    """Modelled and real speed, labelled."""
    if "tokens_per_s_modelled" not in found:
        return []
    lines = [""]
    modelled, mfu = found["tokens_per_s_modelled"], found["mfu_modelled"]
    if modelled is not None:
        used = "" if mfu is None else f", {100 * mfu:.2f} % of its chips' peak (MFU)"
        lines.append(f"modelled machine: {format_count(modelled)} tokens/s{used}, optimiser apart")
    wall = found["tokens_per_s_wall"]
    if wall is not None:
        lines.append(f"this computer:    {format_count(wall)} tokens/s, all of a step, real time")
    return lines
