"""``--schedule auto`` and ``zb-v-auto``: a search's options, its find as figures and text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from baremetal.schedules.auto import Found, find_schedule
from baremetal.schedules.auto_question import Metric
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

AUTO, V_AUTO = "auto", "zb-v-auto"
AUTOMATIC = (AUTO, V_AUTO)


@dataclass(frozen=True)
class SearchLimits:
    """For the schedules 'auto' and 'zb-v-auto'."""

    memory_limit: str = ""
    """Of automatic schedules: microbatches that a rank may hold, all of its chunks counted as one;
    a list is for the ranks. Empty: no limit."""
    kept_for_weights: str = "1"
    """Of automatic schedules: the share of its activations that a microbatch holds between the
    input-gradient and the weight-gradient."""
    metric: Metric = "makespan"
    """Of automatic schedules: what is to be short, the makespan or the largest span of a rank."""


@dataclass(frozen=True)
class Searching(SearchLimits, Playing, Sizes):
    """Which schedule, on which machine; with 'auto' the schedule follows from the machine."""


def schedule_of(given: Searching) -> Schedule:
    """The schedule that the options name, or find.

    Raises:
        BaremetalError: as `chosen_schedule` and `find_schedule`.
    """
    return search(given).schedule if given.schedule in AUTOMATIC else chosen_schedule(given)


def search(given: Searching) -> Found:
    """The automatic schedule for the options' sizes, times and machine.

    Raises:
        BaremetalError: an option makes no sense, or nothing fits.
    """
    ranks = DEFAULT_STAGES if given.stages is None else given.stages
    microbatches = DEFAULT_MICROBATCHES if given.microbatches is None else given.microbatches
    chunks = chunks_of(given.schedule, given.chunks)
    for option, size in (("stages", ranks), ("microbatches", microbatches), ("chunks", chunks)):
        if size < 1:
            raise ScheduleError(f"--{option} {size}: expected at least 1")
    return search_with(given.schedule, ranks, microbatches, chunks, given, given)


def chunks_of(schedule: str, chunks: int | None) -> int:
    """How many chunks an automatic schedule has; None or 0 for what it has by itself.

    Raises:
        ScheduleError: a V of more or fewer than two.
    """
    if schedule == V_AUTO and chunks not in (None, 0, 2):
        raise ScheduleError(f"{V_AUTO} has two chunks per rank, but chunks is {chunks}")
    if schedule == V_AUTO:
        return 2
    return 1 if chunks is None else chunks


def search_with(
    name: str,
    ranks: int,
    microbatches: int,
    chunks: int,
    playing: Playing,
    limits: SearchLimits,
    *,
    divisor: int = 1,
) -> Found:
    """The same for sizes that are known; times divided by `divisor`."""
    return find_schedule(
        read_times(ranks * chunks, playing, divisor), microbatches, ranks=ranks,
        track=bar_when_slow, placement="v" if name == V_AUTO else "any",
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
    "AUTOMATIC",
    "V_AUTO",
    "SearchLimits",
    "Searching",
    "bar_when_slow",
    "chunks_of",
    "read_limit",
    "schedule_of",
    "search",
    "search_figures",
    "search_text",
    "search_with",
]
