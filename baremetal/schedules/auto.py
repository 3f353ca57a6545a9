"""The automatic schedule: the best of all that have a name and of hundreds that a search makes.

    found = find_schedule(Times.uniform(8, 10, 12, 8), microbatches=32, memory_limit=8)
    found.schedule, found.timeline.makespan_ps, found.bound.makespan_ps, found.source

Three steps, each simple enough to be trusted:

1. Every named schedule whose domain and memory fit is a candidate. So the result is never worse
   than the best of them, by construction.
2. Ranks that choose for themselves (`auto_list.py`) make a schedule in milliseconds. Their rules
   are tried over a grid, then the best are changed a little, rank by rank, as long as that helps.
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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any, Literal

import numpy as np

from baremetal.machine.link import Link
from baremetal.schedules.action import Kind
from baremetal.schedules.auto_bound import Bound, lower_bound
from baremetal.schedules.auto_list import Line, Listed, Rules, as_schedule, follow, rules_to_try
from baremetal.schedules.delays import Links
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.flat import NONE, Flat, flatten
from baremetal.schedules.memory import stage_share
from baremetal.schedules.registry import SCHEDULES
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import Factor, Times, stretched

Metric = Literal["makespan", "span"]
Limit = float | Fraction | Sequence[float | Fraction] | None
Track = Callable[[Sequence[Any]], Iterable[Any]]
FINALISTS = 3  # of those that the rules make; the simulator has the last word
ROUNDS = 4  # of small changes, at most
EVENTS = 2_000_000  # decisions that all small changes together may take: seconds
FINEST = 10**6  # memory is counted in whole numbers: shares and limits to six digits


@dataclass(frozen=True)
class Question:
    """For what a schedule is wanted.

    Attributes:
        times: of F, I and W (and B) per stage; the ranks have as many stages each, so that v
            chunks are meant where there are v times as many as ranks.
        ranks: p.
        microbatches: m.
        memory_limit: microbatches that a rank may hold, on its whole share; one for all, or by
            rank. None: as many as there are.
        kept_for_weights: the share of its activations that an I leaves for W.
        metric: what is to be short: the makespan or the largest span. Of equals the one with the
            shorter other wins.
        stragglers: factors by rank.
        link, size_bytes, slots, host_overhead_ps, seed: as for `Simulator`.

    Raises:
        ScheduleError: they do not go together, or a limit is below one microbatch.
    """

    times: Times
    ranks: int
    microbatches: int
    memory_limit: Limit = None
    kept_for_weights: float | Fraction = 1
    metric: Metric = "makespan"
    stragglers: Mapping[int, Factor] | None = None
    link: Links = None
    size_bytes: int | Sequence[int] = 0
    slots: int | None = None
    host_overhead_ps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.microbatches < 1:
            raise ScheduleError(
                f"an automatic schedule for {self.ranks} ranks and {self.microbatches} "
                "microbatches: expected at least 1 of each"
            )
        if self.times.stages % self.ranks or not self.times.stages:
            raise ScheduleError(
                f"times for {self.times.stages} stages on {self.ranks} ranks: every rank has as "
                "many stages as any other"
            )
        if self.metric not in ("makespan", "span"):
            raise ScheduleError(f"metric {self.metric!r}: expected makespan or span")
        if not 0 <= self.kept_for_weights <= 1:
            raise ScheduleError(
                f"{self.kept_for_weights} of the activations kept for W: expected 0 to 1"
            )
        limits = self.limits
        if len(limits) != self.ranks:
            raise ScheduleError(
                f"{len(limits)} memory limits for {self.ranks} ranks: give one, or one for each"
            )
        if not all(1 <= limit < float("inf") for limit in limits):
            raise ScheduleError(
                f"a memory limit of {float(min(limits)):g} microbatches: a rank holds 1 at least"
            )

    @property
    def chunks(self) -> int:
        """v, stages per rank."""
        return self.times.stages // self.ranks

    @property
    def limits(self) -> list[float | Fraction]:
        """By rank, in microbatches on its whole share."""
        if self.memory_limit is None:
            return [self.microbatches] * self.ranks
        if isinstance(self.memory_limit, Sequence):
            return list(self.memory_limit)
        return [self.memory_limit] * self.ranks

    def simulator(self, schedule: Schedule) -> Simulator:
        """A schedule on the question's machine."""
        return Simulator(
            schedule, link=self.link, size_bytes=self.size_bytes, slots=self.slots,
            host_overhead_ps=self.host_overhead_ps, seed=self.seed,
        )  # fmt: skip

    def ranking(self, makespan_ps: int, span_ps: int) -> tuple[int, int]:
        """Less is better."""
        if self.metric == "makespan":
            return makespan_ps, span_ps
        return span_ps, makespan_ps


@dataclass(frozen=True)
class Found:
    """The answer.

    Attributes:
        schedule: the best, called "auto".
        timeline: it, played.
        source: the name of the schedule that it is, or "search".
        by_hand: makespan and largest span in ps of every named schedule that fits, by name.
        bound: what no schedule of one stage per rank can beat; None for several chunks.
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
    for name, schedule in _by_hand(question):
        timeline = _played(question, schedule)
        if timeline is not None:
            played[name] = timeline
            by_hand[name] = timeline.makespan_ps, max(timeline.span_ps)
    bound = None
    if question.chunks == 1:
        bound = lower_bound(line_of(question, fastest=True))
        goal = question.ranking(bound.makespan_ps, bound.span_ps)[0]
        reached = any(_ranking(question, each)[0] <= goal for each in played.values())
        for number, listed in enumerate([] if reached else _search(question, goal, track)):
            timeline = _played(question, as_schedule("auto", listed, microbatches))
            if timeline is not None:
                played[f"search {number}"] = timeline
    if not played:
        raise ScheduleError(_nothing_fits(question))
    best = min(played, key=lambda name: _ranking(question, played[name]))
    schedule = replace(played[best].schedule, name="auto")
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
    """The named schedules that exist for these sizes, and fit."""
    for name, generator in SCHEDULES.items():
        sizes = question.ranks, question.microbatches, question.chunks
        if generator.refusal(*sizes):
            continue
        schedule = generator(*sizes)
        if len(schedule.paths) == 1 and fits(schedule, question):
            yield name, schedule


def fits(schedule: Schedule, question: Question) -> bool:
    """Whether every rank keeps within its memory, counted as the question counts it."""
    held = most_held(flatten(schedule), Fraction(str(question.kept_for_weights)))
    return all(most <= limit for most, limit in zip(held, question.limits, strict=True))


def most_held(flat: Flat, kept: Fraction) -> list[Fraction]:
    """The most that each rank holds, in microbatches on its whole share, by rank.

    As `memory.peak_activations` where `kept` is 1; else an I gives back 1 - `kept`, its W the rest.
    """
    shares = [stage_share(flat.schedule, stage) for stage in range(flat.schedule.stages)]
    whole = lcm(*((share * kept).denominator * share.denominator for share in shares))
    units = np.array([[int(share * part * whole) for share in shares] for part in (1, kept)])
    forward, backward, kind = flat.forward_stage, flat.backward_stage, flat.backward_kind
    takes = np.where(forward != NONE, units[0, forward], 0)
    gives = np.select(
        [kind == Kind.B, kind == Kind.I, kind == Kind.W],
        [units[0, backward], units[0, backward] - units[1, backward], units[1, backward]],
        0,
    )
    most = []
    for first, last in zip(flat.first_step, flat.first_step[1:], strict=False):
        after = np.cumsum(takes[first:last] - gives[first:last]) + gives[first:last]
        most.append(Fraction(int(after.max(initial=0)), whole))
    return most


# ---------------------------------------------------------------- search


def line_of(question: Question, *, fastest: bool = False) -> Line:
    """The question for ranks of one stage each, in whole numbers.

    Args:
        question: with one chunk per rank.
        fastest: an I and a W no longer than a B's share of them: for a bound on all schedules.
    """
    by_kind = question.times.by_kind().tolist()
    for rank, factor in (question.stragglers or {}).items():
        for durations in by_kind:
            durations[rank] = stretched(durations[rank], factor)
    F, I, W, B = np.array(by_kind, np.int64) + question.host_overhead_ps
    if fastest:
        I = np.minimum(I, B)
        W = np.minimum(W, B - I)
    kept = round(question.kept_for_weights * FINEST)
    limit = np.array([int(limit * FINEST) for limit in question.limits], np.int64)
    return Line(
        question.microbatches, np.stack([F, I, W]), _transit_ps(question),
        np.minimum(limit, question.microbatches * FINEST),
        np.array([FINEST, FINEST - kept, kept], np.int64),
    )  # fmt: skip


def _transit_ps(question: Question) -> np.ndarray:
    """Occupancy and flight to the rank behind and to the one before, as a rule, (4, p)."""
    p, sizes = question.ranks, question.size_bytes
    each = [sizes] * p if isinstance(sizes, int) else list(sizes)
    transit_ps = np.zeros((4, p), np.int64)
    for rank in range(p - 1):
        for way, pair in enumerate([(rank, rank + 1), (rank + 1, rank)]):
            link = question.link if isinstance(question.link, Link | None) else question.link[pair]
            if link is not None:
                transit_ps[way, pair[0]] = link.busy_ps(each[rank])
                transit_ps[2 + way, pair[0]] = link.latency_ps
    return transit_ps


def _search(question: Question, goal: int, track: Track) -> list[Listed]:
    """The best few that rules make, each rule tried once, the best then changed a little."""
    line = line_of(question)
    tried: list[tuple[tuple[int, int], int, Rules, Listed]] = []

    def attempt(rules: Rules) -> tuple[int, int]:
        listed = follow(line, rules)
        ranking = question.ranking(listed.makespan_ps, listed.span_ps)
        tried.append((ranking, len(tried), rules, listed))
        tried.sort(key=lambda entry: entry[:2])
        del tried[FINALISTS:]
        return ranking

    for rules in track(list(rules_to_try(line))):
        if not tried or tried[0][0][0] > goal:
            attempt(rules)
    _improve(line, goal, tried[0][2], tried[0][0], attempt)
    return [listed for *_, listed in tried]


def _improve(
    line: Line,
    goal: int,
    rules: Rules,
    best: tuple[int, int],
    attempt: Callable[[Rules], tuple[int, int]],
) -> None:
    """Change what one rank or many want ahead, or a rank's patience; keep what helps."""
    left = EVENTS // (3 * line.ranks * line.microbatches)
    for _ in range(ROUNDS):
        before = best
        for changed in range(4 * 2 * line.ranks):
            if best[0] <= goal or left <= 0:
                return
            left -= 1
            other = _changed(rules, changed, line)
            ranking = attempt(other)
            if ranking < best:
                rules, best = other, ranking
        if best == before:
            return


def _changed(rules: Rules, number: int, line: Line) -> Rules:
    """One of the 8 p small changes, by its number."""
    rank, way = divmod(number, 8)
    which, more = divmod(way, 2)
    if which == 3:
        patience = rules.patience.copy()
        patience[rank] = float(np.clip(patience[rank] + (0.25, -0.25)[more], 0, 1))
        return replace(rules, patience=patience)
    ahead = rules.ahead.copy()
    ranks = (slice(rank, rank + 1), slice(rank, None), slice(0, rank + 1))[which]
    ahead[ranks] = np.clip(ahead[ranks] + (1, -1)[more], 1, line.microbatches)
    return replace(rules, ahead=ahead)
