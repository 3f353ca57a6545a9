"""Is a schedule whole, and can each rank keep to its order?

Two of the three proofs that a schedule can be run; they need no other rank's point of view:

- *complete*: on every stage, each microbatch that goes through it has one F and either one B, or
  one I and one W; nothing is done twice, nothing for a microbatch that takes another path. Where
  nothing is to come back (an evaluation), F is all that there is.
- *ordered*: what a rank hands to itself is there when it is needed. On one stage F comes before I
  (or B), and I before W. If one rank holds two neighbouring stages, as at the turn of a V, their
  forwards follow each other in the model's order and their backwards in the opposite one.

The third, that the ranks do not wait for each other in a circle, is in `check.py`.
"""

from collections.abc import Iterator

import numpy as np

from baremetal.schedules.action import Action, Kind, Overlap
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.flat import NONE, Done, Flat, find_done, flatten
from baremetal.schedules.schedule import Schedule


def check_complete(schedule: Schedule) -> tuple[Flat, Done]:
    """Prove that a schedule is complete and that each rank's own order holds.

    Returns:
        The schedule as columns, and where each microbatch's work is done.

    Raises:
        ScheduleError: an action is missing, is there twice, or comes too early.
    """
    _check_pairs(schedule)
    flat = flatten(schedule)
    _check_range(flat)
    _check_once(schedule, flat)
    done = find_done(flat)
    _check_whole(schedule, done)
    _check_order(flat, done)
    return flat, done


def _check_pairs(schedule: Schedule) -> None:
    """An overlap is a forward beside a backward."""
    for rank, steps in enumerate(schedule.ranks):
        for step in steps:
            if isinstance(step, Overlap) and not (
                step.forward.kind == Kind.F and step.backward.kind in (Kind.I, Kind.B)
            ):
                raise ScheduleError(
                    f"{schedule.name}: rank {rank} overlaps {step.forward} with {step.backward}: "
                    "only a forward F and a backward I or B can run beside each other"
                )


def _check_range(flat: Flat) -> None:
    """There are as many microbatches as the schedule says, from 0."""
    count = flat.schedule.microbatches
    for stage, microbatch in (
        (flat.forward_stage, flat.forward_microbatch),
        (flat.backward_stage, flat.backward_microbatch),
    ):
        wrong = np.flatnonzero((stage != NONE) & ((microbatch < 0) | (microbatch >= count)))
        for step in wrong[:1].tolist():
            raise ScheduleError(
                f"{flat.schedule.name}: rank {flat.rank_of(step)} has {flat.name(step)}, but there "
                f"are {count} microbatches, 0 to {count - 1}"
            )


def _check_once(schedule: Schedule, flat: Flat) -> None:
    """No work is done twice; a B is both the I and the W of its microbatch."""
    stages, microbatches = schedule.stages, schedule.microbatches
    forward = np.flatnonzero(flat.forward_stage != NONE)
    works = [flat.forward_stage[forward] * microbatches + flat.forward_microbatch[forward]]
    for number, kind in enumerate((Kind.I, Kind.W), start=1):
        step = np.flatnonzero(np.isin(flat.backward_kind, (kind, Kind.B)))
        place = number * stages + flat.backward_stage[step]
        works.append(place * microbatches + flat.backward_microbatch[step])
    work = np.concatenate(works)
    if len(np.unique(work)) < len(work):
        _raise_twice(schedule)


def _raise_twice(schedule: Schedule) -> None:
    """Name the two actions that do the same work."""
    seen: dict[tuple[str, int, int], Action] = {}
    for rank, actions in enumerate(schedule.actions_by_rank()):
        for action in actions:
            for work in "IW" if action.kind == Kind.B else action.kind.name:
                other = seen.setdefault((work, action.stage, action.microbatch), action)
                if other is not action:
                    raise ScheduleError(
                        f"{schedule.name}: rank {rank} has {other} and {action}: every microbatch "
                        "needs one F and one B, or one F, one I and one W, on each of its stages"
                    )


def _check_whole(schedule: Schedule, done: Done) -> None:
    """Every microbatch has F and B, or F, I and W, on the stages of its path, and only there."""
    passes = np.zeros_like(done.forward, dtype=bool)  # (stages, microbatches)
    for microbatch in range(schedule.microbatches):
        passes[list(schedule.path_of(microbatch)), microbatch] = True
    tables = {Kind.F: done.forward}
    if schedule.forward_only:
        _check_no_backward(schedule)
    else:
        tables |= {Kind.I: done.gradient, Kind.W: done.weight}
    for kind, table in tables.items():
        for stage, microbatch in np.argwhere((table >= 0) != passes).tolist():
            action = Action(kind, stage, microbatch)
            if passes[stage, microbatch]:
                full = "" if kind == Kind.F else f" (or {Action(Kind.B, stage, microbatch)})"
                raise ScheduleError(
                    f"{schedule.name}: {action}{full} is missing on rank "
                    f"{schedule.rank_of[stage]}: every microbatch needs F and B, or F, I and W, "
                    "on each of its stages"
                )
            raise ScheduleError(
                f"{schedule.name}: stage {stage} works for microbatch {microbatch}, which goes "
                f"through the stages {', '.join(map(str, schedule.path_of(microbatch)))}"
            )


def _check_no_backward(schedule: Schedule) -> None:
    for rank, actions in enumerate(schedule.actions_by_rank()):
        for action in actions:
            if action.kind is not Kind.F:
                raise ScheduleError(
                    f"{schedule.name}: rank {rank} has {action}, but nothing comes back here: a "
                    "schedule of forwards alone has no other action than F"
                )


def _check_order(flat: Flat, done: Done) -> None:
    """What a rank needs of itself comes in an earlier step."""
    for earlier, later in _own_needs(flat.schedule, done):
        # -1, "never": a microbatch of another path, for which there is nothing to compare.
        wrong = np.flatnonzero((earlier >= later) & (later != NONE))
        for microbatch in wrong.tolist():
            first, second = int(earlier[microbatch]), int(later[microbatch])
            what = f"{flat.schedule.name}: rank {flat.rank_of(first)} does {flat.name(second)}"
            if first == second:
                raise ScheduleError(f"{what}, which needs the result of its own other half")
            raise ScheduleError(f"{what} before {flat.name(first)}, whose result it needs")


def _own_needs(schedule: Schedule, done: Done) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (steps that must come before, steps that need them), by microbatch."""
    for stage in range(schedule.stages):
        yield done.forward[stage], done.gradient[stage]
        gradient, weight = done.gradient[stage], done.weight[stage]
        yield gradient, np.where(weight == gradient, NONE, weight)  # a B is both
        behind = schedule.behind(stage)
        if behind is not None and schedule.rank_of[behind] == schedule.rank_of[stage]:
            yield done.forward[stage], done.forward[behind]
            yield done.gradient[behind], done.gradient[stage]
