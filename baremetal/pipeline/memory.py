"""What a stage keeps in memory, counted where it lies.

    weights                      as many bytes as parameters have
    gradients                    as many again
    optimiser                    its moments: twice as many for Adam
    activations                  slots x what one microbatch keeps from F to W, and scratch

The slots are as many as the schedule has microbatches in flight on the stage, at most
(`most_in_flight`), so the last line is a schedule's own price: 1F1B's first stage pays for p of
them, its last for one. What leaves for another rank is not among them: a plan writes it straight
into a slot of the link's ring (`capture/outgoing.py`), which is counted once, with the rank that
receives it (`report.py`). A stage that runs through Python (`EagerStage`) plans nothing; what its
tape keeps is not counted.
"""

from typing import NamedTuple

from baremetal.optim import Optimizer
from baremetal.pipeline.runner import StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage


class StageMemory(NamedTuple):
    """Bytes that a stage holds.

    Attributes:
        weights_bytes: its parameters.
        gradients_bytes: theirs.
        optimizer_bytes: what the optimiser keeps of them from step to step.
        slots: how many microbatches' activations have room; 0 where they are not planned.
        slot_bytes: of one microbatch's.
        scratch_bytes: what all slots share.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    slots: int = 0
    slot_bytes: int = 0
    scratch_bytes: int = 0

    @property
    def activations_bytes(self) -> int:
        """Of all slots, with the scratch."""
        return self.slots * self.slot_bytes + self.scratch_bytes

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and optimiser: what stays from step to step."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.state_bytes + self.activations_bytes


def stage_memory(stage: Stage, runner: StageRunner, optimizer: Optimizer | None) -> StageMemory:
    """What a stage holds; no optimiser where there is nothing to train."""
    weights = sum(parameter.data.nbytes for _, parameter in stage.named_parameters())
    gradients = moments = 0
    if optimizer is not None:
        gradients = optimizer.arena.grad.nbytes
        moments = sum(array.nbytes for array in optimizer.moments.values())
    if not isinstance(runner, CapturedStage):
        return StageMemory(weights, gradients, moments)
    plan = runner.segments.memory
    return StageMemory(weights, gradients, moments, plan.slots, plan.slot_bytes, plan.scratch_bytes)
