"""The automatic schedule: the best of all that have a name and of hundreds that a search makes.

    found = find_schedule(Times.uniform(8, 10, 12, 8), microbatches=32, memory_limit=8)
    found.schedule, found.timeline.makespan_ps, found.bound.makespan_ps, found.source

Three steps, each simple enough to be trusted:

1. Every named schedule whose domain and memory fit is a candidate. So the result is never worse
   than the best of them, by construction.
2. With one stage per rank, ranks that choose for themselves (`auto_list.py`) make a schedule in
   milliseconds. Their rules are tried over a grid, then the best are changed a little, rank by
   rank, as long as that helps (`auto_search.py`). With two, laid out as a V, the named V-shaped
   schedules say in which order F and I are done, and W is filled in anew (`auto_fill.py`): that is
   `zb-v-auto`.
3. The best of these are played by the simulator beside the named ones, with the real links,
   buffers and slow ranks. The shortest wins.

How far from the best that could be? `auto_bound.py` says what no schedule can beat, and if the
search has reached that it stops. Nothing is drawn at random and nothing is timed: the same question
always has the same answer.

The memory that counts is the activations of a microbatch on a rank's whole share, given back at the
end of W as everywhere here, or, by `kept_for_weights`, partly at the end of I: what only the input-
gradient needs (a softmax's result, say) need not wait for W. The zero-bubble paper's automatic
schedules count like that (its appendix on memory; for its models 0.37 to 0.43 are kept).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from baremetal.schedules.auto_bound import Bound, lower_bound, lower_bound_of_v
from baremetal.schedules.auto_fill import SKELETONS, fold_of, search_v, v_ranks
from baremetal.schedules.auto_list import as_schedule
from baremetal.schedules.auto_memory import fits
from baremetal.schedules.auto_question import Metric, Question, line_of
from baremetal.schedules.auto_search import Track, search_line
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.registry import SCHEDULES
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import Times


@dataclass(frozen=True)
class Found:
    """The answer.

    Attributes:
        schedule: the best, called "auto", or "zb-v-auto" where a V was asked for.
        timeline: it, played.
        source: the name of the schedule that it is, or "search".
        by_hand: makespan and largest span in ps of every named schedule that fits, by name.
        bound: what no schedule of this placement can beat; None where several placements or more
            than two chunks are meant.
        metric: what was to be short.
    """

    schedule: Schedule
    timeline: Timeline
    source: str
    by_hand: dict[str, tuple[int, int]]
    bound: Bound | None
    metric: Metric

    @property
    def gap(self) -> float | None:
        """By how much it is longer than the bound, as a share of the bound; None without one."""
        if self.bound is None:
            return None
        makespan = self.metric == "makespan"
        found_ps = self.timeline.makespan_ps if makespan else max(self.timeline.span_ps)
        bound_ps = self.bound.makespan_ps if makespan else self.bound.span_ps
        return (found_ps - bound_ps) / bound_ps if bound_ps else 0.0


def find_schedule(
    times: Times, microbatches: int, *, ranks: int | None = None, track: Track = iter, **wish: Any
) -> Found:
    """Find a good schedule.

    Args:
        times: per stage.
        microbatches: m.
        ranks: p; None: one stage each.
        track: passes the rules to be tried on one by one, and may show how many are done.
        wish: the rest of a `Question`.

    Raises:
        ScheduleError: the question makes no sense, or nothing fits: more than one stage per rank,
            and every named schedule needs more memory or other sizes.
    """
    question = Question(times, ranks or times.stages, microbatches, **wish)
    played, by_hand = {}, {}
    named = dict(_by_hand(question))
    for name, schedule in named.items():
        timeline = _played(question, schedule) if fits(schedule, question) else None
        if timeline is not None:
            played[name] = timeline
            by_hand[name] = timeline.makespan_ps, max(timeline.span_ps)
    bound = None
    if question.chunks == 1:
        bound = lower_bound(line_of(question, fastest=True))
        goal = question.ranking(bound.makespan_ps, bound.span_ps)[0]
        reached = any(_ranking(question, each)[0] <= goal for each in played.values())
        for number, listed in enumerate([] if reached else search_line(question, goal, track)):
            timeline = _played(question, as_schedule("auto", listed, microbatches))
            if timeline is not None:
                played[f"search {number}"] = timeline
    if question.chunks == 2:
        skeletons = [named[name] for name in SKELETONS if name in named]
        if question.placement == "v":
            bound = lower_bound_of_v(fold_of(question, fastest=True))
        for number, schedule in enumerate(search_v(question, skeletons, track)):
            timeline = _played(question, schedule)
            if timeline is not None:
                played[f"search {number}"] = timeline
    if not played:
        raise ScheduleError(_nothing_fits(question))
    best = min(played, key=lambda name: _ranking(question, played[name]))
    name = "zb-v-auto" if question.placement == "v" else "auto"
    schedule = replace(played[best].schedule, name=name)
    timeline = question.simulator(schedule).play(times, question.stragglers)
    source = "search" if best.startswith("search ") else best
    return Found(schedule, timeline, source, by_hand, bound, question.metric)


def _ranking(question: Question, timeline: Timeline) -> tuple[int, int]:
    return question.ranking(timeline.makespan_ps, max(timeline.span_ps))


def _nothing_fits(question: Question) -> str:
    return (
        f"no schedule with {question.chunks} chunks per rank fits {question.ranks} ranks, "
        f"{question.microbatches} microbatches and a memory of {float(min(question.limits)):g} "
        "microbatches"
    )


def _played(question: Question, schedule: Schedule) -> Timeline | None:
    """It, played; None where the few slots that there are make it deadlock."""
    simulator = question.simulator(schedule)
    try:
        return simulator.play(question.times, question.stragglers)
    except ScheduleError:
        if question.slots is None:
            raise
        return None


# ---------------------------------------------------------------- by hand


def _by_hand(question: Question) -> Iterable[tuple[str, Schedule]]:
    """The named schedules that exist for these sizes and the placement."""
    for name, generator in SCHEDULES.items():
        sizes = question.ranks, question.microbatches, question.chunks
        if generator.refusal(*sizes):
            continue
        schedule = generator(*sizes)
        other = question.placement == "v" and schedule.rank_of != v_ranks(question.ranks)
        if len(schedule.paths) == 1 and not other:
            yield name, schedule
