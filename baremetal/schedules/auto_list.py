"""A schedule made greedily: each rank, whenever it is free, takes the best of what is there.

This is list scheduling (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969) with the
priorities that P. Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, section 3.1, describe
in words. A rank that is free does the first of these that it can:

    1. a forward F, while fewer than `ahead` forwards are ahead of its input-gradients
    2. an input-gradient I: the rank before waits for it
    3. a forward beyond `ahead`, if the rules are `eager` and no I is expected meanwhile
    4. a weight-gradient W, if it fits the gap until something better can be expected, or at least
       the share `patience` of it does; or, under `level`, if this rank has been idle longest; or
       if the memory it gives back is all that the next forward is waiting for
    5. nothing, until the next message comes

A forward is only there if its memory is: the rank's limit is never exceeded. So with much memory
the W wait and later fill the end, where there is nothing else to do; with little they come at once.

`ahead` is what makes the named schedules differ: p - i on rank i is 1F1B's and ZB-H1's warm-up,
2(p - i) - 1 that of ZB-H2; as many forwards as fit the time until the first gradient can be back
leave no hole, where times are unequal too. No such set of rules is best everywhere, so `auto.py`
tries many: one takes milliseconds.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.auto_numbers import Numbers
from baremetal.schedules.schedule import Schedule

PATIENCE = (0.0, 0.25, 0.5, 1.0)
MORE = (0, 1, 2)


class Line(Numbers):
    """A line of ranks with one stage each."""

    @property
    def ranks(self) -> int:
        """p."""
        return self.lasts_ps.shape[1]

    def forward_hops_ps(self) -> np.ndarray:
        """From the start of a rank's F to the earliest start of the next rank's, (p - 1,)."""
        return (self.lasts_ps[Kind.F] + self.transit_ps[0] + self.transit_ps[2])[:-1]

    def gradient_hops_ps(self) -> np.ndarray:
        """From the start of the next rank's I to the earliest start of a rank's, (p - 1,)."""
        return (self.lasts_ps[Kind.I] + self.transit_ps[1] + self.transit_ps[3])[1:]

    def round_trip_ps(self) -> np.ndarray:
        """From the start of a microbatch's F on each rank to that of its I, at the least, (p,)."""
        hops = self.forward_hops_ps() + self.gradient_hops_ps()
        behind = np.concatenate([np.cumsum(hops[::-1])[::-1], [0]])
        return behind + self.lasts_ps[Kind.F, -1]


@dataclass(frozen=True)
class Rules:
    """How ranks choose. See the top of this file.

    Attributes:
        ahead: forwards that each rank wants to be ahead, (p,) int64.
        patience: the share of a W that must fit a gap, (p,) float64.
        eager: forwards beyond `ahead`.
        level: the rank that has been idle longest fills every gap.
    """

    ahead: np.ndarray
    patience: np.ndarray
    eager: bool
    level: bool


@dataclass(frozen=True)
class Listed:
    """What came of some rules.

    Attributes:
        kinds: of each rank's steps in their order, (p, 3m) int64.
        span_ps: the largest from a rank's first start to its last end.
        makespan_ps: the last end of all.
    """

    kinds: np.ndarray
    span_ps: int
    makespan_ps: int


def follow(line: Line, rules: Rules) -> Listed:
    """Let all ranks choose by the rules until everything is done."""
    from baremetal.schedules.auto_native import compiled_decide  # numba: not before it is needed

    kinds, first_ps, last_ps = compiled_decide()(
        line.microbatches, line.lasts_ps, line.transit_ps, line.limit, line.memory,
        rules.ahead, rules.patience, rules.eager, rules.level,
    )  # fmt: skip
    return Listed(kinds, int((last_ps - first_ps).max()), int(last_ps.max()))


def rules_to_try(line: Line) -> Iterator[Rules]:
    """A few kinds of warm-up, with every combination of the other rules."""
    seen = set()
    for ahead, more in itertools.product(warm_ups(line), MORE):
        wanted = np.clip(ahead + more, 1, line.microbatches)
        if wanted.tobytes() in seen:
            continue
        seen.add(wanted.tobytes())
        for patience, eager, level in itertools.product(PATIENCE, (False, True), (False, True)):
            yield Rules(wanted, np.full(line.ranks, patience), eager, level)


def warm_ups(line: Line) -> list[np.ndarray]:
    """Forwards ahead by rank: of 1F1B, of ZB-H2, all, and what fits a microbatch's round trip."""
    left = line.ranks - np.arange(line.ranks)
    forward_ps = np.maximum(line.lasts_ps[Kind.F], 1)
    fitting = line.round_trip_ps() // forward_ps
    return [left, 2 * left - 1, np.full(line.ranks, line.microbatches), fitting]


def as_schedule(name: str, listed: Listed, microbatches: int) -> Schedule:
    """The order as a schedule: of every kind, a rank does the microbatches in their order."""
    ranks = []
    for rank, kinds in enumerate(listed.kinds.tolist()):
        number = [0, 0, 0]
        steps = []
        for kind in kinds:
            steps.append(Action(Kind(kind), rank, number[kind]))
            number[kind] += 1
        ranks.append(tuple(steps))
    return Schedule(name, microbatches, tuple(ranks), (tuple(range(len(ranks))),))
