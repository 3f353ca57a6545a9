"""All schedules for the same model, batch and machine, side by side."""

from dataclasses import dataclass
from typing import Any

from baremetal.schedules.auto_options import AUTO, V_AUTO, SearchLimits, search_with
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.generator import Generator
from baremetal.schedules.options import (
    Playing,
    read_stragglers,
    read_times,
    simulator,
    unit_of_times,
)
from baremetal.schedules.registry import SCHEDULES
from baremetal.schedules.report import figures, time_format
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.timeline import Timeline
from baremetal.trace import Column, format_percent, table


@dataclass(frozen=True)
class Comparison:
    """Who was played, and the figures of all.

    Attributes:
        timelines: of the schedules whose domain is met.
        figures: one JSON object: `schedules`, a list of figures, and `refused`, reasons by name.
    """

    timelines: list[Timeline]
    figures: dict[str, Any]


def compare(
    ranks: int,
    microbatches: int,
    chunks: int | None,
    given: Playing,
    limits: SearchLimits | None = None,
) -> Comparison:
    """Play all schedules that exist for these sizes; times are of a rank's whole share.

    Args:
        ranks: p.
        microbatches: m.
        chunks: v, for schedules that leave it open; None for each one's own.
        given: times, link and the rest.
        limits: search for automatic schedules of one stage per rank and of a V within them; None:
            do not.

    Raises:
        ScheduleError: there is none for these sizes, or an option makes no sense.
    """
    timelines, refused = [], {}
    for name, generator in SCHEDULES.items():
        try:
            schedule = _with_chunks(generator, ranks, microbatches, chunks)
        except ScheduleError as error:
            refused[name] = str(error)
            continue
        times = read_times(schedule.stages, given, divisor=len(schedule.paths[0]) // ranks)
        stragglers = read_stragglers(given.straggler)
        timelines.append(simulator(schedule, given).play(times, stragglers))
    if limits is not None:
        for name, v in ((AUTO, 1), (V_AUTO, 2)):
            try:
                found = search_with(name, ranks, microbatches, v, given, limits, divisor=v)
            except ScheduleError as error:
                if v == 1:
                    raise
                refused[name] = str(error)
                continue
            timelines.append(found.timeline)
    if not timelines:
        raise ScheduleError(
            f"no schedule exists for {ranks} ranks and {microbatches} microbatches: "
            + "; ".join(refused.values())
        )
    played = [figures(timeline, unit_of_times(given)) for timeline in timelines]
    return Comparison(timelines, {"schedules": played, "refused": refused})


def _with_chunks(
    generator: Generator, ranks: int, microbatches: int, chunks: int | None
) -> Schedule:
    """With so many chunks if the schedule leaves that open, else with its own number."""
    try:
        return generator(ranks, microbatches, chunks)
    except ScheduleError:
        return generator(ranks, microbatches)


def comparison_text(found: dict[str, Any]) -> str:
    """The table, and why others are not in it."""
    time = time_format(found["schedules"][0]["unit"])
    columns = [
        Column("schedule"),
        Column("chunks"),
        Column("makespan", "makespan", time, ">"),
        Column("span", "largest span", time, ">"),
        Column("bubble_span", "bubble of span", format_percent, ">"),
        Column("bubble_makespan", "of makespan", format_percent, ">"),
        Column("exposed_transfer", "exposed transfer", time, ">"),
        Column("peak_activations", "microbatches held", ".4g", ">"),
    ]
    lines = [table(found["schedules"], columns)]
    if found["refused"]:
        lines += ["", *(f"not here: {reason}" for reason in found["refused"].values())]
    return "\n".join(lines)
