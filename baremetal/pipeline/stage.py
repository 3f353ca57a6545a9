"""A stage: some neighbouring blocks of a model.

    first    tokens (B, T)   -> embedding, blocks    -> x (B, T, C)
    middle   x (B, T, C)     -> blocks               -> x (B, T, C)
    last     x (B, T, C)     -> blocks, norm, head   -> logits (B, T, V), and their loss

A stage is made from the whole model, built from its seed as ever, by leaving out what belongs to
others. So its parameters have the values and the names that they have in the whole model, and a
checkpoint is the same file whichever way the model was cut.

Every stage has memory of its own. A matrix that two of them hold (the token embedding, if it is the
output matrix, too; all of them, where a schedule has mirrored copies) is two parameters of one
name, whose gradients are added up before the update (`copies.py`).
"""

import copy
from collections.abc import Iterator, Mapping

import numpy as np

from baremetal.autograd import Parameter, Tensor, no_grad, ops
from baremetal.nn import DropoutState, LanguageModel
from baremetal.nn.cache import KeyValueCache
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.nn.module import Module
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.partition import Part


class Stage:
    """A part of a model.

    Args:
        model: the whole one, of which the part's modules are kept, and nothing else: let go of it.
            Give every stage a model of its own, from the same seed: stages share no memory.
        part: which blocks.

    Attributes:
        model: the model without what others have: a model of the same class, with parameters of
            the same names, but not to be called.
        blocks: its blocks, under their numbers in the whole model.
        total: (1,) float64, how many tokens the loss is a mean over; written before a step.

    Raises:
        PipelineError: the part is one of a model of other size.
    """

    def __init__(self, model: LanguageModel, part: Part) -> None:
        if part.layers != len(model.blocks):
            raise PipelineError(
                f"a part of a model of {part.layers} blocks ({part}), but this one has "
                f"{len(model.blocks)}: cut it anew with `partition`"
            )
        self.part = part
        self.blocks = {index: model.blocks[index] for index in range(part.start, part.stop)}
        self.model = self._without_others(model)
        self.total = np.ones(1, np.float64)

    def _without_others(self, model: LanguageModel) -> LanguageModel:
        """The model with our blocks alone, and embedding and head if they belong to us.

        Blocks lie in a dict, where the first may be number 3: parameters are called what they were.
        """
        wanted: set[str] = set()
        if self.part.is_first:
            wanted.update(model.embedding_parts)
        if self.part.is_last:
            wanted.update(model.output_parts)
        own = copy.copy(model)
        attributes = vars(own)
        for name, value in vars(model).items():
            if isinstance(value, Module) and name not in wanted:
                del attributes[name]
        attributes["blocks"] = self.blocks
        return own

    def __repr__(self) -> str:
        return f"<stage: {self.part}>"

    @property
    def dropout_state(self) -> DropoutState | None:
        """Where dropout's bits come from, if the model has dropout."""
        return getattr(self.model, "dropout_state", None)

    @property
    def dtype(self) -> np.dtype:
        """Of parameters and activations."""
        return next(self.model.parameters()).dtype

    def activation_shape(self, batch: int, context: int) -> tuple[int, int, int]:
        """What passes from stage to stage for `batch` sequences: (B, T, C)."""
        return batch, context, self.model.config.width

    def trainable(self) -> dict[str, Parameter]:
        """Its parameters by name, the frozen ones left out."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Its parameters, named as in the whole model."""
        yield from self.model.named_parameters()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Its parameters' arrays; those of all stages together are the whole model's."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy what belongs to this stage from the state of a whole model.

        Raises:
            StateError: something is missing, or does not fit.
        """
        own = self.model.state_dict()
        self.model.load_state_dict({name: state[name] for name in own if name in state})

    # ------------------------------------------------------------ arithmetic

    def run(self, x: np.ndarray | Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """From tokens or activations to activations or logits (see above).

        With a cache (`new_cache`), x continues the sequences in it.
        """
        if self.part.is_first:
            assert isinstance(x, np.ndarray)
            start = 0 if cache is None else cache.length
            self.model.check_tokens(x, start)
            x = self.model.embed(x, start)
        assert isinstance(x, Tensor)
        for index, block in self.blocks.items():
            x = block(x, None if cache is None else cache.layers[index - self.part.start])
        return self.model.unembed(x) if self.part.is_last else x

    def loss(self, logits: Tensor, targets: np.ndarray) -> Tensor:
        """A microbatch's share of the loss of the batch, at the last stage.

        The loss of a batch is the mean over its tokens. So a microbatch's sum is divided by the
        count of the whole batch (`total`), never by its own: the losses, and the gradients, then
        add up to the batch's exactly, also where one microbatch has more padding than another.
        """
        return ops.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, total=self.total)

    def side_loss(self, share: float) -> Tensor | None:
        """What its blocks add to the loss; see `LanguageModel.side_loss`."""
        return self.model.side_loss(self.blocks.values(), share)

    # ------------------------------------------------------------ forward alone

    def evaluate(self, x: np.ndarray, cache: KeyValueCache | None = None) -> np.ndarray:
        """`run` in evaluation mode, off the tape; arrays in and out."""
        self.model.eval()
        try:
            with no_grad():
                return self.run(x if self.part.is_first else Tensor(x), cache).data
        finally:
            self.model.train()

    def new_cache(self, batch: int = 1) -> KeyValueCache:
        """An empty key-value cache of its own blocks, for `batch` sequences."""
        config = self.model.config
        head_width = config.width // config.heads
        return KeyValueCache(
            len(self.blocks), batch, config.context, self.model.kv_heads, head_width, self.dtype
        )
