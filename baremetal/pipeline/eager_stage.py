"""A stage that runs through Python: no plan, nothing known beforehand.

For what cannot be captured (a mixture of experts, whose router decides anew with every microbatch
who computes what), for looking into, and as the oracle of the captured stage (`stage_plan.py`),
which does the same, in the same words, from a plan.
"""

import numpy as np

from baremetal.pipeline.stage import Batch, Passage, Stage


class EagerStage:
    """Runs the actions of a schedule on one stage.

    Args:
        stage: which.
        cotangent: see `Passage`.
    """

    def __init__(self, stage: Stage, cotangent: np.ndarray | None = None) -> None:
        self.stage = stage
        self._cotangent = cotangent
        self._passages: dict[int, Passage] = {}
        self._batch: Batch | None = None

    def begin_step(self, batch: Batch) -> None:
        """What the next microbatches consist of."""
        self._batch = batch
        self._passages.clear()
        self.stage.total[0] = batch.tokens

    def forward(self, microbatch: int, *activations: np.ndarray) -> np.ndarray:
        """Activations in, activations or the loss out."""
        batch, part = self._batch, self.stage.part
        inputs = [batch.inputs[microbatch]] if part.is_first else [*activations]
        if part.is_last:
            inputs.append(batch.targets[microbatch])
        if self.stage.dropout_state is not None:
            samples = batch.inputs.shape[1]
            self.stage.dropout_state.set(batch.step, first_sample=microbatch * samples)
        passage = self._passages[microbatch] = Passage(self.stage, self._cotangent)
        return passage.forward(*inputs).data

    def input_gradient(self, microbatch: int, *dy: np.ndarray) -> np.ndarray | None:
        dx = self._passages[microbatch].input_gradient(*dy)
        return None if dx is None else dx.data

    def weight_gradient(self, microbatch: int) -> None:
        self._passages.pop(microbatch).weight_gradient()

    def backward(self, microbatch: int, *dy: np.ndarray) -> np.ndarray | None:
        dx = self._passages.pop(microbatch).backward(*dy)
        return None if dx is None else dx.data
