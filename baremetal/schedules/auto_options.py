"""``--schedule auto``: the options of a search, and what it found as figures and as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from baremetal.schedules.auto import Found, Metric, find_schedule
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.options import (
    DEFAULT_MICROBATCHES,
    DEFAULT_STAGES,
    Playing,
    Sizes,
    bare_number,
    chosen_schedule,
    each_value,
    machine_options,
    read_stragglers,
    read_times,
)
from baremetal.schedules.report import figure_time, time_format
from baremetal.schedules.schedule import Schedule
from baremetal.trace import format_percent

AUTO = "auto"


@dataclass(frozen=True)
class SearchLimits:
    """For the schedule 'auto'."""

    memory_limit: str = ""
    """Of the schedule 'auto': microbatches that a rank may hold, all of its chunks counted as one;
    a list is for the ranks. Empty: no limit."""
    kept_for_weights: str = "1"
    """Of the schedule 'auto': the share of its activations that a microbatch holds between the
    input-gradient and the weight-gradient."""
    metric: Metric = "makespan"
    """Of the schedule 'auto': what is to be short, the makespan or the largest span of a rank."""


@dataclass(frozen=True)
class Searching(SearchLimits, Playing, Sizes):
    """Which schedule, on which machine; with 'auto' the schedule follows from the machine."""


def schedule_of(given: Searching) -> Schedule:
    """The schedule that the options name, or find.

    Raises:
        BaremetalError: as `chosen_schedule` and `find_schedule`.
    """
    return search(given).schedule if given.schedule == AUTO else chosen_schedule(given)


def search(given: Searching) -> Found:
    """The automatic schedule for the options' sizes, times and machine.

    Raises:
        BaremetalError: an option makes no sense, or nothing fits.
    """
    ranks = DEFAULT_STAGES if given.stages is None else given.stages
    microbatches = DEFAULT_MICROBATCHES if given.microbatches is None else given.microbatches
    chunks = 1 if given.chunks is None else given.chunks
    for option, size in (("stages", ranks), ("microbatches", microbatches), ("chunks", chunks)):
        if size < 1:
            raise ScheduleError(f"--{option} {size}: expected at least 1")
    return search_with(ranks, microbatches, chunks, given, given)


def search_with(
    ranks: int, microbatches: int, chunks: int, playing: Playing, limits: SearchLimits
) -> Found:
    """The same for sizes that are known."""
    return find_schedule(
        read_times(ranks * chunks, playing), microbatches, ranks=ranks, track=bar_when_slow,
        memory_limit=read_limit(limits.memory_limit),
        kept_for_weights=_read_share(limits.kept_for_weights), metric=limits.metric,
        stragglers=read_stragglers(playing.straggler), **machine_options(playing),
    )  # fmt: skip


def bar_when_slow(rules: Sequence[Any]) -> Iterable[Any]:
    """Pass on the rules to be tried, with a bar that appears after a second."""
    from tqdm import tqdm

    return tqdm(rules, "searching", unit="order", delay=1, leave=False, disable=None)


def read_limit(text: str) -> Fraction | list[Fraction] | None:
    """Microbatches for every rank, or by rank; None for no limit.

    Raises:
        ScheduleError: something else.
    """
    if not text:
        return None
    limits = each_value("--memory-limit", text, bare_number)
    found = [limit for limit in limits if limit is not None]
    if len(found) < len(limits):
        raise ScheduleError(
            f"--memory-limit {text}: expected a number of microbatches, or one for each rank"
        )
    return found[0] if len(found) == 1 else found


def _read_share(text: str) -> Fraction:
    share = bare_number(text)
    if share is None:
        raise ScheduleError(f"--kept-for-weights {text}: expected a number, 0 to 1")
    return share


# ---------------------------------------------------------------- what was found


def search_figures(found: Found, unit: str) -> dict[str, Any]:
    """What a search found, as one JSON object; times in units or in seconds."""
    bound = None
    if found.bound is not None:
        bound = {
            "span": figure_time(found.bound.span_ps, unit),
            "makespan": figure_time(found.bound.makespan_ps, unit),
        }
    return {
        "source": found.source,
        "metric": found.metric,
        "lower_bound": bound,
        "gap": found.gap,
        "by_hand": {
            name: {"makespan": figure_time(makespan, unit), "span": figure_time(span, unit)}
            for name, (makespan, span) in found.by_hand.items()
        },
    }


def search_text(found: dict[str, Any], unit: str) -> str:
    """The same for people, in a line or two."""
    time, metric = time_format(unit), found["metric"]
    lines = []
    if found["lower_bound"] is not None:
        lines.append(
            f"lower bound of the {metric}: {time(found['lower_bound'][metric])}; "
            f"this is {format_percent(found['gap'])} above it"
        )
    by_hand = {name: times[metric] for name, times in found["by_hand"].items()}
    if by_hand:
        best = min(by_hand, key=lambda name: by_hand[name])
        lines.append(f"the best by hand that fits: {best}, {metric} {time(by_hand[best])}")
    else:
        lines.append("none of those made by hand fits")
    if found["source"] != "search":
        lines.append(f"nothing better than {found['source']} was found: it is that one")
    return "\n".join(lines)


__all__ = [
    "AUTO",
    "SearchLimits",
    "Searching",
    "bar_when_slow",
    "read_limit",
    "schedule_of",
    "search",
    "search_figures",
    "search_text",
    "search_with",
]
