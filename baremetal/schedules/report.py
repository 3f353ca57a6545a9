"""The figures of a played schedule, as one JSON object and as text made from it.

Times given as bare numbers come back as such; times with a unit come back in seconds. A bare 1 is
a millisecond where it meets a link, and everything is played in whole picoseconds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from baremetal.schedules.timeline import Timeline
from baremetal.trace import Column, format_percent, format_seconds, table

PS_PER_UNIT = 10**9  # a bare number's unit: a millisecond, about what a stage's forward takes
PS_PER_S = 10**12
UNITS, SECONDS = "unit", "s"


def figures(timeline: Timeline, unit: str) -> dict[str, Any]:
    """All figures, times in units or in seconds.

    `makespan`, `span` (the largest), `bubble_makespan` and `bubble_span` (fractions of each),
    `peak_activations` (the largest; 1 is one microbatch on one rank's whole share), and under
    `per_stage` a list of each by rank.
    """
    in_unit = partial(figure_time, unit=unit)
    schedule = timeline.schedule
    ends = [int(part.max(initial=0)) for part in timeline.by_rank(timeline.end_ps)]
    peaks = timeline.peak_activations
    return {
        "schedule": schedule.name,
        "stages": len(schedule.ranks),
        "microbatches": schedule.microbatches,
        "chunks": schedule.chunks,
        "steps": timeline.wiring.flat.steps,
        "messages": timeline.wiring.messages,
        "unit": unit,
        "makespan": in_unit(timeline.makespan_ps),
        "makespan_ps": timeline.makespan_ps,
        "span": in_unit(max(timeline.span_ps)),
        "bubble_makespan": timeline.bubble_makespan,
        "bubble_span": timeline.bubble_span,
        "peak_activations": max(peaks),
        "exposed_transfer": in_unit(max(timeline.exposed_ps)),
        "per_stage": {
            "makespan": [in_unit(end) for end in ends],
            "span": [in_unit(span) for span in timeline.span_ps],
            "bubble_makespan": timeline.bubble_makespan_by_rank,
            "bubble_span": timeline.bubble_span_by_rank,
            "peak_activations": peaks,
            "busy": [in_unit(busy) for busy in timeline.busy_ps],
            "host_overhead": [in_unit(time) for time in timeline.host_overhead_ps],
            "exposed_transfer": [in_unit(time) for time in timeline.exposed_ps],
            "credit_wait": [in_unit(time) for time in timeline.credit_wait_ps],
        },
    }


def figure_time(time_ps: int, unit: str) -> float:
    """A time in picoseconds as a number of units or of seconds."""
    return time_ps / (PS_PER_UNIT if unit == UNITS else PS_PER_S)


def figures_text(found: dict[str, Any]) -> str:
    """The same for people: a line of what is largest, and a table by rank."""
    time = time_format(found["unit"])
    head = (
        f"{found['schedule']}: {found['stages']} ranks, {found['microbatches']} microbatches, "
        f"{found['steps']} steps, makespan {time(found['makespan'])}"
    )
    foot = (
        f"bubble: {format_percent(found['bubble_span'])} of the largest span "
        f"({time(found['span'])}), {format_percent(found['bubble_makespan'])} of the makespan"
    )
    lines = [head, "", rank_table(found), "", foot]
    if found.get("closed_form"):
        lines.append(_closed_form_text(found["closed_form"], time))
    return "\n".join(lines)


def rank_table(found: dict[str, Any]) -> str:
    """Each rank's span, work, bubbles, waiting and memory."""
    time = time_format(found["unit"])
    stages = found["per_stage"]
    rows = [
        {"rank": rank} | {key: values[rank] for key, values in stages.items()}
        for rank in range(found["stages"])
    ]
    columns = [
        Column("rank"),
        Column("span", "span", time, ">"),
        Column("busy", "busy", time, ">"),
        Column("bubble_span", "of span", format_percent, ">"),
        Column("bubble_makespan", "of makespan", format_percent, ">"),
        Column("exposed_transfer", "exposed transfer", time, ">"),
        Column("credit_wait", "no free slot", time, ">"),
        Column("host_overhead", "host", time, ">"),
        Column("peak_activations", "microbatches held", ".4g", ">"),
    ]
    return table(rows, columns)


def _closed_form_text(forms: dict[str, float], time: Callable[[float], str]) -> str:
    words = {"span": "largest span", "makespan": "makespan", "peak_activations": "held"}
    parts = [
        f"{words[key]} {f'{value:.4g}' if key == 'peak_activations' else time(value)}"
        for key, value in forms.items()
    ]
    return "closed form: " + ", ".join(parts)


def time_format(unit: str) -> Callable[[float], str]:
    """How a time of this unit is printed: 12.5, or 12.5 ms."""
    return (lambda value: f"{value:.6g}") if unit == UNITS else format_seconds
