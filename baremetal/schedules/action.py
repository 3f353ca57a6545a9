"""An action: the smallest thing that a pipeline schedule can put before or after another.

A model is cut into *stages*, a batch into *microbatches*. For one stage and one microbatch there
are three pieces of work, and they need not stand together:

    F   forward           needs the activations of the stage before
    I   input-gradient    needs the gradient from the stage behind, and F
    W   weight-gradient   needs I, and nobody waits for it
    B   full backward     I and W in one piece: the gradient is sent on when both are done

Written as PyTorch's `torch.distributed.pipelining` writes them, ``2F0`` is the forward of stage 2
for microbatch 0. Splitting B into I and W is what zero-bubble schedules live by (P. Qi et al.,
"Zero Bubble Pipeline Parallelism", ICLR 2024).

DualPipe (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.1) runs the forward of one
microbatch and the backward of another at the same time, so that one's arithmetic hides the other's
communication. Such a pair is one step of the schedule with a cost of its own: an `Overlap`, written
``(1F4;1B2)OVERLAP_F_B``.
"""

from enum import IntEnum
from typing import NamedTuple, TypeAlias


class Kind(IntEnum):
    """What is done. The numbers are indices into tables of times."""

    F = 0
    I = 1
    W = 2
    B = 3


class Action(NamedTuple):
    """One kind of work, for one microbatch, on one stage.

    Attributes:
        kind: forward, input-gradient, weight-gradient, or both gradients.
        stage: which part of the model, counted along the model's layers from 0.
        microbatch: which part of the batch, from 0.
    """

    kind: Kind
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind.name}{self.microbatch}"

    @property
    def parts(self) -> "tuple[Action, ...]":
        """Itself: what a reader that does not care about overlap goes through."""
        return (self,)


class Overlap(NamedTuple):
    """A forward and a backward that run at the same time, of two microbatches.

    Attributes:
        forward: the one.
        backward: the other, an I or a B.
    """

    forward: Action
    backward: Action

    def __str__(self) -> str:
        return f"({self.forward};{self.backward})OVERLAP_F_B"

    @property
    def parts(self) -> tuple[Action, ...]:
        """The forward and the backward."""
        return self.forward, self.backward


Step: TypeAlias = Action | Overlap
