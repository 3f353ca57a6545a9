"""`zb-v-auto`: the V-shaped schedules by hand, with their weight-gradients filled in anew.

In a V the hard part is the order of F and I: who lets how many microbatches in, and how the way
down and the way up take turns. The schedules by hand have good ones for 1F1B's memory (`zb-v`), for
half of it (`v-half`) and for a third (`v-min`). What they do not know is how long things take: they
put every W where it fits if F = I = W. So this search keeps a *skeleton*, the F and I of a rank in
their order, and decides again where each W goes. Before a rank does the next F or I of its
skeleton, it does a W that it owes

    if it fits the gap until that F or I can start, or the share `patience` of it does;
    if the rank has been idle for as long as it is `allowed` to be (then the W may make others wait,
    but only a rank with less idle time than the worst can afford that);
    or if that F has no memory until a W gives some back.

All W that are left come at the end. Since a skeleton's order of F and I can be carried out, so can
every filling, except that the memory may not suffice; such a filling is dropped. A grid of patience
and allowance is tried for each skeleton, then both are changed a little, rank by rank.

P. Qi et al., "Zero Bubble Pipeline Parallelism", arXiv 2401.10241, sections 3.1 and 6, fill W into
gaps and compare a rank's idle time with the largest; "Pipeline Parallelism with Controllable
Memory", arXiv 2405.15362, has the three skeletons.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.auto_numbers import Numbers
from baremetal.schedules.auto_question import Question, lasts_ps, memory_of, transit_ps
from baremetal.schedules.schedule import Schedule

SKELETONS = ("zb-v", "v-half", "v-min")
PATIENCE = (0.0, 0.25, 0.5, 0.75, 1.0)
ALLOWANCES = 12  # steps from no idle time to as much as a rank would have
FOR_EVER = 2**62
FINALISTS = 3
ROUNDS = 3  # of small changes, at most
EVENTS = 10_000_000  # steps that all small changes together may take: a second or two


class Fold(Numbers):
    """A pipeline folded into a V: 2p stages, r and 2p - 1 - r on rank r."""

    def stages_of(self) -> np.ndarray:
        """Each rank's stages, down and up, (p, 2) int64."""
        down = np.arange(len(self.limit))
        return np.stack([down, 2 * len(down) - 1 - down], axis=1)


@dataclass(frozen=True)
class Filled:
    """A filling: its steps as kind 2 + chunk, (p, 6m), largest span, makespan, idle time, (p,)."""

    steps: np.ndarray
    span_ps: int
    makespan_ps: int
    idle_ps: np.ndarray


def v_ranks(ranks: int) -> tuple[int, ...]:
    """The rank of each stage in a V."""
    return (*range(ranks), *reversed(range(ranks)))


def fold_of(question: Question, *, fastest: bool = False) -> Fold:
    """The question for a V. `fastest`: as for `line_of`, for a bound on all schedules."""
    rank_of = v_ranks(question.ranks)
    return Fold(
        question.microbatches, lasts_ps(question, rank_of, fastest),
        transit_ps(question, rank_of), *memory_of(question),
    )  # fmt: skip


def skeleton_of(schedule: Schedule) -> np.ndarray:
    """Its F and I by rank, as kind 2 + chunk, (p, 4m) int64."""
    p = len(schedule.ranks)
    rows = [
        [2 * kind + (stage >= p) for kind, stage, _ in actions if kind in (Kind.F, Kind.I)]
        for actions in schedule.actions_by_rank()
    ]
    return np.array(rows, np.int64)


def fill(
    fold: Fold, skeleton: np.ndarray, patience: float, allowed_ps: np.ndarray
) -> Filled | None:
    """Fill the W in; None where the memory does not suffice."""
    from baremetal.schedules.auto_fill_native import compiled_fill  # numba: not before it is needed

    steps, first_ps, last_ps, idle_ps = compiled_fill()(
        fold.microbatches, skeleton, fold.stages_of(), fold.lasts_ps, fold.transit_ps, fold.limit,
        fold.memory, patience, allowed_ps,
    )  # fmt: skip
    if (steps < 0).any():
        return None
    return Filled(steps, int((last_ps - first_ps).max()), int(last_ps.max()), idle_ps)


Tried = tuple[tuple[int, int], int, Filled, np.ndarray, float, np.ndarray]


def search_v(
    question: Question,
    by_hand: Sequence[Schedule],
    track: Callable[[Sequence[Any]], Iterable[Any]],
) -> Iterator[Schedule]:
    """The best few fillings of these schedules' skeletons."""
    fold = fold_of(question)
    tried: list[Tried] = []

    def attempt(skeleton: np.ndarray, patience: float, allowed_ps: np.ndarray) -> Filled | None:
        filled = fill(fold, skeleton, patience, allowed_ps)
        if filled is not None:
            ranking = question.ranking(filled.makespan_ps, filled.span_ps)
            tried.append((ranking, len(tried), filled, skeleton, patience, allowed_ps))
            tried.sort(key=lambda entry: entry[:2])
            del tried[FINALISTS:]
        return filled

    grid = product([skeleton_of(schedule) for schedule in by_hand], PATIENCE)
    for skeleton, patience in track(list(grid)):
        free = attempt(skeleton, patience, np.full(question.ranks, FOR_EVER))
        most_ps = int(free.idle_ps.max()) if free else 0
        for step in range(ALLOWANCES if free else 1):
            allowed_ps = np.full(question.ranks, most_ps * step // ALLOWANCES)
            attempt(skeleton, patience, allowed_ps)
    if tried:
        _improve(fold, tried, attempt)
    for _, _, filled, *_ in tried:
        yield as_v(filled, question.microbatches)


def _improve(
    fold: Fold,
    tried: list[Tried],
    attempt: Callable[[np.ndarray, float, np.ndarray], Filled | None],
) -> None:
    """Let one rank, or all from one on, be idle a little more or less; keep what helps."""
    ranks = len(fold.limit)
    left = EVENTS // (6 * ranks * fold.microbatches)
    shares_ps = int(fold.lasts_ps[Kind.W].max())
    for _ in range(ROUNDS):
        before = tried[0][0]
        for rank, many, change in product(range(ranks), (1, ranks), (-4, -2, -1, 1, 2, 4)):
            if left <= 0:
                return
            left -= 1
            _, _, filled, skeleton, patience, allowed_ps = tried[0]
            changed_ps = np.minimum(allowed_ps, filled.idle_ps.max() + shares_ps)
            changed_ps[rank : rank + many] += change * shares_ps // 4
            attempt(skeleton, patience, np.maximum(changed_ps, 0))
        if tried[0][0] == before:
            return


def as_v(filled: Filled, microbatches: int) -> Schedule:
    """The filling as a schedule: of every kind, a stage does the microbatches in their order."""
    p = len(filled.steps)
    ranks = []
    for rank, codes in enumerate(filled.steps.tolist()):
        stages, number, steps = (rank, 2 * p - 1 - rank), [0] * 6, []
        for code in codes:
            steps.append(Action(Kind(code // 2), stages[code % 2], number[code]))
            number[code] += 1
        ranks.append(tuple(steps))
    return Schedule("zb-v-auto", microbatches, tuple(ranks), (tuple(range(2 * p)),))
