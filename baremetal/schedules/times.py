"""How long each action takes, and what a schedule makes of it: one duration per step.

A schedule says no times. `Times` gives them per stage: F, I and W, and where they are not simply
I + W and F + B, the full backward B and the overlapped pair. A simulator, a runtime and a search
for a good schedule want them per step, in integer picoseconds: that is the table of
`step_durations`, rounded up once per step so that simulated and executed time agree to the last
digit.

    step      duration
    2F0       F[2]
    2I0 2W0   I[2], W[2]
    2B0       B[2], or I[2] + W[2]
    (1F4;1B2) overlap[1] (of the forward's stage), or the sum of its two parts

A *straggler* is a rank whose every step lasts a factor longer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from baremetal.schedules.action import Kind
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.flat import NONE, Flat, flatten
from baremetal.schedules.schedule import Schedule

LONGEST_PS = 2**62  # 53 days; no time may grow longer, or it would not fit 64 bits

PerStage = tuple[int, ...]
Factor = float | Fraction


@dataclass(frozen=True)
class Times:
    """Durations per stage in ps, each a tuple with one int per stage.

    Attributes:
        forward_ps: of F.
        input_gradient_ps: of I.
        weight_gradient_ps: of W.
        full_backward_ps: of B; None: I + W.
        overlap_ps: of a forward on this stage beside a B; None: the sum of both. A forward beside
            an I alone always lasts the sum.

    Raises:
        ScheduleError: the tuples differ in length, or hold anything but ints of 0 or more.
    """

    forward_ps: PerStage
    input_gradient_ps: PerStage
    weight_gradient_ps: PerStage
    full_backward_ps: PerStage | None = None
    overlap_ps: PerStage | None = None

    def __post_init__(self) -> None:
        for name, values in self._given():
            if len(values) != self.stages:
                raise ScheduleError(
                    f"times: {name} has {len(values)} stages and forward_ps {self.stages}: "
                    "one duration per stage in each"
                )
            for value in values:
                if not isinstance(value, int) or not 0 <= value <= LONGEST_PS:
                    raise ScheduleError(
                        f"times: {name} has {value!r}, expected whole picoseconds, 0 to 2^62"
                    )

    def _given(self) -> list[tuple[str, PerStage]]:
        tables = {
            "forward_ps": self.forward_ps,
            "input_gradient_ps": self.input_gradient_ps,
            "weight_gradient_ps": self.weight_gradient_ps,
            "full_backward_ps": self.full_backward_ps,
            "overlap_ps": self.overlap_ps,
        }
        return [(name, values) for name, values in tables.items() if values is not None]

    @classmethod
    def uniform(
        cls,
        stages: int,
        forward_ps: int,
        input_gradient_ps: int,
        weight_gradient_ps: int,
        full_backward_ps: int | None = None,
        overlap_ps: int | None = None,
    ) -> "Times":
        """The same for every stage."""
        full = None if full_backward_ps is None else (full_backward_ps,) * stages
        overlap = None if overlap_ps is None else (overlap_ps,) * stages
        return cls(
            (forward_ps,) * stages, (input_gradient_ps,) * stages, (weight_gradient_ps,) * stages,
            full, overlap,
        )  # fmt: skip

    @property
    def stages(self) -> int:
        """For how many stages there are durations."""
        return len(self.forward_ps)

    def by_kind(self) -> np.ndarray:
        """F, I, W and B of every stage, (4, stages) int64: the row is the action's kind."""
        full = self.full_backward_ps or tuple(
            map(sum, zip(self.input_gradient_ps, self.weight_gradient_ps, strict=True))
        )
        rows = (self.forward_ps, self.input_gradient_ps, self.weight_gradient_ps, full)
        return np.array(rows, np.int64)


def step_durations(
    schedule: Schedule | Flat, times: Times, stragglers: Mapping[int, Factor] | None = None
) -> np.ndarray:
    """The duration of every step, rank after rank in their order, (steps,) int64, in ps.

    Args:
        schedule: whose steps.
        times: per stage of the schedule, mirrored copies counted.
        stragglers: factors by rank; the ranks left out have 1.

    Raises:
        ScheduleError: times for another number of stages, a straggler that is no rank, or a factor
            that is not positive, or beyond all measure.
    """
    flat = schedule if isinstance(schedule, Flat) else flatten(schedule)
    name, stages = flat.schedule.name, flat.schedule.stages
    if times.stages != stages:
        raise ScheduleError(f"{name} has {stages} stages, but there are times for {times.stages}")
    by_kind = times.by_kind()
    forward, backward = flat.forward_stage != NONE, flat.backward_stage != NONE
    durations = np.zeros(flat.steps, np.int64)
    durations[forward] += by_kind[Kind.F, flat.forward_stage[forward]]
    durations[backward] += by_kind[flat.backward_kind[backward], flat.backward_stage[backward]]
    if times.overlap_ps is not None:
        pairs = forward & (flat.backward_kind == Kind.B)
        durations[pairs] = np.array(times.overlap_ps, np.int64)[flat.forward_stage[pairs]]
    for rank, factor in (stragglers or {}).items():
        _slow_down(durations, flat, rank, factor)
    return durations


def _slow_down(durations: np.ndarray, flat: Flat, rank: int, factor: Factor) -> None:
    ranks = len(flat.first_step) - 1
    if not 0 <= rank < ranks:
        raise ScheduleError(f"straggler {rank}: there are ranks 0 to {ranks - 1}")
    own = slice(int(flat.first_step[rank]), int(flat.first_step[rank + 1]))
    slow = [stretched(duration_ps, factor) for duration_ps in durations[own].tolist()]
    if max(slow, default=0) > LONGEST_PS:
        raise ScheduleError(f"straggler {rank}: a factor of {factor} makes a step last for ever")
    durations[own] = slow


def stretched(duration_ps: int, factor: Factor) -> int:
    """A duration times a factor, rounded up once.

    The factor counts as it is written: 1.1 is eleven tenths, not the binary number next to it,
    which would round 10 ps up to 12.

    Raises:
        ScheduleError: the factor is not a positive number.
    """
    if not 0 < factor < math.inf:
        raise ScheduleError(f"a straggler's factor is {factor}: expected more than 0")
    return math.ceil(duration_ps * Fraction(str(factor)))


def table_of_durations(schedule: Schedule, table: Sequence[Sequence[int]]) -> np.ndarray:
    """Durations given per rank and step as one flat array, (steps,) int64, in ps.

    Raises:
        ScheduleError: its shape is not that of the schedule, or a duration is negative.
    """
    wanted, given = [len(s) for s in schedule.ranks], [len(row) for row in table]
    if wanted != given:
        raise ScheduleError(
            f"{schedule.name} has {wanted} steps on its ranks, but the durations are for {given}"
        )
    durations = [value for row in table for value in row]
    for duration_ps in durations:
        if not 0 <= duration_ps <= LONGEST_PS:
            raise ScheduleError(
                f"{schedule.name}: a step of {duration_ps} ps: expected 0 or more, at most 2^62"
            )
    return np.array(durations, np.int64)
