"""What `baremetal schedule` can do: the options of each verb, and how it is done."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from baremetal.schedules.auto_options import (
    AUTOMATIC,
    Searching,
    SearchLimits,
    schedule_of,
    search,
    search_figures,
    search_text,
)
from baremetal.schedules.check import check_schedule
from baremetal.schedules.closed_form import closed_form
from baremetal.schedules.compare import compare, comparison_text
from baremetal.schedules.csv_form import to_csv
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.options import (
    DEFAULT_MICROBATCHES,
    DEFAULT_STAGES,
    Playing,
    play,
    read_slots,
    read_stragglers,
    read_times,
    simulator,
    unit_of_times,
)
from baremetal.schedules.report import figures, figures_text
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.text_form import to_text
from baremetal.schedules.times import step_durations
from baremetal.trace import supports_colour, write_perfetto
from baremetal.trace.files import write_atomically

# ---------------------------------------------------------------- draw


@dataclass(frozen=True)
class DrawOptions(Searching):
    """Draw a schedule: in the terminal, as a picture, for the Perfetto viewer."""

    plot: str = ""
    """Draw it into this picture (.png, .svg or .pdf) instead of the terminal."""
    arrows: bool = False
    """Show every message in the picture."""
    perfetto: str = ""
    """Write it for https://ui.perfetto.dev to this file (.json) instead of the terminal."""
    width: int = 0
    """Characters in a line; 0: as many as the terminal has."""


def _draw(given: DrawOptions) -> None:
    from baremetal.schedules.terminal import draw_text

    timeline = play(schedule_of(given), given)
    if given.plot:
        from baremetal.schedules.picture import draw_picture

        unit = unit_of_times(given)
        print(f"drew {draw_picture(timeline, given.plot, arrows=given.arrows, unit=unit)}")
    if given.perfetto:
        from baremetal.schedules.tracks import to_trace

        written = write_perfetto(to_trace(timeline), given.perfetto)
        print(f"wrote {written}: open it at https://ui.perfetto.dev")
    if not (given.plot or given.perfetto):
        width = given.width or shutil.get_terminal_size().columns
        print(draw_text(timeline, width, supports_colour(sys.stdout), unit_of_times(given)))


# ---------------------------------------------------------------- check


@dataclass(frozen=True)
class CheckOptions(Searching):
    """Prove a schedule complete, in order and free of deadlock; print its memory and its buffers.

    Exits with 2 and names the fault, or the circle of who waits for whom, if it is not. Times and
    links matter to automatic schedules only.
    """

    json: bool = False
    """Print one JSON object."""


def _check(given: CheckOptions) -> None:
    checked = check_schedule(schedule_of(given), read_slots(given.slots))
    print(_json(checked.figures()) if given.json else checked.text())


# ---------------------------------------------------------------- simulate


@dataclass(frozen=True)
class SimulateOptions(Searching):
    """Play a schedule and print makespan, span, both bubbles, waiting and memory."""

    repeat: int = 0
    """Play it so many times more and print the rate of the fastest, in actions a second."""
    json: bool = False
    """Print one JSON object."""


def _simulate(given: SimulateOptions) -> None:
    if given.repeat < 0:
        raise ScheduleError(f"--repeat {given.repeat}: expected 0 or more")
    begin_s = time.perf_counter()
    automatic = search(given) if given.schedule in AUTOMATIC else None
    searched_s = time.perf_counter() - begin_s
    schedule = automatic.schedule if automatic else schedule_of(given)
    unit = unit_of_times(given)
    found = figures(play(schedule, given), unit)
    if automatic:
        found["automatic"] = search_figures(automatic, unit)
    found["closed_form"] = closed_form(given.schedule, schedule, given)
    if given.repeat > 0:
        found["rates"] = _rates(schedule, given)
    if given.json:
        print(_json(found))
        return
    print(figures_text(found))
    if automatic:
        print(search_text(found["automatic"], unit))
        print(f"found in {searched_s:.2f} s")
    for words, rate in found.get("rates", {}).items():
        print(f"{words.replace('_', ' ')}: {rate / 1e6:.1f} million actions a second")


def _rates(schedule: Schedule, given: SimulateOptions) -> dict[str, float]:
    """Actions a second: playing what has been wired, and from the schedule's objects on."""
    prepared = simulator(schedule, given)
    flat = prepared.wiring.flat
    actions = sum(len(each) for each in schedule.actions_by_rank())
    times, stragglers = read_times(schedule.stages, given), read_stragglers(given.straggler)
    durations = step_durations(flat, times, stragglers)
    played = _fastest_s(lambda: prepared.play(durations), given.repeat)
    whole = _fastest_s(lambda: play(schedule, given), min(given.repeat, 3))
    return {"played": actions / played, "checked_wired_and_played": actions / whole}


def _fastest_s(work: Callable[[], Any], times: int) -> float:
    best_s = float("inf")
    for _ in range(times):
        start_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s


# ---------------------------------------------------------------- compare


@dataclass(frozen=True)
class CompareOptions(SearchLimits, Playing):
    """Play every schedule for these sizes: a table, and a picture of all on one axis of time.

    So that all do the same work, times are those of a rank's whole share, and a schedule with v
    chunks per rank takes a v-th of them for each.
    """

    stages: int = DEFAULT_STAGES
    """Ranks: how many processes the model is divided among."""
    microbatches: int = DEFAULT_MICROBATCHES
    """How many pieces the batch is cut into."""
    chunks: int | None = None
    """Stages per rank for schedules that leave it open; what each has by itself, unless given."""
    auto: bool = False
    """Search for schedules too, of one stage per rank and of a V, and put them last."""
    plot: str = ""
    """Draw them all into this picture (.png, .svg or .pdf)."""
    json: bool = False
    """Print one JSON object."""


def _compare(given: CompareOptions) -> None:
    comparison = compare(
        given.stages, given.microbatches, given.chunks, given, given if given.auto else None
    )
    if given.plot:
        from baremetal.schedules.picture import comparison_figure
        from baremetal.trace import style

        style.save(comparison_figure(comparison.timelines, unit_of_times(given)), given.plot)
    print(_json(comparison.figures) if given.json else comparison_text(comparison.figures))


# ---------------------------------------------------------------- export


@dataclass(frozen=True)
class ExportOptions(Searching):
    """Write a schedule: as CSV that PyTorch's pipelines load, or as text to edit by hand.

    Times and links matter to automatic schedules only.
    """

    csv: str = ""
    """Write torch.distributed.pipelining's CSV to this file."""
    communication: bool = False
    """With sends and receives in it (PyTorch's format compute_comms)."""
    text: str = ""
    """Write rows of actions to this file, one per rank; neither file: print them."""


def _export(given: ExportOptions) -> None:
    schedule = schedule_of(given)
    check_schedule(schedule)
    if given.communication and not given.csv:
        raise ScheduleError("--communication is a form of --csv: name a file for it")
    if given.csv:
        content = to_csv(schedule, communication=given.communication)
        print(f"wrote {write_atomically(given.csv, content.encode('utf-8'))}")
    if given.text:
        print(f"wrote {write_atomically(given.text, to_text(schedule).encode('utf-8'))}")
    if not (given.csv or given.text):
        print(to_text(schedule), end="")


# ---------------------------------------------------------------- all of them


class ScheduleVerb(NamedTuple):
    """What it does in a line, its options, and how to run it with them."""

    summary: str
    options: type
    run: Callable[[Any], None]


SCHEDULE_VERBS = {
    "draw": ScheduleVerb("draw it: terminal, picture, Perfetto", DrawOptions, _draw),
    "check": ScheduleVerb("prove that it can be run, and with which buffers", CheckOptions, _check),
    "simulate": ScheduleVerb("play it: bubbles, waiting, memory", SimulateOptions, _simulate),
    "compare": ScheduleVerb("all schedules, side by side", CompareOptions, _compare),
    "export": ScheduleVerb("write it for PyTorch, or to edit", ExportOptions, _export),
}


def _json(document: Any) -> str:
    return json.dumps(document, indent=2)
