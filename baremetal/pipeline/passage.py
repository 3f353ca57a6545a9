"""A microbatch's way through a stage: forward, and later backward, in one go or in two halves.

    forward            F    activations in, activations out (or the loss)
    input_gradient     I    gradient of what went out in, gradient of what came in out
    weight_gradient    W    adds to the parameters' gradients what I left for later
    backward           B    I and W at once

These are the functions that `EagerStage` calls for each microbatch, and those that `CapturedStage`
records once and replays.

Loss beside the loss. The blocks of a mixture of experts have a term of their own in the loss (their
balance), wherever in the pipeline they are. A stage then has two results, and its backward begins
at both: at the number

    (y · dy) summed, plus the side loss

whose derivative is dy by y and 1 by the side loss.
"""

import numpy as np

from baremetal.autograd import Tensor
from baremetal.autograd.backward import Owed
from baremetal.pipeline.stage import Stage


class Passage:
    """One microbatch in one stage.

    Args:
        stage: which.
        share: of the batch's tokens that count, those of this microbatch (only a side loss needs
            to know).
        cotangent: a 0-d array that the loss is multiplied by before backward (a loss scale, where
            the optimiser keeps it); None for 1.
    """

    def __init__(
        self, stage: Stage, share: float = 1.0, cotangent: np.ndarray | None = None
    ) -> None:
        self._stage, self._share, self._cotangent = stage, share, cotangent
        self._x: Tensor | None = None
        self._y: Tensor | None = None
        self._side_loss: Tensor | None = None
        self._owed: Owed | None = None

    def forward(self, *inputs: np.ndarray) -> Tensor:
        """Activations (B, T, C); at the last stage the microbatch's share of the batch's loss.

        Args:
            inputs: tokens (B, T) at the first stage, activations elsewhere; and at the last stage
                targets (B, T).
        """
        stage = self._stage
        x = None if stage.part.is_first else Tensor(inputs[0], requires_grad=True)
        y = stage.run(inputs[0] if x is None else x)
        side_loss = stage.side_loss(self._share)
        if stage.part.is_last:
            y = stage.loss(y, inputs[1])
            y = y if side_loss is None else y + side_loss
        self._x, self._y, self._side_loss = x, y, side_loss
        return y

    @property
    def loss(self) -> float:
        """What this stage adds to the batch's loss, after `forward`."""
        own = self._y if self._stage.part.is_last else self._side_loss
        return 0.0 if own is None else float(own.item())

    def input_gradient(self, *dy: np.ndarray) -> Tensor | None:
        """The gradient of the activations that came in; None at the first stage.

        Args:
            dy: that of the activations that went out; nothing at the last stage.
        """
        root, cotangent = self._root(dy)
        if root.requires_grad:  # not so if a first stage is frozen, all of it
            self._owed = root.backward(cotangent, defer_weights=True)
        return None if self._x is None else self._x.grad

    def weight_gradient(self) -> None:
        """Add to the parameters' gradients."""
        if self._owed is not None:
            self._owed.pay()

    def backward(self, *dy: np.ndarray) -> Tensor | None:
        """Both at once."""
        root, cotangent = self._root(dy)
        if root.requires_grad:
            root.backward(cotangent)
        return None if self._x is None else self._x.grad

    def _root(self, dy: tuple[np.ndarray, ...]) -> tuple[Tensor, np.ndarray | None]:
        """What backward begins at, and with."""
        y, scale = self._y, self._cotangent
        assert y is not None, "forward comes first"
        if not dy:
            return y, scale
        if self._side_loss is None:
            return y, dy[0]
        side_loss = self._side_loss if scale is None else self._side_loss * scale
        return (y * dy[0]).sum() + side_loss, None
