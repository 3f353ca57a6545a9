"""What paper and pencil say of a run, to lay beside what its ranks did.

Every named schedule comes with formulas for the time that ranks are idle and the microbatches that
they hold (`schedules/generator.py`). They know nothing of a particular model and a particular
machine: all stages are equal, messages take no time, and the host none. A real run breaks all three
a little, and by how much is just what one wants to see. So the formulas are given the *mean* of the
stages' times:

    bubble_span = idle_span / (work + idle_span)      work = m (F + I + W) of a rank's share

Some formulas hold only where F = I = W. There they are asked for that: a third of the work each,
and the answer says so. Of some schedules (1F1B) it is also known what a latency per hop costs; with
a message's whole transfer for that latency the formula is exact as long as no message queues.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from baremetal.schedules import Kind, Schedule
from baremetal.schedules.generator import Generator, Share, Time
from baremetal.schedules.registry import SCHEDULES
from baremetal.schedules.times import Times

PS_PER_S = 10**12
ASSUMES = "equal stages, messages and host that take no time"


@dataclass(frozen=True)
class ClosedForm:
    """The formulas' answers; None where no formula is known.

    Attributes:
        share: the times that they were given, in ps.
        is_even: they were asked for F = I = W, since for unequal times none is known.
        work_ps: of a rank, for all microbatches.
        idle_span_ps, idle_makespan_ps: see `Generator`.
        makespan_with_transfer_ps: with a message's transfer for a latency per hop.
        peaks: the most microbatches that each rank holds.
    """

    share: Share
    is_even: bool
    work_ps: Fraction
    idle_span_ps: Fraction | None
    idle_makespan_ps: Fraction | None
    makespan_with_transfer_ps: Fraction | None
    peaks: tuple[Fraction, ...]

    @property
    def bubble_span(self) -> float | None:
        """The idle share of the largest span."""
        return self._bubble(self.idle_span_ps)

    @property
    def bubble_makespan(self) -> float | None:
        """The idle share of the makespan."""
        return self._bubble(self.idle_makespan_ps)

    @property
    def makespan_ps(self) -> Fraction | None:
        """Work and idle time."""
        return None if self.idle_makespan_ps is None else self.work_ps + self.idle_makespan_ps

    def _bubble(self, idle_ps: Fraction | None) -> float | None:
        if idle_ps is None:
            return None
        whole_ps = self.work_ps + idle_ps
        return float(idle_ps / whole_ps) if whole_ps else 0.0  # work that takes no time, as asked

    def figures(self) -> dict[str, Any]:
        """For JSON; times in s."""
        return {
            "assumes": ASSUMES,
            "with_equal_F_I_W": self.is_even,
            "bubble_span": self.bubble_span,
            "bubble_makespan": self.bubble_makespan,
            "makespan": _seconds(self.makespan_ps),
            "makespan_with_transfer": _seconds(self.makespan_with_transfer_ps),
            "peak_activations": [float(peak) for peak in self.peaks],
        }


def closed_form(schedule: Schedule, times: Times, transfer_ps: int = 0) -> ClosedForm | None:
    """What the formulas of this schedule say; None for one that nobody wrote formulas for.

    Args:
        schedule: as made by its generator; one from a file that borrowed the name has none.
        times: of its stages.
        transfer_ps: from a message's departure to its arrival.
    """
    p, m, v = len(schedule.ranks), schedule.microbatches, schedule.chunks
    generator = SCHEDULES.get(schedule.name)
    if generator is None or generator.refusal(p, m, v) or generator.build(p, m, v) != schedule:
        return None
    share = mean_share(schedule, times)
    idle = _idle(generator, p, m, v, share)
    is_even = idle == (None, None)
    if is_even:
        share = Share(*(Fraction(share.work) / 3,) * 3)
        idle = _idle(generator, p, m, v, share)
    with_transfer = None
    if generator.makespan_with_latency is not None:
        with_transfer = generator.makespan_with_latency(p, m, v, share, transfer_ps)
    work = m * Fraction(share.work)
    peaks = generator.peaks(p, m, v)
    return ClosedForm(share, is_even, work, *idle, _fraction(with_transfer), peaks)


def mean_share(schedule: Schedule, times: Times) -> Share:
    """The times of a rank's whole share of a microbatch, if all ranks had equal ones, in ps.

    Where backward is never split, its whole time stands under I.
    """
    chunks = Fraction(len(schedule.paths[0]), len(schedule.ranks))
    kinds = {action.kind for actions in schedule.actions_by_rank() for action in actions}
    rows = times.by_kind()
    means = {kind: chunks * _mean(rows[kind].tolist()) for kind in Kind}
    if kinds == {Kind.F, Kind.B}:
        return Share(means[Kind.F], means[Kind.B], Fraction(0))
    return Share(means[Kind.F], means[Kind.I], means[Kind.W])


def _idle(
    generator: Generator, p: int, m: int, v: int, share: Share
) -> tuple[Fraction | None, Fraction | None]:
    span, makespan = generator.idle_span(p, m, v, share), generator.idle_makespan(p, m, v, share)
    return _fraction(span), _fraction(makespan)


def _mean(values: Sequence[int]) -> Fraction:
    return Fraction(sum(values), len(values))


def _fraction(time: Time | None) -> Fraction | None:
    return None if time is None else Fraction(time)


def _seconds(time_ps: Fraction | None) -> float | None:
    return None if time_ps is None else float(time_ps / PS_PER_S)
