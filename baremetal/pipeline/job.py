"""A job: everything a rank must know before it starts, decided by the one who starts it.

The exact map of a pipeline run. Which blocks are whose, who sends what to whom and how large it is,
how many slots there are, what every action is charged: all of it follows from the job, which each
rank is given whole. At run time only tokens, losses and a learning rate come from outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from baremetal import comm
from baremetal.machine.chip import Chip
from baremetal.machine.link import Link
from baremetal.nn import LanguageModel
from baremetal.optim import Optimizer
from baremetal.pipeline.copies import Holders
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.faults import Fault
from baremetal.pipeline.lanes import lane_slots, schedule_lanes
from baremetal.pipeline.partition import Part
from baremetal.pipeline.rank_exchange import PlannedSum, exchange_lanes, planned_sums
from baremetal.schedules import Schedule
from baremetal.schedules.forward_only import SLOTS, forward_only
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import Wiring, wire

ClockName = Literal["virtual", "wall"]
ChargeName = Literal["roofline", "unit", "measured"]


class Builder(Protocol):
    """Makes what a rank needs; pickled, so it is an object of a module-level class."""

    def model(self) -> LanguageModel:
        """The whole model, with its initial values."""

    def optimizer(self, model: LanguageModel) -> Optimizer:
        """An optimiser of the trainable parameters of a model, or of a part of one."""


@dataclass(frozen=True)
class Job:
    """A pipeline run.

    Attributes:
        schedule: who does what in which order.
        parts: of the model, by stage, mirrored copies included.
        builder: of models and optimisers.
        every, sizes: of each trainable parameter, which stages hold it and its elements.
        samples, context, width: a microbatch is (samples, context) tokens, and its activations are
            (samples, context, width).
        dtype: of activations.
        clock: virtual, or wall: receivers really wait, and work lasts as long as it does here (so
            its charge is what was measured, and host overhead and stragglers have no effect).
        charge: what actions are charged: the chip's roofline, `times`, or what was measured.
        times: for `unit`.
        chip, link: of the modelled machine; no link: messages are there at once.
        slots: of every lane; None: as many as needed lest a sender wait.
        host_overhead_ps: of each action.
        stragglers: by rank, how many times as long its actions take.
        seed: of jitter and losses.
        eager: stages run through Python, not from plans.
        threads: of each rank's kernels.
        precision: in which the modelled chip computes.
        clip: largest norm of the gradient; 0 for none.
        block_costs, balanced_in: of each block, and their unit: what the parts were cut by.
        faults: what goes wrong on purpose.
        first_step: of the training, with which the processes begin.

    Raises:
        PipelineError: a clock on the wall with another charge than what was measured.
    """

    schedule: Schedule
    parts: Sequence[Part]
    builder: Builder
    every: Holders
    sizes: Mapping[str, int]
    samples: int
    context: int
    width: int
    dtype: str = "float32"
    clock: ClockName = "virtual"
    charge: ChargeName = "unit"
    times: Times | None = None
    chip: Chip | None = None
    link: Link | None = None
    slots: int | None = None
    host_overhead_ps: int = 0
    stragglers: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    eager: bool = False
    threads: int = 1
    precision: str = "bf16"
    clip: float = 0.0
    block_costs: Sequence[float] = ()
    balanced_in: str = "FLOP"
    faults: Sequence[Fault] = ()
    first_step: int = 0

    def __post_init__(self) -> None:
        if self.clock == "wall" and self.charge != "measured":
            raise PipelineError(
                f"charge {self.charge} on a clock on the wall, where work lasts as long as it does "
                "here: give charge measured, or a virtual clock"
            )

    @property
    def ranks(self) -> int:
        """How many processes it takes."""
        return len(self.schedule.ranks)

    def stages_of(self, rank: int) -> list[int]:
        """The stages that a rank holds."""
        return [stage for stage, its in enumerate(self.schedule.rank_of) if its == rank]

    @cached_property
    def wiring(self) -> Wiring:
        """The schedule's messages."""
        return wire(self.schedule)

    @cached_property
    def evaluation(self) -> Wiring:
        """The messages of an evaluation, which has forwards alone."""
        return wire(forward_only(self.schedule))

    @property
    def message_bytes(self) -> int:
        """Of the activations of one microbatch, or of their gradient."""
        return self.samples * self.context * self.width * np.dtype(self.dtype).itemsize

    @cached_property
    def lane_slots(self) -> list[int]:
        """How many slots each lane of the schedule has."""
        return lane_slots(self.wiring, self.slots)

    @cached_property
    def sums(self) -> list[PlannedSum]:
        """The sums over stages at the end of each step."""
        schedule = self.schedule
        return planned_sums(
            self.every, self.sizes, self.dtype, schedule.stages, schedule.microbatches
        )

    @cached_property
    def layout(self) -> comm.Layout:
        """All lanes: the schedule's, in the order of `wiring.lanes`; of the sums; of evaluation."""
        shape = self.samples, self.context, self.width
        lanes = schedule_lanes(self.wiring, self.lane_slots, shape, self.dtype)
        lanes += exchange_lanes(self.sums, self.schedule.rank_of)
        slots = [SLOTS] * len(self.evaluation.lanes)
        lanes += schedule_lanes(self.evaluation, slots, shape, self.dtype)
        return comm.Layout(self.ranks, tuple(lanes))

    @property
    def first_evaluation_lane(self) -> int:
        """The number of the first lane of evaluation; the others follow it."""
        return len(self.layout.lanes) - len(self.evaluation.lanes)
