"""The scaled-down machine on which a toy pipeline behaves like a full-size one.

An aeroplane is not understood by building a small one and flying it through the same air. It is put
into a wind tunnel whose air is made denser or faster, so that the numbers without a unit (Reynolds,
Mach) are those of the real flight: then, and only then, do the flows agree (E. Buckingham, "On
physically similar systems", Physical Review 4, 1914: what happens can depend on such numbers only).

A pipeline's numbers without a unit, all per microbatch, with the *work* of a rank (forward and
backward of its share of the model) as the unit of time:

    transfer / work          occupancy of the link by one message
    latency / work           until it is there
    memory / arithmetic      time for the bytes of all actions, by time for their FLOP (roofline)
    activations / capacity   what a microbatch keeps, by the chip's memory

A small model on the real chip gets them all wrong: its work is over in no time, and latency is
everything. So the machine is scaled with the model. FLOP/s shrink as its FLOP do, memory's rate as
its bytes, the link's rate as its messages, capacity as its activations; latencies stay. Then all
four are equal, and times are too (or all longer by one factor, `stretch`).

What no machine can change is the *shape*: which part of the work is F, which I and W, and how much
longer the last stage takes for its head. A small model's differ somewhat from a large one's, as a
model aeroplane's rivets stand out. The ratios of the shape are printed beside the others with their
residue. Who wants none charges the full-size times instead of the small kernels' (`--charge unit`):
then all that happens on the modelled machine is the same, up to rounding, while the gradients are
the small model's, and real.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from baremetal.kernels.cost import Cost
from baremetal.machine.chip import Chip
from baremetal.machine.link import Link
from baremetal.pipeline.costs import roofline_times
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.full_size import StageCost
from baremetal.schedules import Kind, Schedule
from baremetal.schedules.simulate import simulate
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import Times

PS_PER_S = 10**12


@dataclass(frozen=True)
class Pipeline:
    """A model in stages, on a machine.

    Attributes:
        schedule: who does what when.
        stages: what each costs.
        message_bytes: of a microbatch's activations between two stages.
        chip, link: of every rank, between any two.
        precision: in which the chip computes.
    """

    schedule: Schedule
    stages: Sequence[StageCost]
    message_bytes: int
    chip: Chip
    link: Link
    precision: str

    @cached_property
    def times(self) -> Times:
        """Of all actions, by roofline."""
        return roofline_times([stage.launches for stage in self.stages], self.chip, self.precision)

    @property
    def share(self) -> dict[Kind, Fraction]:
        """Of each kind, the time in ps that a rank spends on a microbatch, on average."""
        rows, ranks = self.times.by_kind().tolist(), len(self.schedule.ranks)
        found: dict[Kind, Fraction] = {}
        for stage in self.schedule.paths[0]:  # a microbatch takes one path
            for kind in self.stages[stage].work:
                found[kind] = found.get(kind, Fraction(0)) + Fraction(rows[kind][stage], ranks)
        return found

    @property
    def work_ps(self) -> Fraction:
        """All of it."""
        return sum(self.share.values(), Fraction(0))

    @property
    def launches(self) -> list[Cost]:
        """What every launch of a microbatch costs, over all stages of its path."""
        own = [self.stages[stage] for stage in self.schedule.paths[0]]
        return [cost for stage in own for kind in stage.work for cost in stage.launches[kind]]

    @property
    def overhead_ps(self) -> Fraction:
        """Of all launches that a rank makes for a microbatch, on average."""
        each_ps = self.chip.launch_overhead_ps
        return Fraction(len(self.launches) * each_ps, len(self.schedule.ranks))

    def total(self) -> tuple[int, int, int]:
        """FLOP, bytes moved and bytes kept by a microbatch, over all stages of its path."""
        costs, own = self.launches, [self.stages[stage] for stage in self.schedule.paths[0]]
        flops, moved = (sum(cost.flops for cost in costs), sum(cost.size_bytes for cost in costs))
        return flops, moved, sum(stage.slot_bytes for stage in own)

    def play(self, times: Times | None = None) -> Timeline:
        """A step as the simulator has it; of these times, if given."""
        return simulate(
            self.schedule, times or self.times, link=self.link, size_bytes=self.message_bytes
        )


class Ratio(NamedTuple):
    """A number without a unit.

    Attributes:
        name: what by what.
        full, scaled: in both pipelines.
    """

    name: str
    full: float
    scaled: float

    @property
    def residue(self) -> float:
        """By which part of itself the scaled one is off."""
        return abs(self.scaled / self.full - 1) if self.full else abs(self.scaled)


def machine_numbers(pipeline: Pipeline) -> dict[str, float]:
    """The numbers that a machine can be made to match."""
    chip, link, work_ps = pipeline.chip, pipeline.link, pipeline.work_ps
    flops, moved, kept = pipeline.total()
    arithmetic_s = Fraction(flops) / (chip.efficiency * chip.peak(pipeline.precision))
    memory_s = Fraction(moved) / (chip.memory_efficiency * chip.memory_rate_Bps)
    ranks = len(pipeline.schedule.ranks)
    return {
        "transfer / work": float(link.occupancy_ps(pipeline.message_bytes) / work_ps),
        "latency / work": float(link.latency_ps / work_ps),
        "memory / arithmetic": float(memory_s / arithmetic_s),
        "activations / capacity": kept / ranks / chip.usable_memory_bytes,
    }


def shape_numbers(pipeline: Pipeline) -> dict[str, float]:
    """The numbers that belong to the model, whatever the machine."""
    share, work_ps = pipeline.share, pipeline.work_ps
    found = {f"{kind.name} / work": float(time / work_ps) for kind, time in share.items()}
    rows = pipeline.times.by_kind().tolist()
    by_rank = [0] * len(pipeline.schedule.ranks)
    for stage, rank in enumerate(pipeline.schedule.rank_of):
        by_rank[rank] += sum(rows[kind][stage] for kind in pipeline.stages[stage].work)
    found["busiest rank / mean"] = max(by_rank) * len(by_rank) / sum(by_rank)
    return found


def outcome(timeline: Timeline) -> dict[str, float]:
    """What came of it, as numbers without a unit."""
    whole_ps = timeline.makespan_ps * len(timeline.busy_ps)
    return {
        "bubble of span": timeline.bubble_span,
        "bubble of makespan": timeline.bubble_makespan,
        "exposed transfer": sum(timeline.exposed_ps) / whole_ps,
    }


def compared(full: Mapping[str, float], scaled: Mapping[str, float]) -> list[Ratio]:
    """Side by side."""
    return [Ratio(name, value, scaled[name]) for name, value in full.items()]


# ---------------------------------------------------------------- the machine


def scaled_down(
    full: Pipeline, stages: Sequence[StageCost], message_bytes: int, stretch: Fraction = Fraction(1)
) -> Pipeline:
    """The small model's stages on the machine that is to them what the full one is to its own.

    Args:
        full: the pipeline to be like; the small one has its schedule.
        stages: what each of the small model's costs.
        message_bytes: between them.
        stretch: how many times as long everything takes.

    Raises:
        PipelineError: a stretch that is not positive, or one that leaves nothing of a number.
    """
    if stretch <= 0:
        raise PipelineError(f"a stretch of {float(stretch):g}: expected more than 0, such as 1")
    chip = _scaled_chip(full, stages, stretch)
    link = _scaled_link(full.link, Fraction(message_bytes, full.message_bytes), stretch)
    return replace(full, stages=stages, message_bytes=message_bytes, chip=chip, link=link)


def _scaled_chip(full: Pipeline, stages: Sequence[StageCost], stretch: Fraction) -> Chip:
    flops, moved, kept = full.total()
    small_flops, small_moved, small_kept = replace(full, stages=stages).total()
    chip = replace(
        full.chip,
        name=f"{full.chip.name}-scaled",
        flops={full.precision: full.chip.peak(full.precision)},
        launch_overhead_ps=round(full.chip.launch_overhead_ps * stretch),
        power_W=None,
    )
    rates = Fraction(small_flops, flops) / stretch, Fraction(small_moved, moved) / stretch
    first = _with_rates(chip, full.precision, *rates)
    # Where both sides of the roofline matter, the small launches need not lie on the same sides;
    # one factor for both rates keeps their ratio and makes the work last as long as it should.
    small = replace(full, stages=stages, chip=first)
    wanted_ps = stretch * full.work_ps - small.overhead_ps
    factor = (small.work_ps - small.overhead_ps) / wanted_ps
    final = _with_rates(chip, full.precision, *(rate * factor for rate in rates))
    capacity = Fraction(small_kept, kept)
    return replace(
        final,
        memory_bytes=_at_least_1(capacity * chip.memory_bytes),
        usable_memory_bytes=_at_least_1(capacity * chip.usable_memory_bytes),
        sources=_sources(full, [f"flops.{full.precision}", *_CHIP_FIELDS]),
    )


def _with_rates(chip: Chip, precision: str, flops: Fraction, moved: Fraction) -> Chip:
    """A chip with these parts of its rates."""
    return replace(
        chip,
        flops={precision: _at_least_1(flops * chip.flops[precision])},
        memory_rate_Bps=_at_least_1(moved * chip.memory_rate_Bps),
    )


def _scaled_link(link: Link, size: Fraction, stretch: Fraction) -> Link:
    bandwidth_bps = link.bandwidth_bps
    if bandwidth_bps is not None:
        bandwidth_bps = _at_least_1(bandwidth_bps * size / stretch)
    times = {
        name: round(getattr(link, name) * stretch)
        for name in ("latency_ps", "overhead_ps", "jitter_ps", "retransmit_timeout_ps")
    }
    derived = f"derived from {link.name} by 'baremetal scale'"
    return replace(
        link,
        name=f"{link.name}-scaled",
        bandwidth_bps=bandwidth_bps,
        **times,
        sources=dict.fromkeys(link.sources, derived),
    )


_CHIP_FIELDS = ("memory", "usable_memory", "memory_rate", "efficiency", "memory_efficiency")


def _sources(full: Pipeline, fields: Sequence[str]) -> dict[str, str]:
    derived = f"derived from {full.chip.name} by 'baremetal scale'"
    if full.chip.launch_overhead_ps:
        fields = [*fields, "launch_overhead"]
    return dict.fromkeys(fields, derived)


def _at_least_1(value: Fraction) -> int:
    """Rounded; a machine has at least one of everything."""
    return max(1, math.floor(value + Fraction(1, 2)))


def stretched_times(full: Pipeline, stretch: Fraction) -> Times:
    """The full-size times of F, I and W, each as many times as long; a whole backward stands as I.

    For `--charge unit`.
    """
    rows = full.times.by_kind().tolist()
    forward, inputs, weights = (list(rows[kind]) for kind in (Kind.F, Kind.I, Kind.W))
    for stage, cost in enumerate(full.stages):
        if Kind.I not in cost.actions:
            inputs[stage], weights[stage] = rows[Kind.B][stage], 0
    each = (forward, inputs, weights)
    return Times(*(tuple(round(time_ps * stretch) for time_ps in row) for row in each))
