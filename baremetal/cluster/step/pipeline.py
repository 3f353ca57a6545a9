"""One replica's pipeline: the plan's schedule, its chunks' times, its link, played.

The schedule is the same object, and the simulator the same, as the pipeline runtime's. Between
stages a GPU sends its own piece of the activations to the GPU in its place: over NVLink where a
domain holds all stages, else by its network card.

Messages that the schedule does not hide make ranks wait; that shows as `bubble`, with the idle time
of the schedule itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from baremetal.cluster.cost.held import Held, held_by_rank
from baremetal.cluster.cost.layer import VALUE_BYTES
from baremetal.cluster.cost.spent import Spent
from baremetal.cluster.cost.stage import Setting, StageTimes, stage_times
from baremetal.cluster.errors import ClusterError
from baremetal.machine.link import Link
from baremetal.schedules import SCHEDULES, ScheduleError, make_schedule
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import Wiring, wire
from baremetal.trace.spans import PS_PER_S


@dataclass(frozen=True)
class Pipeline:
    """One replica's pipeline, ready to be played.

    Attributes:
        wiring: the schedule that the runtime would execute, and its messages.
        held: by each rank.
        chunks: seconds of every chunk's actions, by cause, in the order of the model.
        times: the same by stage of the schedule, in ps, causes summed.
        link: between ranks; None: there is one rank.
        message_bytes: of one GPU's piece of a microbatch's activations.
        peaks: microbatches that each rank keeps at most, in units of its whole share.
    """

    wiring: Wiring
    held: Sequence[Held]
    chunks: Sequence[StageTimes]
    times: Times
    link: Link | None
    message_bytes: int
    peaks: Sequence[float]

    def play(self) -> Spent:
        """Seconds by cause on the busiest rank; what is missing to the makespan is its bubble."""
        timeline = simulate(self.wiring, self.times, link=self.link, size_bytes=self.message_bytes)
        spent = max((self._work(held) for held in self.held), key=lambda work: work.total_s)
        spent["bubble"] = timeline.makespan_ps / PS_PER_S - spent.total_s
        return spent

    def _work(self, held: Held) -> Spent:
        """Of all microbatches on one rank; mirrored copies share them evenly."""
        schedule = self.wiring.schedule
        spent = Spent()
        for place in held.places:
            for part in self.chunks[place].parts:
                spent.add(part, schedule.microbatches / len(schedule.paths))
        return spent


def make_pipeline(setting: Setting) -> Pipeline:
    """The pipeline of a plan.

    Raises:
        ClusterError: no such schedule for these sizes, or layers that do not divide.
    """
    plan, sizes = setting.sizes.plan, setting.sizes
    wiring = _wired(plan.pipeline, plan.pp, plan.microbatches, plan.vp)
    schedule, chunks = wiring.schedule, stage_times(setting)
    rows = [[_ps(part) for part in chunk.parts] for chunk in chunks]
    place_of = {stage: i for path in schedule.paths for i, stage in enumerate(path)}
    by_stage = [rows[place_of[stage]] for stage in range(schedule.stages)]
    generator = SCHEDULES[plan.pipeline]
    return Pipeline(
        wiring=wiring,
        held=held_by_rank(sizes, schedule),
        chunks=chunks,
        times=Times(*(tuple(column) for column in zip(*by_stage, strict=True))),
        link=_stage_link(setting),
        message_bytes=int(sizes.split_tokens * sizes.model.width * VALUE_BYTES),
        peaks=[float(peak) for peak in generator.peaks(plan.pp, plan.microbatches, plan.vp)],
    )


@lru_cache(maxsize=32)  # a sweep asks for the same schedule with many different times
def _wired(name: str, ranks: int, microbatches: int, chunks: int) -> Wiring:
    try:
        return wire(make_schedule(name, ranks, microbatches, chunks))
    except ScheduleError as error:
        raise ClusterError(f"plan: {error}") from None


def _stage_link(setting: Setting) -> Link | None:
    group, wires = setting.groups["pp"], setting.wires
    if group.size == 1:
        return None
    if group.domains == 1:
        rate, alpha_s = wires.scale_up_Bps * wires.scale_up_share, wires.scale_up_alpha_s
    else:
        rate, alpha_s = wires.network_Bps * wires.network_share, wires.network_alpha_s
    return Link("between stages", int(8 * rate), int((alpha_s + wires.start_s) * PS_PER_S))


def _ps(seconds: Mapping[str, float]) -> int:
    return round(sum(seconds.values()) * PS_PER_S)
