"""What is asked of a search, and the same in whole numbers for its compiled loops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from baremetal.schedules.auto_list import Line
from baremetal.schedules.delays import Links
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.times import Factor, Times, stretched

Metric = Literal["makespan", "span"]
Placement = Literal["any", "v"]
Limit = float | Fraction | Sequence[float | Fraction] | None
FINEST = 10**6  # memory is counted in whole numbers: shares and limits to six digits


@dataclass(frozen=True)
class Question:
    """For what a schedule is wanted.

    Attributes:
        times: of F, I and W (and B) per stage; the ranks have as many stages each, so that v
            chunks are meant where there are v times as many as ranks.
        ranks: p.
        placement: "v": two chunks per rank, laid out as a V, and nothing else; "any": as many
            chunks as the times say, however they are laid out.
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
    placement: Placement = "any"

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
        if self.placement == "v" and self.chunks != 2:
            raise ScheduleError(
                f"times for {self.times.stages} stages on {self.ranks} ranks: a V has 2 on each"
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


# ---------------------------------------------------------------- in whole numbers


def line_of(question: Question, *, fastest: bool = False) -> Line:
    """The question for ranks of one stage each, in whole numbers.

    Args:
        question: with one chunk per rank.
        fastest: an I and a W no longer than a B's share of them: for a bound on all schedules.
    """
    rank_of = list(range(question.ranks))
    limit, memory = memory_of(question)
    return Line(
        question.microbatches, lasts_ps(question, rank_of, fastest),
        transit_ps(question, rank_of), limit, memory,
    )  # fmt: skip


def lasts_ps(question: Question, rank_of: Sequence[int], fastest: bool) -> np.ndarray:
    """F, I and W of every stage, slow ranks and host overhead reckoned in, (3, S)."""
    by_kind = question.times.by_kind().tolist()
    for slow, factor in (question.stragglers or {}).items():
        for durations in by_kind:
            for stage, rank in enumerate(rank_of):
                if rank == slow:
                    durations[stage] = stretched(durations[stage], factor)
    F, I, W, B = np.array(by_kind, np.int64) + question.host_overhead_ps
    if fastest:
        I = np.minimum(I, B)
        W = np.minimum(W, B - I)
    return np.stack([F, I, W])


def memory_of(question: Question) -> tuple[np.ndarray, np.ndarray]:
    """Each rank's limit, (p,), and what an F, an I and a W take or give back, (3,)."""
    whole = question.chunks * FINEST  # of a microbatch; FINEST is a chunk of it
    kept = round(question.kept_for_weights * FINEST)
    limit = np.array([int(limit * whole) for limit in question.limits], np.int64)
    memory = np.array([FINEST, FINEST - kept, kept], np.int64)
    return np.minimum(limit, question.microbatches * whole), memory


def transit_ps(question: Question, rank_of: Sequence[int]) -> np.ndarray:
    """Occupancy and flight to the stage behind and to the one before, as a rule, (4, S)."""
    sizes, stages = question.size_bytes, len(rank_of)
    each = [sizes] * stages if isinstance(sizes, int) else list(sizes)
    transit = np.zeros((4, stages), np.int64)
    for stage in range(stages - 1):
        for way, pair in enumerate([(stage, stage + 1), (stage + 1, stage)]):
            ranks = rank_of[pair[0]], rank_of[pair[1]]
            link = question.link
            if isinstance(link, Mapping):
                link = link.get(ranks)
            if link is not None and ranks[0] != ranks[1]:
                transit[way, pair[0]] = link.busy_ps(each[stage])
                transit[2 + way, pair[0]] = link.latency_ps
    return transit
