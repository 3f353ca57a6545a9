"""What executes the actions of one stage: the face that workers see.

    runner.begin_step(batch)                # once per step, at every stage

    runner.activation_in(m)[...] = ...      # F: what the stage before sent (not at the first)
    y = runner.do(Kind.F, m, slot)          #    y is to be sent on; None at the last stage
    runner.gradient_in(m)[...] = ...        # I or B: what the stage behind sent (not at the last)
    dx = runner.do(Kind.I, m, slot)         #    dx is to be sent back; None at the first stage
    runner.do(Kind.W, m)                    # W: None

A link may write where `activation_in` and `gradient_in` say, once the action that reads it is the
stage's next (before that, the memory may still be in use). Where `fills_send_slot` says yes, y and
dx are computed straight into the memory from which they are sent, and `do` wants to be told where
that is. Elsewhere `do` is given no slot, and the link copies y and dx from where they lie, before
the stage's next action.

There are two: `EagerStage` and `CapturedStage`. The bits are the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import Tensor, no_grad
from baremetal.kernels.cost import Cost
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.pipeline.costs import summed
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Kind


class Batch(NamedTuple):
    """What a step trains on, microbatch by microbatch.

    Attributes:
        inputs: (microbatches, B, T) int64 token ids.
        targets: (microbatches, B, T) int64, `IGNORE_INDEX` where nothing is to be predicted.
        step: how many steps there were before, for dropout.
    """

    inputs: np.ndarray
    targets: np.ndarray
    step: int = 0

    @property
    def tokens(self) -> int:
        """How many targets count: what the loss is a mean over."""
        return int((self.targets != IGNORE_INDEX).sum())


def cut_batch(inputs: np.ndarray, targets: np.ndarray, microbatches: int, step: int = 0) -> Batch:
    """A batch of B sequences, (B, T) each, as microbatches of equal size, in their order.

    Raises:
        PipelineError: B is not divisible by the number of microbatches.
    """
    sequences, context = inputs.shape
    if microbatches < 1 or sequences % microbatches:
        raise PipelineError(
            f"a batch of {sequences} sequences in {microbatches} microbatches: they must be of "
            "equal size; choose a batch that the number of microbatches divides"
        )
    shape = (microbatches, sequences // microbatches, context)
    return Batch(inputs.reshape(shape), targets.reshape(shape), step)


class StageRunner(ABC):
    """Executes actions on one stage.

    Args:
        stage: which.

    Attributes:
        losses: (microbatches,) float64, what this stage added to the step's loss. Of a dense model
            only the last stage adds anything. The sum over all stages and microbatches is the
            batch's mean in nats per token.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.losses = np.zeros(0)
        self._batch: Batch | None = None

    @property
    @abstractmethod
    def launch_costs(self) -> Mapping[Kind, Sequence[Cost]]:
        """FLOP and bytes of every launch of one action of each kind that the stage performs."""

    @property
    def costs(self) -> Mapping[Kind, Cost]:
        """FLOP and bytes of one action of each kind that the stage performs."""
        return summed(self.launch_costs)

    @abstractmethod
    def activation_in(self, microbatch: int) -> np.ndarray:
        """Where the activations (B, T, C) that F needs are to be written."""

    @abstractmethod
    def gradient_in(self, microbatch: int) -> np.ndarray:
        """Where the gradient (B, T, C) that I or B needs is to be written."""

    def begin_step(self, batch: Batch) -> None:
        """Say what the next microbatches consist of. What was in flight is given up."""
        self._batch = batch
        self.losses = np.zeros(len(batch.inputs))
        self.stage.total[0] = batch.tokens

    def fills_send_slot(self, kind: Kind) -> bool:
        """Whether actions of this kind write what is to be sent into a slot that `do` is given."""
        return False

    def new_message(self) -> np.ndarray:
        """Memory for what an action sends, where no link has any: (B, T, C), uninitialised."""
        shape = self.stage.activation_shape(*self.batch.inputs.shape[1:])
        return np.empty(shape, self.stage.dtype)

    def do(
        self, kind: Kind, microbatch: int, send_slot: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Perform an action.

        Args:
            kind, microbatch: which.
            send_slot: (B, T, C), where the result goes, if the stage fills it (`fills_send_slot`).

        Returns:
            What is to be sent: activations after F, the gradient of the stage's input after I or B;
            None where there is nobody to send to.
        """
        if kind is Kind.F:
            y = self._forward(microbatch, self._outside_inputs(microbatch), send_slot)
            return None if self.stage.part.is_last else y
        if kind is Kind.I:
            return self._input_gradient(microbatch, send_slot)
        if kind is Kind.W:
            return self._weight_gradient(microbatch)
        return self._backward(microbatch, send_slot)

    def evaluate(self, microbatch: int, x: np.ndarray | None = None) -> np.ndarray | None:
        """The forward of a step that has no backward: in evaluation mode, nothing is kept.

        Args:
            microbatch: of the batch that `begin_step` was given.
            x: activations, wherever they lie; None at the first stage.

        Returns:
            Activations to be sent, in new memory; None at the last stage, where `losses` has the
            microbatch's share of the batch's mean.
        """
        batch, stage = self.batch, self.stage
        y = stage.evaluate(batch.inputs[microbatch] if x is None else x)
        if not stage.part.is_last:
            return y
        with no_grad():
            self.losses[microbatch] = stage.loss(Tensor(y), batch.targets[microbatch]).item()
        return None

    def _outside_inputs(self, microbatch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Tokens (at the first stage) and targets (at the last); dropout is told who comes."""
        batch, part = self.batch, self.stage.part
        dropout = self.stage.dropout_state
        if dropout is not None:
            dropout.set(batch.step, first_sample=microbatch * batch.inputs.shape[1])
        tokens = [batch.inputs[microbatch]] if part.is_first else []
        return tokens, [batch.targets[microbatch]] if part.is_last else []

    @property
    def batch(self) -> Batch:
        """What `begin_step` was given.

        Raises:
            PipelineError: no step has begun.
        """
        if self._batch is None:
            raise PipelineError("no step has begun: call begin_step(batch) first")
        return self._batch

    @abstractmethod
    def _forward(
        self,
        microbatch: int,
        outside: tuple[list[np.ndarray], list[np.ndarray]],
        send_slot: np.ndarray | None,
    ) -> np.ndarray: ...

    @abstractmethod
    def _input_gradient(
        self, microbatch: int, send_slot: np.ndarray | None
    ) -> np.ndarray | None: ...

    @abstractmethod
    def _weight_gradient(self, microbatch: int) -> None: ...

    @abstractmethod
    def _backward(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None: ...
