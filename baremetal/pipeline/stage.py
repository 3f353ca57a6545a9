"""A stage: some neighbouring blocks of a model, and what one microbatch does there.

    first    tokens (B, T)             -> embedding, blocks         -> x (B, T, C)
    middle   x (B, T, C)               -> blocks                    -> x (B, T, C)
    last     x (B, T, C), targets      -> blocks, norm, head, loss  -> a number

A stage is made from the whole model, built from its seed as ever, by leaving out what belongs to
others. So its parameters have the values and the names that they have in the whole model, and a
checkpoint is the same file whichever way the model was cut.

Every stage has memory of its own. A matrix that two of them hold (the token embedding, if it is the
output matrix, too; all of them, where a schedule has mirrored copies) is two parameters with one
name, whose gradients are added up before the update (`copies.py`).

The loss of a batch is the mean over its tokens. Each microbatch's sum of losses is divided by the
count of the whole batch, never by its own: the losses, and the gradients, then add up to the
batch's exactly, also where some microbatch has more padding than another.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from baremetal.autograd import Parameter, Tensor, ops
from baremetal.autograd.backward import Owed
from baremetal.nn import DropoutState, LanguageModel
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.nn.module import Module
from baremetal.pipeline.partition import Part


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


class Stage:
    """A part of a model.

    Args:
        model: the whole one, of which the part's modules are kept. (Give every stage a model of its
            own, from the same seed: stages share no memory.)
        part: which blocks.

    Attributes:
        model: the model without what others have. Its parameters have the whole model's names.
        total: (1,) float64, how many tokens the loss is a mean over; written before a step.
    """

    def __init__(self, model: LanguageModel, part: Part) -> None:
        self.part = part
        self.model = only(model, part)
        self.total = np.ones(1, np.float64)

    def __repr__(self) -> str:
        return f"<stage: {self.part}>"

    @property
    def dropout_state(self) -> DropoutState | None:
        """Where dropout's bits come from, if the model has dropout."""
        return getattr(self.model, "dropout_state", None)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Its parameters, named as in the whole model."""
        yield from self.model.named_parameters()

    def trainable(self) -> list[Parameter]:
        """Its parameters without the frozen ones."""
        return [p for _, p in self.named_parameters() if p.requires_grad]

    def run(self, *inputs: np.ndarray | Tensor) -> Tensor:
        """Activations (B, T, C), or at the end the microbatch's share of the batch's loss.

        Args:
            inputs: tokens at the first stage, activations elsewhere; at the last, targets as well.
        """
        x = self._blocks(inputs[0])
        if not self.part.is_last:
            return x
        logits = self.model.unembed(x)
        return ops.cross_entropy(logits, inputs[1], ignore_index=IGNORE_INDEX, total=self.total)

    def _blocks(self, x: np.ndarray | Tensor) -> Tensor:
        if self.part.is_first:
            self.model.check_tokens(x)
            x = self.model.embed(x)
        for block in self.model.blocks.values():
            x = block(x)
        return x


def only(model: LanguageModel, part: Part) -> LanguageModel:
    """The model with this part alone: its blocks, and embedding and head if they belong to it.

    Blocks are kept under their numbers, ``blocks.3``, so parameters are called what they were.
    """
    wanted: set[str] = set()
    if part.is_first:
        wanted.update(model.embedding_parts)
    if part.is_last:
        wanted.update(model.output_parts)
    own = copy.copy(model)
    attributes = vars(own)
    for name, value in vars(model).items():
        if isinstance(value, Module) and name not in wanted:
            del attributes[name]
    attributes["blocks"] = {i: model.blocks[i] for i in range(part.start, part.stop)}
    return own


class Passage:
    """One microbatch on its way through a stage: forward, and later backward, in one go or two.

    Args:
        stage: which.
        cotangent: a 0-d array to begin backward with at the last stage: a loss scale; None for 1.
    """

    def __init__(self, stage: Stage, cotangent: np.ndarray | None = None) -> None:
        self.stage = stage
        self.cotangent = cotangent
        self._x: Tensor | None = None
        self._y: Tensor | None = None
        self._owed: Owed | None = None

    def forward(self, *inputs: np.ndarray) -> Tensor:
        """Run the stage; see `Stage.run`."""
        first, *others = inputs
        if not self.stage.part.is_first:
            first = self._x = Tensor(first, requires_grad=True)
        self._y = self.stage.run(first, *others)
        return self._y

    def input_gradient(self, *dy: np.ndarray) -> Tensor | None:
        """The gradient of the activations that came in; None at the first stage.

        Args:
            dy: that of the activations that went out; nothing at the last stage.
        """
        y = self._y
        if y.requires_grad:  # not so if all of a first stage is frozen
            self._owed = y.backward(self._begin(dy), defer_weights=True)
        return None if self._x is None else self._x.grad

    def weight_gradient(self) -> None:
        """Add to the gradients of the parameters."""
        if self._owed is not None:
            self._owed.pay()

    def backward(self, *dy: np.ndarray) -> Tensor | None:
        """Both at once."""
        if self._y.requires_grad:
            self._y.backward(self._begin(dy))
        return None if self._x is None else self._x.grad

    def _begin(self, dy: tuple[np.ndarray, ...]) -> np.ndarray | None:
        return dy[0] if dy else self.cotangent
