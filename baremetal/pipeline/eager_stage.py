"""A stage that runs through Python: no plan, nothing known beforehand.

For what cannot be captured (a mixture of experts, whose router decides anew with every microbatch
who computes what), for looking into, and as the oracle of the captured stage, which does the same,
in the same words, from a plan.

What it sends lies wherever autograd put it, and is copied into the send slot: an operation chooses
the memory of its result, and does not know that it is the last.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from baremetal.kernels.cost import Cost
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.pipeline.costs import launch_costs
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.passage import Passage
from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Kind


class EagerStage(StageRunner):
    """Runs the actions of one stage through Python.

    Args:
        stage: which.
        shape: (B, T) of a microbatch.
        cotangent: see `Passage`.
    """

    def __init__(
        self, stage: Stage, shape: tuple[int, int], cotangent: np.ndarray | None = None
    ) -> None:
        super().__init__(stage)
        self._shape, self._cotangent = shape, cotangent
        self._passages: dict[int, Passage] = {}
        self._activations: dict[int, np.ndarray] = {}  # as they came in
        self._gradients: dict[int, np.ndarray] = {}

    @functools.cached_property
    def launch_costs(self) -> Mapping[Kind, Sequence[Cost]]:
        """Of a rehearsal with random tokens: what a router decides changes them a little."""
        return launch_costs(self.stage, self._shape)

    def begin_step(self, batch: Batch) -> None:
        super().begin_step(batch)
        for held in (self._passages, self._activations, self._gradients):
            held.clear()

    def activation_in(self, microbatch: int) -> np.ndarray:
        return self._room(self._activations, microbatch)

    def gradient_in(self, microbatch: int) -> np.ndarray:
        return self._room(self._gradients, microbatch)

    def _room(self, arrays: dict[int, np.ndarray], microbatch: int) -> np.ndarray:
        """Memory of this microbatch's own: the tape keeps it until its backward."""
        if microbatch not in arrays:
            arrays[microbatch] = np.empty(
                self.stage.activation_shape(*self._shape), self.stage.dtype
            )
        return arrays[microbatch]

    def _forward(
        self,
        microbatch: int,
        outside: tuple[list[np.ndarray], list[np.ndarray]],
        send_slot: np.ndarray | None,
    ) -> np.ndarray:
        tokens, targets = outside
        activations = [] if tokens else [self._taken(self._activations, microbatch)]
        counted = int((self.batch.targets[microbatch] != IGNORE_INDEX).sum())
        share = counted / max(self.batch.tokens, 1)
        passage = self._passages[microbatch] = Passage(self.stage, share, self._cotangent)
        y = passage.forward(*tokens, *activations, *targets)
        self.losses[microbatch] = passage.loss
        return y.data

    def _input_gradient(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None:
        dx = self._passage(microbatch).input_gradient(*self._dy(microbatch))
        return None if dx is None else dx.data

    def _weight_gradient(self, microbatch: int) -> None:
        self._passage(microbatch).weight_gradient()
        del self._passages[microbatch]

    def _backward(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None:
        dx = self._passage(microbatch).backward(*self._dy(microbatch))
        del self._passages[microbatch]
        return None if dx is None else dx.data

    def _passage(self, microbatch: int) -> Passage:
        if microbatch not in self._passages:
            raise PipelineError(
                f"{self.stage}: backward of microbatch {microbatch}, which is not in flight: its "
                "forward comes first, and each part of its backward once"
            )
        return self._passages[microbatch]

    def _dy(self, microbatch: int) -> list[np.ndarray]:
        if self.stage.part.is_last:
            return []
        return [self._taken(self._gradients, microbatch)]

    def _taken(self, arrays: dict[int, np.ndarray], microbatch: int) -> np.ndarray:
        if microbatch not in arrays:
            raise PipelineError(
                f"{self.stage}: nothing has come for microbatch {microbatch}: write it into "
                "activation_in or gradient_in first"
            )
        return arrays.pop(microbatch)
